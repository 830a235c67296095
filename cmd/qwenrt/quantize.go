package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func (p *program) quantizeCommand() *cli.Command {
	return &cli.Command{
		Name:      "quantize",
		Usage:     "store a model's weights in few bits",
		ArgsUsage: "IN",
		UsageText: "qwenrt quantize IN -o OUT [options]",
		Description: "IN is a model folder, or a .onnx file with config.json beside it.\n" +
			"Weights are rounded to the nearest level of a scale that a block of them shares.\n\n" +
			"Example: qwenrt quantize fused -o int4 --precision int4 --block-size 128",
		Flags: slices.Concat(outputFlags(), quantizeFlags("int4 or int8")),
		Action: func(c *cli.Context) error {
			if c.String("precision") == string(accelerate.None) {
				return commandUsage(c, "precision %q: want int4 or int8", accelerate.None)
			}
			return p.fromFolder(c, accelerate.Quantize, "qwenrt run %s -p 'What is a harbor?'")
		},
	}
}
