package ort

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// release is the release of ONNX Runtime that the project is built and tested
// with: the folder it is kept in and the versioned file names carry it. Other
// releases work as far as their C API is new enough.
const release = "1.32.0"

const (
	libraryVariable = "QWENRT_ORT_LIB"
	nativeVariable  = "QWENRT_NATIVE_DIR"
)

// remedy is what to do about a missing library.
const remedy = "run `make native` in a clone, or `eval \"$(go run github.com/qwenrt/qwenrt/scripts/native env)\"`, or set " +
	libraryVariable + " to the file"

// Find returns the absolute path of ONNX Runtime's shared library. It takes the
// first that is there of
//
//   - explicit, a file or a folder that holds the library, unless it is empty,
//   - the environment variable QWENRT_ORT_LIB, likewise,
//   - beside the executable, in lib/ there, and in ../lib,
//   - onnxruntime-1.32.0-GOOS-GOARCH in the folder QWENRT_NATIVE_DIR, or in
//     qwenrt/native of the user's cache folder where that variable is not set,
//   - the folders of LD_LIBRARY_PATH (DYLD_LIBRARY_PATH, PATH), /usr/local/lib
//     and /usr/lib.
//
// A path that is given and holds no library is an error, not a reason to look on.
// The error is ErrLibraryNotFound; it lists the places and says what to do.
func Find(explicit string) (string, error) {
	if explicit != "" {
		return findGiven(explicit, "the path given")
	}
	if path := os.Getenv(libraryVariable); path != "" {
		return findGiven(path, libraryVariable)
	}
	return findIn(searchFolders())
}

func findIn(folders []string) (string, error) {
	for _, folder := range folders {
		if path, ok := libraryIn(folder); ok {
			return path, nil
		}
	}
	return "", fmt.Errorf("ort: %w: looked for %s in %s; %s",
		ErrLibraryNotFound, libraryNames()[0], strings.Join(folders, ", "), remedy)
}

// findGiven resolves a path that somebody has named.
func findGiven(path, source string) (string, error) {
	if isFile(path) {
		return filepath.Abs(path)
	}
	if found, ok := libraryIn(path); ok {
		return found, nil
	}
	return "", fmt.Errorf("ort: %w: %s says %s, where there is none; %s", ErrLibraryNotFound, source, path, remedy)
}

// libraryIn looks for the library in folder.
func libraryIn(folder string) (string, bool) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return "", false
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", false
	}
	for _, pattern := range libraryNames() {
		for _, e := range entries {
			path := filepath.Join(folder, e.Name())
			if match, _ := filepath.Match(pattern, e.Name()); match && isFile(path) {
				return path, true
			}
		}
	}
	return "", false
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// libraryNames are patterns of the library's file name, best first: the pinned
// release, the name without a release, any release.
func libraryNames() []string {
	switch runtime.GOOS {
	case "windows":
		return []string{"onnxruntime.dll"}
	case "darwin":
		return []string{"libonnxruntime." + release + ".dylib", "libonnxruntime.dylib", "libonnxruntime.*.dylib"}
	}
	return []string{"libonnxruntime.so." + release, "libonnxruntime.so", "libonnxruntime.so.*"}
}

// searchFolders are the folders that Find looks in, in order.
func searchFolders() []string {
	var folders []string
	if executable, err := os.Executable(); err == nil {
		dir := filepath.Dir(executable)
		folders = append(folders, dir, filepath.Join(dir, "lib"), filepath.Join(filepath.Dir(dir), "lib"))
	}
	if root, ok := nativeRoot(); ok {
		folders = append(folders, filepath.Join(root, fmt.Sprintf("onnxruntime-%s-%s-%s", release, runtime.GOOS, runtime.GOARCH)))
	}
	for _, folder := range filepath.SplitList(os.Getenv(loaderVariable())) {
		if folder != "" {
			folders = append(folders, folder)
		}
	}
	if runtime.GOOS != "windows" {
		folders = append(folders, "/usr/local/lib", "/usr/lib")
	}
	return folders
}

// nativeRoot is the folder that the project's native libraries are fetched to.
func nativeRoot() (string, bool) {
	if root := os.Getenv(nativeVariable); root != "" {
		return root, true
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "qwenrt", "native"), err == nil
}

// loaderVariable names the variable with the folders of the system's loader.
func loaderVariable() string {
	switch runtime.GOOS {
	case "windows":
		return "PATH"
	case "darwin":
		return "DYLD_LIBRARY_PATH"
	}
	return "LD_LIBRARY_PATH"
}
