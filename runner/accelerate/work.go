package accelerate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/kernels"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/models/qwen3"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/runner"
)

// work is a model on its way to a folder.
type work struct {
	set    settings
	events Events
	report *Report
	stage  *folder.Stage

	source   *qwen3.Source // of a checkpoint, until it is exported
	model    *ir.Model
	files    fs.FS // tokenizer and configuration to carry along
	facts    folder.Facts
	manifest folder.Manifest
	plan     *quantize.Plan // nil: not quantised by this work
	closers  []func() error

	method string                  // by which the checkpoint has been quantised; empty: it is in floating point
	packed []quantize.TensorReport // its quantised weights
}

func (w *work) close() error {
	var errs []error
	for _, c := range w.closers {
		errs = append(errs, c())
	}
	w.closers = nil
	return errors.Join(errs...)
}

func fromCheckpoint(s Source) opener {
	return func(w *work) error {
		src, err := s.open()
		if err != nil {
			return err
		}
		w.closers = append(w.closers, src.Close)
		hash, err := src.Hash()
		if err != nil {
			return err
		}
		w.source, w.files, w.facts = src, src.Files(), src.Facts()
		w.manifest.Source = folder.Source{Name: s.name(), Hash: hash}
		return nil
	}
}

func fromFolder(path string) opener {
	return func(w *work) error {
		file, err := folder.ModelFile(path)
		if err != nil {
			return err
		}
		dir := folder.ConfigDir(file)
		if w.facts, err = readFacts(dir); err != nil {
			return err
		}
		if err := w.readManifest(filepath.Dir(file)); err != nil {
			return err
		}
		if w.model, err = ir.Load(file); err != nil {
			return err
		}
		w.closers = append(w.closers, w.model.Close)
		w.files = os.DirFS(dir)
		w.countNodes()
		return nil
	}
}

// readFacts reads config.json, or where a folder has none, as those of onnxruntime-genai, genai_config.json.
func readFacts(dir string) (folder.Facts, error) {
	facts, err := qwen3.ReadFacts(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return facts, err
	}
	facts, other := folder.ReadGenAI(dir)
	if errors.Is(other, folder.ErrNoFacts) {
		return facts, err
	}
	return facts, other
}

// readManifest goes on from what was done before; a folder of another program begins a new record.
func (w *work) readManifest(dir string) error {
	m, err := folder.ReadManifest(dir)
	switch {
	case err == nil:
		w.manifest = *m
	case errors.Is(err, folder.ErrNoManifest):
		w.manifest.Source.Name = Source{Dir: dir}.name()
	default:
		return err
	}
	return nil
}

func (w *work) export(context.Context) error {
	w.events.step(StepExport)
	model, err := w.source.Model(qwen3.Options{DType: w.set.DType.ir(), AccuracyLevel: w.set.AccuracyLevel})
	if err != nil {
		return err
	}
	w.model = model
	done := folder.Step{Command: "export", Options: map[string]string{"dtype": string(w.set.DType)}}
	if err := w.openPacked(); err != nil {
		return err
	}
	if w.method != "" {
		done.Options[packedOption] = w.method
	}
	w.record(done)
	w.countNodes()
	return nil
}

func (w *work) countNodes() {
	w.report.NodesBefore = w.model.Graph.NumNodes()
	w.report.NodesAfter = w.report.NodesBefore
}

func (w *work) optimize(ctx context.Context) error {
	w.events.step(StepOptimize)
	o := w.set.optimization()
	o.MaxPositions, o.Trace = int64(w.facts.ContextLength), w.events.Trace
	r, err := graphopt.Run(ctx, w.model, passes.All(), o)
	if err != nil {
		return err
	}
	w.report.Passes, w.report.NodesAfter = r.Passes, r.NodesAfter
	if err := w.checkKernels(); err != nil {
		return err
	}
	done := folder.Step{Command: "optimize", Options: w.set.optimizeOptions()}
	for _, p := range r.Passes {
		done.Passes = append(done.Passes, folder.Pass{Name: p.Name, Count: p.Count})
	}
	w.record(done)
	return nil
}

