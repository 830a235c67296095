package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

// Change compares the results of one test in two runs.
type Change struct {
	Model   string `json:"model_type"` // the new one's
	Threads int    `json:"n_threads"`
	Test
	Old     float64     `json:"old_ts"` // medians, in tokens per second
	New     float64     `json:"new_ts"`
	OldRuns int         `json:"old_runs"`
	NewRuns int         `json:"new_runs"`
	Ratio   stats.Ratio `json:"result"` // of speeds: above 1 the new one is faster
}

// settings are what two records must have in common to be compared. The model is not one of them: it is
// what differs where a change of the model is measured.
type settings struct {
	Test
	threads, batch int
}

func (r *Record) settings() settings { return settings{r.Test(), r.Threads, r.Batch} }

// Changes compares records with the same settings, in the order of new. Where a list has several with the
// same settings, their samples count as one.
func Changes(old, new []Record, confidence float64) []Change {
	before, _ := group(old)
	after, order := group(new)
	var changes []Change
	for _, key := range order {
		a, b := before[key], after[key]
		if a == nil {
			continue
		}
		changes = append(changes, Change{
			Model: b.ModelType, Threads: b.Threads, Test: b.Test(),
			Old: stats.Median(a.SamplesTS), New: stats.Median(b.SamplesTS), OldRuns: len(a.SamplesTS), NewRuns: len(b.SamplesTS),
			Ratio: stats.Unpaired(b.SamplesTS, a.SamplesTS, confidence), // speeds: the other way round than times
		})
	}
	return changes
}

func group(records []Record) (groups map[settings]*Record, order []settings) {
	groups = map[settings]*Record{}
	for _, r := range records {
		key := r.settings()
		if g := groups[key]; g != nil {
			g.SamplesTS = append(g.SamplesTS[:len(g.SamplesTS):len(g.SamplesTS)], r.SamplesTS...)
			continue
		}
		groups[key] = &r
		order = append(order, key)
	}
	return groups, order
}

// maxResults bounds what ReadFile takes: a repetition has about 40 bytes.
const maxResults = 256 << 20

// ReadFile reads records that a Writer wrote as JSON or JSONL, or llama-bench.
func ReadFile(path string) ([]Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxResults))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	records, err := parseRecords(text)
	if err != nil {
		return nil, fmt.Errorf("bench: %s: %w", path, err)
	}
	return records, nil
}

func parseRecords(text []byte) (records []Record, err error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
		err = json.Unmarshal(text, &records)
	} else {
		for d := json.NewDecoder(bytes.NewReader(text)); err == nil; {
			var r Record
			if err = d.Decode(&r); err == nil {
				records = append(records, r)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("want what qwenrt bench -o json or -o jsonl writes: %w", err)
	}
	if len(records) == 0 {
		return nil, errors.New("no results: want what qwenrt bench -o json or -o jsonl writes")
	}
	for i, r := range records {
		if len(r.SamplesTS) == 0 {
			return nil, fmt.Errorf("result %d, %v, has no samples_ts", i, r.Test())
		}
		for _, v := range r.SamplesTS {
			if !(v > 0) {
				return nil, fmt.Errorf("result %d, %v, has a speed of %v tokens/s", i, r.Test(), v)
			}
		}
	}
	return records, nil
}
