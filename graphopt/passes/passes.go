// Package passes lists the optimiser's passes in the order in which they run.
package passes

import (
	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/passes/attention"
	"github.com/qwenrt/qwenrt/graphopt/passes/capture"
	"github.com/qwenrt/qwenrt/graphopt/passes/cleanup"
	"github.com/qwenrt/qwenrt/graphopt/passes/constants"
	"github.com/qwenrt/qwenrt/graphopt/passes/coreml"
	"github.com/qwenrt/qwenrt/graphopt/passes/cse"
	"github.com/qwenrt/qwenrt/graphopt/passes/lastlogits"
	"github.com/qwenrt/qwenrt/graphopt/passes/opset"
	"github.com/qwenrt/qwenrt/graphopt/passes/precision"
	"github.com/qwenrt/qwenrt/graphopt/passes/projections"
	"github.com/qwenrt/qwenrt/graphopt/passes/qknorm"
	"github.com/qwenrt/qwenrt/graphopt/passes/reshapes"
	"github.com/qwenrt/qwenrt/graphopt/passes/rmsnorm"
	"github.com/qwenrt/qwenrt/graphopt/passes/shapes"
	"github.com/qwenrt/qwenrt/graphopt/passes/signature"
	"github.com/qwenrt/qwenrt/graphopt/passes/silu"
	"github.com/qwenrt/qwenrt/graphopt/passes/skipnorm"
	"github.com/qwenrt/qwenrt/graphopt/passes/static"
	"github.com/qwenrt/qwenrt/graphopt/passes/tiedhead"
	"github.com/qwenrt/qwenrt/graphopt/passes/weights"
)

// All gives every pass. A pass that does not serve the target of a run is skipped by it.
func All() []*graphopt.Pass {
	return []*graphopt.Pass{
		opset.Pass,
		constants.Pass,
		static.Pass,
		cleanup.Pass,
		cse.Pass,
		weights.Pass,
		signature.Pass,
		rmsnorm.Pass,
		attention.Pass,
		reshapes.Pass,
		skipnorm.Pass,
		projections.Pass,
		qknorm.Pass,
		silu.Pass,
		tiedhead.Pass,
		lastlogits.Pass,
		capture.Pass,
		coreml.Pass,
		precision.Pass,
		shapes.Pass,
	}
}
