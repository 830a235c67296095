package runner

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// scheduler serves many generations on one session, with continuous batching: each has a place in the
// batch, and those that wait for their next token are run together, a row each. Prompts are run between
// such steps, a chunk at a time, alone: GroupQueryAttention takes more than one new token behind a past in
// a batch of one only.
//
// One goroutine, loop, runs everything. The generations' own goroutines choose tokens and show them, all
// at once, while it runs the next prompt chunk or waits for them. What they and the loop share is under
// mu, which is not held during a run; while one is under way nobody but the loop writes to the cache.
type scheduler struct {
	r     *Runner
	limit int           // generations that may wait for a place
	wake  chan struct{} // there may be something to do; of capacity 1
	quit  chan struct{}
	ended chan struct{}

	mu     sync.Mutex
	began  bool // the loop runs
	closed bool
	pool   pool
	places []*Sequence // over the pool's views; those that were never needed are nil
	owners []*slot     // of the places
	queue  []*slot     // waiting for a place, the oldest first
	alone  []*slot     // waiting for, or in, runs of their own: prompts, the oldest first
	batch  batch       // the common step
	stats  BatchStats

	// turn: the last run was a common step, so a prompt chunk is next if there is one. patience is when
	// the next common step stops waiting for those who had logits lately, and so will ask for more: grace
	// after they had them, a quarter of the time of a step.
	turn     bool
	patience time.Time
	grace    time.Duration

	left bool // somebody has, since the size of the cache was last looked at
}

// interleavedChunk is how many tokens of a prompt run at once while other generations wait for tokens.
// Smaller chunks make those waits shorter and prefill slower: matrix products are at their full speed
// with some 64 rows.
const interleavedChunk = 128

// slot is a generation's place in the batch: a decoder.
type slot struct {
	s       *scheduler
	watched context.Context // nil: none
	done    chan error      // of the job; capacity 1
	place   chan error      // of the queue; capacity 1
	hit     int             // tokens that the last prompt had from the prefix cache
	logits  []float32       // [vocabulary], or as many rows as a job asked for
	one     [1]int32

	// Under s.mu.
	at       int // -1 without a place
	want     int // tokens that Reserve asked for
	job      job
	had      time.Time // its last logits
	expected bool      // it has them since a moment ago, and will ask for more
	slow     bool      // it took longer than that the last time
	served   bool      // since the last chunk of a prompt it had a short run
}

// job is what a slot waits for. The zero value is nothing.
type job struct {
	ctx     context.Context // of a prompt: stops its runs
	tokens  []int32
	next    int  // tokens that have been run
	before  int  // length of the sequence without them
	all     bool // logits for all rows, not for the last only
	decode  bool // one token, in a common step
	from    *slot
	running bool
}

func (j *job) waiting() bool { return j.tokens != nil || j.from != nil }

// short: it is a fork, or guesses, and not a prompt.
func (j *job) short() bool { return j.all || j.from != nil }

func (j *job) prompt() bool { return j.tokens != nil && !j.decode && !j.all }

func newScheduler(r *Runner, places, limit int) *scheduler {
	s := &scheduler{
		r: r, limit: limit,
		wake: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
		places: make([]*Sequence, places), owners: make([]*slot, places),
	}
	s.pool.places, s.pool.layout = places, r.layout
	return s
}

// BatchStats counts the common steps of generations that share runs, and these; see [Options.Slots].
type BatchStats struct {
	Steps  int64         // runs in which each of some generations got a token
	Tokens int64         // that they got: over Steps, the rows of a step
	Time   time.Duration // of those runs

	Busy, Waiting int // slots that somebody has, and generations that wait for one, at the moment
}

// BatchStats tells how full the batch was up to now. Without Options.Slots it is zero.
func (r *Runner) BatchStats() BatchStats {
	if r.scheduler == nil {
		return BatchStats{}
	}
	s := r.scheduler
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Waiting = len(s.queue)
	for _, t := range s.owners {
		if t != nil {
			stats.Busy++
		}
	}
	return stats
}

