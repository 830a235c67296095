package chat

import (
	"fmt"
	"slices"
	"strings"
)

// Names that the rewritten source uses; a template that contains the prefix is
// refused, so none of them can be shadowed.
const (
	reservedPrefix = "qwenrt_"

	printFilter   = reservedPrefix + "print"   // str(), as Python spells values
	jsonFilter    = reservedPrefix + "json"    // json.dumps(ensure_ascii=False)
	replaceFilter = reservedPrefix + "replace" // str.replace with a bound
	numberFilter  = reservedPrefix + "number"  // the value, which must be a number

	turnFunc  = reservedPrefix + "turn"  // one turn of a loop
	enterFunc = reservedPrefix + "enter" // a macro's body begins
	leaveFunc = reservedPrefix + "leave" // a macro's body ends
	boundFunc = reservedPrefix + "bound" // an assigned value, and what holds it

	ignored = reservedPrefix + "_"
)

// mutators are the methods that change a list or a dict in place. The sandbox in
// which transformers renders templates (jinja2.sandbox.ImmutableSandboxedEnvironment)
// refuses them too. Without them a value cannot come to contain itself.
var mutators = []string{
	"append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update",
}

// statements the engine understands. An unknown one is refused by name here.
var statements = []string{
	"if", "elif", "else", "endif", "for", "endfor", "set", "endset", "macro", "endmacro", "call", "endcall",
	"filter", "endfilter", "break", "continue", "generation", "endgeneration",
}

// rewriter writes the engine's source for a template. All text goes through
// output tags, so the engine finds no white space to settle.
type rewriter struct {
	out    strings.Builder
	blocks []block
}

// A block is an open statement that a later statement closes.
type block struct {
	keyword string
	target  string // of a set block
	line    int
}

// rewrite returns the source to give to the engine for a template.
func rewrite(source string) (string, error) {
	if len(source) > maxSource {
		return "", fmt.Errorf("template has %d bytes: the limit is %d", len(source), maxSource)
	}
	if strings.Contains(source, reservedPrefix) {
		return "", fmt.Errorf("template uses the reserved prefix %q", reservedPrefix)
	}
	segments, err := split(source)
	if err != nil {
		return "", err
	}
	var r rewriter
	for _, s := range segments {
		if err := r.segment(s); err != nil {
			return "", fmt.Errorf("line %d: %w", s.line, err)
		}
	}
	if n := len(r.blocks); n > 0 {
		return "", fmt.Errorf("line %d: %s is not closed", r.blocks[n-1].line, r.blocks[n-1].keyword)
	}
	return r.out.String(), nil
}

func (r *rewriter) segment(s segment) error {
	switch s.kind {
	case textSegment:
		r.out.WriteString("{{ " + quote(s.text) + " | " + printFilter + " }}")
		return nil
	case outputSegment:
		expr, err := expression(s.tokens)
		if err != nil {
			return err
		}
		r.out.WriteString("{{ (" + expr + ") | " + printFilter + " }}")
		return nil
	}
	return r.statement(s)
}

func (r *rewriter) statement(s segment) error {
	if len(s.tokens) == 0 || s.tokens[0].kind != nameToken || !slices.Contains(statements, s.tokens[0].text) {
		return fmt.Errorf("unsupported statement %q", spell(s.tokens))
	}
	text, err := expression(s.tokens)
	if err != nil {
		return err
	}
	keyword := s.tokens[0].text
	if opened, ok := strings.CutPrefix(keyword, "end"); ok {
		return r.end(opened, text)
	}
	r.out.WriteString("{% " + text + " %}")
	switch keyword {
	case "set":
		return r.set(s)
	case "for":
		r.call(turnFunc)
	case "macro", "call":
		r.call(enterFunc)
	case "elif", "else", "break", "continue":
		return nil
	}
	return r.open(block{keyword: keyword, line: s.line})
}

func (r *rewriter) open(b block) error {
	if len(r.blocks) == maxBlocks {
		return fmt.Errorf("more than %d nested blocks", maxBlocks)
	}
	r.blocks = append(r.blocks, b)
	return nil
}

func (r *rewriter) end(keyword, text string) error {
	n := len(r.blocks)
	if n == 0 || r.blocks[n-1].keyword != keyword {
		return fmt.Errorf("unexpected %s", text)
	}
	closed := r.blocks[n-1]
	r.blocks = r.blocks[:n-1]
	if keyword == "macro" || keyword == "call" {
		r.call(leaveFunc)
	}
	r.out.WriteString("{% " + text + " %}")
	if closed.target != "" {
		r.call(boundFunc, closed.target)
	}
	return nil
}

// set follows an assignment with a check of the value's size, and opens a block
// for the form that has a body. The engine takes one name, or one attribute of a
// namespace, as the target.
func (r *rewriter) set(s segment) error {
	t := s.tokens[1:]
	isName := func(i int) bool { return i < len(t) && t[i].kind == nameToken }
	isSymbol := func(i int, text string) bool { return i < len(t) && t[i].is(text) }
	switch {
	case isName(0) && len(t) == 1:
		return r.open(block{keyword: "set", target: t[0].text, line: s.line})
	case isName(0) && isSymbol(1, "="):
		r.call(boundFunc, t[0].text)
		return nil
	case isName(0) && isSymbol(1, ".") && isName(2) && isSymbol(3, "="):
		r.call(boundFunc, t[0].text+"."+t[2].text, t[0].text)
		return nil
	}
	return fmt.Errorf("unsupported assignment %q", spell(s.tokens))
}

// call writes a statement that calls one of the meter's functions.
func (r *rewriter) call(function string, args ...string) {
	r.out.WriteString("{% set " + ignored + " = " + function + "(" + strings.Join(args, ", ") + ") %}")
}

// expression spells tokens for the engine.
func expression(tokens []token) (string, error) {
	var b strings.Builder
	for i, t := range tokens {
		var before, after token
		if i > 0 {
			before = tokens[i-1]
		}
		if i+1 < len(tokens) {
			after = tokens[i+1]
		}
		word, err := spellToken(before, t, after)
		if err != nil {
			return "", err
		}
		// The engine wants the target of an assignment in one piece, as in ns.x.
		if i > 0 && !before.is(".") && !t.is(".") {
			b.WriteByte(' ')
		}
		b.WriteString(word)
	}
	return b.String(), nil
}

func spellToken(before, t, after token) (string, error) {
	switch {
	case t.kind == stringToken:
		return quote(t.text), nil
	case before.is("|") && t.text == "tojson":
		return jsonFilter, nil
	case before.is("|") && t.text == "replace", before.is(".") && t.text == "replace":
		return replaceFilter, nil
	case t.is(".") && after.kind == nameToken && after.text == "replace":
		// A method and a filter bind alike: x.replace(a, b) is x|replace(a, b).
		return "|", nil
	case before.is(".") && slices.Contains(mutators, t.text):
		return "", fmt.Errorf("a template may not change a list or dict (%s)", t.text)
	case t.is("*"):
		// Repeating a string is the cheapest way to ask for all memory; no
		// published template does it. The filter binds to the left operand.
		return "| " + numberFilter + " *", nil
	}
	return t.text, nil
}

// quote spells a string for the engine, which knows these escapes only.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

// spell returns tokens as an error shows them.
func spell(tokens []token) string {
	words := make([]string, len(tokens))
	for i, t := range tokens {
		words[i] = t.text
	}
	text := strings.Join(words, " ")
	if len(text) > 60 {
		text = text[:60] + "..."
	}
	return text
}
