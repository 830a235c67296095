package hub

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const repo = "Qwen/Qwen3-Test"

func TestPull(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	client.Token = token
	var events []Event
	client.Progress = func(e Event) { events = append(events, e) }

	dir, err := client.Pull(t.Context(), repo, "")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(root(client), "snapshots", commit), dir)

	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 5, "nothing but what is needed")
	var size int64
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		require.True(t, string(hub.files[e.Name()]) == string(content), e.Name())
		size += int64(len(content))

		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		hash := gitHash(content)
		if e.Name() == "model.safetensors" {
			hash = sha256Of(content)
		}
		require.Equal(t, "../../blobs/"+hash, filepath.ToSlash(link))
	}
	ref, err := os.ReadFile(filepath.Join(root(client), "refs", "main"))
	require.NoError(t, err)
	require.Equal(t, commit, string(ref), "without a newline, as the Python library writes it")

	last := events[len(events)-1]
	require.Equal(t, size, last.Size)
	require.Equal(t, size, last.Done)

	gets := hub.count("GET /" + repo)
	again, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.Equal(t, dir, again)
	require.Equal(t, gets, hub.count("GET /"+repo), "nothing is downloaded twice")
}

func TestPullSharded(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	delete(hub.files, "model.safetensors")
	hub.files["model-00001-of-00002.safetensors"] = []byte("one")
	hub.files["model-00002-of-00002.safetensors"] = []byte("two")
	hub.files["model.safetensors.index.json"] = []byte(
		`{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}`)

	dir, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "model-00002-of-00002.safetensors"))

	client.Offline = true
	_, err = client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, "model-00002-of-00002.safetensors")))
	_, err = client.Pull(t.Context(), repo, "main")
	require.ErrorIs(t, err, ErrOffline)
	require.ErrorContains(t, err, "model-00002-of-00002.safetensors", "what is missing is named")
}

func TestRevision(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)

	_, err := client.Pull(t.Context(), repo, "no-such")
	requireOneLine(t, err)
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, `revision "no-such"`)

	dir, err := client.Pull(t.Context(), repo, "refs/pr/1")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(root(client), "refs", "refs", "pr", "1"))

	before := hub.count("")
	byCommit, err := client.Pull(t.Context(), repo, commit)
	require.NoError(t, err)
	require.Equal(t, dir, byCommit)
	require.Equal(t, before, hub.count(""), "a complete commit needs no network")
	require.NoFileExists(t, filepath.Join(root(client), "refs", commit))
}

func TestNewCommitSharesBlobs(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	old := strings.Repeat("f", 40)
	_, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.NoError(t, os.Rename(filepath.Join(root(client), "snapshots", commit), filepath.Join(root(client), "snapshots", old)))
	require.NoError(t, os.WriteFile(filepath.Join(root(client), "refs", "main"), []byte(old), 0o644))

	hub.files["config.json"] = []byte(`{"model_type":"qwen3","new":true}`)
	gets := hub.count("GET /model.safetensors")
	dir, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.Equal(t, gets, hub.count("GET /model.safetensors"))
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	require.Equal(t, string(hub.files["config.json"]), string(config))
	ref, err := os.ReadFile(filepath.Join(root(client), "refs", "main"))
	require.NoError(t, err)
	require.Equal(t, commit, string(ref), "the branch has moved")
}

func TestOffline(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)

	t.Setenv("HF_HUB_OFFLINE", "1")
	_, err := client.Pull(t.Context(), repo, "main")
	requireOneLine(t, err)
	require.ErrorIs(t, err, ErrOffline)

	t.Setenv("HF_HUB_OFFLINE", "0")
	dir, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)

	hub.api.Close()
	_, err = client.Pull(t.Context(), repo, "main")
	requireOneLine(t, err)
	require.ErrorContains(t, err, "--offline", "who has a copy is told how to use it")

	client.Offline = true
	got, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.Equal(t, dir, got)
	_, err = client.Pull(t.Context(), repo, "v2")
	require.ErrorIs(t, err, ErrOffline)

	require.NoError(t, os.Remove(filepath.Join(root(client), "blobs", sha256Of(hub.files["model.safetensors"]))))
	_, err = client.Pull(t.Context(), repo, "main")
	require.ErrorIs(t, err, ErrOffline, "a link to nothing is no file")
}

