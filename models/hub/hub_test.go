package hub

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	commit = "0123456789abcdef0123456789abcdef01234567"
	token  = "hf_secret"
)

// fakeHub serves one repository as the hub does: small files itself, weights from another origin that must
// never see the token.
type fakeHub struct {
	t        *testing.T
	api, cdn *httptest.Server
	repo     string
	refs     map[string]string // revision to commit
	files    map[string][]byte
	gated    bool // needs the token

	// intercept may answer a request in the hub's place.
	intercept func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	requests []string // "METHOD path [range]", in order
}

func newFakeHub(t *testing.T) *fakeHub {
	h := &fakeHub{t: t, repo: "Qwen/Qwen3-Test", refs: map[string]string{"main": commit, "refs/pr/1": commit}}
	h.files = map[string][]byte{
		"config.json":            []byte(`{"model_type":"qwen3"}`),
		"tokenizer.json":         []byte(`{"model":{}}`),
		"generation_config.json": {},
		"LICENSE":                []byte("Apache"),
		"model.safetensors":      bytes.Repeat([]byte("weights!"), 400_000), // 3.2 MB: several reads
		"README.md":              []byte("not needed"),
		"pytorch_model.bin":      []byte("not needed"),
		"onnx/config.json":       []byte("not needed"),
	}
	h.api = httptest.NewServer(http.HandlerFunc(h.serve))
	h.cdn = httptest.NewServer(http.HandlerFunc(h.serveLarge))
	t.Cleanup(h.api.Close)
	t.Cleanup(h.cdn.Close)
	return h
}

func (h *fakeHub) record(r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
}

// count returns how many requests contain the text.
func (h *fakeHub) count(text string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(h.requests), func(r string) bool { return !strings.Contains(r, text) }))
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Error-Code", code)
	w.WriteHeader(status)
}

func (h *fakeHub) serve(w http.ResponseWriter, r *http.Request) {
	h.record(r)
	if h.intercept != nil && h.intercept(w, r) {
		return
	}
	if path, ok := strings.CutPrefix(r.URL.Path, "/api/models/"+h.repo+"/revision/"); ok {
		h.serveListing(w, path)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/"+h.repo+"/resolve/"+commit+"/")
	content, known := h.files[path]
	switch {
	case !ok:
		fail(w, http.StatusUnauthorized, "RepoNotFound")
	case h.gated && r.Header.Get("Authorization") != "Bearer "+token:
		fail(w, http.StatusUnauthorized, "GatedRepo")
	case !known:
		fail(w, http.StatusNotFound, "EntryNotFound")
	case strings.HasSuffix(path, ".safetensors"):
		w.Header().Set("X-Repo-Commit", commit)
		w.Header().Set("X-Linked-Etag", fmt.Sprintf("%q", sha256Of(content)))
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(content)))
		w.Header().Set("Location", h.cdn.URL+"/"+path+"?signature=secret")
		w.WriteHeader(http.StatusFound)
	default:
		w.Header().Set("X-Repo-Commit", commit)
		w.Header().Set("ETag", fmt.Sprintf("W/%q", gitHash(content)))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

func (h *fakeHub) serveListing(w http.ResponseWriter, revision string) {
	sha, ok := h.refs[revision]
	if revision == commit {
		sha, ok = commit, true
	}
	if !ok {
		fail(w, http.StatusNotFound, "RevisionNotFound")
		return
	}
	type sibling struct {
		Name string `json:"rfilename"`
	}
	listing := struct {
		SHA      string    `json:"sha"`
		Siblings []sibling `json:"siblings"`
	}{SHA: sha}
	for name := range h.files {
		listing.Siblings = append(listing.Siblings, sibling{name})
	}
	json.NewEncoder(w).Encode(listing)
}

func (h *fakeHub) serveLarge(w http.ResponseWriter, r *http.Request) {
	h.record(r)
	if r.Header.Get("Authorization") != "" {
		h.t.Error("the token went to another host")
	}
	if h.intercept != nil && h.intercept(w, r) {
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(h.files[strings.TrimPrefix(r.URL.Path, "/")]))
}

func gitHash(content []byte) string {
	return fmt.Sprintf("%x", sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(content)), content...)))
}

func sha256Of(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }

// client is one that sees nothing of the environment and waits for nothing.
func (h *fakeHub) client(t *testing.T) *Client {
	for _, name := range []string{"HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE",
		"HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"} {
		t.Setenv(name, "")
	}
	home := t.TempDir()
	t.Setenv("HF_HOME", home)
	return &Client{Endpoint: h.api.URL, CacheDir: filepath.Join(home, "hub"), firstWait: time.Microsecond}
}

func root(c *Client) string { return filepath.Join(c.CacheDir, "models--Qwen--Qwen3-Test") }

// blobs lists the files in the blob folder.
func blobs(t *testing.T, c *Client) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root(c), "blobs"))
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func requireOneLine(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
	require.NotContains(t, err.Error(), "signature=", "signed addresses do not belong in an error")
	require.NotContains(t, err.Error(), token)
}
