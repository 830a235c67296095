package accelerate

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/quantize/calib"
)

// few is as much calibration as tests have time for.
var few = Calibration{Samples: 4, Length: 128}

const carriedModel = "../../models/tiny/qwen3-tiny"

func build(t *testing.T, c Config) (*Report, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	c.Calibration = few
	r, err := Build(t.Context(), Source{Dir: carriedModel}, Output{Dir: dir}, c, Events{})
	require.NoError(t, err)
	return r, dir
}

// The products of all layers are computed in integers, ONNX Runtime does so too, the file is a quarter of fp32, and
// predictions stay.
func TestIntegers(t *testing.T) {
	_, float := build(t, Config{Precision: None})
	text, err := os.ReadFile("../../models/testdata/reference/eval.txt")
	require.NoError(t, err)
	stage, err := folder.Create(filepath.Join(t.TempDir(), "stage"), false)
	require.NoError(t, err)
	defer stage.Abort()
	_, err = stage.CopySideFiles(os.DirFS(carriedModel))
	require.NoError(t, err)
	tokens, err := tokenize(t.Context(), stage, []calib.Document{{Text: string(text[:1500])}})
	require.NoError(t, err)
	ids := make([]int64, min(256, len(tokens)))
	for i := range ids {
		ids[i] = int64(tokens[i])
	}
	logits := func(dir string) []float32 {
		return reftest.Open(t, filepath.Join(dir, folder.ModelName)).Logits(t, ids, 0)
	}
	want := logits(float)
	for precision, most := range map[Precision]float64{
		DynamicInt8: 0.01,
		StaticInt8:  0.1, // ranges of so few tokens are too narrow for others
	} {
		r, dir := build(t, Config{Precision: precision})
		require.Empty(t, r.FloatProducts, precision)
		require.Less(t, r.BitsPerWeight, 8.25, precision)
		for _, tensor := range r.Quantization.Tensors {
			require.Empty(t, tensor.Reason, tensor.Tensor)
			if strings.HasPrefix(tensor.Tensor, "model.layers.") {
				require.Equal(t, quantize.Method(precision), tensor.Method, tensor.Tensor)
				require.Greater(t, tensor.ProductSNR, 18., tensor.Tensor)
			} else {
				require.Equal(t, 128, tensor.BlockSize, "%s: embedding and head", tensor.Tensor)
			}
		}
		m, err := folder.ReadManifest(dir)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(m.Smoothing), 24, "%s: at least norms and inner products", precision)
		got, vocabulary, sum := logits(dir), len(want)/len(ids), 0.0
		for at := 0; at < len(want); at += vocabulary {
			sum += divergence(want[at:at+vocabulary], got[at:at+vocabulary])
		}
		require.Less(t, sum/float64(len(ids)), most, precision)

		if precision == DynamicInt8 {
			continue
		}
		again, other := build(t, Config{Precision: precision})
		require.Equal(t, r.Smoothing, again.Smoothing)
		for _, name := range []string{folder.ModelName, folder.ModelName + ".data", folder.ManifestName} {
			a, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			b, err := os.ReadFile(filepath.Join(other, name))
			require.NoError(t, err)
			require.True(t, slices.Equal(a, b), "%s: %s is the same each time", precision, name)
		}
	}
}

// A limit that nothing meets leaves nothing in integers, and says of each tensor why. Without smoothing the model is as it
// was, and what is expected of its products is known all the same.
func TestLeastSNR(t *testing.T) {
	r, dir := build(t, Config{Precision: DynamicInt8, SmoothQuant: SmoothOff, Integers: Integers{LeastSNR: new(100.)}})
	m, err := folder.ReadManifest(dir)
	require.NoError(t, err)
	require.Empty(t, m.Smoothing)
	for i, tensor := range r.Quantization.Tensors {
		require.Equal(t, quantize.RTN, tensor.Method, tensor.Tensor)
		require.Equal(t, tensor.Reason, m.Quantization[i].Reason)
		if strings.HasPrefix(tensor.Tensor, "model.layers.") {
			require.Contains(t, tensor.Reason, "dB between signal and noise expected in dynamic-int8", tensor.Tensor)
		}
	}
	r, _ = build(t, Config{Precision: DynamicInt8, SmoothQuant: SmoothOff})
	require.Empty(t, r.Smoothing, "nothing is calibrated")
	require.Equal(t, quantize.Method(DynamicInt8), r.Quantization.Tensors[1].Method)
}

