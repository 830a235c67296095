package serve

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/qwenrt/qwenrt/runner"
)

// Options say how a server serves. The zero value works.
type Options struct {
	// APIKey is what requests need as their bearer token, except those for /health. Default: none.
	APIKey string
	// MaxBody bounds a request's body, in bytes. Default: DefaultMaxBody.
	MaxBody int64
	// Grace is how long Serve lets requests under way go on when it is to end. Default: DefaultGrace; negative: not at all.
	Grace time.Duration
	// Log is told why requests failed with status 500, and what net/http has to say. Default: nobody is.
	Log *slog.Logger
}

// Defaults of Options.
const (
	DefaultMaxBody = 16 << 20 // more than a prompt of 128,000 tokens, in which each byte is escaped
	DefaultGrace   = 30 * time.Second
)

// How long clients may take. A generation holds a slot of the batch while its client reads.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = time.Minute
	writeTimeout  = 30 * time.Second // for each piece
	idleTimeout   = 2 * time.Minute
)

// Model is what a server answers with.
type Model struct {
	// Name is what requests and /v1/models call it.
	Name string
	// Use gives a runner for one request, which ends its use with release. An error says that there is none at the
	// moment. See Runner, and the method of accelerate.Model.
	Use func() (r *runner.Runner, release func(), err error)
	// Defaults has what requests do not say: Sampling, Think, Speculate and so on. Each request without a seed
	// gets another one.
	Defaults runner.Request

	since int64 // Unix time
}

// Runner is Model.Use of a runner that the caller closes, behind the last request.
func Runner(r *runner.Runner) func() (*runner.Runner, func(), error) {
	return func() (*runner.Runner, func(), error) { return r, func() {}, nil }
}

// Server is an http.Handler, and with Serve a whole server. It is safe for concurrent use.
type Server struct {
	options  Options
	key      [sha256.Size]byte
	log      *slog.Logger
	model    atomic.Pointer[Model]
	closing  atomic.Bool
	cross    *http.CrossOriginProtection
	grammars grammars
	metrics  metrics
}

