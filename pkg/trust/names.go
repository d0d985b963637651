package trust

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// A place has many spellings, and rules apply to places: a rule for localhost/** also applies to
// localhost:443, 127.0.0.1 and [::ffff:127.0.0.1]. So names and globs are compared in a canonical
// spelling, in addition to the one that was written.

// nameSpellings returns the names to match with globs: as written, with a lower-case host, and in
// the canonical spelling.
func nameSpellings(name string) []string {
	host, path, hasPath := strings.Cut(name, "/")
	if !hasPath {
		return []string{strings.ToLower(name)} // local
	}
	return []string{strings.ToLower(host) + "/" + path, canonicalHost(host) + "/" + withLibrary(canonicalHost(host), path)}
}

// globSpellings returns the spellings of a glob: as written and, if its host is not a pattern, canonical.
func globSpellings(glob string) []string {
	host, path, hasPath := strings.Cut(glob, "/")
	// The brackets of an IPv6 address are not a character class.
	pattern := host
	if strings.HasPrefix(host, "[") && strings.Contains(host, ":") {
		pattern = strings.NewReplacer("[", "", "]", "").Replace(host)
	}
	if !hasPath || strings.ContainsAny(pattern, `*?[]{}\!`) {
		return []string{glob}
	}
	canonical := canonicalHost(host)
	return []string{glob, strings.NewReplacer("[", `\[`, "]", `\]`).Replace(canonical) + "/" + withLibrary(canonical, path)}
}

// withLibrary returns a path on Docker Hub, whose official images may be named without their folder.
func withLibrary(host, path string) string {
	if host == dockerHub && path != "" && !strings.ContainsAny(path, "/*?[{") {
		return "library/" + path
	}
	return path
}

const dockerHub = "docker.io"

// canonicalHost returns the one spelling of a host with its port.
func canonicalHost(host string) string {
	name, port := host, ""
	if h, p, err := net.SplitHostPort(host); err == nil {
		name, port = h, p
	}
	name = strings.TrimRight(strings.ToLower(strings.Trim(name, "[]")), ".")
	if number, err := strconv.ParseUint(port, 10, 16); err == nil {
		port = strconv.FormatUint(number, 10) // 0443
	}
	if port == "443" || port == "80" { // the defaults, of TLS and without
		port = ""
	}
	addr, err := netip.ParseAddr(name)
	if err != nil {
		addr, err = legacyIPv4(name)
	}
	switch {
	case err == nil && addr.Unmap().WithZone("").IsLoopback():
		name = "localhost" // as every system has it (RFC 6761, 6.3)
	case err == nil:
		name = addr.Unmap().String()
	case name == "index.docker.io", name == "registry-1.docker.io", name == "registry.hub.docker.com":
		name = dockerHub
	default:
		if ascii, err := idna.Lookup.ToASCII(name); err == nil {
			name = ascii
		}
	}
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	if port != "" {
		name += ":" + port
	}
	return name
}

// legacyIPv4 reads an address as inet_aton does, and with it many a resolver: 127.1, 0x7f.0.0.1, 017700000001.
func legacyIPv4(text string) (netip.Addr, error) {
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return netip.Addr{}, strconv.ErrSyntax
	}
	var value uint64
	for i, part := range parts {
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts)) // the last one is all the rest
		}
		if strings.ContainsAny(part, "_+-bo") {
			return netip.Addr{}, strconv.ErrSyntax
		}
		number, err := strconv.ParseUint(part, 0, bits)
		if err != nil {
			return netip.Addr{}, err
		}
		value = value<<bits | number
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), nil
}
