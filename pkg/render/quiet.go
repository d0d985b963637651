package render

import (
	"bytes"
	"io"
	"log"
	"os"
	"strings"
	"sync"
)

var logging struct {
	sync.Mutex
	quiet int
	to    io.Writer
	said  bytes.Buffer
}

// said collects what an engine writes by package log.
type said struct{}

// maxSaid bounds what is kept of it.
const maxSaid = 64 << 10

// Write implements [io.Writer].
func (said) Write(p []byte) (int, error) {
	logging.Lock()
	defer logging.Unlock()
	if logging.said.Len()+len(p) <= maxSaid {
		logging.said.Write(p)
	}
	return len(p), nil
}

// quietly runs an engine that warns through package log, whether it is asked to or not: a
// library does not write to standard error. It gives the lines that the engine would have written;
// of engines that run at the same time, one gets those of all.
func quietly(run func()) (warnings []string) {
	logging.Lock()
	if logging.quiet++; logging.quiet == 1 {
		logging.to = log.Writer()
		log.SetOutput(said{})
	}
	logging.Unlock()
	defer func() {
		logging.Lock()
		defer logging.Unlock()
		if logging.quiet--; logging.quiet == 0 {
			log.SetOutput(logging.to)
			for line := range strings.Lines(logging.said.String()) {
				warnings = append(warnings, strings.TrimSpace(line))
			}
			logging.said.Reset()
		}
	}()
	run()
	return nil
}

// muteStderr keeps kustomize's warnings off standard error until its result is called: it prints those
// of fields that are deprecated with no way to stop it, and they are notes before it runs. Who calls it
// holds kustomizeAtATime.
func muteStderr() (restore func()) {
	nowhere, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return func() {}
	}
	before := os.Stderr
	os.Stderr = nowhere
	return func() {
		os.Stderr = before
		nowhere.Close()
	}
}
