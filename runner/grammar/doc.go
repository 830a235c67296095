// Package grammar keeps what a model writes within a grammar: a regular expression, JSON, or a JSON schema.
// At each step it says which tokens of a vocabulary may follow.
//
//	g, err := grammar.Regexp(`(yes|no), because .+\.`, grammar.Options{})
//	if err != nil {
//		return err
//	}
//	v, err := grammar.NewVocabulary(tok.VocabSize(), func(id int32) (string, bool) {
//		text, err := tok.Bytes(id)
//		return text, err == nil && !tok.Added(id)
//	})
//	if err != nil {
//		return err
//	}
//	m := g.NewMatcher(v)
//	for !m.Done() {
//		end, err := m.Mask(mask) // end: the text may be over here
//		...
//		err = m.Accept(token)
//	}
//
// A token is allowed if, and only if, the text with it can still become one of the grammar. There are no dead
// ends: some token is allowed, or the text may be over, or both. Texts are UTF-8; tokens may be parts of
// characters.
//
// The package needs no native library, never changes logits, chooses nothing, and never passes over a part of
// a schema or pattern that it cannot hold: that is an error. How it works is told in term.go,
// derivative.go, mask.go and letters.go, and docs/adr has the reasons.
package grammar
