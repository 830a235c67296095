package tokenizer

import (
	"fmt"
	"unicode/utf8"
)

// A vocabulary maps ids to what they stand for and spellings to ids.
type vocabulary struct {
	ids  *spellings
	info []tokenInfo // by id
	// bytes holds what all tokens stand for, one after the other; tokenInfo.end
	// tells where each ends. Empty unless the tokenizer is byte-level.
	bytes string

	numbers []uint32 // of entries, by id, 0 for none; while the vocabulary is made
}

type tokenInfo struct {
	end     uint32
	known   bool // some token has this id
	special bool
	added   bool // among added_tokens
	whole   bool // its bytes are whole characters
}

// add notes that token has the id.
func (v *vocabulary) add(token string, id int32) error {
	if id < 0 || id >= maxTokens {
		return fmt.Errorf("model.vocab: token %q has the id %d, outside 0 to %d", token, id, maxTokens-1)
	}
	if v.known(id) {
		return fmt.Errorf("model.vocab: two tokens have the id %d", id)
	}
	number, ok := v.ids.add(token, id)
	if !ok {
		return fmt.Errorf("model.vocab: token %q has two ids", token)
	}
	v.reach(id)
	v.info[id].known = true
	v.numbers[id] = number
	return nil
}

// reach makes room for an id.
func (v *vocabulary) reach(id int32) {
	if n := int(id) + 1 - len(v.info); n > 0 {
		v.info = append(v.info, make([]tokenInfo, n)...)
		v.numbers = append(v.numbers, make([]uint32, n)...)
	}
}

// complete adds added tokens to a vocabulary whose own tokens have their places, and what tokens stand for.
func (v *vocabulary) complete(d *definition) error {
	if err := d.addTo(v.ids); err != nil {
		return err
	}
	for _, t := range d.AddedTokens {
		v.reach(t.ID)
		v.info[t.ID].known, v.info[t.ID].special, v.info[t.ID].added = true, t.Special, true
		v.numbers[t.ID], _ = v.ids.add(t.Content, t.ID) // it is there
	}
	if d.byteLevel() {
		v.fillBytes()
	}
	return nil
}

func (v *vocabulary) fillBytes() {
	b := make([]byte, 0, len(v.ids.text)) // a spelling has at least the bytes that it stands for
	for id := range v.numbers {
		start := len(b)
		b = appendByteLevel(b, v.spelling(id))
		v.info[id].end = uint32(len(b))
		v.info[id].whole = utf8.Valid(b[start:])
	}
	v.bytes = string(b)
}

// spelling is that of the token with an id, while the vocabulary is made.
func (v *vocabulary) spelling(id int) []byte {
	if id >= len(v.numbers) || v.numbers[id] == 0 {
		return nil
	}
	return v.ids.spelling(v.numbers[id])
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

// appendByteLevel appends the bytes that a spelling of byte-level BPE stands for.
// GPT-2's code (encoder.py, bytes_to_unicode) spells each byte as one printable
// character: itself where it is one in Latin-1, else the next from U+0100 on. A
// spelling with any other character stands for itself, as in the library.
func appendByteLevel(out, spelling []byte) []byte {
	start := len(out)
	for _, r := range string(spelling) {
		b, ok := byteOf(r)
		if !ok {
			return append(out[:start], spelling...)
		}
		out = append(out, b)
	}
	return out
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

// runeOf is GPT-2's bytes_to_unicode.
func runeOf(b byte) rune {
	switch {
	case b <= ' ':
		return 0x100 + rune(b)
	case 0x7f <= b && b <= 0xa0:
		return 0x121 + rune(b) - 0x7f
	case b == 0xad:
		return 0x143
	}
	return rune(b)
}
