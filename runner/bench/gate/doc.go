// Package gate judges measurements against a limit: what was measured may be so much worse than what it is compared with,
// and no more.
//
//	limit, err := gate.ParseLimit("5%")
//	if err != nil {
//		return err
//	}
//	r := gate.Report{Lines: []gate.Line{
//		gate.Speed("tg64", ratio, limit), // a stats.Ratio, measured in one run
//		gate.Compare(gate.Metric{Name: "kernels", Better: gate.Lower}, 148, 149, gate.Limit{}),
//	}}
//	if r.Verdict() == gate.Regression {
//		return r.WriteMarkdown(os.Stdout)
//	}
//
// A speed is judged by its whole interval: it passes when all of it is within the limit, is a regression when all of it is
// beyond, and is too noisy to say otherwise. Values that are the same in every run, such as counts and perplexity, are judged
// as they are.
//
// [Baseline] is the file of values to compare with, [History] that of values over time, with a drawing. Reports are written
// as Markdown, JUnit XML, and GitHub's annotations.
//
// The package never measures.
package gate
