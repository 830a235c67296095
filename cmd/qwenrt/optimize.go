package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func (p *program) optimizeCommand() *cli.Command {
	return &cli.Command{
		Name:      "optimize",
		Usage:     "fuse a model's graph for ONNX Runtime",
		ArgsUsage: "IN",
		UsageText: "qwenrt optimize IN -o OUT [options]",
		Description: "IN is a model folder, or a .onnx file with config.json beside it.\n\n" +
			"Example: qwenrt optimize onnx -o fused",
		Flags: slices.Concat(outputFlags(), optimizeFlags()),
		Action: func(c *cli.Context) error {
			return p.fromFolder(c, accelerate.Optimize, "qwenrt quantize %s -o OUT")
		},
	}
}
