package runner

import (
	"container/list"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/qwenrt/qwenrt/ort"
)

// prefixBlock is the number of tokens that a prefix cache keeps or drops at once. A block that begins as a prompt
// goes on serves as far as it does, so that only the end of what was run, half a block in the mean, is lost.
const prefixBlock = 16

// prefixCache keeps keys and values of what was run, to be used again by prompts that begin alike. It is a
// tree: a block of tokens hangs below the block before it, so that a path from the root is a prefix, and is
// found by its tokens themselves, not by a hash of them. What was used last is dropped last.
//
// It is safe for concurrent use, and copies under its lock.
type prefixCache struct {
	layout *layout
	limit  int64 // bytes
	size   int64 // of a block

	mu     sync.Mutex
	root   block
	recent list.List // of *block, the last used in front; each in front of those below it
	now    int64     // counts uses
	stats  PrefixStats
}

type block struct {
	tokens [prefixBlock]int32
	above  *block
	below  map[[prefixBlock]int32]*block
	data   *ort.Tensor // [keys and values of all layers, heads, prefixBlock, bytes of a head]
	place  *list.Element
	used   int64
}

// PrefixStats tells what the prefix cache was worth; see [Options.PrefixCache].
type PrefixStats struct {
	PromptTokens int64 // of the prompts that were looked up
	CachedTokens int64 // of those, how many did not have to be run
	Bytes        int64 // in use
	Evicted      int64 // blocks of 16 tokens that made room for others
}

func newPrefixCache(l *layout, limit int64) *prefixCache {
	size := int64(2*len(l.layers)) * l.kvHeads * prefixBlock * int64(l.rowBytes())
	return &prefixCache{layout: l, limit: limit, size: size}
}

// PrefixStats tells what the prefix cache was worth up to now. Without Options.PrefixCache it is zero.
func (r *Runner) PrefixStats() PrefixStats {
	if r.prefix == nil {
		return PrefixStats{}
	}
	r.prefix.mu.Lock()
	defer r.prefix.mu.Unlock()
	return r.prefix.stats
}

func (p *prefixCache) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for e := p.recent.Back(); e != nil; e = p.recent.Back() {
		p.drop(e.Value.(*block))
	}
}

// known is the path of the whole blocks with which tokens begin.
func (p *prefixCache) known(tokens []int32) (path []*block) {
	for b := &p.root; len(tokens) >= prefixBlock; tokens = tokens[prefixBlock:] {
		if b = b.below[[prefixBlock]int32(tokens)]; b == nil {
			break
		}
		path = append(path, b)
	}
	return path
}

// nearest is the block below b that begins with most of tokens, and with how many; of several, the last used.
func (b *block) nearest(tokens []int32) (best *block, n int) {
	for _, c := range b.below {
		same := 0
		for same < min(len(tokens), prefixBlock) && c.tokens[same] == tokens[same] {
			same++
		}
		if same > n || same == n && n > 0 && c.used > best.used {
			best, n = c, same
		}
	}
	return best, n
}

// end is the last block of a path.
func (p *prefixCache) end(path []*block) *block {
	if len(path) == 0 {
		return &p.root
	}
	return path[len(path)-1]
}

// use counts a path as used.
func (p *prefixCache) use(path []*block) {
	p.now++
	for _, b := range slices.Backward(path) {
		b.used = p.now
		p.recent.MoveToFront(b.place)
	}
}

// load gives an empty sequence, with room for tokens, what is known of them, and says of how many. At least one
// is left to be run, for its logits.
func (p *prefixCache) load(s *Sequence, tokens []int32) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.PromptTokens += int64(len(tokens))
	path := p.known(tokens[:len(tokens)-1])
	n := len(path) * prefixBlock
	if b, more := p.end(path).nearest(tokens[n : len(tokens)-1]); more > 0 {
		path, n = append(path, b), n+more
	}
	if n == 0 {
		return 0, nil
	}
	p.use(path)
	if err := s.cache.begin(n); err != nil {
		return 0, err
	}
	var copies errgroup.Group // on all cores: the first touch of each page is most of the time
	copies.SetLimit(runtime.GOMAXPROCS(0))
	for i := range s.cache.past {
		copies.Go(func() error {
			return s.cache.write(i, 0, n, func(head int, span []byte) {
				for _, b := range path {
					span = span[copy(span, p.kept(b, i, head)):]
				}
			})
		})
	}
	if err := copies.Wait(); err != nil {
		return 0, err
	}
	s.tokens = append(s.tokens, tokens[:n]...)
	p.stats.CachedTokens += int64(n)
	return n, nil
}

// kept is what b has of a head of the keys or values i.
func (p *prefixCache) kept(b *block, i, head int) []byte {
	size := prefixBlock * p.layout.rowBytes()
	return b.data.Bytes()[(i*int(p.layout.kvHeads)+head)*size:][:size]
}

// store keeps the whole blocks of tokens, whose keys and values are in c, that are not known, as far as there is
// room or older ones can go. Without memory, and where the cache cannot be read, it keeps what it has.
func (p *prefixCache) store(tokens []int32, c *cache) {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := p.known(tokens)
	p.use(path)
	known := len(path)
	for from := known * prefixBlock; from+prefixBlock <= len(tokens) && p.room(); from += prefixBlock {
		data, err := ort.NewTensor(ort.Uint8, p.size)
		if err != nil {
			break
		}
		above := p.end(path)
		b := &block{tokens: [prefixBlock]int32(tokens[from:]), above: above, data: data, used: p.now}
		b.place = p.recent.PushFront(b)
		if above.below == nil {
			above.below = map[[prefixBlock]int32]*block{}
		}
		above.below[b.tokens] = b
		p.stats.Bytes += p.size
		path = append(path, b)
	}
	if err := p.fill(path[known:], known*prefixBlock, c); err != nil {
		for _, b := range slices.Backward(path[known:]) {
			p.drop(b)
		}
		path = path[:known]
	}
	p.use(path)
}

// fill copies keys and values of the tokens from one on to blocks.
func (p *prefixCache) fill(blocks []*block, from int, c *cache) error {
	if len(blocks) == 0 {
		return nil
	}
	for i := range c.past {
		err := c.read(i, from, from+len(blocks)*prefixBlock, func(head int, span []byte) {
			for _, b := range blocks {
				span = span[copy(p.kept(b, i, head), span):]
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// room drops what was used longest ago until another block fits, if that can be without dropping what is in
// use now.
func (p *prefixCache) room() bool {
	for p.stats.Bytes+p.size > p.limit {
		last := p.recent.Back()
		if last == nil || last.Value.(*block).used == p.now {
			return false
		}
		p.drop(last.Value.(*block))
		p.stats.Evicted++
	}
	return true
}

// drop takes out a block that has none below: those would have been used longer ago.
func (p *prefixCache) drop(b *block) {
	delete(b.above.below, b.tokens)
	p.recent.Remove(b.place)
	b.data.Close()
	p.stats.Bytes -= p.size
}
