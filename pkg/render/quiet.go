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
	to     io.Writer
	quiets map[*bytes.Buffer]bool // of the engines that run
}

// logCollector collects what engines write by package log.
type logCollector struct{}

// maxSaid bounds what is kept of it.
const maxSaid = 64 << 10

// Write implements [io.Writer].
func (logCollector) Write(p []byte) (int, error) {
	logging.Lock()
	defer logging.Unlock()
	for kept := range logging.quiets {
		if kept.Len()+len(p) <= maxSaid {
			kept.Write(p)
		}
	}
	return len(p), nil
}

// captureWarnings runs an engine that warns through package log, whether it is asked to or not: a
// library does not write to standard error. It gives the lines that were written meanwhile: an engine
// that runs at the same time may have written some of them.
func captureWarnings(run func()) (warnings []string) {
	kept := &bytes.Buffer{}
	logging.Lock()
	if len(logging.quiets) == 0 {
		logging.quiets = map[*bytes.Buffer]bool{}
		logging.to = log.Writer()
		log.SetOutput(logCollector{})
	}
	logging.quiets[kept] = true
	logging.Unlock()
	defer func() {
		logging.Lock()
		defer logging.Unlock()
		delete(logging.quiets, kept)
		if len(logging.quiets) == 0 {
			log.SetOutput(logging.to)
		}
		for line := range strings.Lines(kept.String()) {
			warnings = append(warnings, strings.TrimSpace(line))
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
