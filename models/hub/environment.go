package hub

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const defaultEndpoint = "https://huggingface.co"

// settings are a Client's fields with the defaults filled in.
type settings struct {
	endpoint *url.URL // without a slash at the end
	token    string
	cache    string
	offline  bool
	http     *http.Client
}

func (c *Client) settings() (settings, error) {
	var s settings
	var err error
	if s.endpoint, err = parseEndpoint(cmp.Or(c.Endpoint, os.Getenv("HF_ENDPOINT"), defaultEndpoint)); err != nil {
		return s, err
	}
	home, err := homeFolder()
	if err != nil && (c.CacheDir == "" || c.Token == "") {
		return s, err
	}
	s.cache = cmp.Or(c.CacheDir, expand(os.Getenv("HF_HUB_CACHE")), expand(os.Getenv("HUGGINGFACE_HUB_CACHE")), filepath.Join(home, "hub"))
	if s.cache, err = filepath.Abs(s.cache); err != nil {
		return s, err
	}
	if s.token, err = findToken(c.Token, home); err != nil {
		return s, err
	}
	if strings.ContainsFunc(s.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return s, errors.New("the token (HF_TOKEN or the token file) has spaces or letters that no token has; log in again")
	}
	s.offline = c.Offline || isTrue("HF_HUB_OFFLINE") || isTrue("TRANSFORMERS_OFFLINE")
	s.http = withoutRedirects(c.HTTP)
	return s, nil
}

func parseEndpoint(endpoint string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(endpoint, "/"))
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("endpoint %s (HF_ENDPOINT): want an address such as %s", quote(endpoint), defaultEndpoint)
	}
	return u, nil
}

func homeFolder() (string, error) {
	if home := os.Getenv("HF_HOME"); home != "" {
		return expand(home), nil
	}
	if cache := os.Getenv("XDG_CACHE_HOME"); cache != "" {
		return filepath.Join(expand(cache), "huggingface"), nil
	}
	user, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no home folder for the cache (%w); set HF_HOME", err)
	}
	return filepath.Join(user, ".cache", "huggingface"), nil
}

// findToken returns the token to send to the endpoint, or "".
func findToken(given, home string) (string, error) {
	if given != "" {
		return given, nil
	}
	if isTrue("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
		return "", nil
	}
	if token := cmp.Or(os.Getenv("HF_TOKEN"), os.Getenv("HUGGING_FACE_HUB_TOKEN")); token != "" {
		return strings.TrimSpace(token), nil
	}
	path := cmp.Or(expand(os.Getenv("HF_TOKEN_PATH")), filepath.Join(home, "token"))
	token, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return "", fmt.Errorf("token file: %w", err)
	}
	return strings.TrimSpace(string(token)), nil
}

// isTrue reads a switch as the Python library does.
func isTrue(name string) bool {
	return slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(os.Getenv(name)))
}

// expand replaces $VARIABLES and a leading ~ as the Python library does.
func expand(path string) string {
	path = os.ExpandEnv(path)
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if user, err := os.UserHomeDir(); err == nil {
			return filepath.Join(user, rest)
		}
	}
	return path
}
