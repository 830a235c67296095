package accelerate

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/qwenrt/qwenrt/models/folder"
)

// Output is the model folder to make.
type Output struct {
	Dir string
	// Replace allows it to take the place of another model folder. Without, a folder that exists must
	// be empty.
	Replace bool
}

// Build makes a checkpoint into the model folder that c asks for: Export, Optimize and Quantize in
// one pass over the weights. Weights that the checkpoint has quantised stay as they are; c is about the others.
//
// Errors: folder.ErrExists, folder.ErrNotReplaceable, qwen3.ErrUnsupported, kernels.ErrNoKernel. After an error the output
// is as it was.
func Build(ctx context.Context, from Source, out Output, c Config, e Events) (*Report, error) {
	if err := c.supported(); err != nil {
		return nil, err
	}
	return run(ctx, fromCheckpoint(from), out, c, e, (*work).export, (*work).optimize, (*work).quantize)
}

// Export makes a checkpoint into a folder with the plain ONNX model, in ONNX's own operators but for products of
// weights that the checkpoint has quantised. Of c it takes DType and AccuracyLevel. Errors are those of Build.
func Export(ctx context.Context, from Source, out Output, c Config, e Events) (*Report, error) {
	return run(ctx, fromCheckpoint(from), out, c, e, (*work).export)
}

// Optimize reads a model folder, or a .onnx file with its configuration beside it, and writes one with
// the graph fused for c.Target. Errors are those of Build.
func Optimize(ctx context.Context, in string, out Output, c Config, e Events) (*Report, error) {
	if err := c.supported(); err != nil {
		return nil, err
	}
	return run(ctx, fromFolder(in), out, c, e, (*work).optimize)
}

// Quantize reads a model folder, or a .onnx file with its configuration beside it, and writes one with
// weights in c.Precision and the KV cache in c.KV; with precision None the KV cache alone, which weights may be
// quantised beside. Errors are those of Build, quantize.ErrNothing, quantize.ErrQuantized and quantize.ErrNoCache.
func Quantize(ctx context.Context, in string, out Output, c Config, e Events) (*Report, error) {
	if !c.quantizes() {
		return nil, errors.New("accelerate: precision none leaves nothing to quantise but a KV cache: want kv int8 or int4")
	}
	return run(ctx, fromFolder(in), out, c, e, (*work).quantize)
}

// opener starts work on a model, step takes it further.
type (
	opener func(*work) error
	step   func(*work, context.Context) error
)

func run(ctx context.Context, open opener, out Output, c Config, e Events, steps ...step) (*Report, error) {
	start := time.Now()
	set, err := c.resolve()
	if err != nil {
		return nil, err
	}
	stage, err := folder.Create(out.Dir, out.Replace)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g guard
	w := &work{set: set, events: g.events(e, cancel), report: &Report{Dir: out.Dir}, stage: stage}
	err = w.run(ctx, open, steps)
	if err == nil && e.Check != nil {
		err = g.check(ctx, e, stage.Dir())
	}
	if err == nil && g.panicked == nil {
		err = stage.Commit()
	}
	if err != nil || g.panicked != nil {
		err = errors.Join(explain(err), stage.Abort())
	}
	if g.panicked != nil {
		panic(g.panicked)
	}
	if err != nil {
		return nil, err
	}
	w.report.Elapsed = time.Since(start)
	return w.report, nil
}

// run fills the stage. The files that the model comes from are closed when it returns: the stage may
// take their place.
func (w *work) run(ctx context.Context, open opener, steps []step) (err error) {
	defer func() { err = errors.Join(err, w.close()) }()
	if err := open(w); err != nil {
		return err
	}
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("accelerate: %w", err)
		}
		if err := s(w, ctx); err != nil {
			return err
		}
	}
	return w.write(ctx)
}

// explain says what to do about a full disk.
func explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w; make room, or write to another disk", err)
	}
	return err
}
