package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func (p *program) exportCommand() *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "make a checkpoint into plain ONNX",
		ArgsUsage: "HF_DIR",
		UsageText: "qwenrt export HF_DIR -o OUT [options]",
		Description: "The graph has ONNX's own operators only, with the KV cache as inputs and outputs.\n" + checkpointHelp + "\n\n" +
			"Example: qwenrt export Qwen3-0.6B -o onnx",
		Flags: slices.Concat(outputFlags(), exportFlags(), hubFlags()),
		Action: func(c *cli.Context) error {
			return p.fromCheckpoint(c, accelerate.Export, "qwenrt optimize %s -o OUT")
		},
	}
}
