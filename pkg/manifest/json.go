package manifest

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// PlainJSON rewrites the escapes of JSON that YAML does not have, in strings and nowhere else: an
// escaped slash, and characters beyond the Basic Multilingual Plane, which JSON writes as two
// surrogates (RFC 8259, section 7). What is not JSON, or has none of them, is given back as it is.
func PlainJSON(data []byte) []byte {
	if !bytes.Contains(data, []byte(`\/`)) && !bytes.Contains(bytes.ToLower(data), []byte(`\ud`)) || !json.Valid(data) {
		return data
	}
	out := make([]byte, 0, len(data))
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' { // which stands in strings only
			out = append(out, data[i])
			continue
		}
		if data[i+1] == '/' {
			out = append(out, '/')
			i++
			continue
		}
		if both := utf16.DecodeRune(decodeUTF16Escape(data[i:]), decodeUTF16Escape(data[min(i+6, len(data)):])); both != utf8.RuneError {
			out = utf8.AppendRune(out, both)
			i += 11
			continue
		}
		out = append(out, data[i], data[i+1])
		i++
	}
	return out
}

// decodeUTF16Escape returns the UTF-16 code unit of an escape, or 0 if it is not one.
func decodeUTF16Escape(data []byte) rune {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0
	}
	n, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	if err != nil {
		return 0
	}
	return rune(n)
}
