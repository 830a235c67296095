package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/serve"
)

// job is a line of a batch's requests. Flags say what it does not.
type job struct {
	ID        json.RawMessage   `json:"id"` // a string or a number; default: the number of the line
	Prompt    string            `json:"prompt"`
	Messages  []chat.Message    `json:"messages"`
	Tools     []json.RawMessage `json:"tools"`
	Choice    *serve.ToolChoice `json:"tool_choice"`
	MaxTokens int               `json:"max_tokens"`
	Seed      *uint64           `json:"seed"`
}

// maxLine bounds a line of a batch.
const maxLine = maxPrompt

// window is the number of requests that are in memory at a time.
const window = 1024

// batch answers the requests of a file, all that have no result yet.
func (p *program) batch(c *cli.Context, r *runner.Runner, q runner.Request, model string) error {
	in, err := os.Open(c.String("batch"))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := openResults(c.String("results"))
	if err != nil {
		return err
	}
	b := &batchRun{p: p, c: c, r: r, q: q, out: out, model: model}
	err = b.run(in)
	if b.skipped > 0 {
		fmt.Fprintf(p.stderr, "%d had been answered before\n", b.skipped)
	}
	fmt.Fprintf(p.stderr, "%d answered, %d failed\n", b.done, b.failed)
	return errors.Join(err, out.file.Close())
}

// batchRun is a batch under way.
type batchRun struct {
	p     *program
	c     *cli.Context
	r     *runner.Runner
	q     runner.Request
	out   *results
	model string

	skipped, done, failed int
}

func (b *batchRun) run(in io.Reader) error {
	var jobs []job
	err := eachJob(in, func(j job) error {
		if b.out.has(j.ID) {
			b.skipped++
			return nil
		}
		jobs = append(jobs, j)
		if len(jobs) < window {
			return nil
		}
		err := b.answer(jobs)
		jobs = nil
		return err
	})
	if err != nil {
		return err
	}
	return b.answer(jobs)
}

// answer answers some requests and writes each result when it is complete. One that was interrupted is
// none.
func (b *batchRun) answer(jobs []job) error {
	requests := make([]runner.Request, len(jobs))
	for i, j := range jobs {
		requests[i] = b.request(j)
	}
	under := map[int]*runner.Collector{} // by request
	for ev, err := range b.r.GenerateBatch(b.c.Context, requests) {
		a := under[ev.Request]
		if a == nil {
			a = new(runner.Collector)
			under[ev.Request] = a
		}
		a.Add(ev)
		if ev.Result == nil {
			continue
		}
		delete(under, ev.Request)
		if b.c.Context.Err() != nil {
			return err
		}
		if err := b.finish(jobs[ev.Request], a.Answer(), err); err != nil {
			return err
		}
	}
	return b.c.Context.Err()
}

func (b *batchRun) request(j job) runner.Request {
	q := b.q
	switch {
	case b.c.Bool("no-chat"):
		q.Prompt, q.Messages = j.Prompt, j.Messages // of which the second is a fault, if it is there
	case j.Prompt != "" && len(j.Messages) > 0:
		q.Prompt, q.Messages = j.Prompt, j.Messages // a fault too
	case j.Prompt != "":
		q.Messages = conversation(b.c, chat.Message{Role: "user", Content: j.Prompt})
	default:
		q.Messages = j.Messages
	}
	if len(j.Tools) > 0 {
		q.Tools = j.Tools
	}
	if j.Choice != nil {
		q.ToolChoice, q.Tool = j.Choice.Choice, j.Choice.Tool
	}
	if j.MaxTokens != 0 {
		q.MaxTokens = j.MaxTokens
	}
	if j.Seed != nil {
		params := *q.Sampling
		params.Seed = *j.Seed
		q.Sampling = &params
	}
	return q
}

// finish writes a line.
func (b *batchRun) finish(j job, a runner.Answer, err error) error {
	line := completionOf(b.r, a, 0)
	if b.c.Bool("hide-thinking") {
		line.Reasoning = ""
	}
	if err != nil {
		line = completion{Error: oneLine(err)}
		b.failed++
	} else {
		b.done++
	}
	line.ID, line.Model = j.ID, b.model
	if err := b.out.append(line); err != nil {
		return err
	}
	if b.c.Bool("stats") && err == nil {
		fmt.Fprintf(b.p.stderr, "%s: %s\n", j.ID, statistics(&a.Result))
	}
	return nil
}

// checkJobs reads all requests before any is answered, and says which line is wrong.
func checkJobs(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	seen := map[string]bool{}
	err = eachJob(f, func(j job) error {
		if seen[string(j.ID)] {
			return fmt.Errorf("the id %s is there twice", j.ID)
		}
		seen[string(j.ID)] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// eachJob reads requests, line by line. Empty lines do not count as requests.
func eachJob(r io.Reader, visit func(job) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		j, err := parseJob(lines.Bytes(), n)
		if err == nil {
			err = visit(j)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return lines.Err()
}

func parseJob(line []byte, n int) (j job, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return j, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return j, errors.New("more than one JSON object")
	}
	if len(j.ID) == 0 || string(j.ID) == "null" {
		j.ID = json.RawMessage(strconv.Itoa(n))
	}
	if j.ID[0] == '{' || j.ID[0] == '[' {
		return j, fmt.Errorf("the id %s is neither a string nor a number", j.ID)
	}
	return j, nil
}

// results is the file of a batch's answers, a JSON object on each line. Lines are only ever added.
type results struct {
	file *os.File
	done map[string]bool // by id
}

// openResults opens the file, or makes it. A last line that a killed process has torn is cut off.
func openResults(path string) (*results, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	r := &results{file: f, done: map[string]bool{}}
	whole, err := r.read()
	if err == nil {
		err = f.Truncate(whole)
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return r, nil
}

// read finds the ids, and where the last whole line ends.
func (r *results) read() (whole int64, err error) {
	lines := bufio.NewReader(r.file)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return 0, err
		}
		var c completion
		if err := json.Unmarshal(line, &c); err != nil || len(c.ID) == 0 {
			return 0, fmt.Errorf("line %d is no result of a batch: move the file away, or name another", n)
		}
		r.done[string(c.ID)] = true
		whole += int64(len(line))
	}
}

func (r *results) has(id json.RawMessage) bool { return r.done[string(id)] }

// append writes a line at once, so that what a killed process leaves is at most one torn line.
func (r *results) append(c completion) error {
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(c); err != nil {
		return err
	}
	_, err := r.file.Write(line.Bytes())
	return err
}
