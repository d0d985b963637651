package render

import "fmt"

// recoverEngine turns what an engine panics with into an error: no input may end the program. It must be
// deferred.
func recoverEngine(engine string, err *error) {
	if problem := recover(); problem != nil {
		*err = fmt.Errorf("%s failed: %v", engine, problem)
	}
}
