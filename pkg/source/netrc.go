package source

import "strings"

// Logins gives the login for a host, as [ParseNetrc] reads it.
type Logins func(host string) (user, password string, ok bool)

// ParseNetrc reads a file of logins as curl and git have it (gnu.org/software/inetutils, "The .netrc
// file"): the first machine of a name counts. The entry default is left out: it would go to any host.
func ParseNetrc(text string) Logins {
	type login struct{ user, password string }
	all := map[string]*login{}
	var current *login
	words := netrcWords(text)
	for i := 0; i < len(words); i++ {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch words[i] {
		case "machine":
			host := strings.ToLower(value)
			current = &login{}
			if all[host] == nil {
				all[host] = current
			}
			i++
		case "default":
			current = nil
		case "login", "password", "account":
			if current != nil && words[i] == "login" {
				current.user = value
			}
			if current != nil && words[i] == "password" {
				current.password = value
			}
			i++
		}
	}
	return func(host string) (user, password string, ok bool) {
		l := all[strings.ToLower(host)]
		if l == nil {
			return "", "", false
		}
		return l.user, l.password, true
	}
}

// netrcWords returns the words of a file without its comments and macros.
func netrcWords(text string) (words []string) {
	inMacro := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
			inMacro = false
		case inMacro || strings.HasPrefix(fields[0], "#"):
		case fields[0] == "macdef":
			inMacro = true
		default:
			words = append(words, fields...)
		}
	}
	return words
}
