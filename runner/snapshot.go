package runner

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/atomicfile"
)

// snapshotHeader begins a snapshot, little-endian. Behind it are Tokens token ids of 4 bytes; then, for the
// keys and values of each layer in turn and each of their heads, those of all tokens as they lie in the
// cache; then the SHA-256 of all that.
type snapshotHeader struct {
	Magic                            [8]byte
	Version                          uint32
	Layers, KVHeads, HeadDim, KVType uint32
	Tokens                           uint32
	Model                            [sha256.Size]byte // see Runner.modelHash
}

var snapshotMagic = [8]byte{'q', 'w', 'e', 'n', 'r', 't', 'K', 'V'}

// snapshotVersion changes with the format, and with it old files are refused.
const snapshotVersion = 1

// header is that of a snapshot of n tokens.
func (r *Runner) header(n int) (h snapshotHeader, err error) {
	l := r.layout
	h = snapshotHeader{
		Magic: snapshotMagic, Version: snapshotVersion,
		Layers: uint32(len(l.layers)), KVHeads: uint32(l.kvHeads), HeadDim: uint32(l.headDim), KVType: uint32(l.kvType),
		Tokens: uint32(n),
	}
	h.Model, err = r.modelHash()
	return h, err
}

// size is that of a whole snapshot.
func (r *Runner) snapshotSize(tokens uint32) int64 {
	return int64(binary.Size(snapshotHeader{})) + int64(tokens)*(4+r.info.kvBytes) + sha256.Size
}

// Snapshot writes the tokens and their cache to a file, for [Runner.Restore]. The file is written under
// another name beside path and renamed when it is whole and on disk: whatever happens, there is the old file
// or the new one at path. A process that is killed may leave the other, with a name that starts with a dot, behind.
//
// Errors: ErrClosed, and those of the file system.
func (s *Sequence) Snapshot(path string) error {
	if s.r == nil {
		return errSequenceClosed
	}
	h, err := s.r.header(s.Len())
	if err != nil {
		return err
	}
	err = atomicfile.WriteDurable(path, 0o600, func(w io.Writer) error {
		sum := sha256.New()
		b := bufio.NewWriterSize(io.MultiWriter(w, sum), 1<<20)
		if err := binary.Write(b, binary.LittleEndian, h); err != nil {
			return err
		}
		if err := binary.Write(b, binary.LittleEndian, s.tokens); err != nil {
			return err
		}
		for i := 0; i < len(s.cache.past) && s.Len() > 0; i++ {
			err := s.cache.read(i, 0, s.Len(), func(_ int, span []byte) { _, _ = b.Write(span) }) // Flush has the error
			if err != nil {
				return err
			}
		}
		if err := b.Flush(); err != nil {
			return err
		}
		_, err := w.Write(sum.Sum(nil))
		return err
	})
	if err != nil {
		return fmt.Errorf("runner: snapshot: %w", err)
	}
	return nil
}

// Restore gives a sequence as Snapshot wrote it: it goes on with the next token. The file may come from
// anywhere: sizes are checked before memory is taken, and nothing is used of a file that is not whole.
//
// Errors: ErrSnapshot, ErrContext (more tokens than fit), ErrClosed, and those of the file system.
func (r *Runner) Restore(path string) (*Sequence, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("runner: restore: %w", err)
	}
	defer f.Close()
	h, err := r.readHeader(f)
	if err != nil {
		return nil, fmt.Errorf("runner: restore %s: %w", path, err)
	}
	s, err := r.NewSequence()
	if err != nil {
		return nil, err
	}
	if err := s.restore(f, h); err != nil {
		s.Close()
		return nil, fmt.Errorf("runner: restore %s: %w", path, err)
	}
	return s, nil
}