// close ends the loop. No generation is under way.
func (s *scheduler) close() {
	s.mu.Lock()
	began := s.began
	s.closed = true
	s.mu.Unlock()
	if began {
		close(s.quit)
		<-s.ended
	}
	s.release()
}

// open waits for a place.
func (s *scheduler) open(ctx context.Context) (*slot, error) {
	t := s.newSlot()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, fmt.Errorf("runner: %w", ErrClosed)
	}
	if !s.began {
		s.began = true
		go s.loop()
	}
	if s.free() < 0 && len(s.queue) >= s.limit {
		s.mu.Unlock()
		return nil, fmt.Errorf("runner: %w: %d generations are under way and %d wait", ErrBusy, len(s.owners), s.limit)
	}
	s.queue = append(s.queue, t)
	s.admit()
	s.mu.Unlock()
	select {
	case err := <-t.place:
		if err != nil {
			return nil, err
		}
		return t, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.queue = slices.DeleteFunc(s.queue, func(q *slot) bool { return q == t })
	s.mu.Unlock()
	t.Close() // it may have got a place in the meantime
	return nil, wrap(ctx.Err())
}

func (s *scheduler) newSlot() *slot {
	return &slot{s: s, at: -1, done: make(chan error, 1), place: make(chan error, 1)}
}

// free is the lowest place that nobody has, -1 if there is none.
func (s *scheduler) free() int { return slices.Index(s.owners, nil) }

// admit gives free places to those who wait, in their order.
func (s *scheduler) admit() {
	for at := s.free(); at >= 0 && len(s.queue) > 0; at = s.free() {
		t := s.queue[0]
		s.queue = slices.Delete(s.queue, 0, 1)
		t.place <- s.take(t, at)
	}
}

func (s *scheduler) take(t *slot, at int) error {
	if s.places[at] == nil {
		p, err := s.r.newSequence()
		if err != nil {
			return err
		}
		if err := s.pool.lend(p, at); err != nil {
			p.Close()
			return wrap(err)
		}
		s.places[at] = p
	}
	s.owners[at], t.at = t, at
	return nil
}

