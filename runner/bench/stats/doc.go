// Package stats decides whether one series of times is faster than another, on machines that are not quiet.
//
//	r := stats.Paired(before, after, 0.99) // times of interleaved slices, in any unit
//	fmt.Printf("%.3fx, %.3f to %.3f: %s\n", r.Center, r.Lo, r.Hi, r.Verdict(0.01))
//
// Nothing is assumed about how times are distributed: one slice in five may have met another process.
// Centers are medians, intervals are those of the sign test ([Paired]) and of the Mann-Whitney test
// ([Unpaired]), by way of golang.org/x/perf/benchmath. A [Series] takes pairs one by one and
// says when there are enough of them, without the error that comes of looking often.
//
// The package never measures, and knows no clock.
package stats
