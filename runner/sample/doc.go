// Package sample chooses the next token from a model's logits.
//
//	s, err := sample.New(sample.Params{Temperature: 0.6, TopK: 20, TopP: 0.95, Seed: 1}, vocab)
//	if err != nil {
//		return err
//	}
//	id, err := s.Next(logits, text, len(prompt))
//
// The steps and their order are those of the transformers library (generation/utils.py,
// _get_logits_processor, and generation/logits_process.py): bias, repetition penalty, then frequency and
// presence penalty, which are OpenAI's, no-repeat n-grams; then temperature, top-k, top-p, min-p, typical
// sampling, and a draw. Temperature 0 takes the largest logit
// and, of equal ones, the lowest id, as argmax does.
//
// The same logits and seed give the same tokens on every machine: the arithmetic is
// float64 in an order of its own, with an exponential function of its own (within 2e-8 of the value), and the
// candidates are laid out by id, so that logits that differ in their last bits almost
// never change the choice. Next does not allocate.
//
// The package never changes the logits, holds no text, and knows nothing
// of text.
package sample
