package accelerate_test

import (
	"os"
	"testing"

	"github.com/qwenrt/qwenrt/ort"
)

// TestMain gives examples, which cannot ask for it, a cache that is not the user's. The library is looked for before: where
// there is none, the tests that need it say so.
func TestMain(m *testing.M) {
	if path, err := ort.Find(""); err == nil {
		os.Setenv("QWENRT_ORT_LIB", path)
	}
	home, err := os.MkdirTemp("", "qwenrt-home-")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", "LocalAppData"} {
		os.Setenv(name, home)
	}
	code := m.Run()
	os.RemoveAll(home)
	os.Exit(code)
}
