package bench

import (
	"os"
	"strconv"
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

// residentMemory gives VmHWM and RssAnon of this process in bytes, see proc_pid_status(5); 0 where
// the system does not tell.
func residentMemory() (peak, anon int64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	return statusBytes(string(status), "VmHWM:"), statusBytes(string(status), "RssAnon:")
}

// statusBytes reads a line such as "VmHWM:	   12345 kB".
func statusBytes(status, key string) int64 {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10
		}
	}
	return 0
}
