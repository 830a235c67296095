package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/models/hub"
	"github.com/qwenrt/qwenrt/models/tiny"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// Words for what arguments may be, in help texts.
const (
	checkpointHelp = "HF_DIR is a folder with config.json and safetensors, a name on the Hugging Face hub,\n" +
		"or " + tiny.Name + ", the model that qwenrt carries."
	modelHelp = "MODEL is a model folder or a .onnx file; or a checkpoint, from which a model folder is built\n" +
		"in the user's cache first: a folder with config.json and safetensors, a name on the Hugging\n" +
		"Face hub, or " + tiny.Name + ", the model that qwenrt carries."
)

// hubFlags say how a checkpoint that is given by name is had.
func hubFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "revision", Usage: "branch, tag or commit on the hub", Value: "main"},
		boolFlag("offline", "use only what has been downloaded"),
	}
}

// model finds the .onnx file that arg stands for, and makes it where need be.
func (p *program) model(c *cli.Context, arg string) (string, error) {
	prepared, err := p.prepare(c, arg)
	if err != nil {
		return "", err
	}
	return prepared.File, nil
}

// prepare makes what is missing of the model that arg stands for, as flags say.
func (p *program) prepare(c *cli.Context, arg string) (*accelerate.Prepared, error) {
	conf, err := config(c)
	if err != nil {
		return nil, err
	}
	return p.prepareAs(c, arg, conf)
}

// prepareAs is prepare with a configuration of its own.
func (p *program) prepareAs(c *cli.Context, arg string, conf accelerate.Config) (prepared *accelerate.Prepared, err error) {
	err = p.accelerate(c, arg, func(from accelerate.Source, e accelerate.Events) error {
		prepared, err = accelerate.Prepare(c.Context, from, conf, e)
		return err
	})
	return prepared, err
}

// open opens what arg stands for, as flags say.
func (p *program) open(c *cli.Context, arg string) (m *accelerate.Model, err error) {
	conf, err := config(c)
	if err != nil {
		return nil, err
	}
	return p.openAs(c, arg, conf)
}

// openAs is open with a configuration of its own.
func (p *program) openAs(c *cli.Context, arg string, conf accelerate.Config) (m *accelerate.Model, err error) {
	err = p.accelerate(c, arg, func(from accelerate.Source, e accelerate.Events) error {
		m, err = accelerate.Open(c.Context, from, conf, e)
		return err
	})
	return m, err
}

// tellUnapplied says what was asked for and is not applied, a line each.
func (p *program) tellUnapplied(info accelerate.Info) {
	for _, o := range info.Unapplied() {
		fmt.Fprintf(p.stderr, "not applied: %s: %s\n", strings.TrimSpace(o.Option+" "+o.Requested), o.Reason)
	}
}

// accelerate shows the progress of work on the model that arg stands for.
func (p *program) accelerate(c *cli.Context, arg string, work func(accelerate.Source, accelerate.Events) error) error {
	from, err := p.source(c, arg)
	if err != nil {
		return err
	}
	progress := newProgress(p.stderr)
	defer progress.done()
	events := progress.events()
	events.Built = func(r *accelerate.Report) {
		progress.done()
		fmt.Fprintln(p.stderr, summary(r))
	}
	return work(from, events)
}

// source is what arg stands for: a model that is made already, or a checkpoint.
func (p *program) source(c *cli.Context, arg string) (accelerate.Source, error) {
	if !exists(arg) {
		return p.checkpoint(c, arg)
	}
	if _, err := folder.ModelFile(arg); errors.Is(err, folder.ErrNoModel) && !isCheckpoint(arg) {
		return accelerate.Source{}, fmt.Errorf("%w, and no checkpoint (config.json and *.safetensors) either", err)
	}
	return accelerate.Source{Dir: arg}, nil
}

// checkpoint finds the checkpoint that arg stands for: what is on disk first, then the carried model,
// then the hub.
func (p *program) checkpoint(c *cli.Context, arg string) (accelerate.Source, error) {
	if exists(arg) {
		return accelerate.Source{Dir: arg}, nil
	}
	if arg == tiny.Name {
		return accelerate.Source{FS: tiny.Checkpoint(), Name: tiny.Name}, nil
	}
	name, ok := hub.ParseName(arg)
	if !ok {
		return accelerate.Source{}, fmt.Errorf("%s: no such file or folder, and no name on the hub such as Qwen/Qwen3-0.6B", arg)
	}
	dir, err := p.pull(c.Context, name, c.String("revision"), c.Bool("offline"))
	return accelerate.Source{Dir: dir, Name: name}, err
}

// pull downloads a checkpoint, with progress.
func (p *program) pull(ctx context.Context, name, revision string, offline bool) (string, error) {
	progress := newProgress(p.stderr)
	defer progress.done()
	client := hub.Client{Offline: offline, Progress: progress.download(name)}
	return client.Pull(ctx, name, revision)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// isCheckpoint reports whether dir looks like a Hugging Face folder, whole or not: what it lacks is
// for the reader of checkpoints to say.
func isCheckpoint(dir string) bool {
	entries, _ := os.ReadDir(dir)
	return slices.ContainsFunc(entries, hasExt(".safetensors")) ||
		exists(filepath.Join(dir, "config.json")) && !slices.ContainsFunc(entries, hasExt(".onnx"))
}

func hasExt(ext string) func(fs.DirEntry) bool {
	return func(e fs.DirEntry) bool { return filepath.Ext(e.Name()) == ext }
}
