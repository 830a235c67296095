package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// contents lists what is in an archive: name in it → file.
func contents(ctx context.Context, program string) (map[string]string, error) {
	files := map[string]string{"bin/qwenrt": program}
	for _, name := range []string{"LICENSE", "README.md", "THIRD_PARTY_NOTICES.md"} {
		files[name] = name
	}
	if err := addRuntime(files, os.Getenv("QWENRT_ORT_LIB")); err != nil {
		return nil, err
	}
	if err := addModules(ctx, files); err != nil {
		return nil, err
	}
	if err := addCrates(files, filepath.Join("scripts", "native", "tokenizers", "Cargo.lock"), cargoHome()); err != nil {
		return nil, err
	}
	goroot, err := output(ctx, nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	return files, addNotices(files, strings.TrimSpace(goroot), "licenses/go")
}

// addRuntime adds ONNX Runtime, under the name that the program looks for first: without links, which some tools
// that unpack archives do not make.
func addRuntime(files map[string]string, library string) error {
	if library == "" {
		return errors.New(`QWENRT_ORT_LIB is not set: eval "$(go run ./scripts/native env)" first`)
	}
	real, err := filepath.EvalSymlinks(library)
	if err != nil {
		return err
	}
	files["lib/"+filepath.Base(real)] = real
	dir := filepath.Dir(real)
	others, err := filepath.Glob(filepath.Join(dir, "*onnxruntime_providers_*"))
	if err != nil {
		return err
	}
	for _, f := range others {
		files["lib/"+filepath.Base(f)] = f
	}
	return addNotices(files, dir, "licenses/onnxruntime")
}

// addModules adds the licences of the Go modules that the program is made of.
func addModules(ctx context.Context, files map[string]string) error {
	text, err := output(ctx, nil, "go", "list", "-deps", "-json=Module", "./cmd/qwenrt")
	if err != nil {
		return err
	}
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var p struct {
			Module *struct {
				Path, Dir string
				Main      bool
			}
		}
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if p.Module == nil || p.Module.Main {
			continue
		}
		if err := addNotices(files, p.Module.Dir, path.Join("licenses", p.Module.Path)); err != nil {
			return err
		}
	}
}

func cargoHome() string {
	if dir := os.Getenv("CARGO_HOME"); dir != "" {
		return dir
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".cargo")
}

var lockedCrate = regexp.MustCompile(`(?m)^\[\[package\]\]\nname = "([^"]+)"\nversion = "([^"]+)"\nsource = `)

// addCrates adds the licences of the Rust crates that cargo has fetched for libtokenizers.a. A crate of the lock file that
// is not there belongs to another platform. One that leaves out the text of its licence is named in
// THIRD_PARTY_NOTICES.md alone.
func addCrates(files map[string]string, lock, cargo string) error {
	data, err := os.ReadFile(lock)
	if err != nil {
		return err
	}
	found := 0
	for _, m := range lockedCrate.FindAllSubmatch(bytes.ReplaceAll(data, []byte("\r"), nil), -1) {
		name := fmt.Sprintf("%s-%s", m[1], m[2])
		dirs, err := filepath.Glob(filepath.Join(cargo, "registry", "src", "*", name))
		if err != nil {
			return err
		}
		if len(dirs) == 0 {
			continue
		}
		found++
		if err := addNotices(files, dirs[0], path.Join("licenses", "crates", name)); err != nil && !errors.Is(err, errNoNotice) {
			return err
		}
	}
	if found == 0 {
		return fmt.Errorf("no crate of %s is in %s: build libtokenizers.a on this machine first (make native)", lock, cargo)
	}
	return nil
}

var (
	noticeName  = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|copyright|unlicense|thirdpartynotices)([-._].*)?$`)
	errNoNotice = errors.New("no licence file")
)

// addNotices adds the licence files of a folder, and fails where there is none.
func addNotices(files map[string]string, dir, to string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := false
	for _, e := range entries {
		if e.Type()&fs.ModeType == 0 && noticeName.MatchString(e.Name()) {
			files[path.Join(to, e.Name())] = filepath.Join(dir, e.Name())
			found = true
		}
	}
	if !found {
		return fmt.Errorf("%s: %w", dir, errNoNotice)
	}
	return nil
}