func TestResume(t *testing.T) {
	tests := []struct {
		why       string
		part      func(content []byte) []byte
		intercept func(w http.ResponseWriter, r *http.Request) bool
		ranges    []string
	}{
		{"what is there is not sent again", func(c []byte) []byte { return c[:1000] }, nil, []string{"bytes=1000-"}},
		{"all is there but the name", func(c []byte) []byte { return c }, nil, nil},
		{"a damaged part is found by the hash", func(c []byte) []byte { return make([]byte, 1000) }, nil, []string{"bytes=1000-", ""}},
		{"a part of another file, as long as this one", func(c []byte) []byte { return make([]byte, len(c)) }, nil, []string{""}},
		{"a part longer than the file", func(c []byte) []byte { return append(c[:len(c):len(c)], "more"...) }, nil, nil},
		{"the server cannot resume", func(c []byte) []byte { return c[:1000] }, func(w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("Range")
			return false
		}, []string{"bytes=1000-"}},
		{"the server refuses the range", func(c []byte) []byte { return c[:1000] }, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" || r.URL.Path != "/model.safetensors" {
				return false
			}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}, []string{"bytes=1000-", ""}},
		{"the server sends another range", func(c []byte) []byte { return c[:1000] }, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") != "" {
				r.Header.Set("Range", "bytes=500-")
			}
			return false
		}, []string{"bytes=1000-", ""}},
	}
	for _, test := range tests {
		t.Run(test.why, func(t *testing.T) {
			hub := newFakeHub(t)
			client := hub.client(t)
			hub.intercept = test.intercept
			content := hub.files["model.safetensors"]
			part := filepath.Join(root(client), "blobs", sha256Of(content)+".incomplete")
			require.NoError(t, os.MkdirAll(filepath.Dir(part), 0o755))
			require.NoError(t, os.WriteFile(part, test.part(content), 0o644))

			dir, err := client.Pull(t.Context(), repo, "main")
			require.NoError(t, err)
			got, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
			require.NoError(t, err)
			require.True(t, string(content) == string(got))
			require.NoFileExists(t, part)

			var want []string
			for _, r := range test.ranges {
				want = append(want, strings.TrimSpace("GET /model.safetensors "+r))
			}
			var asked []string
			for _, r := range hub.requests {
				if strings.HasPrefix(r, "GET /model.safetensors") {
					asked = append(asked, r)
				}
			}
			require.Equal(t, want, asked)
		})
	}
}

// A body that breaks off is continued, not begun again.
func TestTruncatedBody(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	var cut atomic.Int32
	hub.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/model.safetensors" || cut.Add(1) > 1 {
			return false
		}
		content := hub.files["model.safetensors"]
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:2<<20])
		return true // the server drops the connection
	}
	_, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.Equal(t, 1, hub.count("GET /model.safetensors bytes="))
}

func TestHashMismatch(t *testing.T) {
	for _, name := range []string{"model.safetensors", "config.json"} {
		hub := newFakeHub(t)
		client := hub.client(t)
		hub.intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || filepath.Base(r.URL.Path) != name || r.URL.RawQuery == "" && name == "model.safetensors" {
				return false
			}
			w.Write(make([]byte, len(hub.files[name])))
			return true
		}
		_, err := client.Pull(t.Context(), repo, "main")
		requireOneLine(t, err)
		require.ErrorIs(t, err, ErrHash)
		require.ErrorContains(t, err, name)
		require.NoDirExists(t, filepath.Join(root(client), "snapshots"), "nothing is published")
		for _, blob := range blobs(t, client) {
			require.NotContains(t, blob, gitHash(hub.files[name]))
			require.NotContains(t, blob, sha256Of(hub.files[name]))
		}
	}
}

