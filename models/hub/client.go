package hub

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// parallel is how many files are asked for or downloaded at once.
const parallel = 4

// Client downloads checkpoints. The zero value takes everything from the environment; see the package
// documentation. A Client may be used from several goroutines.
type Client struct {
	Endpoint string // the hub's address; default HF_ENDPOINT, else https://huggingface.co
	Token    string // default HF_TOKEN, else the token file; sent to Endpoint alone
	CacheDir string // default HF_HUB_CACHE, else HF_HOME/hub
	Offline  bool   // use the cache only; also set by HF_HUB_OFFLINE=1
	// HTTP sends the requests; default http.DefaultClient. Its CheckRedirect is not used, and a Timeout would
	// count for whole downloads: Pull itself gives up on a connection that is silent for 30 seconds.
	HTTP *http.Client
	// Progress, if set, hears of every piece that arrives. Calls do not overlap.
	Progress func(Event)

	firstWait time.Duration // before the second attempt; default 1 s
	silence   time.Duration // default 30 s
}

// Event says how far a Pull has come. All sizes are in bytes. What was in the cache counts as done.
type Event struct {
	File     string // the file that has advanced
	FileDone int64
	FileSize int64
	Done     int64 // of all files together; falls when a damaged part has to be fetched again
	Size     int64
}

// Pull downloads what qwenrt needs of a repository's revision and returns the folder that holds it:
// CacheDir/models--org--name/snapshots/<commit>. The revision is a branch, a tag or a commit; "" is "main".
// Files that are in the cache already are not asked for again.
//
// Short interruptions and busy servers are retried. After an error, or once ctx has ended, what has been
// received stays, and the next Pull goes on from there.
func (c *Client) Pull(ctx context.Context, repo, revision string) (dir string, err error) {
	dir, err = c.pull(ctx, repo, cmp.Or(revision, "main"))
	if err != nil {
		return "", fmt.Errorf("hub: %w", err)
	}
	return dir, nil
}

func (c *Client) pull(ctx context.Context, repo, revision string) (string, error) {
	name, ok := ParseName(repo)
	if !ok {
		return "", fmt.Errorf("repository %s: %w: want org/name, such as Qwen/Qwen3-0.6B", quote(repo), ErrName)
	}
	if err := checkRevision(revision); err != nil {
		return "", err
	}
	s, err := c.settings()
	if err != nil {
		return "", err
	}
	cache := newCache(s.cache, name)
	if commit, err := cache.find(revision); s.offline || (err == nil && commit == revision) {
		return cache.snapshot(commit), err // a commit never changes: a complete one needs no network
	}
	r := &remote{settings: s, repo: name, firstWait: cmp.Or(c.firstWait, time.Second), silence: cmp.Or(c.silence, 30*time.Second)}
	return c.download(ctx, r, cache, revision)
}

func (c *Client) download(ctx context.Context, r *remote, cache *cache, revision string) (string, error) {
	commit, names, err := r.list(ctx, revision)
	if err != nil {
		return "", hintCache(err, cache, revision)
	}
	names, err = selectFiles(names)
	if err != nil {
		return "", fmt.Errorf("%s: %w", r.repo, err)
	}
	files := make([]remoteFile, len(names))
	err = each(ctx, len(names), func(ctx context.Context, i int) (err error) {
		files[i], err = r.stat(ctx, commit, names[i])
		return err
	})
	if err != nil {
		return "", err
	}
	missing := slices.DeleteFunc(slices.Clone(files), func(f remoteFile) bool { return cache.has(commit, f) })
	if err := cache.prepare(missing); err != nil {
		return "", err
	}
	progress := newProgress(c.Progress, files, missing)
	err = each(ctx, len(missing), func(ctx context.Context, i int) error {
		return r.fetch(ctx, cache, commit, missing[i], progress.file(missing[i]))
	})
	if err != nil {
		return "", err
	}
	return cache.snapshot(commit), cache.publish(revision, commit, files)
}

// hintCache adds what a user without a network wants to know.
func hintCache(err error, cache *cache, revision string) error {
	if _, missing := cache.find(revision); missing == nil && isOutage(err) {
		return fmt.Errorf("%w; the cache has a complete copy: use it with --offline or HF_HUB_OFFLINE=1", err)
	}
	return err
}

// each calls do for 0..n-1, a few at a time, and ends the rest when one fails.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range n {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return do(ctx, i)
		})
	}
	return group.Wait()
}

// progress adds up what the files report.
type progress struct {
	mu    sync.Mutex
	tell  func(Event)
	done  int64
	total int64
}

func newProgress(tell func(Event), files, missing []remoteFile) *progress {
	p := &progress{tell: tell}
	for _, f := range files {
		p.total += f.size
	}
	p.done = p.total
	for _, f := range missing {
		p.done -= f.size
	}
	return p
}

// file returns the function by which one file reports how many of its bytes are there.
func (p *progress) file(f remoteFile) func(have int64) {
	var last int64
	return func(have int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.done += have - last
		last = have
		if p.tell != nil {
			p.tell(Event{File: f.name, FileDone: have, FileSize: f.size, Done: p.done, Size: p.total})
		}
	}
}
