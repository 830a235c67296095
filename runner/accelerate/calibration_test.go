package accelerate_test

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/quantize/calib"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/tokenizer"
)

// TestCalibrated quantises the carried model on a few samples: each must be nearer to
// fp32 than rounding to nearest is, on text that it was not calibrated on, by more than chance.
func TestCalibrated(t *testing.T) {
	const tokens = 768
	float := out(t, "float")
	_, err := accelerate.Build(t.Context(), accelerate.Source{Dir: carried}, float, accelerate.Config{Precision: accelerate.None}, accelerate.Events{})
	require.NoError(t, err)
	tok, err := tokenizer.Open(float.Dir)
	require.NoError(t, err)
	defer tok.Close()
	text, err := os.ReadFile("../../models/testdata/reference/eval.txt")
	require.NoError(t, err)
	encoded, err := tok.Encode(string(text))
	require.NoError(t, err)
	ids := make([]int64, tokens)
	for i := range ids {
		ids[i] = int64(encoded[i])
	}
	want := reftest.Open(t, filepath.Join(float.Dir, "model.onnx")).Logits(t, ids, 0)
	divergence := func(c accelerate.Config) float64 {
		to := out(t, string(c.Method))
		c.BlockSize = 128
		c.Calibration.Samples = 12
		var phases []accelerate.Phase
		r, err := accelerate.Quantize(t.Context(), float.Dir, to, c, accelerate.Events{Tensor: func(p accelerate.TensorProgress) {
			if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
				phases = append(phases, p.Phase)
			}
		}})
		require.NoError(t, err)
		require.Equal(t, c.Method == quantize.AWQ || c.Method == quantize.AWQGPTQ, len(phases) > 0 && phases[0] == accelerate.PhaseObserve)
		entries, err := os.ReadDir(to.Dir)
		require.NoError(t, err)
		for _, e := range entries {
			require.False(t, e.IsDir(), "%s: temporary files are gone", e.Name())
		}
		require.Equal(t, c.Method.Compensates(), r.Quantization.Tensors[0].Loss > 0)
		got := reftest.Open(t, filepath.Join(to.Dir, "model.onnx")).Logits(t, ids, 0)
		return meanKL(want, got, len(want)/tokens)
	}
	nearest := divergence(accelerate.Config{Method: quantize.RTN})
	for method, most := range map[quantize.Method]float64{
		quantize.GPTQ: 0.8, quantize.AWQ: 1,
	} {
		kl := divergence(accelerate.Config{Method: method})
		t.Logf("%s: %.4f, to nearest %.4f", method, kl, nearest)
		require.Less(t, kl, most*nearest, method)
	}
}

// meanKL is KL(p || q) of rows of logits.
func meanKL(p, q []float32, vocabulary int) float64 {
	sum := 0.0
	for at := 0; at < len(p); at += vocabulary {
		a, b := logProbabilities(p[at:at+vocabulary]), logProbabilities(q[at:at+vocabulary])
		for i := range a {
			sum += math.Exp(a[i]) * (a[i] - b[i])
		}
	}
	return sum / float64(len(p)/vocabulary)
}

func logProbabilities(logits []float32) []float64 {
	out := make([]float64, len(logits))
	sum := 0.0
	for _, x := range logits {
		sum += math.Exp(float64(x)) // logits of a trained model are far from overflow
	}
	for i, x := range logits {
		out[i] = float64(x) - math.Log(sum)
	}
	return out
}

func TestCalibrationErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o666))
		return path
	}
	output := accelerate.Output{Dir: filepath.Join(t.TempDir(), "out")}
	build := func(ctx context.Context, c accelerate.Calibration, e accelerate.Events) error {
		_, err := accelerate.Build(ctx, accelerate.Source{Dir: carried}, output, accelerate.Config{Method: quantize.GPTQ, Calibration: c}, e)
		return err
	}
	for _, c := range []struct {
		why  string
		c    accelerate.Calibration
		is   error
		text string
	}{
		{"no such file", accelerate.Calibration{File: filepath.Join(dir, "none")}, os.ErrNotExist, "none"},
		{"an empty file", accelerate.Calibration{File: file("empty", "")}, calib.ErrNoData, "empty"},
		{"a text shorter than a sample", accelerate.Calibration{File: file("short", "In the beginning")}, calib.ErrNoData, "less than one sample of 512"},
		{"messages that are none", accelerate.Calibration{File: file("bad.jsonl", `{"messages": [7]}`)}, nil, "document 1: message 1"},
	} {
		err := build(t.Context(), c.c, accelerate.Events{})
		require.ErrorContains(t, err, c.text, c.why)
		require.NotContains(t, err.Error(), "\n", c.why)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, c.why)
		}
		require.NoDirExists(t, output.Dir, c.why)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := build(ctx, accelerate.Calibration{Samples: 2, Length: 64}, accelerate.Events{Tensor: func(p accelerate.TensorProgress) {
		if p.Done == 7 {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	entries, err := os.ReadDir(filepath.Dir(output.Dir))
	require.NoError(t, err)
	require.Empty(t, entries, "nothing is left behind")
}

// Conversations go through the chat template of the model.
func TestCalibrationMessages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.jsonl")
	line := `{"messages": [{"role": "user", "content": "What does \"harbor\" mean?"}, {"role": "assistant", "content": "A sheltered port."}]}` + "\n"
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat(line, 20)), 0o666))
	c := accelerate.Config{Method: quantize.AWQ, Calibration: accelerate.Calibration{File: path, Samples: 2, Length: 64}}
	_, err := accelerate.Build(t.Context(), accelerate.Source{FS: os.DirFS(carried), Name: "tiny"}, out(t, "out"), c, accelerate.Events{})
	require.NoError(t, err)
}

// What no method reads is not passed over in silence.
func TestCalibrationFaults(t *testing.T) {
	damped := accelerate.Calibration{GPTQ: quantize.GPTQOptions{Damping: 0.1}}
	kept := accelerate.Calibration{Statistics: "statistics.json"}
	for _, c := range []struct {
		why  string
		c    accelerate.Config
		text string // "": no fault
	}{
		{"rounding to nearest solves nothing", accelerate.Config{Calibration: damped}, "damping is for gptq"},
		{"gptq", accelerate.Config{Calibration: damped, Method: quantize.GPTQ}, ""},
		{"channels are told by the weights", accelerate.Config{Calibration: kept}, "nothing is to be observed here"},
		{"gptq's sums are too large to be kept", accelerate.Config{Calibration: kept, Method: quantize.GPTQ}, "nothing is to be observed here"},
		{"awq", accelerate.Config{Calibration: kept, Method: quantize.AWQ}, ""},
		{"smoothing by what is observed", accelerate.Config{Calibration: kept, Precision: accelerate.DynamicInt8}, ""},
		{"ranges", accelerate.Config{Calibration: kept, Precision: accelerate.StaticInt8, SmoothQuant: accelerate.SmoothOff}, ""},
		{"noise of products", accelerate.Config{Calibration: kept, Precision: accelerate.DynamicInt8, SmoothQuant: accelerate.SmoothWeights}, ""},
		{"no limit to it", accelerate.Config{Calibration: kept, Precision: accelerate.DynamicInt8, SmoothQuant: accelerate.SmoothOff}, "nothing is to be observed here"},
	} {
		if err := c.c.Validate(); c.text != "" {
			require.ErrorContains(t, err, c.text, c.why)
		} else {
			require.NoError(t, err, c.why)
		}
	}
}
