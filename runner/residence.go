package runner

import (
	"fmt"

	"github.com/qwenrt/qwenrt/ort"
)

// residence is where tensors that are bound to a session lie: where it has them, so that runs do not copy them.
type residence struct {
	kv, logits, ids, mask, positions ort.Location

	reason string // why the cache, or all of them, are on the CPU although the session has them elsewhere
}

// locate tells where a session has an input or an output.
type locate func(name string) (ort.Location, error)

// readResidence finds out where the session has them, and whether they can be there.
func (l *layout) readResidence(input, output locate) (err error) {
	if l.at.kv, err = l.cacheLocation(input, output); err != nil {
		return err
	}
	if l.at.logits, err = output(logitsOutput); err != nil {
		return err
	}
	if l.at.ids, err = input(inputIDs); err != nil {
		return err
	}
	if l.at.mask, err = input(attentionMask); err != nil {
		return err
	}
	if l.positions {
		if l.at.positions, err = input(positionIDs); err != nil {
			return err
		}
	}
	for _, at := range []ort.Location{l.at.kv, l.at.logits, l.at.ids, l.at.mask, l.at.positions} {
		if err := l.reaches(at); err != nil {
			l.at = residence{reason: fmt.Sprintf("memory %s cannot be reached, so each step copies the cache: %v", at, err)}
			break
		}
	}
	return nil
}

// cacheLocation is where the whole cache can lie: where all pasts are read and all presents are written, or else on the
// CPU.
func (l *layout) cacheLocation(input, output locate) (at ort.Location, err error) {
	for i, n := range l.layers {
		for _, names := range [][2]string{{n.pastKey, n.presentKey}, {n.pastValue, n.presentValue}} {
			in, err := input(names[0])
			if err != nil {
				return at, err
			}
			out, err := output(names[1])
			if err != nil {
				return at, err
			}
			if i == 0 && names[0] == n.pastKey {
				at = in
			}
			if in != at || out != at {
				l.at.reason = fmt.Sprintf("the session has %s in memory %s and %s in memory %s, and %s in %s: the cache lies on the CPU, and steps copy it",
					l.layers[0].pastKey, at, names[0], in, names[1], out)
				return ort.Location{}, nil
			}
		}
	}
	return at, nil
}

// reaches tries whether tensors can be made in a memory and copied to it and back.
func (l *layout) reaches(at ort.Location) error {
	if at.OnCPU() {
		return nil
	}
	there, err := l.session.NewTensor(at, ort.Int64, 1)
	if err != nil {
		return err
	}
	defer there.Close()
	here, err := ort.NewTensor(ort.Int64, 1)
	if err != nil {
		return err
	}
	defer here.Close()
	if err := ort.Copy(there, here); err != nil {
		return err
	}
	return ort.Copy(here, there)
}
