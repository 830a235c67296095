package eval

import (
	"math"
	"slices"

	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

// Result is what was measured. Logarithms are natural, so that entropies are in nats; probabilities and
// shares are from 0 to 1.
type Result struct {
	Tokens  int `json:"tokens"` // of the text
	Context int `json:"n_ctx"`
	Chunks  int `json:"chunks"`
	Scored  int `json:"scored"` // tokens that were predicted

	NLL        float64 `json:"nll"` // mean negative log-likelihood of a token
	Perplexity float64 `json:"perplexity"`
	Error      float64 `json:"perplexity_error"` // standard error of Perplexity

	// Divergence is nil where there was no reference.
	Divergence *Divergence `json:"divergence,omitempty"`
}

// Divergence says how far a model is from its reference, over all scored positions.
type Divergence struct {
	ReferencePerplexity float64 `json:"reference_perplexity"`
	ReferenceError      float64 `json:"reference_perplexity_error"`
	// Ratio is the model's perplexity over the reference's. Its error is small, as both predict the
	// same tokens.
	Ratio      float64 `json:"perplexity_ratio"`
	RatioError float64 `json:"perplexity_ratio_error"`

	KLD KLD `json:"kld"`

	Top1      float64 `json:"top1"` // share of positions with the same most likely token
	Top1Error float64 `json:"top1_error"`

	DeltaP DeltaP `json:"delta_p"`
}

// KLD is KL(reference || model) in nats.
type KLD struct {
	Mean   float64 `json:"mean"`
	Error  float64 `json:"error"` // standard error of Mean
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	P99    float64 `json:"p99"`
	P999   float64 `json:"p99_9"`
	Max    float64 `json:"max"`
}

// DeltaP is the probability that the model gives to the text's token, less the reference's.
type DeltaP struct {
	Mean      float64 `json:"mean"`
	MeanError float64 `json:"mean_error"`
	RMS       float64 `json:"rms"`
	RMSError  float64 `json:"rms_error"`
}

// score is what was measured at one position.
type score struct {
	nll float64
	// The rest only with a reference.
	referenceNLL, kld, deltaP float64
	sameTop                   bool
}

func summarize(scores []score, compared bool) *Result {
	column := func(f func(score) float64) []float64 {
		values := make([]float64, len(scores))
		for i, s := range scores {
			values[i] = f(s)
		}
		return values
	}
	nll, nllError := meanError(column(func(s score) float64 { return s.nll }))
	r := &Result{Scored: len(scores), NLL: nll, Perplexity: math.Exp(nll), Error: math.Exp(nll) * nllError}
	if !compared {
		return r
	}
	ref, refError := meanError(column(func(s score) float64 { return s.referenceNLL }))
	ratio, ratioError := meanError(column(func(s score) float64 { return s.nll - s.referenceNLL }))
	same := 0
	for _, s := range scores {
		if s.sameTop {
			same++
		}
	}
	top1 := float64(same) / float64(len(scores))
	deltaP := column(func(s score) float64 { return s.deltaP })
	mean, meanErr := meanError(deltaP)
	square, squareErr := meanError(column(func(s score) float64 { return s.deltaP * s.deltaP }))
	rms, rmsErr := math.Sqrt(square), 0.0
	if rms > 0 {
		rmsErr = squareErr / 2 / rms
	}
	r.Divergence = &Divergence{
		ReferencePerplexity: math.Exp(ref), ReferenceError: math.Exp(ref) * refError,
		Ratio: math.Exp(ratio), RatioError: math.Exp(ratio) * ratioError,
		KLD:  summarizeKLD(column(func(s score) float64 { return s.kld })),
		Top1: top1, Top1Error: math.Sqrt(top1 * (1 - top1) / float64(max(len(scores)-1, 1))),
		DeltaP: DeltaP{mean, meanErr, rms, rmsErr},
	}
	return r
}

func summarizeKLD(values []float64) KLD {
	mean, err := meanError(values)
	slices.Sort(values) // once, and not in each quantile
	return KLD{
		Mean: mean, Error: err, Median: stats.Quantile(values, 0.5), P90: stats.Quantile(values, 0.9),
		P99: stats.Quantile(values, 0.99), P999: stats.Quantile(values, 0.999), Max: values[len(values)-1],
	}
}

// meanError gives the mean and its standard error as llama-perplexity has it: the square root of the
// population's variance over n-1.
func meanError(values []float64) (mean, err float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	if len(values) < 2 {
		return mean, 0
	}
	var variance float64
	for _, v := range values {
		variance += (v - mean) * (v - mean) / n
	}
	return mean, math.Sqrt(variance / (n - 1))
}
