package cli

// stoppedError is the error of what ends only by an interrupt, or had done nothing yet: nothing goes on when it is run
// again.
type stoppedError struct{ error }

func (e *stoppedError) Unwrap() error { return e.error }

func asStopped(err error) error {
	if err == nil {
		return nil
	}
	return &stoppedError{err}
}
