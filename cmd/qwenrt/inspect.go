package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/graphopt/inspect"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/folder"
)

func (p *program) inspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show what is in a model",
		ArgsUsage: "FILE_OR_DIR",
		UsageText: "qwenrt inspect FILE_OR_DIR [options]",
		Description: "Inputs, outputs, operators, weights by type, quantisation and the KV cache's layout; and how a model\n" +
			"folder was made. No weights are read.\n\n" +
			"Example: qwenrt inspect int4 --html layer.html --layer 3",
		Flags: []cli.Flag{
			formFlag(),
			&cli.IntFlag{Name: "dot", Usage: "print the graph of `LAYER`, from 0, for Graphviz instead"},
			&cli.StringFlag{Name: "html", Usage: "write a page with a drawing of one layer to `FILE` instead"},
			&cli.IntFlag{Name: "layer", Usage: "the layer that --html draws"},
		},
		Action: p.inspect,
	}
}

func (p *program) inspect(c *cli.Context) error {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	jsonForm, err := asJSON(c)
	if err != nil {
		return err
	}
	switch {
	case c.IsSet("dot") && c.IsSet("html"):
		return commandUsage(c, "--dot or --html, not both")
	case c.IsSet("layer") && !c.IsSet("html"):
		return commandUsage(c, "--layer is for --html")
	case c.IsSet("html") && c.String("html") == "":
		return commandUsage(c, "--html is empty")
	}
	file, err := folder.ModelFile(arg)
	if err != nil {
		return err
	}
	m, err := ir.Load(file)
	if err != nil {
		return err
	}
	defer m.Close()
	switch {
	case c.IsSet("dot"):
		nodes, err := layer(m, c.Int("dot"))
		if err != nil {
			return err
		}
		return inspect.WriteDot(p.stdout, fmt.Sprintf("layer %d", c.Int("dot")), nodes)
	case c.IsSet("html"):
		nodes, err := layer(m, c.Int("layer"))
		if err != nil {
			return err
		}
		title := fmt.Sprintf("%s, layer %d", arg, c.Int("layer"))
		return newFile(c.String("html"), func(w io.Writer) error { return inspect.WriteHTML(w, m, title, nodes) })
	}
	manifest, err := folder.ReadManifest(filepath.Dir(file))
	if err != nil && !errors.Is(err, folder.ErrNoManifest) {
		return err
	}
	found := inspected{file, inspect.Summarize(m), manifest}
	if jsonForm {
		return p.writeJSON(found)
	}
	return found.print(p.stdout)
}

func layer(m *ir.Model, i int) ([]*ir.Node, error) {
	n := inspect.Layers(m)
	if n == 0 {
		return nil, errors.New("the graph has no layers that its names tell")
	}
	if i < 0 || i >= n {
		return nil, fmt.Errorf("there is no layer %d: the model has 0 to %d", i, n-1)
	}
	return inspect.Layer(m, i), nil
}

// inspected is what the command found.
type inspected struct {
	File string `json:"file"`
	*inspect.Summary
	Manifest *folder.Manifest `json:"manifest,omitempty"` // nil where another program made the model
}

func (i *inspected) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	row("file\t%s", i.File)
	row("producer\t%s", i.Producer)
	opsets := make([]string, len(i.Opsets))
	for n, o := range i.Opsets {
		opsets[n] = fmt.Sprintf("%s %d", o.Domain, o.Version)
	}
	row("versions\tIR %d, opset %s", i.IRVersion, strings.Join(opsets, ", "))
	if m := i.Manifest; m != nil {
		row("made by\tqwenrt %s from %s", m.Versions.Qwenrt, m.Source.Name)
		for _, s := range m.Steps {
			row("\t%s", stepText(s))
		}
	}
	if kv := i.KVCache; kv != nil {
		shared := "grows with each step"
		if kv.Shared {
			shared = "one buffer of fixed capacity"
		}
		row("KV cache\t%d layers of %s; %s; %s a token", kv.Layers, kv.Type, shared, bytesText(kv.BytesPerToken))
	}
	row("weights\t%d, %s, %.2f bits each", i.Parameters, bytesText(i.WeightBytes), i.BitsPerWeight)
	for _, q := range i.Quantization {
		row("\t%s", quantizationText(q))
	}
	heading := func(name string) { row("\n%s", name) }
	heading("INPUTS")
	for _, line := range valueLines(i.Inputs) {
		row("%s", line)
	}
	heading("OUTPUTS")
	for _, line := range valueLines(i.Outputs) {
		row("%s", line)
	}
	heading("CONSTANTS")
	for _, k := range i.Constants {
		row("%s\t%d tensors, %s", k.DType, k.Tensors, bytesText(k.Bytes))
	}
	heading("OPERATORS")
	fused := map[string]bool{}
	for _, o := range i.Fusions {
		fused[o.Name] = true
	}
	for _, o := range i.Operators {
		note := ""
		if fused[o.Name] {
			note = "\tfused"
		}
		row("%s\t%d%s", o.Name, o.Count, note)
	}
	for _, f := range i.Functions {
		row("%s\tfunction", f)
	}
	row("total\t%d", i.Nodes)
	return t.Flush()
}

var cacheName = regexp.MustCompile(`^(past_key_values|present)\.([1-9]\d*)\.(key|value)$`)

// valueLines lists inputs or outputs. Of a KV cache the first layer stands for all that are like it.
func valueLines(values []inspect.Value) []string {
	types := map[string]string{}
	for _, v := range values {
		types[v.Name] = v.Type
	}
	var lines []string
	like := 0
	for _, v := range values {
		if m := cacheName.FindStringSubmatch(v.Name); m != nil && types[m[1]+".0."+m[3]] == v.Type {
			like++
			continue
		}
		line := v.Name + "\t" + v.Type
		if v.Optional {
			line += ", optional"
		}
		lines = append(lines, line)
	}
	if like > 0 {
		lines = append(lines, fmt.Sprintf("and %d more\tas those of layer 0", like))
	}
	return lines
}

func stepText(s folder.Step) string {
	text := s.Command
	for _, name := range sortedKeys(s.Options) {
		text += fmt.Sprintf(" %s=%s", name, s.Options[name])
	}
	var passes []string
	for _, p := range s.Passes {
		if p.Count > 0 {
			passes = append(passes, fmt.Sprintf("%s %d", p.Name, p.Count))
		}
	}
	if len(passes) > 0 {
		text += ": " + strings.Join(passes, ", ")
	}
	return text
}

func quantizationText(q inspect.Quantization) string {
	text := fmt.Sprintf("%s: %d tensors, %d weights in %d bits", q.Operator, q.Tensors, q.Weights, q.Bits)
	if q.BlockSize > 0 {
		text += fmt.Sprintf(", blocks of %d", q.BlockSize)
	}
	if q.Symmetric {
		text += ", symmetric"
	} else {
		text += ", zero points"
	}
	if q.AccuracyLevel > 0 {
		text += fmt.Sprintf(", accuracy level %d", q.AccuracyLevel)
	}
	return text + ", " + bytesText(q.Bytes)
}
