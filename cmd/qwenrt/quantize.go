package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func (p *program) quantizeCommand() *cli.Command {
	return &cli.Command{
		Name:      "quantize",
		Usage:     "store a model's weights in few bits",
		ArgsUsage: "IN",
		UsageText: "qwenrt quantize IN -o OUT [options]",
		Description: "IN is a model folder, or a .onnx file with config.json beside it.\n" +
			"Each weight becomes a level of a scale that a block of weights shares. rtn takes the nearest one, hqq\n" +
			"lets outliers count for little; gptq and awq run the model on calibration text, and lose less.\n\n" +
			"Examples: qwenrt quantize fused -o int4 --block-size 128 --algo gptq\n" +
			"          qwenrt quantize fused -o mixed --rule 'model.layers.0.*=int8:b128' --rule '*down_proj*=level1'\n" +
			"          qwenrt quantize fused -o mixed --target-bits 4.6\n" +
			"          qwenrt quantize int4 -o long --precision none --kv int8",
		Flags: slices.Concat(outputFlags(), quantizeFlags(append([]accelerate.Precision{accelerate.None}, accelerate.Quantized()...)), []cli.Flag{kvFlag()}),
		Action: func(c *cli.Context) error {
			if c.String("precision") == string(accelerate.None) && !accelerate.KVType(c.String("kv")).Quantized() {
				return commandUsage(c, "precision %q: want %s, or --kv int8 or int4 beside it", accelerate.None, words(accelerate.Quantized()))
			}
			return p.fromFolder(c, accelerate.Quantize, "qwenrt run %s -p 'What is a harbor?'")
		},
	}
}

// writeQuantization is a table of what became of each weight, and the sum.
func writeQuantization(w io.Writer, r *quantize.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "tensor\tmethod\tbits\tblock\tzero points\tsize\trms error\tSNR dB\tproduct dB\tloss\t")
	for _, x := range r.Tensors {
		method, block, zeros, product, loss := string(x.Method), strconv.Itoa(x.BlockSize), "yes", "-", "-"
		if x.BlockSize == 0 {
			block = "channel"
		}
		if x.Scale != "" {
			method += " " + string(x.Scale)
		}
		if x.Symmetric {
			zeros = "no"
		}
		if x.ProductSNR != 0 {
			product = fmt.Sprintf("%.1f", x.ProductSNR)
		}
		if x.Loss > 0 {
			loss = fmt.Sprintf("%.2e", x.Loss)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%.2e\t%.1f\t%s\t%s\t\n", x.Tensor, method, x.Bits, block, zeros, bytesText(x.BytesAfter), x.RMSE, x.SNR, product, loss)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, k := range r.Kept {
		fmt.Fprintf(w, "kept: %s (%s)\n", k.Tensor, k.Reason)
	}
	_, err := fmt.Fprintf(w, "all weights: %s → %s, %.2f bits a weight\n", bytesText(r.BytesBefore), bytesText(r.BytesAfter), r.BitsPerWeight())
	return err
}
