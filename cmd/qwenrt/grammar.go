package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/grammar"
)

// grammarFlags say what form an answer has.
func grammarFlags() []cli.Flag {
	return []cli.Flag{
		boolFlag("json-object", "answer with a JSON object"),
		&cli.StringFlag{Name: "json-schema", Usage: "answer with JSON that satisfies `SCHEMA`: a file, or the schema itself"},
		&cli.StringFlag{Name: "regex", Usage: "answer with text that `PATTERN` matches as a whole, in Go's syntax"},
		&cli.StringFlag{Name: "json-space", Usage: "white space in such JSON: compact, or flexible for what the model likes", Value: "compact"},
		boolFlag("json-any-order", "let properties come in any order, not just the schema's"),
	}
}

// maxSchemaFile is what package grammar takes, and more.
const maxSchemaFile = 2 << 20

// constraintOf reads the flags, before a model is there, and gives what makes a constraint for one: nil where none
// is asked for.
func constraintOf(c *cli.Context) (func(*runner.Runner) (runner.Constraint, error), error) {
	spaces := map[string]grammar.Space{"compact": grammar.Compact, "flexible": grammar.Flexible}
	space, ok := spaces[c.String("json-space")]
	if !ok {
		return nil, commandUsage(c, "--json-space is %q: want compact or flexible", c.String("json-space"))
	}
	o := grammar.Options{Space: space, AnyOrder: c.Bool("json-any-order")}
	var g *grammar.Grammar
	var err error
	switch object, schema, regex := c.Bool("json-object"), c.IsSet("json-schema"), c.IsSet("regex"); {
	case object && schema || object && regex || schema && regex:
		return nil, commandUsage(c, "--json-object, --json-schema and --regex exclude each other")
	case !object && !schema && (c.IsSet("json-space") || c.Bool("json-any-order")):
		return nil, commandUsage(c, "--json-space and --json-any-order are for --json-object and --json-schema")
	case object:
		g, err = grammar.JSONObject(o)
	case schema:
		var text []byte
		if text, err = schemaText(c.String("json-schema")); err == nil {
			g, err = grammar.Schema(text, o)
		}
		err = within("--json-schema", err)
	case regex:
		g, err = grammar.Regexp(c.String("regex"), o)
		err = within("--regex", err)
	default:
		return func(*runner.Runner) (runner.Constraint, error) { return nil, nil }, nil
	}
	if err != nil {
		return nil, err
	}
	return func(r *runner.Runner) (runner.Constraint, error) { return r.Constrain(g) }, nil
}

func within(flag string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", flag, err)
}

// schemaText is the flag's value if that is JSON, else the contents of the file of that name.
func schemaText(flag string) ([]byte, error) {
	if text := strings.TrimSpace(flag); strings.HasPrefix(text, "{") || text == "true" || text == "false" {
		return []byte(text), nil
	}
	st, err := os.Stat(flag)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s, and a schema begins with {", flag)
	}
	if err != nil {
		return nil, err
	}
	if st.Size() > maxSchemaFile {
		return nil, fmt.Errorf("%s is larger than %s", flag, bytesText(maxSchemaFile))
	}
	return os.ReadFile(flag)
}
