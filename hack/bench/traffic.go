package main

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
)

// traffic is what passes a registry's front. Its zero value counts from nothing.
type traffic struct {
	requests, sent, received atomic.Int64
}

// passed is traffic at a moment, or between two.
type passed struct {
	requests int64
	// bytes are those of bodies, both ways.
	bytes int64
}

func (t *traffic) passed() passed {
	return passed{t.requests.Load(), t.sent.Load() + t.received.Load()}
}

func (p passed) since(before passed) passed {
	return passed{p.requests - before.requests, p.bytes - before.bytes}
}

func (p passed) String() string {
	if p.requests == 0 {
		return ""
	}
	return fmt.Sprintf("%d, %.2f GB", p.requests, float64(p.bytes)/1e9)
}

// count stands before a registry.
func (t *traffic) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.requests.Add(1)
		r.Body = &countedBody{r.Body, &t.received}
		next.ServeHTTP(&countedAnswer{w, &t.sent}, r)
	})
}

type countedBody struct {
	io.ReadCloser
	bytes *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
	return n, err
}

type countedAnswer struct {
	http.ResponseWriter
	bytes *atomic.Int64
}

func (a *countedAnswer) Write(p []byte) (int, error) {
	n, err := a.ResponseWriter.Write(p)
	a.bytes.Add(int64(n))
	return n, err
}

// Unwrap lets a proxy flush what it passes on.
func (a *countedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
