package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

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
	if exists(arg) {
		file, err := folder.ModelFile(arg)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, folder.ErrNoModel) {
			return "", err
		}
		if !isCheckpoint(arg) {
			return "", fmt.Errorf("%w, and no checkpoint (config.json and *.safetensors) either", err)
		}
	}
	source, err := p.checkpoint(c, arg)
	if err != nil {
		return "", err
	}
	progress := newProgress(p.stderr)
	defer progress.done()
	dir, built, err := accelerate.Cached(c.Context, source, accelerate.Config{}, progress.events())
	if err != nil {
		return "", err
	}
	progress.done()
	if built != nil {
		fmt.Fprintln(p.stderr, summary(built))
	}
	return filepath.Join(dir, folder.ModelName), nil
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
