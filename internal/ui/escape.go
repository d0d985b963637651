package ui

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Most of what is shown comes from outside, and much of it before anything is verified: tags, names,
// versions, the bodies of errors, what a cluster recorded and its pods said. So all text for people goes
// through this file. What would move the cursor, hide text or change its order is written out, as \x1b
// or \u202e, and a line ends where a format string of this program says so.

// isShown reports whether a terminal shows a character, and nothing but that.
func isShown(r rune) bool {
	return r != utf8.RuneError && !unicode.Is(unicode.Cc, r) && // C0, DEL and C1
		!unicode.Is(unicode.Cf, r) && // bidi marks, zero widths, tags
		!unicode.Is(unicode.Zl, r) && !unicode.Is(unicode.Zp, r) && // ends of lines and paragraphs
		!unicode.Is(unicode.Co, r) && !unicode.Is(unicode.Cs, r)
}

// escapeInvisible writes out the characters of a text that are not shown, but for those that are kept.
func escapeInvisible(text, keep string) string {
	var out strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case isShown(r) || strings.ContainsRune(keep, r), r == utf8.RuneError && size > 1:
			out.WriteString(text[i : i+size])
		case r == utf8.RuneError: // a byte that is C1 to some terminals
			fmt.Fprintf(&out, `\x%02x`, text[i])
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\t':
			out.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&out, `\x%02x`, r)
		case r > 0xffff:
			fmt.Fprintf(&out, `\U%08x`, r)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
		i += size
	}
	return out.String()
}

// EscapeLine returns a text from outside as a part of a line.
func EscapeLine(text string) string { return escapeInvisible(text, "") }

// Sprintf is [fmt.Sprintf] with arguments that stay within their line.
func Sprintf(format string, args ...any) string { return fmt.Sprintf(format, inLine(args)...) }

// Fprintf is [fmt.Fprintf] with arguments that stay within their line.
func Fprintf(w io.Writer, format string, args ...any) { fmt.Fprintf(w, format, inLine(args)...) }

// Fprintln is [fmt.Fprintln] with arguments that stay within their line.
func Fprintln(w io.Writer, args ...any) { fmt.Fprintln(w, inLine(args)...) }

// WriteIndented writes the lines of a text from outside below each other, each behind an indentation that
// nothing else has which could be taken for it.
func WriteIndented(w io.Writer, indent, text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		fmt.Fprintf(w, "%s%s\n", indent, EscapeLine(line))
	}
}

// inLine makes arguments escape themselves. Numbers are left, since some are widths.
func inLine(args []any) []any {
	all := make([]any, len(args))
	for i, arg := range args {
		switch reflect.ValueOf(arg).Kind() {
		case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
			reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
			all[i] = arg
		default:
			all[i] = escapingFormatter{arg, EscapeLine}
		}
	}
	return all
}

// inMessage is inLine for messages, whose errors may have several lines.
func inMessage(args []any) []any {
	all := inLine(args)
	for i, arg := range args {
		if err, is := arg.(error); is {
			all[i] = escapingFormatter{err, func(string) string { return errorText(err) }}
		}
	}
	return all
}

// escapingFormatter formats a value as its verb says and escapes what comes out.
type escapingFormatter struct {
	value  any
	escape func(string) string
}

// Format implements [fmt.Formatter].
func (e escapingFormatter) Format(f fmt.State, verb rune) {
	io.WriteString(f, e.escape(fmt.Sprintf(fmt.FormatString(f, verb), e.value)))
}

// errorText returns an error for people: several that were joined begin a line each, and all other lines are
// indented, so that no part of an error can be taken for a message of its own.
func errorText(err error) string {
	for inner := errors.Unwrap(err); inner != nil && inner.Error() == err.Error(); inner = errors.Unwrap(err) {
		err = inner
	}
	if many, is := err.(interface{ Unwrap() []error }); is {
		if all := many.Unwrap(); errors.Join(all...).Error() == err.Error() {
			texts := make([]string, len(all))
			for i, one := range all {
				texts[i] = errorText(one)
			}
			return strings.Join(texts, "\n")
		}
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = EscapeLine(line)
		if i > 0 && !strings.HasPrefix(line, "  ") {
			lines[i] = "  " + lines[i]
		}
	}
	return strings.Join(lines, "\n")
}

// visibleWriter makes what is written visible. It keeps the ends of lines, and the bytes of a
// character that is not complete.
type visibleWriter struct {
	out  io.Writer
	rest []byte
}

func (v *visibleWriter) Write(p []byte) (int, error) {
	all := append(v.rest, p...)
	whole := len(all)
	for back := 1; back <= min(len(all), utf8.UTFMax); back++ {
		if b := all[len(all)-back]; utf8.RuneStart(b) {
			if !utf8.FullRune(all[len(all)-back:]) {
				whole = len(all) - back
			}
			break
		}
	}
	v.rest = append([]byte(nil), all[whole:]...)
	_, err := io.WriteString(v.out, escapeInvisible(string(all[:whole]), "\n\t"))
	return len(p), err
}

// flushRest writes what never became a character.
func (v *visibleWriter) flushRest() error {
	_, err := io.WriteString(v.out, escapeInvisible(string(v.rest), "\n\t"))
	v.rest = nil
	return err
}
