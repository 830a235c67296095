package eval

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
)

// A file of logits has the form that llama-perplexity writes and reads with --kl-divergence-base
// (llama.cpp, tools/perplexity/perplexity.cpp), little endian:
//
//	"_logits_"
//	n_ctx, n_vocab, n_chunk    int32 each
//	tokens                     int32 [n_chunk, n_ctx]
//	log-probabilities          for each chunk, for each of its n_ctx-1-n_ctx/2 scored positions
//
// A position takes 8 bytes more than 2 for each token of the vocabulary, rounded up to an even number:
// scale and lowest, float32 each, then uint16 codes; a code stands for lowest + scale*code. The codes
// span 16 nats below the likeliest token, so that log-probabilities are exact to 1.3e-4; what lies
// lower has code 0.
const (
	logitsMagic = "_logits_"
	headerSize  = len(logitsMagic) + 3*4
	codeRange   = 16 // nats
	maxCode     = math.MaxUint16

	// What a file may claim: Qwen3 has contexts of 2^15 and 151,936 tokens.
	maxContext    = 1 << 24
	maxVocabulary = 1 << 24
	maxTokens     = 1 << 27
)

// rowCodes is the number of uint16 that a position takes.
func rowCodes(vocab int) int { return (vocab+1)/2*2 + 4 }

// LogitsFile is the log-probabilities of a model on a text, to be the reference of others. It is for
// one measurement at a time.
type LogitsFile struct {
	file    *os.File
	context int
	vocab   int
	tokens  []int32
}

// OpenLogits opens a file that Options.Save or llama-perplexity has written. Its form and all of its tokens
// are checked at once, log-probabilities when they are read.
//
// Errors: ErrMalformed.
func OpenLogits(path string) (*LogitsFile, error) {
	f, err := openLogits(path)
	if err != nil {
		return nil, fmt.Errorf("eval: %w", err)
	}
	return f, nil
}

func openLogits(path string) (*LogitsFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a named pipe would wait for its writer
		return nil, fmt.Errorf("%s: %w: not a regular file", path, ErrMalformed)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f := &LogitsFile{file: file}
	if err := f.readHeader(info.Size()); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// readHeader reads all up to the first log-probability of a file of that size.
func (f *LogitsFile) readHeader(size int64) error {
	head := make([]byte, headerSize)
	if _, err := f.file.ReadAt(head, 0); err != nil || string(head[:len(logitsMagic)]) != logitsMagic {
		return malformed("it does not begin with %q and three sizes", logitsMagic)
	}
	field := func(i int) int64 { return int64(int32(binary.LittleEndian.Uint32(head[len(logitsMagic)+4*i:]))) }
	context, vocab, chunks := field(0), field(1), field(2)
	if context < minContext || context > maxContext || vocab < 1 || vocab > maxVocabulary || chunks < 1 {
		return malformed("chunks of %d tokens, a vocabulary of %d, %d chunks", context, vocab, chunks)
	}
	f.context, f.vocab = int(context), int(vocab)
	// At most 2^24*4 + 2^23*2^25 bytes: the product with a number of chunks that the file can hold fits.
	chunk := context*4 + f.chunkBytes()
	if chunks > size/chunk || int64(headerSize)+chunks*chunk != size {
		return malformed("%d chunks of %d tokens over %d take %d bytes each, the file has %d", chunks, context, vocab, chunk, size)
	}
	if chunks*context > maxTokens {
		return malformed("%d chunks of %d tokens are more than %d", chunks, context, maxTokens)
	}
	raw := make([]byte, chunks*context*4)
	if _, err := f.file.ReadAt(raw, int64(headerSize)); err != nil {
		return malformed("tokens: %w", err)
	}
	f.tokens = make([]int32, chunks*context)
	for i := range f.tokens {
		t := int32(binary.LittleEndian.Uint32(raw[4*i:]))
		if t < 0 || int64(t) >= vocab {
			return malformed("token %d is %d, the vocabulary has %d", i, t, vocab)
		}
		f.tokens[i] = t
	}
	return nil
}

// chunkBytes is the size of the log-probabilities of a chunk.
func (f *LogitsFile) chunkBytes() int64 {
	return int64(scoredRows(f.context)) * int64(rowCodes(f.vocab)) * 2
}

// Close closes the file.
func (f *LogitsFile) Close() error { return f.file.Close() }

// Tokens are the text that the file was made with, whole chunks of it.
func (f *LogitsFile) Tokens() []int32 { return slices.Clone(f.tokens) }

// Context is the length of its chunks.
func (f *LogitsFile) Context() int { return f.context }

func (f *LogitsFile) text(tokens []int32, o *Options) ([]int32, error) {
	if o.Context == 0 {
		o.Context = f.context
	}
	if o.Context != f.context {
		return nil, fmt.Errorf("%w: it was made with chunks of %d tokens, not %d", ErrReference, f.context, o.Context)
	}
	if tokens == nil {
		return f.tokens, nil
	}
	n := min(len(tokens)/f.context*f.context, len(f.tokens))
	if !slices.Equal(tokens[:n], f.tokens[:n]) {
		return nil, fmt.Errorf("%w: the reference was made with another text, or another tokenizer", ErrText)
	}
	if n == 0 {
		return tokens, nil // too short, which is reported with its length
	}
	return tokens[:n], nil
}

func (f *LogitsFile) open(vocabulary int) (source, error) {
	if f.vocab != vocabulary {
		return nil, fmt.Errorf("%w: it has a vocabulary of %d tokens, the model %d", ErrReference, f.vocab, vocabulary)
	}
	rows := scoredRows(f.context)
	return &logitsReader{
		file: f, at: int64(headerSize) + int64(len(f.tokens))*4,
		codes: make([]byte, f.chunkBytes()), values: make([]float32, rows*f.vocab),
	}, nil
}

// logitsReader goes through a file chunk by chunk.
type logitsReader struct {
	file   *LogitsFile
	at     int64
	codes  []byte
	values []float32 // decoded, [rows, vocab]
}

func (r *logitsReader) close() {}

func (r *logitsReader) chunk(ctx context.Context, _ []int32) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := r.file.file.ReadAt(r.codes, r.at); err != nil {
		return malformed("%w", err)
	}
	r.at += int64(len(r.codes))
	return nil
}

