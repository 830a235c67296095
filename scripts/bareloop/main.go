// Command bareloop is the loop that `qwenrt bench` is measured against: ONNX Runtime's session on bound buffers, and nothing
// around it. It answers tests as `qwenrt bench worker` does, so that bench ab runs both in turn:
//
//	go build -o bin/bareloop ./scripts/bareloop
//	bin/qwenrt bench ab 'exec:bin/bareloop -t 2 MODEL_DIR' bin/qwenrt --model MODEL_DIR -t 2 -p 512 -n 64
//
// The session is configured as the runner configures it, and the cache as large as bench reserves it for these tests. It takes
// models with a shared KV cache and num_logits_to_keep, such as qwenrt's own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/bench"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bareloop:", err)
		os.Exit(1)
	}
}

func run() error {
	threads := flag.Int("t", ort.DefaultThreads(), "CPU `threads`")
	capacity := flag.Int("cache", 512, "`tokens` for which the KV cache has room")
	flag.Parse()
	if flag.NArg() != 1 || *threads < 1 || *capacity < 1 {
		return errors.New("usage: bareloop [options] MODEL_DIR")
	}
	l, err := open(filepath.Join(flag.Arg(0), "model.onnx"), *threads, int64(*capacity))
	if err != nil {
		return err
	}
	return errors.Join(bench.Serve(context.Background(), l, os.Stdin, os.Stdout), l.Close())
}

// loop is a bench.Contender. Its tensors live as long as the process.
type loop struct {
	session  *ort.Session
	binding  *ort.Binding
	ids      *ort.Tensor // [1, capacity], bound as far as a run needs it
	mask     *ort.Tensor // ones
	logits   *ort.Tensor // [1, 1, vocabulary]
	idsIn    *ort.Slot
	maskIn   *ort.Slot
	capacity int
	filled   int // tokens in the cache, for which attention_mask is bound
	bound    int // tokens that input_ids is bound for
	random   *rand.Rand
	tokens   []int64 // of the test
}

func open(path string, threads int, capacity int64) (*loop, error) {
	l := &loop{capacity: int(capacity), random: rand.New(rand.NewPCG(0, 0))}
	var err error
	if l.session, err = ort.NewSession(path, runner.SessionConfig(runner.Options{Threads: threads})); err != nil {
		return nil, err
	}
	if l.binding, err = l.session.NewBinding(); err != nil {
		return nil, err
	}
	for _, in := range l.session.Inputs() {
		if err := l.bindInput(in); err != nil {
			return nil, fmt.Errorf("%v: %w", in, err)
		}
	}
	for _, in := range l.session.Initializers() {
		if in.Name == "num_logits_to_keep" {
			keep, err := ort.NewTensor(ort.Int64, 1)
			if err != nil {
				return nil, err
			}
			ort.Data[int64](keep)[0] = 1
			if err := l.binding.BindInput(in.Name, keep); err != nil {
				return nil, err
			}
		}
	}
	outputs := l.session.Outputs()
	vocabulary := outputs[0].Shape[2]
	if l.logits, err = ort.NewTensor(outputs[0].DType, 1, 1, vocabulary); err != nil {
		return nil, err
	}
	return l, l.binding.BindOutput(outputs[0].Name, l.logits)
}

// bindInput makes the tensor of an input. That of a past is also that of the present.
func (l *loop) bindInput(in ort.ValueInfo) error {
	shape := []int64{1, int64(l.capacity)}
	past, isPast := strings.CutPrefix(in.Name, "past_key_values.")
	if isPast {
		shape = []int64{1, in.Shape[1], int64(l.capacity), in.Shape[3]}
	}
	t, err := ort.NewTensor(in.DType, shape...)
	if err != nil {
		return err
	}
	switch {
	case isPast:
		return errors.Join(l.binding.BindInput(in.Name, t), l.binding.BindOutput("present."+past, t))
	case in.Name == "input_ids":
		l.ids = t
		l.idsIn, err = l.binding.Input(in.Name)
	case in.Name == "attention_mask":
		l.mask = t
		for i, ones := 0, ort.Data[int64](t); i < len(ones); i++ {
			ones[i] = 1
		}
		l.maskIn, err = l.binding.Input(in.Name)
	default:
		err = errors.New("not an input of qwenrt's optimised graphs")
	}
	return err
}

// Run times a test behind the first t.Depth tokens of the cache.
func (l *loop) Run(_ context.Context, t bench.Test) (time.Duration, error) {
	if n := t.Depth + t.Prompt + t.Gen; n > l.capacity {
		return 0, fmt.Errorf("%v: %d tokens, the cache has room for %d", t, n, l.capacity)
	}
	if lack := t.Depth - l.filled; lack > 0 {
		if err := l.step(l.filled, l.draw(lack)); err != nil {
			return 0, err
		}
	}
	tokens := l.draw(t.Prompt + t.Gen)
	start := time.Now()
	if t.Prompt > 0 {
		if err := l.step(t.Depth, tokens[:t.Prompt]); err != nil {
			return 0, err
		}
	}
	for i := t.Prompt; i < len(tokens); i++ {
		if err := l.step(t.Depth+i, tokens[i:i+1]); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// draw gives n random tokens, until the next call.
func (l *loop) draw(n int) []int64 {
	l.tokens = l.tokens[:0]
	for range n {
		l.tokens = append(l.tokens, l.random.Int64N(l.logits.Shape()[2]))
	}
	return l.tokens
}

// step runs tokens behind past others.
func (l *loop) step(past int, tokens []int64) error {
	n := len(tokens)
	if n != l.bound {
		if err := errors.Join(l.ids.Reshape(1, int64(n)), l.idsIn.Set(l.ids)); err != nil {
			return err
		}
		l.bound = n
	}
	copy(ort.Data[int64](l.ids), tokens)
	if total := past + n; total != l.filled {
		if err := errors.Join(l.mask.Reshape(1, int64(total)), l.maskIn.Set(l.mask)); err != nil {
			return err
		}
		l.filled = total
	}
	return l.binding.Run(nil)
}

// Close closes the session.
func (l *loop) Close() error {
	l.binding.Close()
	l.session.Close()
	return nil
}
