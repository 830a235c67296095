// Package passes lists the optimiser's passes in the order in which they run.
package passes

import (
	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/passes/attention"
	"github.com/qwenrt/qwenrt/graphopt/passes/constants"
	"github.com/qwenrt/qwenrt/graphopt/passes/lastlogits"
	"github.com/qwenrt/qwenrt/graphopt/passes/projections"
	"github.com/qwenrt/qwenrt/graphopt/passes/rmsnorm"
	"github.com/qwenrt/qwenrt/graphopt/passes/silu"
	"github.com/qwenrt/qwenrt/graphopt/passes/skipnorm"
	"github.com/qwenrt/qwenrt/graphopt/passes/tiedhead"
)

// All gives every pass. A pass that does not serve the target of a run is skipped by it.
func All() []*graphopt.Pass {
	return []*graphopt.Pass{
		constants.Pass,
		rmsnorm.Pass,
		attention.Pass,
		skipnorm.Pass,
		projections.Pass,
		silu.Pass,
		tiedhead.Pass,
		lastlogits.Pass,
	}
}