func (r *logitsReader) row(i int) (distribution, error) {
	size := 2 * rowCodes(r.file.vocab)
	raw := r.codes[i*size : (i+1)*size]
	scale := math.Float32frombits(binary.LittleEndian.Uint32(raw))
	lowest := math.Float32frombits(binary.LittleEndian.Uint32(raw[4:]))
	// The likeliest token is at most certain: a little above 0 for rounding.
	if top := float64(lowest) + float64(scale)*maxCode; !(scale >= 0) || !(top < 0.01) || !(lowest > -1e4) {
		return distribution{}, malformed("scale %v and lowest log-probability %v", scale, lowest)
	}
	values := r.values[i*r.file.vocab : (i+1)*r.file.vocab]
	for j := range values {
		values[j] = lowest + scale*float32(binary.LittleEndian.Uint16(raw[8+2*j:]))
	}
	// Codes of 0 stand for anything from the lowest on down. Tokens below e^-16 are left out, as
	// llama-perplexity does; together they matter less than the rounding.
	return distribution{values: values, norm: 1, floor: -codeRange, top: argmax(values)}, nil
}

// logitsWriter writes a file of logits chunk by chunk.
type logitsWriter struct {
	w     io.Writer
	vocab int
	codes []byte
}

func newLogitsWriter(w io.Writer, context, vocab int, tokens []int32) (*logitsWriter, error) {
	if int64(len(tokens)/context) > math.MaxInt32 {
		return nil, errors.New("too many chunks for a file of logits")
	}
	b := []byte(logitsMagic)
	for _, n := range []int{context, vocab, len(tokens) / context} {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	for _, t := range tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(t))
	}
	_, err := w.Write(b)
	return &logitsWriter{w: w, vocab: vocab}, err
}

// begin makes room for the rows of a chunk.
func (w *logitsWriter) begin(rows int) {
	size := rows * rowCodes(w.vocab) * 2
	w.codes = slices.Grow(w.codes[:0], size)[:size]
}

// row encodes row i. Rows may be encoded at the same time.
func (w *logitsWriter) row(i int, d *distribution) {
	size := 2 * rowCodes(w.vocab)
	raw := w.codes[i*size : (i+1)*size]
	clear(raw[size-2:]) // padding, where the vocabulary is odd
	highest := d.values[d.top]
	lowest := max(slices.Min(d.values), highest-codeRange)
	scale := (highest - lowest) / maxCode
	binary.LittleEndian.PutUint32(raw, math.Float32bits(scale))
	binary.LittleEndian.PutUint32(raw[4:], math.Float32bits(float32(float64(lowest)-d.logNorm())))
	inverse := float32(0)
	if scale > 0 {
		inverse = 1 / scale
	}
	for j, v := range d.values {
		code := min(max((v-lowest)*inverse+0.5, 0), maxCode)
		binary.LittleEndian.PutUint16(raw[8+2*j:], uint16(code))
	}
}

// flush writes the rows of a chunk.
func (w *logitsWriter) flush() error {
	_, err := w.w.Write(w.codes)
	return err
}
