package modelfolder

import (
	"context"
	"errors"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/models/qwen3"
)

// Export makes the model folder dir of a checkpoint: the plain float32 graph, as it is before any pass,
// and the side files.
func Export(ctx context.Context, checkpoint, dir string) error {
	return export(ctx, checkpoint, dir, nil)
}

// Optimize makes it with the graph as it is behind all passes: of those that take several sequences at a time.
func Optimize(ctx context.Context, checkpoint, dir string) error {
	return export(ctx, checkpoint, dir, passes.All())
}

func export(ctx context.Context, checkpoint, dir string, change []*graphopt.Pass) (err error) {
	source, err := qwen3.Open(checkpoint)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	model, err := source.Model(qwen3.Options{DType: ir.Float32})
	if err != nil {
		return err
	}
	if _, err := graphopt.Run(ctx, model, change, graphopt.Options{MaxPositions: int64(source.Config.ContextLength())}); err != nil {
		return err
	}
	stage, err := folder.Create(dir, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.Abort()) }()
	if err := ir.Save(ctx, model, stage.Path(folder.ModelName), ir.SaveOptions{}); err != nil {
		return err
	}
	if _, err := stage.CopySideFiles(source.Files()); err != nil {
		return err
	}
	if err := folder.WriteGenAI(stage.Dir(), source.Facts(), model); err != nil {
		return err
	}
	return stage.Commit()
}
