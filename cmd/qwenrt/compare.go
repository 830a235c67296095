package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/graphopt/inspect"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/bench"
	"github.com/qwenrt/qwenrt/runner/eval"
)

// compared is a row of the table of eval --compare.
type compared struct {
	Model         string  `json:"model"`
	Bytes         int64   `json:"bytes"` // of the model and its data files
	BitsPerWeight float64 `json:"bits_per_weight"`
	*eval.Result
	// PP512 and TG64 are tokens a second; 0 where they were not measured.
	PP512 float64 `json:"pp512,omitempty"`
	TG64  float64 `json:"tg64,omitempty"`
}

func (p *program) compare(c *cli.Context) (err error) {
	names := c.Args().Slice()
	if len(names) < 2 {
		return commandUsage(c, "--compare wants two models or more, got %d", len(names))
	}
	context := eval.DefaultContext
	if c.IsSet("ctx") {
		context = c.Int("ctx")
	}
	reference, err := p.openEval(c, names[0], context)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reference.Close()) }()
	o := eval.Options{Context: context, Chunks: c.Int("chunks")}
	first, err := p.compareOne(c, reference, o, names[0])
	if err != nil {
		return err
	}
	rows := []compared{first}
	o.Reference = eval.ModelReference(reference)
	for _, name := range names[1:] {
		row, err := p.compareNext(c, o, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		rows = append(rows, row)
	}
	if path := c.String("chart"); path != "" {
		if err := newFile(path, func(w io.Writer) error { return writeChart(w, rows) }); err != nil {
			return err
		}
	}
	if jsonForm, _ := asJSON(c); jsonForm {
		return p.writeJSON(rows)
	}
	return printCompared(p.stdout, rows)
}

func (p *program) compareNext(c *cli.Context, o eval.Options, name string) (row compared, err error) {
	r, err := p.openEval(c, name, o.Context)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return p.compareOne(c, r, o, name)
}

// compareOne makes the row of an open model.
func (p *program) compareOne(c *cli.Context, r *runner.Runner, o eval.Options, name string) (row compared, err error) {
	row.Model = name
	path, err := p.model(c, name)
	if err != nil {
		return row, err
	}
	if row.Bytes, row.BitsPerWeight, err = modelSize(path); err != nil {
		return row, err
	}
	if row.Result, err = p.measure(c, r, o, name); err != nil || c.Bool("no-bench") {
		return row, err
	}
	progress := newProgress(p.stderr)
	defer progress.done()
	progress.begin("timing " + name)
	subject := bench.Subject{Runner: r, Model: bench.Model{File: path}}
	records, err := bench.Run(c.Context, subject, bench.Config{Prompt: []int{512}, Gen: []int{64}, Repetitions: 3}, bench.Events{})
	if err != nil {
		return row, err
	}
	row.PP512, row.TG64 = records[0].MedianTS, records[1].MedianTS
	return row, nil
}

// modelSize gives the bytes of a model file and of the files beside it whose names begin with its name,
// and the mean size of a weight.
func modelSize(path string) (bytes int64, bits float64, err error) {
	m, err := ir.Load(path)
	if err != nil {
		return 0, 0, err
	}
	bits = inspect.Summarize(m).BitsPerWeight
	if err := m.Close(); err != nil {
		return 0, 0, err
	}
	dir, name := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), name) {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, e.Name())) // what a link leads to
		if err != nil {
			return 0, 0, err
		}
		bytes += info.Size()
	}
	return bytes, bits, nil
}

// printCompared writes a table in Markdown.
func printCompared(w io.Writer, rows []compared) error {
	var b strings.Builder
	timed := rows[0].TG64 > 0
	b.WriteString("| model | size | bits a weight | perplexity | KL divergence | top-1 |")
	if timed {
		b.WriteString(" pp512 | tg64 |")
	}
	b.WriteString("\n|---|---:|---:|---:|---:|---:|")
	if timed {
		b.WriteString("---:|---:|")
	}
	for _, r := range rows {
		fmt.Fprintf(&b, "\n| %s | %s | %.2f | %.4f ± %.4f |", r.Model, bytesText(r.Bytes), r.BitsPerWeight, r.Perplexity, r.Error)
		if d := r.Divergence; d != nil {
			fmt.Fprintf(&b, " %.6f ± %.6f | %.2f ± %.2f %% |", d.KLD.Mean, d.KLD.Error, 100*d.Top1, 100*d.Top1Error)
		} else {
			b.WriteString(" reference | |")
		}
		if timed {
			fmt.Fprintf(&b, " %.1f | %.1f |", r.PP512, r.TG64)
		}
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}
