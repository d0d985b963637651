package render

import (
	"io"
	"log"
	"sync"
)

var logging struct {
	sync.Mutex
	quiet int
	to    io.Writer
}

// quietly runs an engine that warns through package log, whether it is asked to or not: a
// library does not write to standard error.
func quietly(run func()) {
	logging.Lock()
	if logging.quiet++; logging.quiet == 1 {
		logging.to = log.Writer()
		log.SetOutput(io.Discard)
	}
	logging.Unlock()
	defer func() {
		logging.Lock()
		defer logging.Unlock()
		if logging.quiet--; logging.quiet == 0 {
			log.SetOutput(logging.to)
		}
	}()
	run()
}
