package accelerate

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// makingOptions say how a model is made, and nothing of the open model shows them: what does is the key of them in the steps
// that a folder's manifest records. Calibration has none: the same text gives the same levels.
var makingOptions = []struct{ option, key string }{
	{"scale", "scale"}, {"symmetric", "symmetric"}, {"half_scales", "half_scales"}, {"accuracy_level", "accuracy_level"},
	{"rules", "rules"}, {"target_bits", "target_bits"}, {"smoothquant", "smoothquant"},
	{"integers.weights", "int8_weights"}, {"integers.least_snr", "least_snr_db"}, {"integers.range", "range"},
	{"integers.symmetric_range", "symmetric_range"}, {"calibration", ""}, {"kv_scales", "kv_scales"},
	{"target", "target"}, {"passes", "passes"}, {"disable", "disable"}, {"keep_fp32", "keep_fp32"}, {"narrow_logits", "narrow_logits"},
	{"sequence", "lengths"}, {"total", "lengths"},
}

// making are the outcomes of those that are asked for.
func (d *description) making() (all []Outcome) {
	var (
		asked, told map[string]string
		set         settings
	)
	for _, m := range makingOptions {
		v := reflect.ValueOf(d.c)
		for name := range strings.SplitSeq(m.option, ".") {
			v = option(v, name)
		}
		if v.IsZero() {
			continue
		}
		if asked == nil {
			set = d.settings()
			asked, told = set.options(), d.told()
		}
		applied := told[m.key]
		if applied == "" && told != nil && m.key != "" {
			applied = "none"
		}
		o := outcomeOf(m.option, asked[m.key], applied, d.p.made)
		if m.option == "calibration" && !set.calibrates() {
			o.Applied, o.Reason = "none", "nothing of this configuration is found by running the model on text"
		}
		all = append(all, o)
	}
	return all
}

// outcomeOf compares what is asked for with what the manifest tells; what it does not tell is not proven.
func outcomeOf(option, asked, told string, already bool) Outcome {
	o := Outcome{Option: option, Requested: cmp.Or(asked, "given"), Applied: cmp.Or(told, "unknown"), Fact: "manifest of the model folder"}
	switch {
	case asked != "" && asked == told:
	case already:
		o.Reason = made
	default: // the folder was made with it
		o.Applied, o.Fact = o.Requested, "the model was made with it"
	}
	return o
}

// settings are those of the configuration, on the device that was found.
func (d *description) settings() settings {
	c := d.c
	c.Device = d.p.Device
	s, _ := c.resolve() // it was valid when the model was opened
	return s
}

// options is what a manifest tells of a model that is made with s.
func (s settings) options() map[string]string {
	o := s.optimizeOptions()
	maps.Copy(o, s.quantizeOptions())
	return o
}

// told are the options of all steps of the folder's manifest, nil where there is none; where a step repeats another, the later counts.
func (d *description) told() map[string]string {
	if d.manifest == nil { // Applied then says that they are unknown
		return nil
	}
	o := map[string]string{}
	for _, s := range d.manifest.Steps {
		maps.Copy(o, s.Options)
	}
	return o
}

// running are the outcomes of settings of the session.
func (d *description) running() []Outcome {
	conf := runner.SessionConfig(d.p.Options)
	huge := Outcome{Option: "huge_pages", Requested: choiceText(d.c.HugePages), Applied: "false", Fact: "packed weights on pages of 4 kB"}
	switch n := machine.HugePages(); {
	case !conf.HugePages:
	case len(conf.Providers) > 0:
		if d.c.HugePages != nil {
			huge.Reason = "they are for sessions on the CPU"
		}
	case n == 0:
		huge.Reason = "the system gives this process no pages of 2 MB"
	default:
		huge.Applied, huge.Fact = "true", fmt.Sprintf("%.0f MB of this process on pages of 2 MB", float64(n)/1e6)
	}
	arena := Outcome{Option: "arena", Requested: choiceText(d.c.Arena), Applied: "true", Fact: "activations in an arena"}
	if huge.Applied == "true" || conf.NoArena {
		arena.Applied, arena.Fact = "false", "activations from lists of free blocks"
		if conf.NoArena {
			arena.Fact = "activations from the system"
		}
		if arena.Requested == "true" {
			arena.Reason = "huge_pages bring an allocator of their own; set them to false"
		}
	}
	all := []Outcome{d.spin(conf), huge, arena}
	if n := number(d.c.DeviceID); n != "" {
		id := Outcome{Option: "device_id", Requested: n, Applied: "none", Fact: "no option of the provider"}
		for _, p := range conf.Providers {
			if told, ok := p.Options[keyDeviceID]; ok {
				id.Applied, id.Fact = told, "option of the provider"
			}
		}
		if id.Applied != id.Requested {
			id.Reason = "the CPU is one device"
			if len(conf.Providers) > 0 {
				id.Reason = "provider_options say otherwise"
			}
		}
		all = append(all, id)
	}
	return all
}

// Keys of onnxruntime_session_options_config_keys.h.
const (
	keySpinning     = "session.intra_op.allow_spinning"
	keySpinningEnds = "session.force_spinning_stop"
)

// spin is how threads wait in a session with this configuration, of which session_entries have the last word.
func (d *description) spin(conf ort.SessionConfig) Outcome {
	spins, ends, reason := conf.Spin != ort.SpinOff, conf.Spin == ort.SpinInRun, ""
	for _, entry := range []struct {
		key string
		is  *bool
	}{{keySpinning, &spins}, {keySpinningEnds, &ends}} {
		if value, ok := d.c.SessionEntries[entry.key]; ok {
			*entry.is, reason = value == "1", fmt.Sprintf("session_entries win over it, with %s=%s", entry.key, value)
		}
	}
	o := Outcome{Option: "spin", Requested: string(d.c.Spin), Applied: string(SpinOn), Fact: keySpinning}
	switch {
	case !spins:
		o.Applied = string(SpinOff)
	case ends:
		o.Applied, o.Fact = string(SpinInRun), keySpinningEnds
	}
	if o.Requested != "" && o.Requested != o.Applied {
		o.Reason = reason
	}
	return o
}

// choiceText is a choice as a request; nil requests nothing.
func choiceText(b *bool) string {
	if b == nil {
		return ""
	}
	return strconv.FormatBool(*b)
}
