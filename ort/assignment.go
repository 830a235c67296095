package ort

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// An Assignment is what an execution provider runs of a model.
type Assignment struct {
	Provider  string         `json:"provider"`  // such as "CPUExecutionProvider"
	Nodes     int            `json:"nodes"`     // in all
	Operators map[string]int `json:"operators"` // nodes by operator, such as "com.microsoft.MatMulNBits"
}

// String returns for example "CPUExecutionProvider: 2 Gather, 1 com.microsoft.MatMulNBits".
func (a Assignment) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(a.Operators)) {
		parts = append(parts, fmt.Sprintf("%d %s", a.Operators[name], name))
	}
	return a.Provider + ": " + strings.Join(parts, ", ")
}

// Assignments tells which execution provider was given which nodes of the graph, the one with most of them first. Nodes are those
// that there were after basic optimization. SessionConfig.RecordAssignment must have been set.
//
// Errors: ErrClosed, ErrRuntime (it was not set).
func (s *Session) Assignments() ([]Assignment, error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.use.RUnlock()
	nodes, err := capi.AssignedNodes(s.handle())
	if err != nil {
		return nil, wrap("assignments", err)
	}
	byProvider := map[string]*Assignment{}
	for _, n := range nodes {
		a := byProvider[n.Provider]
		if a == nil {
			a = &Assignment{Provider: n.Provider, Operators: map[string]int{}}
			byProvider[n.Provider] = a
		}
		a.Nodes++
		a.Operators[strings.TrimPrefix(n.Domain+"."+n.Operator, ".")]++
	}
	var all []Assignment
	for _, a := range byProvider {
		all = append(all, *a)
	}
	slices.SortFunc(all, func(a, b Assignment) int {
		return cmp.Or(cmp.Compare(b.Nodes, a.Nodes), cmp.Compare(a.Provider, b.Provider))
	})
	return all, nil
}
