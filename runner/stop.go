package runner

import "strings"

// stops finds stop strings in a text that comes in pieces. The one that ends first counts, however the text
// is cut.
type stops struct {
	list []string
	held string // the end of the text so far, which may begin a stop string

	stopped bool
}

// next takes a piece and gives what can be shown by now, and whether a stop string has ended the text.
func (s *stops) next(piece string) (show string, stopped bool) {
	if len(s.list) == 0 || piece == "" {
		return piece, false
	}
	text := s.held + piece
	s.held = ""
	first, end := 0, len(text)+1
	for _, stop := range s.list {
		if at := strings.Index(text, stop); at >= 0 && (at+len(stop) < end || at+len(stop) == end && at < first) {
			first, end = at, at+len(stop)
		}
	}
	if end <= len(text) {
		s.stopped = true
		return text[:first], true
	}
	keep := len(text) - s.begun(text)
	s.held = text[keep:]
	return text[:keep], false
}

// begun is the length of the longest end of text that begins a stop string.
func (s *stops) begun(text string) int {
	longest := 0
	for _, stop := range s.list {
		for n := min(len(text), len(stop)-1); n > longest; n-- {
			if strings.HasSuffix(text, stop[:n]) {
				longest = n
				break
			}
		}
	}
	return longest
}

// rest ends the text and gives what was held back.
func (s *stops) rest() string {
	held := s.held
	s.held = ""
	return held
}
