package runner_test

import (
	"context"
	"fmt"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// Open a model folder, and stream an answer. The context ends the generation early if it ends.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := runner.Open(ctx, folder, runner.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()

	request := runner.Request{
		Messages:  []chat.Message{{Role: "user", Content: `What does "harbor" mean?`}},
		Think:     new(false),
		MaxTokens: 11,
		Sampling:  &sample.Params{}, // greedy; nil: as the model recommends
	}
	for event, err := range r.Generate(ctx, request) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Print(event.Text)
		if event.Result != nil {
			fmt.Printf("\n%s after %d tokens\n", event.Result.Reason, event.Result.GeneratedTokens)
		}
	}
	// Output:
	// The noun "harbor" means: a person who
	// length after 11 tokens
}

// The whole answer at once, with the raw text as prompt.
func ExampleRunner_Text() {
	ctx := context.Background()
	r, err := runner.Open(ctx, folder, runner.Options{Threads: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()

	text, result, err := r.Text(ctx, runner.Request{
		Prompt:    "The PostgreSQL server can be configured",
		MaxTokens: 10,
		Sampling:  &sample.Params{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%q\n%d prompt tokens\n", text, result.PromptTokens)
	// Output:
	// "\n by the server. The server will be used"
	// 6 prompt tokens
}

// Tokens in, logits out: score the candidates for an answer on one and the same prompt, which is run
// only once.
func ExampleSequence() {
	ctx := context.Background()
	r, err := runner.Open(ctx, folder, runner.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	tok, err := r.Tokenizer()
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := r.NewSequence()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()

	prompt, err := tok.Encode("And the word of the")
	if err != nil {
		fmt.Println(err)
		return
	}
	logits, err := s.Prefill(ctx, prompt)
	if err != nil {
		fmt.Println(err)
		return
	}
	lord, _ := tok.TokenID("ĠLORD")
	server, _ := tok.TokenID("Ġserver")
	fmt.Println("LORD before server:", logits[lord] > logits[server])

	if _, err := s.Decode(ctx, int32(lord)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.Len()-len(prompt), "token more, room for", s.Left())
	if err := s.Truncate(len(prompt)); err != nil { // and now for another
		fmt.Println(err)
		return
	}
	// Output:
	// LORD before server: true
	// 1 token more, room for 2042
}