func TestRefusals(t *testing.T) {
	status := func(code int, headers ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(code)
			return true
		}
	}
	text := func(body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { fmt.Fprint(w, body); return true }
	}
	head := func(headers ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			return r.Method == http.MethodHead && status(http.StatusOK, headers...)(w, r)
		}
	}
	digest := strings.Repeat("a", 64)
	tests := []struct {
		why       string
		intercept func(http.ResponseWriter, *http.Request) bool
		is        error
		want      string
		requests  int // how many the hub may see; 0: do not care
	}{
		{"no such repository, which the hub answers with 401", status(401, "X-Error-Code", "RepoNotFound"), ErrNotFound, "check the name", 1},
		{"no such repository at a mirror", status(404), ErrNotFound, "check the name", 1},
		{"401 without a token", status(401), ErrUnauthorized, "set HF_TOKEN", 1},
		{"403", status(403), ErrUnauthorized, "set HF_TOKEN", 1},
		{"gated", status(403, "X-Error-Code", "GatedRepo"), ErrUnauthorized, "accept its terms", 1},
		{"busy for too long", status(429, "Retry-After", "0"), nil, "too many requests", maxAttempts},
		{"broken for too long", status(503), nil, "HTTP 503", maxAttempts},
		{"a status nobody expects", status(418, "X-Error-Message", "tea only"), nil, `HTTP 418 "tea only"`, 1},
		{"a login page", text("<html>"), nil, "does not answer as a Hugging Face hub does", 1},
		{"another API", text(`{"ok":true}`), nil, "does not answer as a Hugging Face hub does", 1},
		{"a commit that is a path", text(`{"sha":"../../../etc"}`), nil, "does not answer as a Hugging Face hub does", 1},
		{"a list that always breaks off", text(`{"sha":"`), nil, "unexpected EOF", maxAttempts},
		{"no weights", text(`{"sha":"` + commit + `","siblings":[{"rfilename":"config.json"},{"rfilename":"tokenizer.json"},{"rfilename":"model.gguf"}]}`),
			ErrNoCheckpoint, "safetensors", 1},
		{"weights out of the folder are none", text(`{"sha":"` + commit + `","siblings":[{"rfilename":"config.json"},{"rfilename":"tokenizer.json"},` +
			`{"rfilename":"../model.safetensors"},{"rfilename":"/model.safetensors"},{"rfilename":"x/model.safetensors"}]}`), ErrNoCheckpoint, "safetensors", 1},
		{"no tokenizer", text(`{"sha":"` + commit + `","siblings":[{"rfilename":"config.json"}]}`), ErrNoCheckpoint, "tokenizer.json", 1},
		{"no hash", head("Content-Length", "5"), nil, "no content hash", 0},
		{"a hash that is a path", head("ETag", `"../../x"`, "Content-Length", "5"), nil, "no content hash", 0},
		{"the hash of a storage service", head("ETag", `"d41d8cd98f00b204e9800998ecf8427e-5"`, "Content-Length", "5"), nil, "no content hash", 0},
		{"no size", head("X-Linked-Etag", digest, "X-Linked-Size", "many"), nil, "no usable size", 0},
		{"negative size", head("X-Linked-Etag", digest, "X-Linked-Size", "-1"), nil, "no usable size", 0},
		{"absurd size", head("X-Linked-Etag", digest, "X-Linked-Size", "9223372036854775807"), nil, "no usable size", 0},
		{"a commit of another moment", head("X-Linked-Etag", digest, "X-Linked-Size", "1", "X-Repo-Commit", "f00"), nil, "pull again", 0},
		{"more than the disk holds", head("X-Linked-Etag", digest, "X-Linked-Size", fmt.Sprint(1<<50)), ErrNoSpace, "GB free", 0},
		{"a circle of redirects", status(302, "Location", "/"), nil, "redirects", maxRedirects},
		{"a redirect to a file", status(302, "Location", "file:///etc/passwd"), nil, "not safe to follow", 1},
	}
	for _, test := range tests {
		t.Run(test.why, func(t *testing.T) {
			hub := newFakeHub(t)
			client := hub.client(t)
			hub.intercept = test.intercept
			_, err := client.Pull(t.Context(), repo, "main")
			requireOneLine(t, err)
			require.ErrorContains(t, err, test.want)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
			if test.requests > 0 {
				require.Equal(t, test.requests, hub.count(""))
			}
			require.Zero(t, hub.count("GET /model.safetensors"), "no body is fetched in vain")
		})
	}
}

// Errors that pass are outlived: in the list, in a description and in a body, on the way and at its end.
func TestRetry(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	var mu sync.Mutex
	seen := map[string]int{}
	hub.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		key := r.Method + r.Host + r.URL.Path
		seen[key]++
		if seen[key] > 2 {
			return false
		}
		w.WriteHeader([]int{http.StatusServiceUnavailable, http.StatusTooManyRequests}[seen[key]-1])
		return true
	}
	_, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.Equal(t, 3, hub.count("GET /model.safetensors"))
}

// A server that is reached safely must not send on to one that is not.
func TestRedirectKeepsEncryption(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	secure := httptest.NewTLSServer(http.HandlerFunc(hub.serve))
	defer secure.Close()
	client.Endpoint, client.HTTP = secure.URL, secure.Client()
	_, err := client.Pull(t.Context(), repo, "main")
	requireOneLine(t, err)
	require.ErrorContains(t, err, "not safe to follow")
}

