package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// writeEnv prints the lines that a POSIX shell evaluates before it builds and runs programs that use the libraries.
// Linker flags that the user has set stay; those of an earlier env are replaced.
func writeEnv(w io.Writer, root string, set libraries) error {
	flags, err := linkerFlags(os.Getenv("CGO_LDFLAGS"), root, set.tokenizers.path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "export CGO_LDFLAGS=%s\nexport QWENRT_ORT_LIB=%s\n", shellQuote(flags), shellQuote(set.ort.path))
	return err
}

// linkerFlags puts -L for dir behind the flags in old, less those that point below root.
func linkerFlags(old, root, dir string) (string, error) {
	fields, err := splitFlags(old)
	if err != nil {
		return "", fmt.Errorf("CGO_LDFLAGS: %w", err)
	}
	var flags []string
	for _, field := range fields {
		if path, ok := strings.CutPrefix(field, "-L"); !ok || path != dir && !(store{root}).contains(path) {
			flags = append(flags, field)
		}
	}
	flags = append(flags, "-L"+dir)
	for i, flag := range flags {
		if flags[i], err = quoteFlag(flag); err != nil {
			return "", err
		}
	}
	return strings.Join(flags, " "), nil
}

// flagSpace is what the go command takes for white space between flags.
const flagSpace = " \t\n\r"

// splitFlags splits as the go command does with CGO_LDFLAGS: at white space, except inside a field that begins with a
// quote and runs to the next quote of the same kind, without escapes.
func splitFlags(s string) ([]string, error) {
	var fields []string
	for s = strings.TrimLeft(s, flagSpace); s != ""; s = strings.TrimLeft(s, flagSpace) {
		if quote := s[0]; quote == '"' || quote == '\'' {
			end := strings.IndexByte(s[1:], quote)
			if end < 0 {
				return nil, fmt.Errorf("unterminated %c", quote)
			}
			fields, s = append(fields, s[1:1+end]), s[end+2:]
			continue
		}
		end := strings.IndexAny(s, flagSpace)
		if end < 0 {
			end = len(s)
		}
		fields, s = append(fields, s[:end]), s[end:]
	}
	return fields, nil
}

// quoteFlag is the inverse of splitFlags for one field.
func quoteFlag(field string) (string, error) {
	switch {
	case field != "" && !strings.ContainsAny(field, flagSpace+`'"`):
		return field, nil
	case !strings.Contains(field, "'"):
		return "'" + field + "'", nil
	case !strings.Contains(field, `"`):
		return `"` + field + `"`, nil
	}
	return "", fmt.Errorf("CGO_LDFLAGS cannot hold %s: it has both kinds of quotes (set QWENRT_NATIVE_DIR to a plain path)", field)
}

// shellQuote quotes for a POSIX shell, where nothing is special between single quotes but the single quote.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
