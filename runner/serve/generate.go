package serve

import (
	"net/http"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/tokenizer"
)

func (s *Server) chat(w *response, req *http.Request) error {
	return s.generate(w, req, readChat, func(g *generation, tok *tokenizer.Tokenizer) form {
		return &chatForm{tok: tok, logprobs: g.logprobs, calls: map[int]int{}}
	})
}

func (s *Server) complete(w *response, req *http.Request) error {
	return s.generate(w, req, readCompletion, func(g *generation, tok *tokenizer.Tokenizer) form {
		return &textForm{tok: tok, logprobs: g.logprobs, offsets: map[int]int{}}
	})
}

// generate reads a request and answers it.
func (s *Server) generate(w *response, req *http.Request, read func([]byte, defaults) (*generation, error),
	form func(*generation, *tokenizer.Tokenizer) form) error {
	body, err := s.body(w, req)
	if err != nil {
		return err
	}
	m, r, release, err := s.use()
	if err != nil {
		return err
	}
	defer release()
	info := r.Info()
	g, err := read(body, defaults{m.Defaults, info.Sampling, info.Vocabulary})
	if err != nil {
		return err
	}
	if g.model != "" && g.model != m.Name {
		return m.unknown(g.model)
	}
	if err := s.constrain(r, g); err != nil {
		return err
	}
	tok, _ := r.Tokenizer() // without one, answers have no text
	a := answering{s, w, req, r, g, form(g, tok), m.Name}
	if g.stream {
		return a.stream()
	}
	return a.whole()
}

// constrain holds the answers to the format that was asked for.
func (s *Server) constrain(r *runner.Runner, g *generation) error {
	if g.format == (format{}) {
		return nil
	}
	compiled, err := s.grammars.get(g.format)
	if err != nil {
		return err
	}
	constraint, err := r.Constrain(compiled)
	for i := range g.prompts {
		g.prompts[i].Constraint = constraint
	}
	return err
}

// answering is a request that is being answered.
type answering struct {
	s    *Server
	w    *response
	req  *http.Request
	r    *runner.Runner
	g    *generation
	form form
	name string
}

// events calls show for each event of each choice, and gives the use that they made. Leaving it, for an error too, ends
// what is under way.
func (a *answering) events(show func(index int, ev runner.Event) error) (*usage, error) {
	u := &usage{}
	for ev, err := range a.r.GenerateBatch(a.req.Context(), a.g.prompts) {
		a.s.metrics.event(ev)
		if err == nil {
			err = show(ev.Request*a.g.answers+ev.Answer, ev)
		}
		if err != nil {
			return nil, err
		}
		if ev.Result != nil {
			u.add(ev.Answer, ev.Result)
		}
	}
	return u, nil
}

func (a *answering) whole() error {
	choices := make([]runner.Collector, len(a.g.prompts)*a.g.answers)
	u, err := a.events(func(i int, ev runner.Event) error {
		choices[i].Add(ev)
		return nil
	})
	if err != nil {
		return err
	}
	c := a.form.begin(false)
	c.Model, c.Usage = a.name, u
	for i := range choices {
		c.Choices = append(c.Choices, a.form.whole(i, choices[i].Answer()))
	}
	return a.w.json(c)
}

// stream sends each piece as it comes. What is wrong with the request shows before the first, and is a status then.
func (a *answering) stream() error {
	c := a.form.begin(true)
	c.Model = a.name
	u, err := a.events(func(i int, ev runner.Event) error {
		piece := a.form.piece(i, ev)
		if piece == nil {
			return nil
		}
		c.Choices = []any{piece}
		return a.w.event(c)
	})
	if err != nil {
		return err
	}
	if a.g.usage {
		c.Choices, c.Usage = []any{}, u
		if err := a.w.event(c); err != nil {
			return err
		}
	}
	return a.w.done()
}
