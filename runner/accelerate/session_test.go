package accelerate

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
)

// Options of a provider reach it, on machines without one as well.
func TestProviderFacts(t *testing.T) {
	options := func(c Config) map[string]string { return c.options(CUDA).Providers[0].Options }
	require.Equal(t, map[string]string{"device_id": "0"}, options(Config{}))
	require.Equal(t, map[string]string{"device_id": "1"}, options(Config{DeviceID: 1}))
	more := Config{DeviceID: 1, ProviderOptions: map[string]string{"gpu_mem_limit": "1", "device_id": "2"}}
	require.Equal(t, map[string]string{"gpu_mem_limit": "1", "device_id": "2"}, options(more), "the provider's own words win")
	require.Empty(t, more.options(CPU).Providers)
}

// TestFixedStepsConfig holds when decode steps get one shape, and when CUDA is told to record them.
func TestFixedStepsConfig(t *testing.T) {
	named := func(value string) map[string]string { return map[string]string{keyCUDAGraph: value} }
	for _, c := range []struct {
		why      string
		conf     Config
		device   Device
		fixed    bool
		recorded string
	}{
		{"the default", Config{}, CUDA, false, ""},
		{"a part of the level", Config{Compile: ReduceOverhead}, CUDA, true, "1"},
		{"another provider has no such option", Config{Compile: ReduceOverhead}, "WebGPU", true, ""},
		{"the CPU gains nothing", Config{Compile: ReduceOverhead}, CPU, false, ""},
		{"Core ML has other graphs", Config{Compile: ReduceOverhead}, CoreML, false, ""},
		{"asked for by name", Config{ProviderOptions: named("True")}, CUDA, true, "1"},
		{"refused by name", Config{Compile: ReduceOverhead, ProviderOptions: named("0")}, CUDA, false, "0"},
		{"steps of plain attention grow", Config{Compile: ReduceOverhead, Attention: Plain}, CUDA, false, ""},
	} {
		o := c.conf.options(c.device)
		require.Equal(t, c.fixed, o.FixedSteps, c.why)
		recorded := ""
		if len(o.Providers) > 0 {
			recorded = o.Providers[0].Options[keyCUDAGraph]
		}
		require.Equal(t, c.recorded, recorded, c.why)
	}
}

func TestSharingConfig(t *testing.T) {
	for text, c := range map[string]Config{
		"slots is -1":              {Slots: -1},
		"queue is -1":              {Slots: 1, Queue: -1},
		"with plain attention":     {Device: CUDA, Attention: Plain, ProviderOptions: map[string]string{"enable_cuda_graph": "1"}},
		"queue is 3 without slots": {Queue: 3},
		"prefix_cache is -1":       {PrefixCache: -1},
	} {
		require.ErrorContains(t, c.Validate(), text)
	}
	require.NoError(t, Config{Slots: 2, Queue: 3, PrefixCache: 1 << 20}.Validate())
}

func TestDeviceNames(t *testing.T) {
	all := []string{"CoreMLExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"}
	for _, c := range []struct {
		why       string
		device    Device
		providers []string // of the library
		want      []Device
	}{
		{"the default", "", all, []Device{CUDA, CoreML, CPU}},
		{"capitals", "Auto", all, []Device{CUDA, CoreML, CPU}},
		{"a library for CUDA", Auto, all[1:], []Device{CUDA, CPU}},
		{"a library for the CPU", Auto, all[2:], []Device{CPU}},
		{"as PyTorch calls Apple's", "mps", all[2:], []Device{CoreML}},
		{"as ONNX Runtime calls it", "CUDAExecutionProvider", all, []Device{CUDA}},
		{"the name of a plug-in", "MyDevice", all, []Device{"MyDevice"}},
	} {
		require.Equal(t, c.want, Config{Device: c.device}.devices(c.providers), c.why)
	}
}

// TestDevicesPassedOver holds that a device which does not work is passed over, whatever is wrong with it, and that it is noted.
func TestDevicesPassedOver(t *testing.T) {
	require.NoError(t, ort.Init(ort.Environment{}))
	from := Source{Dir: "../../models/testdata/checkpoints/small-bf16"}
	broken := errors.New("kernels are missing")
	var opened []Device
	p, err := prepareOn(t.Context(), []Device{"NoSuchProvider", CPU, CPU}, from, Config{}, Events{}, func(p *Prepared) error {
		if opened = append(opened, p.Device); len(opened) == 1 {
			return broken
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, CPU, p.Device)
	require.Equal(t, []Device{CPU, CPU}, opened, "what fails a probe is not opened")
	first, second, _ := strings.Cut(p.notes["device"], "; ")
	require.Contains(t, first, "NoSuchProvider: accelerate: device NoSuchProvider: ort: ")
	require.Equal(t, "cpu: kernels are missing", second)

	_, err = prepareOn(t.Context(), []Device{CPU, "NoSuchProvider"}, from, Config{}, Events{}, func(*Prepared) error { return broken })
	require.ErrorIs(t, err, ort.ErrProvider, "the last one's error")
	ctx, cancel := context.WithCancel(t.Context())
	_, err = prepareOn(ctx, []Device{CPU, "NoSuchProvider"}, from, Config{}, Events{}, func(*Prepared) error { cancel(); return broken })
	require.ErrorIs(t, err, broken, "no other is tried behind the context's end")
}
