package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// serving starts a server on a free port and returns when it is ready. stop ends it as a signal does.
func serving(t *testing.T, args ...string) (url string, stop func() result) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	var stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, slices.Concat([]string{"serve"}, args, []string{"--port", "0"}), strings.NewReader(""), in, &stderr)
		in.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		<-ended
		require.NoError(t, err, stderr.String())
	}
	_, url, ok := strings.Cut(strings.TrimSuffix(line, "/v1\n"), " is served at ")
	require.True(t, ok, line)
	stop = func() result {
		cancel()
		return result{<-ended, line, stderr.String()}
	}
	t.Cleanup(cancel)
	return url, stop
}

func post(t *testing.T, url, body string) (status int, answer string) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

func TestServe(t *testing.T) {
	need(t)
	model := built(t)
	url, stop := serving(t, model, "--alias", "tiny", "--no-think", "--temperature", "0", "--prefix-cache", "0")
	status, text := post(t, url+"/v1/chat/completions", `{"model": "tiny", "messages": [{"role": "user", "content": "What does \"harbor\" mean?"}], "max_tokens": 12}`)
	require.Equal(t, http.StatusOK, status, text)
	require.Contains(t, text, `The noun \"harbor\" means:`)
	require.Contains(t, text, `"prompt_tokens":20`)
	r := stop()
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Empty(t, r.stderr)

	t.Setenv("QWENRT_API_KEY", "secret")
	url, stop = serving(t, model, "--host", "0.0.0.0", "--grace", "0", "--set", "queue=3")
	status, _ = post(t, url+"/v1/completions", `{"prompt": "x"}`)
	require.Equal(t, http.StatusUnauthorized, status)
	r = stop()
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Empty(t, r.stderr, "there is a key")
}

func TestServeErrors(t *testing.T) {
	need(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	for _, c := range []struct {
		why  string
		args []string
		code int
		says string
	}{
		{"no model", nil, exitUsage, "missing argument MODEL"},
		{"no such model", []string{"no/such/model", "--port", "0"}, exitError, "no such file or folder"},
		{"a port that somebody has", []string{checkpoint, "--port", port}, exitError, "address already in use"},
		{"no slots", []string{checkpoint, "--slots", "0"}, exitUsage, "--slots"},
		{"both", []string{checkpoint, "--think", "--no-think"}, exitUsage, "exclude each other"},
		{"a key that is none", []string{checkpoint, "--api-key", ""}, exitUsage, "--api-key, or QWENRT_API_KEY, is empty"},
		{"one seed for all", []string{checkpoint, "--seed", "1"}, exitUsage, `unknown flag "seed"`},
	} {
		r := qwenrt(t, append([]string{"serve"}, c.args...)...)
		require.Equal(t, c.code, r.code, "%s: %s", c.why, r.stderr)
		require.Contains(t, r.stderr, c.says, c.why)
	}
}
