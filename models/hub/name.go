package hub

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

var (
	// The hub's rule for one part of a name, but for "--" and "..": those would make cache folders ambiguous.
	namePart = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)
	// A commit as the hub writes it. It becomes a folder name.
	commitHash = regexp.MustCompile(`^[0-9a-f]{40}$`)
	// A file's content hash: SHA-1 as git computes it for a blob, or SHA-256 for large files. It becomes a file name.
	contentHash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
)

// ParseName tells whether s names a repository: "org/name", or its address on the hub as a browser shows
// it. It returns the plain "org/name". A relative path can look the same; a caller that accepts both should
// look at the disk first.
func ParseName(s string) (repo string, ok bool) {
	for _, prefix := range []string{"https://huggingface.co/", "https://hf.co/", "hf://"} {
		if rest, found := strings.CutPrefix(s, prefix); found {
			s = strings.TrimSuffix(rest, "/")
			break
		}
	}
	org, name, found := strings.Cut(s, "/")
	if !found || len(s) > 96 || !namePart.MatchString(org) || !namePart.MatchString(name) {
		return "", false
	}
	if strings.Contains(s, "--") || strings.Contains(s, "..") || strings.HasSuffix(s, ".git") {
		return "", false
	}
	return s, true
}

// checkRevision accepts branch, tag and commit names that are safe as a path below refs/.
func checkRevision(revision string) error {
	clean := filepath.ToSlash(filepath.Clean(revision))
	unsafe := strings.ContainsFunc(revision, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' || r == ':' })
	if unsafe || !filepath.IsLocal(revision) || clean != revision || revision == "." || len(revision) > 200 {
		return fmt.Errorf("revision %s: %w: want a branch, a tag or a commit", quote(revision), ErrName)
	}
	return nil
}

// quote keeps a stranger's text to one short line.
func quote(s string) string {
	const limit = 120
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strconv.Quote(s)
}
