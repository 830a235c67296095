package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A vocabulary maps ids to what they stand for and spellings to ids.
type vocabulary struct {
	ids  map[string]int32
	info []tokenInfo // by id
	// bytes holds what all tokens stand for, one after the other; tokenInfo.end
	// tells where each ends. Empty unless the tokenizer is byte-level.
	bytes string
}

type tokenInfo struct {
	end     uint32
	known   bool // some token has this id
	special bool
	added   bool // among added_tokens
	whole   bool // its bytes are whole characters
}

func newVocabulary(d *definition) (vocabulary, error) {
	ids, err := d.parseVocab()
	if err != nil {
		return vocabulary{}, err
	}
	if err := d.addTo(ids); err != nil {
		return vocabulary{}, err
	}
	size := int32(0)
	for _, id := range ids {
		size = max(size, id+1)
	}
	v := vocabulary{ids: ids, info: make([]tokenInfo, size)}
	for _, id := range ids {
		v.info[id].known = true
	}
	for _, t := range d.AddedTokens {
		v.info[t.ID].special = t.Special
		v.info[t.ID].added = true
	}
	if d.byteLevel() {
		v.fillBytes()
	}
	return v, nil
}

func (v *vocabulary) fillBytes() {
	spelling := make([]string, len(v.info))
	length := 0
	for token, id := range v.ids {
		spelling[id] = token
		length += len(token)
	}
	var b strings.Builder
	b.Grow(length)
	for id, token := range spelling {
		start := b.Len()
		b.WriteString(byteLevelBytes(token))
		v.info[id].end = uint32(b.Len())
		v.info[id].whole = utf8.ValidString(b.String()[start:])
	}
	v.bytes = b.String()
}

func (v *vocabulary) known(id int32) bool {
	return id >= 0 && int(id) < len(v.info) && v.info[id].known
}

// token returns the bytes of a known id.
func (v *vocabulary) token(id int32) string {
	start := uint32(0)
	if id > 0 {
		start = v.info[id-1].end
	}
	return v.bytes[start:v.info[id].end]
}

// byteLevelBytes returns the bytes that a spelling of byte-level BPE stands for.
// GPT-2's code (encoder.py, bytes_to_unicode) spells each byte as one printable
// character: itself where it is one in Latin-1, else the next from U+0100 on. A
// spelling with any other character stands for itself, as in the library.
func byteLevelBytes(spelling string) string {
	out := make([]byte, 0, len(spelling))
	for _, r := range spelling {
		b, ok := byteOf(r)
		if !ok {
			return spelling
		}
		out = append(out, b)
	}
	return string(out)
}

// byteOf is the inverse of GPT-2's bytes_to_unicode. The bytes that are spelled
// from U+0100 on are, in order: 0x00-0x20, 0x7f-0xa0 and 0xad.
func byteOf(r rune) (byte, bool) {
	switch {
	case '!' <= r && r <= '~', '¡' <= r && r <= '¬', '®' <= r && r <= 'ÿ':
		return byte(r), true
	case 0x100 <= r && r <= 0x120:
		return byte(r - 0x100), true
	case 0x121 <= r && r <= 0x142:
		return byte(r - 0x121 + 0x7f), true
	case r == 0x143:
		return 0xad, true
	}
	return 0, false
}
