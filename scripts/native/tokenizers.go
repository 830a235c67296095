package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	tokenizersModule  = "github.com/daulet/tokenizers"
	tokenizersVersion = "v1.24.0" // as in go.mod
	// The module's hash, as in go.sum; from outside a module there is no go.sum to check it against.
	tokenizersSum     = "h1:pdT0kRPB9jYbIRxY1q82RJa9vfSbKI53YdHHNDTnvOE="
	tokenizersLibrary = "libtokenizers.a"
	// As rust-version in Cargo.toml: the tokenizers crate uses Option::is_none_or.
	rustOldest = "1.82"
)

// crate holds the Cargo.toml and the Cargo.lock that the library is built with, in place of the module's own.
//
//go:embed tokenizers/Cargo.toml tokenizers/Cargo.lock
var crate embed.FS

func tokenizersRecipe(platform string) (recipe, error) {
	// The Rust toolchain on Windows makes a library for another linker than cgo's unless told otherwise.
	if strings.HasPrefix(platform, "windows-") {
		return recipe{}, fmt.Errorf("no recipe for %s on %s", tokenizersLibrary, platform)
	}
	toml, errTOML := crate.ReadFile("tokenizers/Cargo.toml")
	lock, errLock := crate.ReadFile("tokenizers/Cargo.lock")
	if err := errors.Join(errTOML, errLock); err != nil {
		return recipe{}, err
	}
	return recipe{
		name: "tokenizers", version: strings.TrimPrefix(tokenizersVersion, "v"), platform: platform,
		pin: "sha256:" + hashText(tokenizersSum, string(toml), string(lock)),
		make: func(ctx context.Context, dir, scratch string, log steps) error {
			return buildTokenizers(ctx, dir, scratch, map[string][]byte{"Cargo.toml": toml, "Cargo.lock": lock}, log)
		},
	}, nil
}

func buildTokenizers(ctx context.Context, dir, scratch string, manifests map[string][]byte, log steps) error {
	if _, err := exec.LookPath("cargo"); err != nil {
		return fmt.Errorf("cargo is missing: install it with Rust %s or newer (https://rustup.rs), or set QWENRT_TOKENIZERS_LIB to a folder that holds %s",
			rustOldest, tokenizersLibrary)
	}
	var module string
	err := log.do("fetching the source of "+tokenizersModule+" "+tokenizersVersion, func() (err error) {
		module, err = moduleDir(ctx, scratch)
		return err
	})
	if err != nil {
		return err
	}
	src := filepath.Join(scratch, "crate")
	if err := os.CopyFS(filepath.Join(src, "src"), os.DirFS(filepath.Join(module, "src"))); err != nil {
		return err
	}
	for name, data := range manifests {
		if err := os.WriteFile(filepath.Join(src, name), data, 0o644); err != nil {
			return err
		}
	}
	target := filepath.Join(scratch, "target")
	err = log.do("building "+tokenizersLibrary+" with cargo, about a minute", func() error {
		err := command(ctx, src, "cargo", "build", "--release", "--locked", "--quiet", "--target-dir", target)
		if err != nil {
			return fmt.Errorf("%w (it needs Rust %s or newer and a C compiler); or set QWENRT_TOKENIZERS_LIB to a folder that holds %s",
				err, rustOldest, tokenizersLibrary)
		}
		return nil
	})
	if err != nil {
		return err
	}
	built, err := builtLibrary(target)
	if err != nil {
		return err
	}
	return errors.Join(
		os.Rename(built, filepath.Join(dir, tokenizersLibrary)),
		copyFile(filepath.Join(module, "LICENSE"), filepath.Join(dir, "LICENSE")),
	)
}

// builtLibrary finds cargo's output: below the target's name if the user's cargo configuration sets build.target.
func builtLibrary(target string) (string, error) {
	for _, pattern := range []string{"release", "*/release"} {
		found, err := filepath.Glob(filepath.Join(target, pattern, tokenizersLibrary))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("cargo left no %s", tokenizersLibrary)
}

// moduleDir has the go command fetch the module and returns its folder in the module cache.
func moduleDir(ctx context.Context, scratch string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", tokenizersModule+"@"+tokenizersVersion)
	// Outside any module, so that neither a go.mod, a workspace nor flags meant for one decide which version is
	// fetched. The hash is compared below; the checksum database is not asked.
	cmd.Dir = scratch
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "GONOSUMDB="+tokenizersModule)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	runErr := cmd.Run()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var module struct{ Dir, Sum, Error string }
	if err := json.Unmarshal(stdout.Bytes(), &module); err != nil {
		return "", fmt.Errorf("go mod download: %w: %s", errors.Join(runErr, err), faultLine(stderr.String()))
	}
	if module.Error != "" {
		return "", fmt.Errorf("go mod download: %s", module.Error)
	}
	if module.Sum != tokenizersSum {
		return "", fmt.Errorf("%s %s has hash %s, want %s: not the pinned source", tokenizersModule, tokenizersVersion, module.Sum, tokenizersSum)
	}
	return module.Dir, nil
}

// copyFile copies contents only: files in the module cache are read-only, and copies must not be.
func copyFile(src, dst string) error {
	data, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, data, 0o644)
}