func (s settings) optimizeOptions() map[string]string {
	o := map[string]string{"target": string(s.Target)}
	if s.Convert != ir.Undefined {
		o["dtype"] = s.Convert.String()
	}
	if s.NarrowLogits {
		o["narrow_logits"] = "true"
	}
	if s.Sequence > 0 {
		o["lengths"] = fmt.Sprintf("%d of %d", s.Sequence, s.Total)
	}
	for name, list := range map[string][]string{"passes": s.Passes, "disable": s.Disable, "keep_fp32": s.KeepFloat32} {
		if len(list) > 0 {
			o[name] = strings.Join(list, ",")
		}
	}
	return o
}

// checkKernels compares the finished graph with what the target has kernels for.
func (w *work) checkKernels() error {
	missing, err := kernels.Check(w.model, w.set.Target)
	if err != nil {
		return err
	}
	refused := slices.DeleteFunc(slices.Clone(missing), func(m kernels.Missing) bool { return m.Effect != kernels.Refused })
	if len(refused) > 0 && !w.set.Lenient {
		return fmt.Errorf("accelerate: target %s: %w: %s", w.set.Target, kernels.ErrNoKernel, kernels.Summary(refused))
	}
	if len(missing) > 0 {
		w.report.Missing = kernels.Summary(missing)
		return nil
	}
	// A lenient conversion leaves in fp32 what it finds no kernels for, so that nothing is missing.
	strict := w.set.optimization()
	strict.Lenient = false
	if err := graphopt.Check(passes.All(), strict); err != nil {
		w.report.Missing = flat(err)
	}
	return nil
}

func (w *work) record(s folder.Step) { w.manifest.Steps = append(w.manifest.Steps, s) }

func (w *work) write(ctx context.Context) error {
	w.events.step(StepWrite)
	w.model.ProducerName, w.model.ProducerVersion = "qwenrt", runner.Version()
	file := w.stage.Path(folder.ModelName)
	if err := ir.Save(ctx, w.model, file, ir.SaveOptions{Progress: w.events.Progress}); err != nil {
		return err
	}
	if _, err := w.stage.CopySideFiles(w.files); err != nil {
		return err
	}
	if err := folder.WriteGenAI(w.stage.Dir(), w.facts, w.model); err != nil {
		return err
	}
	if w.plan != nil {
		if err := w.checkIntegers(file); err != nil {
			return err
		}
		w.recordTensors()
	}
	w.manifest.KVCache = kvCache(w.model.Graph)
	w.manifest.Versions = folder.Versions{Qwenrt: runner.Version(), Opset: w.model.Opset(""), IR: w.model.IRVersion}
	if err := w.manifest.Write(w.stage.Dir()); err != nil {
		return err
	}
	return w.measure(file)
}

// measure fills in the sizes of the report.
func (w *work) measure(file string) error {
	for _, path := range []string{file, file + ".data"} { // the second is absent where all weights are small
		info, err := os.Stat(path)
		if err == nil {
			w.report.Bytes += info.Size()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("accelerate: %w", err)
		}
	}
	if len(w.manifest.Quantization) == 0 {
		w.report.BitsPerWeight = floatBits(w.model.Graph)
	}
	return nil
}

// floatBits is the mean size of the float weights, each counted once.
func floatBits(g *ir.Graph) float64 {
	var weights, bytes int64
	seen := map[ir.Data]bool{}
	for _, v := range g.Initializers() {
		if t := v.Const; t.DType.Float() && !seen[t.Data] {
			seen[t.Data] = true
			weights += t.Len()
			bytes += t.ByteLen()
		}
	}
	if weights == 0 {
		return 0
	}
	return float64(8*bytes) / float64(weights)
}
