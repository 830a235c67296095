package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

const (
	partSuffix = ".incomplete"
	bufferSize = 1 << 20
)

// fetch brings a file into the cache as a blob. report hears how many bytes are there.
func (r *remote) fetch(ctx context.Context, cache *cache, commit string, f remoteFile, report func(int64)) error {
	unlock, err := cache.lock(ctx, f.etag)
	if err != nil {
		return err
	}
	defer unlock()
	if cache.has(commit, f) { // another process was faster
		report(f.size)
		return nil
	}
	p, err := openPart(ctx, cache.blob(f.etag), f, report)
	if err != nil {
		return err
	}
	defer p.file.Close()
	resumed := p.have > 0
	if err = r.receive(ctx, commit, p); err != nil {
		return err
	}
	if p.check() != nil && resumed { // the old part may have been damaged: once more from the start
		if err = p.restart(); err != nil {
			return err
		}
		if err = r.receive(ctx, commit, p); err != nil {
			return err
		}
	}
	return p.finish()
}

// receive appends to p until it is as long as the file should be.
func (r *remote) receive(ctx context.Context, commit string, p *part) error {
	return r.retry(ctx, func() (advanced bool, err error) {
		before := p.have
		err = r.receiveOnce(ctx, commit, p)
		if errors.Is(err, errRange) {
			if err = p.restart(); err == nil {
				err = &temporary{err: fmt.Errorf("%s: %w", p.want.name, errRange)}
			}
		}
		return p.have-before >= bufferSize, err
	})
}

func (r *remote) receiveOnce(ctx context.Context, commit string, p *part) error {
	if p.have == p.want.size {
		return nil
	}
	resp, done, err := r.send(ctx, request{method: http.MethodGet, url: r.address(commit, p.want.name), from: p.have, subject: p.want.name})
	if err != nil {
		return err
	}
	defer done()
	if resp.StatusCode != http.StatusPartialContent {
		err = p.restart() // the server sends the whole file
	} else if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", p.have)) {
		err = errRange
	}
	if err != nil {
		return err
	}
	return p.readFrom(resp.Body)
}

// part is a file on its way: what has been received so far, and the hash of that.
type part struct {
	want   remoteFile
	blob   string // the path it will have
	file   *os.File
	sum    hash.Hash
	have   int64
	report func(int64)
}

// openPart opens the part that an earlier download left, or a new one.
func openPart(ctx context.Context, blob string, f remoteFile, report func(int64)) (*part, error) {
	file, err := os.OpenFile(blob+partSuffix, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	p := &part{want: f, blob: blob, file: file, sum: newSum(f), report: report}
	p.have, err = io.Copy(p.sum, io.LimitReader(cancellable{ctx, file}, f.size))
	if err == nil {
		err = file.Truncate(p.have) // longer than the file: the hash will tell
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	report(p.have)
	return p, nil
}

// cancellable is a reader that stops once its context ends: hashing gigabytes takes a while.
type cancellable struct {
	ctx context.Context
	io.Reader
}

func (c cancellable) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(b)
}

// newSum returns the hash that names a file's content: SHA-256, or git's SHA-1, which begins with the size.
func newSum(f remoteFile) hash.Hash {
	if len(f.etag) == hex.EncodedLen(sha256.Size) {
		return sha256.New()
	}
	sum := sha1.New()
	fmt.Fprintf(sum, "blob %d\x00", f.size)
	return sum
}

func (p *part) restart() error {
	if p.have == 0 {
		return nil
	}
	if err := p.file.Truncate(0); err != nil {
		return fmt.Errorf("%s: %w", p.want.name, err)
	}
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("%s: %w", p.want.name, err)
	}
	p.sum, p.have = newSum(p.want), 0
	p.report(0)
	return nil
}

// readFrom appends at most what is missing. Errors of reading are temporary, those of writing are not.
func (p *part) readFrom(body io.Reader) error {
	buffer := make([]byte, bufferSize)
	for p.have < p.want.size {
		n, err := body.Read(buffer[:min(bufferSize, p.want.size-p.have)])
		if _, err := p.file.Write(buffer[:n]); err != nil {
			return fmt.Errorf("%s: %w", p.want.name, diskError(err, filepath.Dir(p.blob)))
		}
		p.sum.Write(buffer[:n])
		p.have += int64(n)
		if n > 0 {
			p.report(p.have)
		}
		if err == io.EOF && p.have < p.want.size {
			return &temporary{err: fmt.Errorf("%s: %w after %d of %d bytes", p.want.name, io.ErrUnexpectedEOF, p.have, p.want.size)}
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("%s: %w", p.want.name, err)
		}
	}
	return nil
}

func (p *part) check() error {
	if got := hex.EncodeToString(p.sum.Sum(nil)); got != p.want.etag {
		return fmt.Errorf("%s: %w: want %s, got %s; pull again, or check HF_ENDPOINT", p.want.name, ErrHash, p.want.etag, got)
	}
	return nil
}

// finish gives a part with the right content its name, and removes any other.
func (p *part) finish() error {
	if err := p.check(); err != nil {
		os.Remove(p.file.Name())
		return err
	}
	if err := p.file.Sync(); err != nil { // a name is a promise: it must not outlive the content in a crash
		return fmt.Errorf("%s: %w", p.want.name, diskError(err, filepath.Dir(p.blob)))
	}
	if err := p.file.Close(); err != nil {
		return fmt.Errorf("%s: %w", p.want.name, diskError(err, filepath.Dir(p.blob)))
	}
	if err := os.Rename(p.file.Name(), p.blob); err != nil {
		return fmt.Errorf("%s: %w", p.want.name, err)
	}
	return nil
}