// readHeader checks that f is a snapshot of this model, and of the size that it should have.
func (r *Runner) readHeader(f *os.File) (h snapshotHeader, err error) {
	bad := func(format string, args ...any) (snapshotHeader, error) {
		return h, fmt.Errorf("%w: %s", ErrSnapshot, fmt.Sprintf(format, args...))
	}
	st, err := f.Stat()
	if err != nil {
		return h, err
	}
	if !st.Mode().IsRegular() {
		return bad("not a file")
	}
	if err := binary.Read(f, binary.LittleEndian, &h); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return bad("%d bytes are too few", st.Size())
		}
		return h, err
	}
	want, err := r.header(int(h.Tokens))
	if err != nil {
		return h, err
	}
	switch {
	case h.Magic != want.Magic:
		return bad("not a snapshot")
	case h.Version != want.Version:
		return bad("version %d, want %d: make it again", h.Version, want.Version)
	case h.Model != want.Model:
		return bad("of another model than %s", r.dir)
	case h != want:
		return bad("the cache has another shape than that of %s", r.dir)
	case st.Size() != r.snapshotSize(h.Tokens):
		return bad("%d bytes, want %d for %d tokens", st.Size(), r.snapshotSize(h.Tokens), h.Tokens)
	case int64(h.Tokens) > int64(r.context):
		return h, fmt.Errorf("%w: %d tokens, the context is %d", ErrContext, h.Tokens, r.context)
	}
	return h, nil
}

// restore reads what follows the header, in memory that the file's size vouches for.
func (s *Sequence) restore(f io.Reader, h snapshotHeader) error {
	sum := sha256.New()
	if err := binary.Write(sum, binary.LittleEndian, h); err != nil {
		return err
	}
	b := bufio.NewReaderSize(f, 1<<20)
	from := io.TeeReader(b, sum)
	n := int(h.Tokens)
	tokens := make([]int32, n)
	if err := binary.Read(from, binary.LittleEndian, tokens); err != nil {
		return err
	}
	if n > 0 {
		if err := s.admit(tokens); err != nil {
			return fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
	}
	if err := s.reserve(n); err != nil {
		return err
	}
	if err := s.cache.begin(n); err != nil {
		return err
	}
	for i := 0; i < len(s.cache.past) && n > 0; i++ {
		var err error
		failed := s.cache.write(i, 0, n, func(_ int, span []byte) {
			if err == nil {
				_, err = io.ReadFull(from, span)
			}
		})
		if err := cmp.Or(err, failed); err != nil {
			return err
		}
	}
	var stored [sha256.Size]byte
	if _, err := io.ReadFull(b, stored[:]); err != nil {
		return err
	}
	if [sha256.Size]byte(sum.Sum(nil)) != stored {
		return fmt.Errorf("%w: damaged: the checksum is another", ErrSnapshot)
	}
	s.tokens = append(s.tokens, tokens...)
	return nil
}

// modelHash tells models apart: the SHA-256 of the graph, and of both ends of the data of each weight. Models
// that differ in weights, as two trainings of one architecture do, differ there; reading all of them would
// take longer than the prompts that a snapshot saves.
func (r *Runner) modelHash() ([sha256.Size]byte, error) {
	r.hashOnce.Do(func() { r.hash, r.hashErr = hashModel(r.file) })
	return r.hash, r.hashErr
}

func hashModel(file string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return sum, fmt.Errorf("runner: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, fmt.Errorf("runner: %w", err)
	}
	m, err := ir.Load(file)
	if err != nil {
		return sum, wrap(err)
	}
	defer m.Close()
	for _, v := range m.Graph.Initializers() {
		if err := hashEnds(h, v.Constant()); err != nil {
			return sum, fmt.Errorf("runner: %s: %w", v.Name, err)
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

func hashEnds(h hash.Hash, t *ir.Tensor) error {
	if t == nil || t.Data == nil {
		return nil
	}
	const end = 4 << 10
	size := t.Data.Len()
	for _, at := range []int64{0, max(size-end, 0)} {
		if _, err := io.Copy(h, io.NewSectionReader(t.Data, at, min(size, end))); err != nil {
			return err
		}
	}
	return nil
}
