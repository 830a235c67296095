package hub

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	maxAttempts  = 5
	maxRedirects = 10
	maxListing   = 64 << 20 // bytes
	maxFileSize  = 1 << 50  // bytes; sums of sizes stay far from 2^63
)

// remote is one repository on the hub.
type remote struct {
	settings
	repo      string
	firstWait time.Duration
	silence   time.Duration
}

// remoteFile is a file as the hub describes it.
type remoteFile struct {
	name string
	etag string // the content's hash: 40 hex digits of git's SHA-1, or 64 of SHA-256
	size int64
}

// list returns the commit that a revision stands for and the names of its files.
func (r *remote) list(ctx context.Context, revision string) (commit string, names []string, err error) {
	var listing struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
		} `json:"siblings"`
	}
	address := r.endpoint.String() + "/api/models/" + r.repo + "/revision/" + url.PathEscape(revision)
	err = r.retry(ctx, func() (bool, error) {
		resp, done, err := r.send(ctx, request{method: http.MethodGet, url: address, subject: "revision " + quote(revision)})
		if err != nil {
			return false, err
		}
		defer done()
		return false, r.decode(resp.Body, &listing)
	})
	if err != nil {
		return "", nil, err
	}
	if !commitHash.MatchString(listing.SHA) {
		return "", nil, r.notAHub(fmt.Errorf("commit %s", quote(listing.SHA)))
	}
	for _, sibling := range listing.Siblings {
		names = append(names, sibling.Name)
	}
	return listing.SHA, names, nil
}

// decode reads the hub's JSON. An answer that breaks off may be whole the next time.
func (r *remote) decode(body io.Reader, value any) error {
	err := json.NewDecoder(io.LimitReader(body, maxListing)).Decode(value)
	var t *temporary
	switch {
	case err == nil || errors.As(err, &t):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &temporary{err: fmt.Errorf("%s: file list of %s: %w", r.endpoint.Host, r.repo, err)}
	}
	return r.notAHub(err)
}

func (r *remote) notAHub(err error) error {
	return fmt.Errorf("%s does not answer as a Hugging Face hub does (%w); check HF_ENDPOINT", r.endpoint.Host, err)
}

// stat asks for a file's hash and size. Large files live elsewhere: the hub's redirect to them describes
// them (X-Linked-*), their own server may not.
func (r *remote) stat(ctx context.Context, commit, name string) (remoteFile, error) {
	f := remoteFile{name: name}
	described := func(resp *http.Response) bool { return resp.Header.Get("X-Linked-Etag") != "" }
	err := r.retry(ctx, func() (bool, error) {
		resp, done, err := r.send(ctx, request{method: http.MethodHead, url: r.address(commit, name), subject: name, stop: described})
		if err != nil {
			return false, err
		}
		defer done()
		return false, f.describe(resp, commit)
	})
	if err != nil {
		return f, err
	}
	return f, nil
}

func (f *remoteFile) describe(resp *http.Response, commit string) error {
	if got := resp.Header.Get("X-Repo-Commit"); got != "" && got != commit {
		return fmt.Errorf("%s: the server has commit %s, not %s; pull again", f.name, quote(got), commit)
	}
	etag := cmp.Or(resp.Header.Get("X-Linked-Etag"), resp.Header.Get("ETag"))
	f.etag = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
	if !contentHash.MatchString(f.etag) {
		return fmt.Errorf("%s: the server gives no content hash (ETag %s); check HF_ENDPOINT", f.name, quote(etag))
	}
	length := resp.Header.Get("X-Linked-Size")
	if length == "" && redirect(resp) == "" { // a redirect's own length says nothing
		length = resp.Header.Get("Content-Length")
	}
	size, err := strconv.ParseInt(length, 10, 64)
	if err != nil || size < 0 || size > maxFileSize {
		return fmt.Errorf("%s: the server gives no usable size; check HF_ENDPOINT", f.name)
	}
	f.size = size
	return nil
}

