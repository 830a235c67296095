// Package chat turns a conversation into the text a model was trained on, by
// rendering the chat template that the model's own folder carries.
//
//	tmpl, err := chat.Load("Qwen3-0.6B")
//	if err != nil {
//		return err
//	}
//	text, err := tmpl.Render(ctx, []chat.Message{
//		{Role: "user", Content: "What does \"harbor\" mean?"},
//	}, chat.Options{AddGenerationPrompt: true})
//
// A template is a Jinja program, and what it prints must equal, byte for byte,
// what apply_chat_template of the transformers library prints: a model sees any
// other text as foreign. The engine is github.com/ardanlabs/jinja; this package
// lexes the template first and hands the engine an equivalent source, in which
//
//   - white space around tags is already settled by Jinja's rules (trim_blocks and
//     lstrip_blocks on, the last newline dropped), string escapes are resolved, and
//     tojson and printing follow Python (key order, float and None spelling);
//   - every loop turn, macro call, assignment and output passes a meter that holds
//     the budget of the rendering and its context.
//
// A template is also a stranger's program. The meter ends endless loops, deep
// macro recursion, values that grow without end, output that is too long, and any
// rendering whose context is done; panics of the engine come back as errors; lists
// and dicts cannot be changed in place, as in the sandbox of transformers. What
// the meter cannot see is one single expression, so a hostile template can still
// ask for much memory inside one: render templates of unknown origin in a process
// that may die.
//
// The package never fetches a template, never guesses one from a model's name
// (ErrNoTemplate says that a folder has none), and does not tokenise.
package chat
