//go:build linux

// Command buildcost runs a command and prints what it cost: wall time, CPU time and peak memory.
//
//	go run ./scripts/buildcost [-json FILE | -row NAME] COMMAND [ARGUMENT ...]
//
// CPU time is user and system of the command and its children: what it would take where nothing else runs. RssAnon is the
// memory that they allocated, summed over all and looked at every 10 ms. VmHWM is the largest resident size of any one of
// them, as the kernel kept it: mapped files count, so it grows with the file cache that happens to be there and says
// little about a program that maps its weights.
//
// The command's output passes through and the exit status is the command's. The cost goes to standard
// error; with -json it goes to a file, with -row wall time and memory go to standard output
// as a row of a markdown table.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// interval between two looks at the memory.
const interval = 10 * time.Millisecond

func main() {
	code, err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "buildcost:", err)
	}
	os.Exit(code)
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) (code int, err error) {
	flags := flag.NewFlagSet("buildcost", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("json", "", "file to write the cost to")
	row := flags.String("row", "", "print a row of a markdown table that begins with this name")
	if err := flags.Parse(args); err != nil {
		return 2, err
	}
	if flags.NArg() == 0 {
		return 2, errors.New("give the command to run")
	}
	cmd := exec.Command(flags.Arg(0), flags.Args()[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	c, err := measure(cmd)
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		return exitStatus(failed), fmt.Errorf("%s: %w", flags.Arg(0), err)
	case err != nil:
		return 1, err
	case *file != "":
		return status(c.write(*file))
	case *row != "":
		_, err = fmt.Fprintf(stdout, "| %s | %.2f | %.0f | %.0f |\n", *row, c.Wall, megabytes(c.RSSAnon), megabytes(c.VmHWM))
	default:
		_, err = fmt.Fprintf(stderr, "%.2f s, CPU %.2f s, peak RssAnon %.0f MB, VmHWM %.0f MB\n", c.Wall, c.CPU, megabytes(c.RSSAnon), megabytes(c.VmHWM))
	}
	return status(err)
}

func status(err error) (int, error) {
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// exitStatus is a command's status as shells have it: 128 and the signal's number where one ended it.
func exitStatus(failed *exec.ExitError) int {
	if ws, ok := failed.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return failed.ExitCode()
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// cost of a command.
type cost struct {
	Wall    float64 `json:"wall_s"`
	CPU     float64 `json:"cpu_s"`
	RSSAnon int64   `json:"rss_anon_bytes"`
	VmHWM   int64   `json:"vm_hwm_bytes"`
}

func (c cost) write(path string) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o666)
}

// measure runs cmd to its end.
func measure(cmd *exec.Cmd) (c cost, err error) {
	// An interrupt from the terminal reaches the command too, and it is the command that ends.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return c, err
	}
	done, peak := make(chan struct{}), make(chan int64)
	go func() { peak <- watch(cmd.Process.Pid, done) }()
	err = cmd.Wait()
	c.Wall = time.Since(start).Seconds()
	c.CPU = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	close(done)
	c.RSSAnon = <-peak
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.VmHWM = usage.Maxrss << 10 // of children that it has waited for, too
	}
	return c, err
}

// watch gives the largest RssAnon of a process and its descendants until done.
func watch(pid int, done <-chan struct{}) (peak int64) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		var sum int64
		for _, p := range tree(pid) {
			sum += rssAnon(p)
		}
		peak = max(peak, sum)
		select {
		case <-done:
			return peak
		case <-tick.C:
		}
	}
}

// tree gives pid and its descendants, as far as they live.
func tree(pid int) []int {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	all := []int{pid}
	for _, t := range tasks {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name())) // a thread may have ended
		for _, child := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, tree(n)...)
			}
		}
	}
	return all
}

// rssAnon gives RssAnon of one process in bytes; 0 once it is gone. See proc_pid_status(5).
func rssAnon(pid int) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}