// address is a file's place on the hub, as https://huggingface.co/docs/hub/models-downloading has it.
func (r *remote) address(commit, name string) string {
	return r.endpoint.String() + "/" + r.repo + "/resolve/" + commit + "/" + url.PathEscape(name)
}

// request is one exchange with the hub and whatever it redirects to.
type request struct {
	method  string
	url     string
	from    int64                     // first byte wanted
	subject string                    // what is asked for, in errors
	stop    func(*http.Response) bool // a redirect to return rather than follow
}

// send follows redirects itself. The http package would take the token along to subdomains of the hub and to
// other ports of its host; here it goes to the endpoint's own origin alone. done must be called at the end.
func (r *remote) send(ctx context.Context, q request) (resp *http.Response, done func(), err error) {
	address, err := url.Parse(q.url)
	if err != nil {
		return nil, nil, err
	}
	for range maxRedirects {
		resp, done, err = r.sendOnce(ctx, q, address)
		if err != nil {
			return nil, nil, err
		}
		next := redirect(resp)
		if next == "" || (q.stop != nil && q.stop(resp)) {
			return resp, done, r.checkStatus(resp, q, next, done)
		}
		done()
		target, err := address.Parse(next)
		if err != nil || target.Host == "" || (target.Scheme != "https" && (target.Scheme != "http" || address.Scheme == "https")) {
			return nil, nil, fmt.Errorf("%s: %s redirects to an address that is not safe to follow", q.subject, address.Host)
		}
		address = target
	}
	return nil, nil, fmt.Errorf("%s: more than %d redirects from %s", q.subject, maxRedirects, r.endpoint.Host)
}

func (r *remote) sendOnce(ctx context.Context, q request, address *url.URL) (*http.Response, func(), error) {
	ctx, watch := newWatchdog(ctx, r.silence)
	req, err := http.NewRequestWithContext(ctx, q.method, address.String(), nil)
	if err != nil {
		watch.stop()
		return nil, nil, err
	}
	req.Header.Set("User-Agent", "qwenrt")
	req.Header.Set("Accept-Encoding", "identity") // hash, size and range are those of the plain content
	if q.from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", q.from))
	}
	if r.token != "" && address.Scheme == r.endpoint.Scheme && address.Host == r.endpoint.Host {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		defer watch.stop()
		return nil, nil, networkError(ctx, address.Host, err)
	}
	resp.Body = &watchedBody{ReadCloser: resp.Body, ctx: ctx, watch: watch, host: address.Host}
	return resp, func() { resp.Body.Close(); watch.stop() }, nil
}

// withoutRedirects copies a client so that it hands redirects over.
func withoutRedirects(client *http.Client) *http.Client {
	if client == nil {
		client = http.DefaultClient
	}
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

func redirect(resp *http.Response) string {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return resp.Header.Get("Location")
	}
	return ""
}

// checkStatus turns an answer that is no success into an error, and closes it.
func (r *remote) checkStatus(resp *http.Response, q request, redirect string, done func()) error {
	if redirect != "" || resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
		return nil
	}
	defer done()
	return r.statusError(resp, q)
}

