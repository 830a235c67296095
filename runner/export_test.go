package runner

import "context"

// Decoder is what a generation runs on: a sequence, or a slot of a batch.
type Decoder = decoder

func NewDecoder(ctx context.Context, r *Runner) (Decoder, error) { return r.newVerifier(ctx) }

func Fork(d Decoder) (Decoder, error) { return d.fork() }
