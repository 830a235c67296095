package grammar

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ErrVocabulary is wrapped by the error of NewVocabulary.
var ErrVocabulary = errors.New("grammar: unusable vocabulary")

// The bounds of a vocabulary, far above those of published ones.
const (
	maxTokens      = 1 << 22
	maxTokenLength = 1 << 12
)

// A Vocabulary is the tokens of a model as a trie of their bytes. It may be shared.
type Vocabulary struct {
	tokens []string   // by id; "" where a token is never allowed
	nodes  []trieNode // in preorder; the first is the root
	depth  int        // of the deepest node
	twins  map[int32][]int32

	mu      sync.Mutex
	letters map[string]*letters // by the spelling of the term
}

// A trieNode stands for the bytes on the way to it from the root.
type trieNode struct {
	end    int32 // the node behind the last one below this
	token  int32 // of these bytes, -1 if none has them; the others that have them are twins
	depth  uint16
	b      byte
	shared bool // token has twins
}

// NewVocabulary makes a vocabulary of the token ids from 0 to size-1. bytes gives what a token stands for;
// false, or no bytes, for one that is not text, such as the end token: it is never allowed.
func NewVocabulary(size int, bytes func(id int32) (string, bool)) (*Vocabulary, error) {
	if size < 0 || size > maxTokens {
		return nil, fmt.Errorf("%w: %d tokens, want at most %d", ErrVocabulary, size, maxTokens)
	}
	v := &Vocabulary{tokens: make([]string, size), twins: map[int32][]int32{}, letters: map[string]*letters{}}
	ids := make([]int32, 0, size)
	for i := range v.tokens {
		text, ok := bytes(int32(i))
		if !ok || text == "" {
			continue
		}
		if len(text) > maxTokenLength {
			return nil, fmt.Errorf("%w: token %d has %d bytes, want at most %d", ErrVocabulary, i, len(text), maxTokenLength)
		}
		v.tokens[i] = text
		ids = append(ids, int32(i))
	}
	slices.SortFunc(ids, func(x, y int32) int { return cmp.Or(cmp.Compare(v.tokens[x], v.tokens[y]), cmp.Compare(x, y)) })
	v.build(ids)
	v.prepare()
	return v, nil
}

// Size returns the number of token ids.
func (v *Vocabulary) Size() int { return len(v.tokens) }

// build makes the trie of sorted tokens.
func (v *Vocabulary) build(ids []int32) {
	v.nodes = append(v.nodes, trieNode{token: -1})
	path := []int32{0} // the nodes to the token before
	before := ""
	for _, token := range ids {
		text := v.tokens[token]
		if text == before {
			n := &v.nodes[path[len(path)-1]]
			n.shared = true
			v.twins[n.token] = append(v.twins[n.token], token)
			continue
		}
		same := 0
		for same < len(before) && before[same] == text[same] { // text is no prefix of what is sorted before it
			same++
		}
		path = v.close(path, same)
		for i := same; i < len(text); i++ {
			path = append(path, int32(len(v.nodes)))
			v.nodes = append(v.nodes, trieNode{token: -1, depth: uint16(i + 1), b: text[i]})
		}
		v.nodes[len(v.nodes)-1].token = token
		v.depth = max(v.depth, len(text))
		before = text
	}
	v.close(path, -1)
}

// close ends the nodes of a path that are deeper than depth.
func (v *Vocabulary) close(path []int32, depth int) []int32 {
	for len(path)-1 > depth {
		v.nodes[path[len(path)-1]].end = int32(len(v.nodes))
		path = path[:len(path)-1]
	}
	return path
}

// eachToken calls f with the tokens of a node.
func (v *Vocabulary) eachToken(n *trieNode, f func(token int32)) {
	if n.token < 0 {
		return
	}
	f(n.token)
	if n.shared {
		for _, twin := range v.twins[n.token] {
			f(twin)
		}
	}
}
