package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// toolchain stands in for go and cargo: go names a module folder with the given hash, cargo leaves a library in the
// folder that follows --target-dir, under sub.
func toolchain(t *testing.T, sum, sub string) (calls func() []string) {
	t.Helper()
	module := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(module, "src"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(module, "src", "lib.rs"), []byte("source"), 0o444))
	require.NoError(t, os.WriteFile(filepath.Join(module, "Cargo.toml"), []byte("upstream manifest"), 0o444))
	require.NoError(t, os.WriteFile(filepath.Join(module, "LICENSE"), []byte("licence"), 0o444))
	return programs(t, map[string]string{
		"go": `echo '{"Dir": "` + module + `", "Sum": "` + sum + `"}'`,
		"cargo": `while [ "$1" != --target-dir ]; do shift; done
mkdir -p "$2/` + sub + `" && cat src/lib.rs Cargo.toml Cargo.lock > "$2/` + sub + `/libtokenizers.a"
`,
	})
}

func TestBuildTokenizers(t *testing.T) {
	for name, sub := range map[string]string{
		"cargo's default":                   "release",
		"build.target in the user's config": "aarch64-unknown-linux-gnu/release",
	} {
		t.Run(name, func(t *testing.T) {
			calls := toolchain(t, tokenizersSum, sub)
			rec, err := tokenizersRecipe("linux-amd64")
			require.NoError(t, err)
			st := store{t.TempDir()}
			for range 2 {
				require.NoError(t, st.install(t.Context(), rec, steps{t.Output()}))
			}
			require.Len(t, calls(), 2, "go once, cargo once; nothing at the second run")
			require.Contains(t, calls()[1], "--locked")
			requireOnly(t, st.dir(rec), "LICENSE", "libtokenizers.a", manifestName)
			built, err := os.ReadFile(filepath.Join(st.dir(rec), tokenizersLibrary))
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(string(built), "source"), "the source is the module's")
			require.False(t, strings.Contains(string(built), "upstream manifest"), "the manifest is ours")
			require.True(t, strings.Contains(string(built), "\ntiktoken-rs = \""), "the manifest is ours")
		})
	}
}

func TestBuildRefusesAnotherModule(t *testing.T) {
	calls := toolchain(t, "h1:other", "release")
	rec, err := tokenizersRecipe("linux-amd64")
	require.NoError(t, err)
	st := store{t.TempDir()}
	require.ErrorContains(t, st.install(t.Context(), rec, steps{t.Output()}), "not the pinned source")
	require.Len(t, calls(), 1, "cargo must not run")
	requireOnly(t, st.root)
}

func TestMissingCargo(t *testing.T) {
	noPrograms(t)
	err := buildTokenizers(t.Context(), t.TempDir(), t.TempDir(), nil, steps{t.Output()})
	require.ErrorContains(t, err, "cargo is missing: install it")
}

func TestModuleProblemIsReported(t *testing.T) {
	programs(t, map[string]string{"go": `echo '{"Error": "no such host"}'; exit 1`})
	_, err := moduleDir(t.Context(), t.TempDir())
	require.EqualError(t, err, "go mod download: no such host")
}

// The library is linked to the Go code of the same module: version and hash must be those that the build uses.
func TestTokenizersPinIsTheModulesOne(t *testing.T) {
	sums, err := os.ReadFile(filepath.Join("..", "..", "go.sum"))
	require.NoError(t, err)
	require.True(t, strings.Contains(string(sums), tokenizersModule+" "+tokenizersVersion+" "+tokenizersSum+"\n"), "go.sum has another hash")
	mod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(mod), tokenizersModule+" "+tokenizersVersion)
}

func TestOldestRustIsTheManifestsOne(t *testing.T) {
	toml, err := crate.ReadFile("tokenizers/Cargo.toml")
	require.NoError(t, err)
	require.Contains(t, string(toml), "rust-version = \""+rustOldest+"\"\n")
}

// A git source has no checksum in the lock file, and needs git on the user's machine.
func TestLockedCratesHaveChecksums(t *testing.T) {
	lock, err := crate.ReadFile("tokenizers/Cargo.lock")
	require.NoError(t, err)
	packages := strings.Split(string(lock), "[[package]]\n")[1:]
	require.NotEmpty(t, packages)
	for _, p := range packages {
		if !strings.Contains(p, "source = ") {
			require.Contains(t, p, `name = "tokenizers"`, "only the crate itself is local")
			continue
		}
		require.Contains(t, p, `source = "registry+`)
		require.Contains(t, p, "checksum = ")
	}
}