// New makes a server. Until SetModel it answers with status 503.
func New(o Options) *Server {
	s := &Server{options: o, key: sha256.Sum256([]byte(o.APIKey)), log: o.Log, cross: http.NewCrossOriginProtection()}
	if s.options.MaxBody <= 0 {
		s.options.MaxBody = DefaultMaxBody
	}
	if s.options.Grace == 0 {
		s.options.Grace = DefaultGrace
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// SetModel answers the requests that come from now on with m.
func (s *Server) SetModel(m Model) {
	m.since = time.Now().Unix()
	s.model.Store(&m)
}

// use gives the model for a request.
func (s *Server) use() (m *Model, r *runner.Runner, release func(), err error) {
	if s.closing.Load() {
		return nil, nil, nil, errClosing
	}
	if m = s.model.Load(); m == nil {
		return nil, nil, nil, unavailable("the model is being loaded")
	}
	if r, release, err = m.Use(); err != nil {
		return nil, nil, nil, unavailable("%v", err)
	}
	return m, r, release, nil
}

// Serve answers what comes to l until ctx ends. Then it takes no more connections, closes l, lets the requests under way go on
// for Options.Grace, cancels those that are left, and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(errClosing)
	server := &http.Server{
		Handler: s, BaseContext: func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	defer server.Close()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	s.closing.Store(true)
	grace, stop := context.WithTimeout(base, s.options.Grace)
	defer stop()
	if server.Shutdown(grace) == nil {
		return nil
	}
	cancel(errClosing)
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer stop()
	_ = server.Shutdown(last) // what is left then has no reader, and is cut off
	return nil
}

// endpoint is what the server has at a path.
type endpoint struct {
	method string
	open   bool   // it needs no key
	prompt string // the parameter that has the prompt
	serve  func(*Server, *response, *http.Request) error
}

const modelsPath = "/v1/models"

var endpoints = map[string]endpoint{
	"/v1/chat/completions": {method: http.MethodPost, prompt: "messages", serve: (*Server).chat},
	"/v1/completions":      {method: http.MethodPost, prompt: "prompt", serve: (*Server).complete},
	modelsPath:             {method: http.MethodGet, serve: (*Server).models},
	modelsPath + "/":       {method: http.MethodGet, serve: (*Server).models},
	"/metrics":             {method: http.MethodGet, serve: (*Server).writeMetrics},
	"/health":              {method: http.MethodGet, open: true, serve: (*Server).health},
}

// route gives the endpoint at a path, and its name among endpoints: "" where there is none.
func route(path string) (e endpoint, name string) {
	name = path
	if strings.HasPrefix(path, modelsPath+"/") {
		name = modelsPath + "/"
	}
	e, ok := endpoints[name]
	if !ok {
		return e, ""
	}
	return e, name
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	e, name := route(req.URL.Path)
	w := &response{rw: rw, control: http.NewResponseController(rw)}
	defer func() { s.metrics.request(name, w.status) }()
	defer func() {
		switch v := recover(); {
		case v == nil:
		case v == any(http.ErrAbortHandler):
			panic(v)
		default:
			s.log.Error("panic", "path", name, "value", v, "stack", string(debug.Stack()))
			w.fail(errorOf(req.Context(), errPanic, ""))
		}
	}()
	err := s.check(w, req, e, name)
	if err == nil {
		err = e.serve(s, w, req)
	}
	if err == nil {
		return
	}
	answer := errorOf(req.Context(), err, e.prompt)
	if answer.status == http.StatusInternalServerError {
		s.log.Error("request failed", "path", name, "error", err)
	}
	w.fail(answer)
}

var errPanic = errors.New("panic")

// check finds what is wrong with a request before its body is read.
func (s *Server) check(w *response, req *http.Request, e endpoint, name string) error {
	switch {
	case name == "":
		return fault(http.StatusNotFound, "", "unknown_url", "there is nothing at %s %s", req.Method, req.URL.Path)
	case req.Method != e.method && (req.Method != http.MethodHead || e.method != http.MethodGet):
		w.rw.Header().Set("Allow", e.method)
		return fault(http.StatusMethodNotAllowed, "", "method_not_allowed", "%s takes %s, not %s", name, e.method, req.Method)
	}
	if err := s.cross.Check(req); err != nil { // a page that the user's browser shows may not use the user's server
		return fault(http.StatusForbidden, "", "cross_origin", "%v", err)
	}
	if !e.open && !s.authorized(req) {
		w.rw.Header().Set("WWW-Authenticate", "Bearer")
		return fault(http.StatusUnauthorized, "", "invalid_api_key", "the API key is missing or wrong: send it as Authorization: Bearer KEY")
	}
	return nil
}

// authorized compares hashes, so that neither the key's length nor how much of it was right shows in the time.
func (s *Server) authorized(req *http.Request) bool {
	if s.options.APIKey == "" {
		return true
	}
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	hash := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(hash[:], s.key[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

// body reads what was sent. It reads to the end: only then does net/http notice that a client goes away.
func (s *Server) body(w *response, req *http.Request) ([]byte, error) {
	_ = w.control.SetReadDeadline(time.Now().Add(bodyTimeout)) // a writer that has none is a test's
	defer func() { _ = w.control.SetReadDeadline(time.Time{}) }()
	body, err := io.ReadAll(http.MaxBytesReader(w.rw, req.Body, s.options.MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, fault(http.StatusRequestEntityTooLarge, "", "request_too_large", "the body has more than %d bytes", s.options.MaxBody)
	case err != nil:
		return nil, fault(http.StatusBadRequest, "", "", "the body did not come: %v", err)
	}
	return body, nil
}

func (s *Server) health(w *response, _ *http.Request) error {
	_, _, release, err := s.use()
	if err != nil {
		return err
	}
	release()
	return w.json(map[string]string{"status": "ok"})
}

// modelInfo is a model as OpenAI's API describes it, and the length of its context, as vLLM does.
type modelInfo struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	Context int    `json:"max_model_len"`
}

func (s *Server) models(w *response, req *http.Request) error {
	m, r, release, err := s.use()
	if err != nil {
		return err
	}
	defer release()
	info := modelInfo{m.Name, "model", m.since, "qwenrt", r.Info().ContextLength}
	name, one := strings.CutPrefix(req.URL.Path, modelsPath+"/")
	switch {
	case !one:
		return w.json(struct {
			Object string      `json:"object"`
			Data   []modelInfo `json:"data"`
		}{"list", []modelInfo{info}})
	case name != m.Name:
		return m.unknown(name)
	}
	return w.json(info)
}

func (m *Model) unknown(name string) error {
	return fault(http.StatusNotFound, "model", "model_not_found", "there is no model %q: this server has %q", name, m.Name)
}

func (s *Server) writeMetrics(w *response, _ *http.Request) error {
	var info runner.Info
	var batch runner.BatchStats
	if _, r, release, err := s.use(); err == nil {
		info, batch = r.Info(), r.BatchStats()
		release()
	}
	s.metrics.write(&w.buffer, info, batch)
	return w.whole(http.StatusOK, "text/plain; version=0.0.4; charset=utf-8")
}
