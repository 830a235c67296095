package hub

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnvironment(t *testing.T) {
	home := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(home, "hf"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(home, "hf", "token"), []byte("from-file\n"), 0o600))
	names := []string{"HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE",
		"XDG_CACHE_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"}
	tests := []struct {
		why    string
		env    map[string]string
		client Client
		want   settings
		host   string
	}{
		{"nothing set", nil, Client{}, settings{cache: filepath.Join(home, ".cache/huggingface/hub")}, "huggingface.co"},
		{"XDG_CACHE_HOME", map[string]string{"XDG_CACHE_HOME": filepath.Join(home, "x")}, Client{},
			settings{cache: filepath.Join(home, "x/huggingface/hub")}, "huggingface.co"},
		{"HF_HOME has cache and token", map[string]string{"HF_HOME": "~/hf"}, Client{},
			settings{cache: filepath.Join(home, "hf/hub"), token: "from-file"}, "huggingface.co"},
		{"HF_TOKEN goes before the file", map[string]string{"HF_HOME": "~/hf", "HF_TOKEN": " from-env "}, Client{},
			settings{cache: filepath.Join(home, "hf/hub"), token: "from-env"}, "huggingface.co"},
		{"HF_HUB_CACHE goes before HF_HOME", map[string]string{"HF_HOME": "~/hf", "HF_HUB_CACHE": "$HOME/other"}, Client{},
			settings{cache: filepath.Join(home, "other"), token: "from-file"}, "huggingface.co"},
		{"no token unasked", map[string]string{"HF_HOME": "~/hf", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, Client{},
			settings{cache: filepath.Join(home, "hf/hub")}, "huggingface.co"},
		{"a mirror, offline", map[string]string{"HF_ENDPOINT": "https://mirror.example/", "HF_HUB_OFFLINE": "yes"}, Client{},
			settings{cache: filepath.Join(home, ".cache/huggingface/hub"), offline: true}, "mirror.example"},
		{"fields go before all", map[string]string{"HF_ENDPOINT": "https://mirror.example", "HF_TOKEN": "from-env", "HF_HUB_CACHE": "/other"},
			Client{Endpoint: "http://localhost:1", Token: "given", CacheDir: filepath.Join(home, "c"), Offline: true},
			settings{cache: filepath.Join(home, "c"), token: "given", offline: true}, "localhost:1"},
	}
	for _, test := range tests {
		t.Run(test.why, func(t *testing.T) {
			t.Setenv("HOME", home)
			for _, name := range names {
				t.Setenv(name, test.env[name])
			}
			got, err := test.client.settings()
			require.NoError(t, err)
			require.Equal(t, test.host, got.endpoint.Host)
			require.NotNil(t, got.http)
			got.endpoint, got.http = nil, nil
			require.Equal(t, test.want, got)
		})
	}
}

func TestEnvironmentFaults(t *testing.T) {
	t.Setenv("HF_HOME", t.TempDir())
	for _, endpoint := range []string{"huggingface.co", "ftp://x", "https://", "https://user:password@x", "https://x?y", "://"} {
		_, err := (&Client{Endpoint: endpoint}).settings()
		require.ErrorContains(t, err, "HF_ENDPOINT", endpoint)
	}
	_, err := (&Client{Token: "two words"}).settings()
	require.ErrorContains(t, err, "HF_TOKEN")
	require.NotContains(t, err.Error(), "two words")
}
