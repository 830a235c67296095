package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// response is what a request is answered with: one body, or a stream of server-sent events.
type response struct {
	rw      http.ResponseWriter
	control *http.ResponseController
	buffer  bytes.Buffer
	status  int // 0: nothing has been sent
	stream  bool
}

// errGone is for the log alone.
var errGone = fault(statusClientClosed, "", "", "the client does not read")

// whole sends the buffer as a body.
func (w *response) whole(status int, kind string) error {
	h := w.rw.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(w.buffer.Len()))
	return w.send(status)
}

// send sends the buffer. A client has some time to take it.
func (w *response) send(status int) error {
	_ = w.control.SetWriteDeadline(time.Now().Add(writeTimeout)) // a writer that has none is a test's
	if w.status == 0 {
		w.status = status
		w.rw.WriteHeader(status)
	}
	_, err := w.rw.Write(w.buffer.Bytes())
	w.buffer.Reset()
	if err == nil && w.stream {
		err = w.control.Flush()
	}
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errGone
	}
	return nil
}

func (w *response) encode(v any) error {
	e := json.NewEncoder(&w.buffer)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (w *response) json(v any) error { return w.jsonStatus(http.StatusOK, v) }

func (w *response) jsonStatus(status int, v any) error {
	if err := w.encode(v); err != nil {
		return err
	}
	return w.whole(status, "application/json")
}

// event sends an object of a stream, which the first one begins.
func (w *response) event(v any) error {
	if !w.stream {
		w.stream = true
		h := w.rw.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no") // or nginx collects pieces
	}
	w.buffer.WriteString("data: ")
	if err := w.encode(v); err != nil {
		return err
	}
	w.buffer.WriteByte('\n')
	return w.send(http.StatusOK)
}

// done ends a stream.
func (w *response) done() error {
	w.buffer.WriteString("data: [DONE]\n\n")
	return w.send(http.StatusOK)
}

// fail answers with an error: of a stream that has begun, the last event, in the place of [DONE].
func (w *response) fail(e *apiError) {
	begun := w.status != 0
	w.buffer.Reset()
	object := map[string]*apiError{"error": e}
	switch {
	case e.status == statusClientClosed:
	case begun && !w.stream:
		panic(http.ErrAbortHandler) // half a body: the connection is cut, so that it is not taken for a whole one
	case begun:
		_ = w.event(object) // nobody is left to be told
	default:
		if e.status == http.StatusTooManyRequests || e.status == http.StatusServiceUnavailable {
			w.rw.Header().Set("Retry-After", "1")
		}
		w.stream = false
		_ = w.jsonStatus(e.status, object)
	}
	w.status = e.status // as it is counted
}
