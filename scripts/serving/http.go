package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/qwenrt/qwenrt/runner/bench/stats"
	"github.com/qwenrt/qwenrt/runner/serve"
)

// http compares answers that are streamed over a connection with the runner's events, in rounds that have one of each. The
// clients are in this process, and what they take of its cores counts too.
func (m *measurement) http(rounds int) error {
	s := serve.New(serve.Options{})
	s.SetModel(serve.Model{Use: serve.Runner(m.r)})
	web := httptest.NewServer(s)
	defer web.Close()
	direct := func(prompt []int32) error {
		for _, err := range m.r.Generate(context.Background(), m.request(prompt, m.answer)) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	streamed := func(prompt []int32) error { return stream(web.URL, prompt, m.answer) }
	for _, n := range []int{1, 8} {
		if _, err := m.timed(n, direct); err != nil { // memory grows once
			return err
		}
		var ratios []float64
		var best time.Duration
		for i := range rounds {
			var took [2]time.Duration
			for j := range took {
				way := (i + j) % 2 // each is first in every other round
				var err error
				if took[way], err = m.timed(n, []func([]int32) error{direct, streamed}[way]); err != nil {
					return err
				}
			}
			ratios = append(ratios, took[1].Seconds()/took[0].Seconds())
			if best == 0 || took[0] < best {
				best = took[0]
			}
		}
		fmt.Printf("%d clients: the runner has %.1f tokens/s; over HTTP %.4f times as long (median of %d rounds, %.4f to %.4f)\n",
			n, float64(n*m.answer)/best.Seconds(), stats.Median(ratios), rounds, slices.Min(ratios), slices.Max(ratios))
	}
	return nil
}

// timed answers n prompts at once.
func (m *measurement) timed(n int, answer func([]int32) error) (time.Duration, error) {
	prompts, errs := make([][]int32, n), make([]error, n)
	for i := range prompts {
		prompts[i] = m.tokens(m.prompt)
	}
	start := time.Now()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = answer(prompts[i]) })
	}
	all.Wait()
	return time.Since(start), errors.Join(errs...)
}

// stream has a prompt answered, and reads all pieces.
func stream(url string, prompt []int32, n int) error {
	body, err := json.Marshal(map[string]any{"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": true, "stream": true})
	if err != nil {
		return err
	}
	resp, err := http.Post(url+"/v1/completions", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && !bytes.HasSuffix(text, []byte("data: [DONE]\n\n")) {
		err = fmt.Errorf("status %d, %d bytes, and no end", resp.StatusCode, len(text))
	}
	return err
}
