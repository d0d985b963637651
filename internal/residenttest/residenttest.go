// Package residenttest has one process of a program run many commands of a test, one after the other: the start of a large
// program takes longer than most of what tests do with it.
//
// A test calls [Start] and runs [Resident.Client] with [Resident.Env]; the process that this starts calls [Serve]. Each
// command has its own arguments, environment, folder and standard streams. A command runs as a process of its own, as it
// does elsewhere, if another one is running, if it has a terminal, or if its environment differs in what a program reads only
// once, and all do after one that panicked. So does one that a test sends signals to: it starts the program itself.
package residenttest

import "strings"

// The client finds the process, and the program that it is otherwise, in these variables.
const (
	addressVariable = "KRTPKG_TEST_RESIDENT"
	programVariable = "KRTPKG_TEST_PROGRAM"
)

// readOnce are prefixes of variables that the runtime and libraries read once in the life of a process.
var readOnce = []string{
	"GO", "TZ=", "HOME=", "XDG_", "DOCKER_", "SSL_CERT_", "HTTP_PROXY=", "HTTPS_PROXY=", "NO_PROXY=",
	"http_proxy=", "https_proxy=", "no_proxy=", "OTEL_", "KRTPKG_TEST_",
}

// isReadOnce reports whether a variable, NAME=VALUE, is read once.
func isReadOnce(variable string) bool {
	for _, prefix := range readOnce {
		if strings.HasPrefix(variable, prefix) {
			return true
		}
	}
	return false
}

// pickReadOnce returns the variables of an environment that are read once; the last value counts.
func pickReadOnce(env []string) map[string]string {
	picked := map[string]string{}
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		if isReadOnce(variable) && name != addressVariable && name != programVariable {
			picked[name] = value
		}
	}
	return picked
}
