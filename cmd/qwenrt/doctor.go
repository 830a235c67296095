package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/machine"
)

func (p *program) doctorCommand() *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "show what qwenrt finds on this machine, and what is missing",
		ArgsUsage: " ",
		Description: "The exit code is 1 if something needed is missing.\n\n" +
			"Example: qwenrt doctor",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "form of the output: table or json", Value: "table"},
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			write := map[string]func(io.Writer, []finding) error{"table": printTable, "json": printJSON}[c.String("output")]
			if write == nil {
				return commandUsage(c, "output %q: want table or json", c.String("output"))
			}
			findings := examine()
			if err := write(p.stdout, findings); err != nil {
				return err
			}
			for _, f := range findings {
				if f.Status == missing {
					return errReported
				}
			}
			return nil
		},
	}
}

// status is how good a finding is.
type status string

const (
	good    status = "ok"
	warning status = "warning" // works, but not as well as it could
	missing status = "missing" // no model can be run
)

// finding is a line of the doctor's report.
type finding struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Status status `json:"status"`
	Remedy string `json:"remedy,omitempty"` // what to do, unless the status is ok
}

func examine() []finding {
	all := []finding{{"qwenrt", fmt.Sprintf("%s (%s %s/%s)", runner.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH), good, ""}}
	all = append(all, examineRuntime()...)
	all = append(all,
		finding{"tokenizers", dependency("github.com/daulet/tokenizers"), good, ""},
		finding{"cpu", machine.CPUName(), good, ""},
		examineFeatures(machine.Features(), machine.FastIntegers()),
		examineThreads(),
		finding{"memory", memoryText(machine.ReadMemory()), good, ""},
	)
	return append(all, examineCache()...)
}

func examineRuntime() []finding {
	if err := ort.Init(ort.Environment{}); err != nil {
		state := "not found"
		if !errors.Is(err, ort.ErrLibraryNotFound) {
			state = "not usable"
		}
		return []finding{{"onnxruntime", state, missing, strings.TrimPrefix(oneLine(err), "ort: ")}}
	}
	return []finding{
		{"onnxruntime", fmt.Sprintf("%s (%s)", ort.Version(), ort.LibraryPath()), good, ""},
		{"providers", strings.Join(ort.Providers(), ", "), good, ""},
	}
}

// dependency is the version of a module in this program.
func dependency(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == path {
				return d.Version
			}
		}
	}
	return "linked, version unknown"
}

func examineFeatures(names []string, fast bool) finding {
	f := finding{"cpu features", strings.Join(names, " "), good, ""}
	if !fast {
		f.Status, f.Remedy = warning, "INT4 models are slow without AVX2 (x86) or DotProd (ARM); in a virtual machine, pass the host's CPU through"
	}
	if f.Value == "" {
		f.Value = "none of those that kernels use"
	}
	return f
}

func examineThreads() finding {
	threads, cpus := ort.DefaultThreads(), runtime.NumCPU()
	text := fmt.Sprint(threads)
	if threads < cpus {
		text += fmt.Sprintf(" (of %d CPUs; a control group limits them)", cpus)
	}
	return finding{"threads", text, good, ""}
}

func memoryText(m machine.Memory) string {
	if m.Total == 0 {
		return "unknown"
	}
	text := bytesText(m.Total)
	if m.Available > 0 {
		text += ", " + bytesText(m.Available) + " available"
	}
	if m.Limit > 0 && m.Limit < m.Total {
		text += ", limited to " + bytesText(m.Limit) + " by a control group"
	}
	return text
}

// roomForModel is what the smallest Qwen3, 0.6B in INT4, takes in the cache.
const roomForModel = 500e6

func examineCache() []finding {
	dir, err := accelerate.CacheDir()
	if err != nil {
		return []finding{{"model cache", "none", missing, strings.TrimPrefix(oneLine(err), "accelerate: ")}}
	}
	models, size := cacheSize(dir)
	all := []finding{{"model cache", fmt.Sprintf("%s: %d models, %s", dir, models, bytesText(size)), good, ""}}
	free, known := freeBytes(existingParent(dir))
	if !known {
		return all
	}
	disk := finding{"disk", bytesText(free) + " free for the cache", good, ""}
	if free < roomForModel {
		disk.Status, disk.Remedy = warning, "make room, set XDG_CACHE_HOME to another disk, or build with -o elsewhere"
	}
	return append(all, disk)
}

// cacheSize counts the models in a cache and their bytes. What cannot be read does not count.
func cacheSize(dir string) (models int, bytes int64) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
		}
		if e.IsDir() && filepath.Dir(path) == dir && !strings.HasPrefix(e.Name(), ".") {
			models++
		}
		return nil
	})
	return models, bytes
}

// existingParent is dir, or the nearest folder above that exists.
func existingParent(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func printTable(w io.Writer, findings []finding) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Name, f.Status, f.Value)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Remedy != "" {
			if _, err := fmt.Fprintf(w, "\n%s: %s\n", f.Name, f.Remedy); err != nil {
				return err
			}
		}
	}
	return nil
}

func printJSON(w io.Writer, findings []finding) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(findings)
}
