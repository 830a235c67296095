// Package serve answers HTTP requests in the form of OpenAI's API with a model of package runner.
//
//	s := serve.New(serve.Options{})
//	s.SetModel(serve.Model{Name: "qwen3", Use: serve.Runner(r)})
//	l, err := net.Listen("tcp", "127.0.0.1:8080")
//	if err != nil {
//		return err
//	}
//	return s.Serve(ctx, l) // until ctx ends; generations under way may finish
//
// Endpoints are POST /v1/chat/completions and /v1/completions, streamed or whole, GET /v1/models, /health and /metrics.
// A [Server] is an http.Handler, so that it can stand behind a program's own.
//
// The package only translates. What makes a server of many users fast is the runner's, and is chosen when that is
// opened: runner.Options.Slots, without which generations are not bounded in number either, Queue and PrefixCache.
//
// A parameter that would change the answer and that the model or the runner does not have is an error that names it.
// The package never passes such a parameter over, never loads a model, never stores what it was asked, and has no TLS:
// that is for the proxy in front.
package serve