// A server that sends nothing more is left, and asked again.
func TestSilence(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	client.silence = 500 * time.Millisecond
	var once sync.Once
	hub.intercept = func(w http.ResponseWriter, r *http.Request) (handled bool) {
		if r.URL.Path != "/model.safetensors" {
			return false
		}
		once.Do(func() {
			handled = true
			w.Header().Set("Content-Length", fmt.Sprint(len(hub.files["model.safetensors"])))
			w.Write([]byte("weights!"))
			w.(http.Flusher).Flush()
			<-r.Context().Done() // until the client gives up
		})
		return handled
	}
	_, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.Positive(t, hub.count("GET /model.safetensors bytes=8-"))
}

func TestCancelLeavesAPart(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	client.Progress = func(e Event) {
		if e.File == "model.safetensors" && e.FileDone > 0 {
			cancel()
		}
	}
	hub.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/model.safetensors" || r.Header.Get("Range") != "" {
			return false
		}
		content := hub.files["model.safetensors"]
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:1<<20])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	_, err := client.Pull(ctx, repo, "main")
	requireOneLine(t, err)
	require.ErrorIs(t, err, context.Canceled)
	require.NoDirExists(t, filepath.Join(root(client), "snapshots"))

	part, err := os.Stat(filepath.Join(root(client), "blobs", sha256Of(hub.files["model.safetensors"])+".incomplete"))
	require.NoError(t, err)
	require.Positive(t, part.Size())

	client.Progress = nil
	_, err = client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.Equal(t, 1, hub.count(fmt.Sprintf("GET /model.safetensors bytes=%d-", part.Size())))
}

// Two pulls at once, each with its own locks as two processes have, download every file once.
func TestTwoAtOnce(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	var group sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		group.Go(func() {
			own := *client
			_, errs[i] = own.Pull(t.Context(), repo, "main")
		})
	}
	group.Wait()
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	for _, path := range []string{"GET /model.safetensors", "GET /" + repo + "/resolve/" + commit + "/config.json"} {
		require.Equal(t, 1, hub.count(path), path)
	}
	require.Len(t, blobs(t, client), 5)
}

func TestGated(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	hub.gated = true
	_, err := client.Pull(t.Context(), repo, "main")
	requireOneLine(t, err)
	require.ErrorIs(t, err, ErrUnauthorized)
	require.ErrorContains(t, err, "accept its terms at "+hub.api.URL+"/"+repo)

	t.Setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
	t.Setenv("HF_TOKEN", token)
	_, err = client.Pull(t.Context(), repo, "main")
	require.ErrorIs(t, err, ErrUnauthorized)

	t.Setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "")
	_, err = client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
}

// A renamed repository redirects within the hub: there the token is kept.
func TestRenamedRepository(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	client.Token, hub.gated = token, true
	hub.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "Old/Name") {
			return false
		}
		http.Redirect(w, r, strings.Replace(r.URL.Path, "Old/Name", repo, 1), http.StatusTemporaryRedirect)
		return true
	}
	dir, err := client.Pull(t.Context(), "Old/Name", "main")
	require.NoError(t, err)
	require.Contains(t, dir, "models--Old--Name")
}

// A blob that a crash or another program left too short is fetched again.
func TestShortBlob(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	dir, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.NoError(t, os.Truncate(filepath.Join(root(client), "blobs", sha256Of(hub.files["model.safetensors"])), 10))
	_, err = client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, "model.safetensors"))
	require.NoError(t, err)
	require.EqualValues(t, len(hub.files["model.safetensors"]), info.Size())
}

// What another program put into the snapshot as a plain file, where links are not possible, is kept.
func TestFileInPlaceOfLink(t *testing.T) {
	hub := newFakeHub(t)
	client := hub.client(t)
	dir, err := client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	path := filepath.Join(dir, "model.safetensors")
	require.NoError(t, os.Rename(filepath.Join(root(client), "blobs", sha256Of(hub.files["model.safetensors"])), path))
	gets := hub.count("GET /model.safetensors")
	_, err = client.Pull(t.Context(), repo, "main")
	require.NoError(t, err)
	require.Equal(t, gets, hub.count("GET /model.safetensors"))
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.True(t, info.Mode().IsRegular())
}

func TestFullDiskSaysWhatToDo(t *testing.T) {
	err := diskError(&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, "cache")
	require.ErrorIs(t, err, ErrNoSpace)
	require.ErrorContains(t, err, "HF_HOME")
	other := &os.PathError{Op: "write", Path: "x", Err: syscall.EIO}
	require.Equal(t, error(other), diskError(other, "cache"))
}