// A second build from saved statistics observes nothing, and gives the same bytes.
func TestStatisticsOfIntegers(t *testing.T) {
	c := Config{Precision: DynamicInt8, Calibration: few}
	c.Calibration.Statistics = filepath.Join(t.TempDir(), "statistics")
	var files [2][]byte
	for i := range files {
		dir, observed := filepath.Join(t.TempDir(), "out"), 0
		_, err := Build(t.Context(), Source{Dir: carriedModel}, Output{Dir: dir}, c, Events{Tensor: func(p TensorProgress) {
			if p.Phase == PhaseObserve {
				observed++
			}
		}})
		require.NoError(t, err)
		require.Equal(t, i == 0, observed > 0, "build %d", i+1)
		files[i], err = os.ReadFile(filepath.Join(dir, folder.ModelName+".data"))
		require.NoError(t, err)
	}
	require.True(t, bytes.Equal(files[0], files[1]))
}

// A graph that nobody has optimised computes its products in floating point: that must be seen.
func TestFloatProducts(t *testing.T) {
	_, dir := build(t, Config{Precision: StaticInt8, Rules: []quantize.Rule{{Match: "model.layers.[1-9]*", Precision: quantize.Int8}}})
	m, err := ir.Load(filepath.Join(dir, folder.ModelName))
	require.NoError(t, err)
	defer m.Close()
	weights := map[string]string{}
	for _, n := range m.Graph.Nodes() {
		if x := n.Input(0); n.Is("", "DequantizeLinear") && x.Constant() != nil {
			weights[x.Name] = x.Name
		}
	}
	require.Len(t, weights, 4)
	require.Len(t, floatProducts(m, weights), 4)
}

func TestIntegersCancelled(t *testing.T) {
	parent := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	c := Config{Precision: StaticInt8, Calibration: few}
	_, err := Build(ctx, Source{Dir: carriedModel}, Output{Dir: filepath.Join(parent, "out")}, c, Events{Tensor: func(p TensorProgress) {
		if p.Done == 5 {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	entries, err := os.ReadDir(parent)
	require.NoError(t, err)
	require.Empty(t, entries, "nothing is left behind")
}

func TestSmoothingConfig(t *testing.T) {
	for _, c := range []struct {
		why  string
		conf Config
		want string // of the error; "" is none
	}{
		{"an alpha", Config{SmoothQuant: "0.5"}, ""},
		{"capitals", Config{SmoothQuant: "AUTO", Precision: StaticInt8, Integers: Integers{Range: "MSE", Weights: "U8"}}, ""},
		{"an alpha out of range", Config{SmoothQuant: "1.5"}, `smoothquant "1.5": want auto, weights, off, or an alpha from 0 to 1`},
		{"no number", Config{SmoothQuant: "NaN"}, "smoothquant"},
		{"nothing to smooth", Config{Precision: None, SmoothQuant: SmoothAuto}, "precision none has nothing to smooth"},
		{"a range of what", Config{Precision: DynamicInt8, Integers: Integers{Range: quantize.RangeMSE}}, "they are calibrated for static-int8"},
		{"a range that is none", Config{Precision: StaticInt8, Integers: Integers{Range: "all"}}, `range "all": it must be minmax`},
		{"decibels that are none", Config{Precision: StaticInt8, Integers: Integers{LeastSNR: new(math.Inf(1))}}, "want decibels"},
		{"ranges on another device", Config{Precision: StaticInt8, Device: CUDA}, "static-int8 is for dtype fp32 and target cpu"},
	} {
		err := c.conf.Validate()
		if c.want == "" {
			require.NoError(t, err, c.why)
		} else {
			require.ErrorContains(t, err, c.want, c.why)
		}
	}
}
