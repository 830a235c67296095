// Command release makes an archive that runs where it is unpacked: the program, ONNX Runtime beside it, and the licences of all
// that is in it.
//
//	eval "$(go run ./scripts/native env)"
//	go run ./scripts/release [-o build/release]
//
// It is made for the platform that it runs on, since the program links native code. The name tells version and platform; files
// carry the time of the commit, so that one commit gives one archive, as far as the C compiler does. A file with the
// archive's SHA-256 lies beside it. Before anything is given its final name, the archive is unpacked elsewhere and its program
// builds and runs the carried model there, with no environment.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	out := flag.String("o", filepath.Join("build", "release"), "`folder` for the archive")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: release [-o FOLDER]")
		os.Exit(2)
	}
	if err := run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	work, err := os.MkdirTemp("", "qwenrt-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	program := filepath.Join(work, "qwenrt")
	if _, err := output(ctx, nil, "go", "build", "-buildvcs=true", "-trimpath", "-ldflags=-s -w", "-o", program, "./cmd/qwenrt"); err != nil {
		return err
	}
	version, err := programVersion(ctx, program)
	if err != nil {
		return err
	}
	files, err := contents(ctx, program)
	if err != nil {
		return err
	}
	made, err := commitTime(ctx)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("qwenrt-%s-%s-%s", version, runtime.GOOS, runtime.GOARCH)
	archive := filepath.Join(work, name+".tar.gz")
	if err := writeArchive(archive, name, files, made); err != nil {
		return err
	}
	if err := try(ctx, archive, name, filepath.Join(work, "elsewhere")); err != nil {
		return fmt.Errorf("the archive does not work where it is unpacked: %w", err)
	}
	return publish(archive, out)
}

// programVersion is the second word of what `qwenrt version` prints.
func programVersion(ctx context.Context, program string) (string, error) {
	text, err := output(ctx, nil, program, "version")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return "", fmt.Errorf("%s version printed %q", program, text)
	}
	return strings.ReplaceAll(fields[1], "/", "-"), nil
}

func commitTime(ctx context.Context) (time.Time, error) {
	text, err := output(ctx, nil, "git", "log", "-1", "--format=%ct")
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return time.Unix(seconds, 0).UTC(), err
}

// try runs what a user would run first, with an empty home and nothing in the environment.
func try(ctx context.Context, archive, name, dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if _, err := output(ctx, nil, "tar", "-xzf", archive, "-C", dir); err != nil {
		return err
	}
	program := filepath.Join(dir, name, "bin", "qwenrt")
	env := []string{"HOME=" + dir}
	if _, err := output(ctx, env, program, "doctor"); err != nil {
		return err
	}
	text, err := output(ctx, env, program, "run", "qwen3-tiny", "-p", "What is a harbor?", "--temperature", "0", "--max-tokens", "8")
	if err == nil && strings.TrimSpace(text) == "" {
		err = errors.New("the carried model gave no answer")
	}
	return err
}

// publish moves the archive to its folder and writes its hash.
func publish(archive, out string) error {
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	h := sha256.New()
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	size, err := io.Copy(h, in)
	if err != nil {
		return err
	}
	name := filepath.Base(archive)
	final := filepath.Join(out, name)
	if err := copyFile(archive, final+".partial"); err != nil {
		return err
	}
	if err := os.Rename(final+".partial", final); err != nil {
		return err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if err := os.WriteFile(final+".sha256", []byte(sum+"  "+name+"\n"), 0o666); err != nil {
		return err
	}
	fmt.Printf("%s  %.1f MB  %s\n", final, float64(size)/1e6, sum)
	return nil
}

// output runs a command and gives what it prints; env nil is the environment of this process.
func output(ctx context.Context, env []string, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = env
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, strings.TrimSpace(errs.String()))
	}
	return string(out), nil
}
