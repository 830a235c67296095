package main

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

const ortVersion = "1.32.0"

// The newest onnxruntime-gpu when onnxruntime 1.32.0 was pinned. Both speak the C API version that qwenrt asks for.
const ortCUDAVersion = "1.31.1"

// A wheelPin names one file of the Python package index and the members of it that make up the library. Nothing else
// is extracted.
type wheelPin struct {
	project, version string
	tag              string // platform tag, as pip --platform takes it
	sha256           string
	library          string   // the member that programs load
	others           []string // members that it loads itself, or that its licence asks for
	link             string   // name of a symbolic link to library that carries no version; may be empty
}

var wheelNotices = []string{"onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"}

var onnxRuntimeCPU = map[string]wheelPin{
	"linux-amd64": {
		project: "onnxruntime", version: ortVersion, tag: "manylinux_2_28_x86_64",
		sha256:  "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8",
		library: "onnxruntime/capi/libonnxruntime.so.1.32.0", link: "libonnxruntime.so",
		others: []string{"onnxruntime/capi/libonnxruntime_providers_shared.so"},
	},
	"linux-arm64": {
		project: "onnxruntime", version: ortVersion, tag: "manylinux_2_28_aarch64",
		sha256:  "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054",
		library: "onnxruntime/capi/libonnxruntime.so.1.32.0", link: "libonnxruntime.so",
		others: []string{"onnxruntime/capi/libonnxruntime_providers_shared.so"},
	},
	"darwin-arm64": {
		project: "onnxruntime", version: ortVersion, tag: "macosx_14_0_arm64",
		sha256:  "d52510bbbcc880c13b826f7d75cdf33ac5cf0bb864d960000fc29ce73f0cb83e",
		library: "onnxruntime/capi/libonnxruntime.1.32.0.dylib", link: "libonnxruntime.dylib",
	},
	"windows-amd64": {
		project: "onnxruntime", version: ortVersion, tag: "win_amd64",
		sha256:  "efe7456952c243a05a53d5b8732953625144642c2f3989094277f6217f0c0c40",
		library: "onnxruntime/capi/onnxruntime.dll",
		others:  []string{"onnxruntime/capi/onnxruntime_providers_shared.dll"},
	},
}

var onnxRuntimeCUDA = map[string]wheelPin{
	"linux-amd64": {
		project: "onnxruntime-gpu", version: ortCUDAVersion, tag: "manylinux_2_28_x86_64",
		sha256:  "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7",
		library: "onnxruntime/capi/libonnxruntime.so.1.31.1", link: "libonnxruntime.so",
		others: []string{
			"onnxruntime/capi/libonnxruntime_providers_shared.so",
			"onnxruntime/capi/libonnxruntime_providers_cuda.so",
		},
	},
}

// maxMember bounds one extracted file, in bytes. The largest today is the CUDA provider with 284 MB.
const maxMember = 2 << 30

func (p wheelPin) recipe(platform string) recipe {
	return recipe{
		name: p.project, version: p.version, platform: platform,
		pin: "sha256:" + p.sha256,
		make: func(ctx context.Context, dir, scratch string, log steps) error {
			return p.install(ctx, dir, scratch, log)
		},
	}
}

func (p wheelPin) install(ctx context.Context, dir, scratch string, log steps) error {
	var wheel string
	err := log.do(fmt.Sprintf("fetching %s %s with pip", p.project, p.version), func() (err error) {
		wheel, err = p.download(ctx, scratch)
		return err
	})
	if err != nil {
		return err
	}
	return log.do(fmt.Sprintf("unpacking %s", path.Base(p.library)), func() error {
		return p.extract(wheel, dir)
	})
}

// download has pip fetch the wheel into scratch and returns its path. pip checks the hash, and so does download: the
// pip that runs is whatever the machine has.
func (p wheelPin) download(ctx context.Context, scratch string) (string, error) {
	pip, err := findPip(ctx)
	if err != nil {
		return "", err
	}
	requirements := filepath.Join(scratch, "requirements.txt")
	line := fmt.Sprintf("%s==%s --hash=sha256:%s\n", p.project, p.version, p.sha256)
	if err := os.WriteFile(requirements, []byte(line), 0o644); err != nil {
		return "", err
	}
	args := append(pip[1:], "download", "--quiet", "--no-input", "--disable-pip-version-check",
		"--no-deps", "--only-binary=:all:", "--require-hashes",
		"--implementation", "cp", "--python-version", "3.12", "--abi", "cp312", "--platform", p.tag,
		"-d", scratch, "-r", requirements)
	if err := command(ctx, scratch, pip[0], args...); err != nil {
		return "", fmt.Errorf("%w; or set QWENRT_ORT_LIB to an existing ONNX Runtime library", err)
	}
	wheels, err := filepath.Glob(filepath.Join(scratch, "*.whl"))
	if err != nil {
		return "", err
	}
	if len(wheels) != 1 {
		return "", fmt.Errorf("pip left %d wheels, want 1", len(wheels))
	}
	got, err := hashFile(wheels[0])
	if err != nil {
		return "", err
	}
	if got != p.sha256 {
		return "", fmt.Errorf("%s has SHA-256 %s, want %s: not the pinned file, check the package index in pip's configuration",
			filepath.Base(wheels[0]), got, p.sha256)
	}
	return wheels[0], nil
}

// findPip returns the command line that starts pip.
func findPip(ctx context.Context) ([]string, error) {
	for _, pip := range [][]string{{"python3", "-m", "pip"}, {"python", "-m", "pip"}, {"pip3"}} {
		if _, err := exec.LookPath(pip[0]); err != nil {
			continue
		}
		if exec.CommandContext(ctx, pip[0], append(pip[1:], "--version")...).Run() == nil {
			return pip, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, errors.New("no pip for Python: install it (Debian and Ubuntu: apt install python3-pip; macOS: brew install python), or set QWENRT_ORT_LIB to an existing ONNX Runtime library")
}

// extract writes the pinned members of a wheel into dir, without their folders. The names in the archive choose among
// the pinned names and are never used as paths, so an archive cannot write anywhere else.
func (p wheelPin) extract(wheel, dir string) error {
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(wheel), err)
	}
	defer archive.Close()

	members := make(map[string]*zip.File)
	for _, member := range archive.File {
		if members[member.Name] != nil {
			return fmt.Errorf("%s: two members named %q", filepath.Base(wheel), member.Name)
		}
		members[member.Name] = member
	}
	wanted := append([]string{p.library}, p.others...)
	for _, name := range append(wanted, wheelNotices...) {
		member := members[name]
		if member == nil {
			return fmt.Errorf("%s: no member %q", filepath.Base(wheel), name)
		}
		if err := extractMember(member, filepath.Join(dir, path.Base(name))); err != nil {
			return fmt.Errorf("%s: %s: %w", filepath.Base(wheel), name, err)
		}
	}
	if p.link == "" {
		return nil
	}
	return os.Symlink(path.Base(p.library), filepath.Join(dir, p.link))
}

func extractMember(member *zip.File, dst string) error {
	if !member.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if member.UncompressedSize64 > maxMember {
		return fmt.Errorf("%d bytes, more than %d", member.UncompressedSize64, int64(maxMember))
	}
	in, err := member.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	mode := os.FileMode(0o644)
	if strings.HasPrefix(member.Name, "onnxruntime/capi/") {
		mode = 0o755
	}
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	// archive/zip ends with an error when the data are longer than the header says, or their checksum differs.
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