func (s *scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// seq is the sequence of the slot's place. Under s.mu, or in the loop.
func (t *slot) seq() *Sequence { return t.s.places[t.at] }

func (t *slot) Len() int {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.at < 0 {
		return 0
	}
	return t.seq().Len()
}

// Reserve is heeded when the slot runs next.
func (t *slot) Reserve(n int) error {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.want = min(n, t.s.r.context)
	return nil
}

func (t *slot) Truncate(n int) error {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.at < 0 {
		return errSequenceClosed
	}
	return t.seq().Truncate(n)
}

func (t *slot) Watch(ctx context.Context) (stop func()) {
	t.watched = ctx
	return func() { t.watched = nil }
}

func (t *slot) Prefill(ctx context.Context, tokens []int32) ([]float32, error) {
	if err := t.do(ctx, job{ctx: ctx, tokens: tokens}); err != nil {
		return nil, err
	}
	return t.logits, nil
}

func (t *slot) Decode(ctx context.Context, token int32) ([]float32, error) {
	t.one[0] = token
	if err := t.do(ctx, job{tokens: t.one[:], decode: true}); err != nil {
		return nil, err
	}
	return t.logits, nil
}

// fork takes a place if there is one. Waiting for one, with one, could last for ever if all do: then the
// fork is a sequence apart from the batch.
func (t *slot) fork() (decoder, error) {
	s := t.s
	s.mu.Lock()
	if t.at < 0 {
		s.mu.Unlock()
		return nil, errSequenceClosed
	}
	at := s.free()
	if at < 0 {
		defer s.mu.Unlock()
		f, err := t.seq().Fork()
		if err != nil {
			return nil, err
		}
		f.hit = t.hit
		return f, nil
	}
	f := s.newSlot()
	f.hit = t.hit
	err := s.take(f, at)
	s.mu.Unlock()
	if err == nil {
		err = f.do(context.Background(), job{from: t}) // the loop, as it may be writing to the new place
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Close gives the place back.
func (t *slot) Close() {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.at < 0 {
		return
	}
	t.s.store(t.seq().tokens, t.seq())
	t.seq().tokens = t.seq().tokens[:0]
	t.s.owners[t.at], t.at, t.s.left = nil, -1, true
	t.s.admit()
	t.s.signal()
}

func (t *slot) report(r *Result) { r.CachedTokens = t.hit }

// store gives the prefix cache tokens that p has, or had, in its cache.
func (s *scheduler) store(tokens []int32, p *Sequence) {
	if s.r.prefix != nil {
		s.r.prefix.store(tokens, &p.cache)
	}
}

// do has the loop do a job, and waits for it.
func (t *slot) do(ctx context.Context, j job) error {
	s := t.s
	var watched <-chan struct{}
	if t.watched != nil {
		watched = t.watched.Done()
		if ctx.Done() == nil {
			j.ctx = t.watched // to stop the run of a prompt
		}
	}
	if err := s.submit(t, j); err != nil {
		return err
	}
	select {
	case err := <-t.done:
		return err
	case <-ctx.Done():
	case <-watched:
		ctx = t.watched
	}
	if s.withdraw(t) {
		return wrap(ctx.Err())
	}
	return <-t.done // it is under way, or done
}

func (s *scheduler) submit(t *slot, j job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.at < 0 {
		return errSequenceClosed
	}
	if j.from == nil {
		if err := t.seq().admit(j.tokens); err != nil {
			return err
		}
	}
	j.before = t.seq().Len()
	t.job, t.expected = j, false
	t.slow = s.grace > 0 && !t.had.IsZero() && time.Since(t.had) > s.grace
	if !j.decode {
		s.alone = append(s.alone, t)
	}
	s.signal()
	return nil
}

// withdraw takes back a job that is not under way.
func (s *scheduler) withdraw(t *slot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.job.waiting() || t.job.running {
		return false
	}
	t.seq().tokens = t.seq().tokens[:t.job.before]
	s.forget(t)
	s.signal()
	return true
}

func (s *scheduler) forget(t *slot) {
	t.job = job{}
	s.alone = slices.DeleteFunc(s.alone, func(a *slot) bool { return a == t })
}

// finish ends the job of t. After an error its sequence is as long as before.
func (s *scheduler) finish(t *slot, err error) {
	if err != nil {
		t.seq().tokens = t.seq().tokens[:min(t.job.before, t.seq().Len())]
	}
	s.forget(t)
	t.had, t.expected = time.Now(), err == nil && !t.slow
	t.done <- err
}

func (s *scheduler) loop() {
	defer close(s.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := s.run()
		if wait == 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-s.wake:
		case <-timer.C:
		case <-s.quit:
			return
		}
	}
}

// idle is how long the loop waits when there is nothing to wait for but a signal.
const idle = time.Hour

// run does the next piece of work, if there is one. Otherwise it says how long to wait for one.
func (s *scheduler) run() (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trim()
	waiting, expected := false, false
	for _, t := range s.owners {
		if t != nil {
			waiting = waiting || t.job.decode
			expected = expected || t.expected
		}
	}
	switch {
	case len(s.alone) > 0 && (s.turn || !waiting):
		s.turn = false
		s.runAlone(s.next())
		return 0
	case !waiting:
		if s.r.thread == nil { // or what was captured for its memory would be lost
			s.release()
		}
		return idle
	}
	if expected {
		if wait := time.Until(s.patience); wait > 0 {
			return wait
		}
		for _, t := range s.owners { // who comes later takes part later
			if t != nil {
				t.expected = false
			}
		}
	}
	s.turn = true
	s.runBatch()
	return 0
}

// next is who has a run of its own now. Short ones go before prompts, but only one of each generation between
// two chunks: so no prompt holds up who guesses, and nobody who guesses holds up a prompt for ever.
func (s *scheduler) next() *slot {
	prompt := -1
	for i, t := range s.alone {
		if t.job.short() && !t.served {
			t.served = true
			return t
		}
		if t.job.prompt() && prompt < 0 {
			prompt = i
		}
	}
	for _, t := range s.owners {
		if t != nil {
			t.served = false
		}
	}
	return s.alone[max(prompt, 0)]
}

// unlocked runs what takes long.
func (s *scheduler) unlocked(f func() error) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	return f()
}

// runAlone runs a chunk of a prompt, or guesses, or makes a fork.
func (s *scheduler) runAlone(t *slot) {
	p, j := t.seq(), &t.job
	if j.from != nil {
		s.finish(t, s.copy(t, j.from))
		return
	}
	if err := s.ensure(max(j.before+len(j.tokens), t.want)); err != nil {
		s.finish(t, err)
		return
	}
	most := s.r.chunk
	if slices.ContainsFunc(s.owners, func(o *slot) bool { return o != nil && !o.job.prompt() }) {
		most = interleavedChunk
	}
	rows := 1
	j.running = true
	err := s.unlocked(func() (err error) {
		if err := j.ctx.Err(); err != nil {
			return wrap(err)
		}
		if p.Len() == 0 && s.r.prefix != nil {
			if j.next, err = s.r.prefix.load(p, j.tokens); err != nil {
				return wrap(err)
			}
			t.hit = j.next
		}
		n := len(j.tokens) - j.next
		if j.all {
			rows = n
		} else {
			n = min(n, most, s.r.chunkAt(p.Len()))
		}
		defer p.Watch(j.ctx)()
		err = p.step(j.tokens[j.next:j.next+n], rows)
		j.next += n
		return err
	})
	j.running = false
	switch {
	case err != nil:
		s.finish(t, err)
	case j.next == len(j.tokens):
		s.patience = time.Now().Add(s.grace)
		t.keep(p, rows)
		tokens := p.tokens
		s.finish(t, nil)
		if !j.all { // while the first token is chosen
			_ = s.unlocked(func() error { s.store(tokens, p); return nil })
		}
	}
}

// keep copies logits: the place's own may be another's before they are read.
func (t *slot) keep(p *Sequence, rows int) {
	t.logits = t.logits[:0]
	for i := range rows {
		t.logits = append(t.logits, p.row(i)...)
	}
}

func (s *scheduler) copy(t, from *slot) error {
	if from.at < 0 {
		return errSequenceClosed
	}
	n := from.seq().Len()
	if err := s.ensure(n); err != nil {
		return err
	}
	return t.seq().adopt(from.seq())
}

// ensure grows the cache of all places to n tokens.
func (s *scheduler) ensure(n int) error {
	if n <= s.pool.capacity {
		return nil
	}
	for _, p := range s.places { // where it could not grow before, it counts as having no room
		if p != nil {
			n = max(n, p.Len())
		}
	}
	if s.r.reserve {
		n = s.r.context
	}
	return s.resize(grown(s.pool.capacity, n, s.r.context))
}

func (s *scheduler) resize(capacity int) error {
	s.batch.close() // or it would keep the old cache
	if err := s.pool.grow(capacity, s.places); err != nil {
		return wrap(fmt.Errorf("make the KV cache of %d generations one of %d tokens: %w", len(s.places), capacity, err))
	}
	return nil
}

// trim makes the cache smaller where those who are left need less than a quarter of it: the pages that a long
// generation has touched would stay for as long as others come and go.
func (s *scheduler) trim() {
	if !s.left || s.r.reserve {
		return
	}
	s.left = false
	need := 1
	for _, t := range s.owners {
		if t != nil {
			need = max(need, t.seq().Len(), t.want, t.job.before+len(t.job.tokens))
		}
	}
	if n := grown(0, need, s.r.context); 4*n <= s.pool.capacity {
		_ = s.resize(n) // without memory for it, whoever runs next is told
	}
}

// release gives all memory back when nobody has a place.
func (s *scheduler) release() {
	if slices.ContainsFunc(s.owners, func(t *slot) bool { return t != nil }) {
		return
	}
	for i, p := range s.places {
		if p != nil {
			p.Close()
			s.places[i] = nil
		}
	}
	s.batch.close()
	s.pool.close()
}

// runBatch runs the common step of those who wait for a token.
func (s *scheduler) runBatch() {
	rows, err := s.gather()
	begin := time.Now()
	if err == nil && rows != nil {
		err = s.unlocked(func() error {
			if err := s.batch.run(); err != nil {
				return wrap(err)
			}
			for i, t := range rows {
				if t != nil {
					t.logits = append(t.logits[:0], s.batch.row(i)...)
				}
			}
			return nil
		})
	}
	took := time.Since(begin)
	for i, t := range s.owners {
		if t == nil || !t.job.decode || rows != nil && !t.job.running { // who came during the run has the next
			continue
		}
		if err == nil {
			s.stats.Tokens++
			s.places[i].tokens = append(s.places[i].tokens, t.job.tokens...)
		}
		s.finish(t, err)
	}
	if err == nil && rows != nil {
		s.stats.Steps++
		s.stats.Time += took
		s.grace = took / 4
	}
	s.patience = time.Now().Add(s.grace)
}

// gather prepares the common step, and gives for each of its rows who waits for it, nil where nobody does. There
// are no rows if nobody is left.
func (s *scheduler) gather() ([]*slot, error) {
	if !s.fit() {
		return nil, nil
	}
	n := s.compact()
	if s.batch.pool == nil {
		if err := s.openBatch(); err != nil {
			return nil, wrap(err)
		}
	}
	rows, tokens, at := make([]*slot, n), make([]int32, n), make([]int, n)
	for i, t := range s.owners[:n] {
		tokens[i], at[i] = s.input(i)
		if t != nil && t.job.decode {
			rows[i] = t
		}
	}
	if err := s.batch.fill(tokens, at); err != nil {
		return nil, wrap(err)
	}
	for _, t := range rows {
		if t != nil {
			t.job.running = true
		}
	}
	return rows, nil
}

func (s *scheduler) openBatch() error {
	c, err := newControl()
	if err != nil {
		return err
	}
	if err := s.batch.open(s.r, &s.pool, c); err != nil {
		s.batch.close()
		return err
	}
	return nil
}

// fit makes room for those who wait for a token, and reports whether there are any. Who needs more than there is
// memory for is told; the others go on.
func (s *scheduler) fit() bool {
	for {
		var longest *slot
		most := 0
		for _, t := range s.owners {
			if t != nil && t.job.decode {
				if n := max(t.seq().Len()+1, t.want); n > most {
					longest, most = t, n
				}
			}
		}
		if longest == nil {
			return false
		}
		err := s.ensure(most)
		if err == nil {
			return true
		}
		s.finish(longest, err)
	}
}

// input is the token that a place takes in the common step, and its position. A place for which nobody waits
// takes one that leaves no trace: any token behind its last, where the next will be written, or its last
// token again where there is no room.
func (s *scheduler) input(place int) (token int32, at int) {
	p, t := s.places[place], s.owners[place]
	switch {
	case p == nil:
		return 0, 0
	case t != nil && t.job.decode:
		return t.job.tokens[0], p.Len()
	case p.Len() < s.pool.capacity:
		return 0, p.Len()
	}
	return p.tokens[p.Len()-1], p.Len() - 1
}

// compact moves the last who wait to places that nobody has, and gives the number of places up to the last
// one then: a row costs time, whether somebody waits for it or not. Without memory for that, it does not.
func (s *scheduler) compact() (n int) {
	for {
		last := len(s.owners) - 1
		for s.owners[last] == nil || !s.owners[last].job.decode {
			last--
		}
		at := s.free()
		if at < 0 || at > last || s.move(last, at) != nil {
			return last + 1
		}
	}
}

// move gives the owner of a place another one. After an error it has the old one.
func (s *scheduler) move(from, to int) error {
	t, old := s.owners[from], s.places[from]
	if err := s.take(t, to); err != nil {
		return err
	}
	if err := t.seq().adopt(old); err != nil {
		t.seq().tokens, t.at, s.owners[to] = t.seq().tokens[:0], from, nil
		return err
	}
	old.tokens, s.owners[from] = old.tokens[:0], nil
	return nil
}
