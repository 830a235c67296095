package bench

import (
	"strings"
	"time"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// record is a record of t without results.
func (s *Subject) record(t Test) Record {
	info := s.Runner.Info()
	chunk := s.Options.PrefillChunk
	if chunk == 0 {
		chunk = runner.DefaultPrefillChunk
	}
	provider := providers(s.Options)
	return Record{
		BuildCommit:   runner.Commit(),
		CPUInfo:       machine.CPUName(),
		Backends:      strings.ToUpper(provider),
		ModelFilename: s.Model.File,
		ModelType:     s.Model.Type,
		ModelSize:     s.Model.Size,
		ModelParams:   s.Model.Params,
		Batch:         chunk,
		UBatch:        chunk,
		Threads:       info.Threads,
		TypeK:         info.KVType,
		TypeV:         info.KVType,
		Prompt:        t.Prompt,
		Gen:           t.Gen,
		Depth:         t.Depth,
		TestTime:      time.Now().UTC().Format(time.RFC3339),
		QwenrtVersion: runner.Version(),
		ORTVersion:    info.ORTVersion,
		Provider:      provider,
		ModelHash:     s.Model.Hash,
		LoadSeconds:   s.Load.Seconds(),
	}
}

func providers(o runner.Options) string {
	names := []string{}
	for _, p := range o.Providers {
		names = append(names, strings.ToLower(p.Name))
	}
	if len(names) == 0 {
		names = append(names, "cpu")
	}
	return strings.Join(names, ",")
}
