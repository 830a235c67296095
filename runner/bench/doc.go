// Package bench measures how fast a model runs, by the conventions of llama.cpp's llama-bench, so that
// its figures stand beside others.
//
//	s, err := bench.Open(ctx, "qwen3-0.6b-int4", runner.Options{Threads: 2})
//	if err != nil {
//		return err
//	}
//	defer s.Close()
//	records, err := bench.Run(ctx, s, bench.Config{Depth: []int{0, 2048}}, bench.Events{})
//	if err != nil {
//		return err
//	}
//	for _, r := range records {
//		fmt.Printf("%s %.1f ± %.1f tokens/s\n", r.Test(), r.AvgTS, r.StddevTS)
//	}
//
// There are three tests, each after a depth of context that is prefilled outside the clock: pp512 is
// the prefill of 512 tokens, tg128 the decoding of 128 tokens one by one, pp512+tg128 both in a row.
// Tokens are random. Tokenising and sampling are left out: what is timed is the model and the KV
// cache. Every repetition is kept in the record, with the machine and the settings beside it.
//
// [MeasureOverhead] is the time that package runner adds to ONNX Runtime's own; [MeasureLoad] times
// whole generations, one or many at once, as users see them.
//
// The package never judges figures, and changes no setting of the machine to get better ones.
package bench