// statusError explains a status by the codes that the hub puts into X-Error-Code and X-Error-Message.
func (r *remote) statusError(resp *http.Response, q request) error {
	status, code, message := resp.StatusCode, resp.Header.Get("X-Error-Code"), resp.Header.Get("X-Error-Message")
	switch {
	case status == http.StatusRequestedRangeNotSatisfiable:
		return errRange
	case code == "RevisionNotFound":
		return fmt.Errorf("%s of %s: %w; branches and tags are listed at %s/%s", q.subject, r.repo, ErrNotFound, r.endpoint, r.repo)
	case code == "EntryNotFound":
		return fmt.Errorf("%s of %s: %w", q.subject, r.repo, ErrNotFound)
	case code == "GatedRepo":
		return fmt.Errorf("%s is gated: %w; accept its terms at %s/%s and set HF_TOKEN to a token of that account",
			r.repo, ErrUnauthorized, r.endpoint, r.repo)
	case code == "RepoNotFound" || status == http.StatusNotFound:
		return fmt.Errorf("%s: %w at %s; check the name, or set HF_TOKEN if it is private", r.repo, ErrNotFound, r.endpoint)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fmt.Errorf("%s: %w by %s (HTTP %d); %s", r.repo, ErrUnauthorized, resp.Request.URL.Host, status, r.tokenAdvice())
	case status == http.StatusTooManyRequests:
		return &temporary{after: retryAfter(resp), err: fmt.Errorf("%s: too many requests (HTTP 429); wait a while, or set HF_TOKEN",
			resp.Request.URL.Host)}
	case status >= 500 || status == http.StatusRequestTimeout:
		return &temporary{after: retryAfter(resp), err: fmt.Errorf("%s: %s: HTTP %d; try again later", q.subject, resp.Request.URL.Host, status)}
	}
	return fmt.Errorf("%s: %s: HTTP %d %s", q.subject, resp.Request.URL.Host, status, quote(message))
}

func (r *remote) tokenAdvice() string {
	if r.token == "" {
		return "the name may be wrong, or the repository private: set HF_TOKEN to a token that may read it"
	}
	return "the token is not valid or may not read it: set HF_TOKEN to another"
}

// errRange means that a part reaches past the end of its file.
var errRange = errors.New("the range is not in the file")

// temporary marks an error that may be gone at the next attempt.
type temporary struct {
	err   error
	after time.Duration // the server's wish
}

func (t *temporary) Error() string { return t.err.Error() }
func (t *temporary) Unwrap() error { return t.err }

// isOutage tells whether an error is the network's or the server's, not the request's.
func isOutage(err error) bool {
	var t *temporary
	var dns *net.DNSError
	return errors.As(err, &dns) || errors.As(err, &t)
}

// networkError drops the address from an error of the http package, which can be a signed one of a thousand
// letters, and says whether to try again.
func networkError(ctx context.Context, host string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", host, err)
	}
	advised := fmt.Errorf("%s: %w; check the network and HF_ENDPOINT", host, err)
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) || (errors.As(err, &dns) && dns.IsNotFound) {
		return advised
	}
	return &temporary{err: advised}
}

// retry calls attempt until it succeeds, fails for good, or has failed maxAttempts times in a row without
// having advanced. It waits longer each time.
func (r *remote) retry(ctx context.Context, attempt func() (advanced bool, err error)) error {
	wait := r.firstWait
	for failures := 1; ; failures++ {
		advanced, err := attempt()
		var t *temporary
		if err == nil || !errors.As(err, &t) {
			return err
		}
		if advanced {
			failures, wait = 1, r.firstWait
		}
		if failures == maxAttempts {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (last: %w)", ctx.Err(), err)
		case <-time.After(max(wait, t.after)):
		}
		wait *= 2
	}
}

// retryAfter reads the seconds of a Retry-After header, at most a minute.
func retryAfter(resp *http.Response) time.Duration {
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 60)) * time.Second
}

var errSilent = errors.New("the connection has gone silent")

// watchdog ends a request when nothing arrives for a while; a limit on the whole would end large downloads.
type watchdog struct {
	timer   *time.Timer
	cancel  context.CancelCauseFunc
	silence time.Duration
}

func newWatchdog(ctx context.Context, silence time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(silence, func() { cancel(errSilent) })
	return ctx, &watchdog{timer: timer, cancel: cancel, silence: silence}
}

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

type watchedBody struct {
	io.ReadCloser
	ctx   context.Context
	watch *watchdog
	host  string
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.timer.Reset(b.watch.silence)
	n, err := b.ReadCloser.Read(p)
	b.watch.timer.Stop() // what the reader does with it may take longer
	if err != nil && err != io.EOF {
		err = networkError(b.ctx, b.host, err)
	}
	return n, err
}
