package serve

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// Login reports whether a login is right. Client is the address that it comes from. Errors:
// [ErrBusy].
type Login func(ctx context.Context, client, user, password string) (bool, error)

// ErrBusy is the error of a login that would have to wait for too many others.
var ErrBusy = errors.New("too many logins at once")

// RequireLogin refuses requests without a valid login. With nil it accepts all.
func RequireLogin(next http.Handler, login Login) http.Handler {
	if login == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if ok {
			client, _, err := net.SplitHostPort(r.RemoteAddr)
			if err != nil {
				client = r.RemoteAddr
			}
			if ok, err = login(r.Context(), client, user, password); err != nil {
				RefuseBody(w, r)
				w.Header().Set("Retry-After", "1")
				ReplyError(w, r, &Error{Status: http.StatusTooManyRequests, Code: "TOOMANYREQUESTS", Message: "too many logins at once"})
				return
			}
		}
		if !ok {
			RefuseBody(w, r)
			w.Header().Set("WWW-Authenticate", `Basic realm="krtpkg"`)
			ReplyError(w, r, &Error{Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Message: "log in"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// RefuseCrossSite refuses requests that a browser makes for other web sites. With local, only this machine is
// served: then it also refuses other host names, since a site can point its own name to the loopback
// address.
func RefuseCrossSite(next http.Handler, local bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case isOfAnotherSite(r):
			RefuseBody(w, r)
			ReplyError(w, r, &Error{Status: http.StatusForbidden, Code: "DENIED", Message: "access from other sites is not allowed"})
		case local && !isLoopback(r.Host):
			RefuseBody(w, r)
			ReplyError(w, r, &Error{Status: http.StatusForbidden, Code: "DENIED", Message: "this registry is only reachable as localhost"})
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isOfAnotherSite reports whether a page of another site makes a request. Programs that are no
// browsers send neither header (fetch.spec.whatwg.org; w3c.github.io/webappsec-fetch-metadata).
func isOfAnotherSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		return true
	}
	origin, sent := r.Header["Origin"]
	if !sent {
		return false
	}
	u, err := url.Parse(strings.Join(origin, " "))
	return err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host)
}

// isLoopback reports whether a host, with or without a port, is a name of this machine alone.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761, 6.3
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

const (
	// maxWaiting is how many logins wait to be compared, maxWaitingClient how many of them from
	// one address.
	maxWaiting       = 32
	maxWaitingClient = 4
	// maxRight is how many logins that were right are remembered.
	maxRight = 10_000
)

// LoadPasswords reads Apache's file of users (httpd.apache.org/docs/2.4/misc/password_encryptions.html)
// with bcrypt hashes, and returns the login check for [RequireLogin].
//
// Each login that is not known to be right takes the same time, whoever it is for: it is compared
// once with each cost that the file has. One is compared at a time, so that whoever guesses takes
// no more than one CPU, and an address has few that wait.
func LoadPasswords(r io.Reader) (Login, error) {
	p := &passwordLogins{hashes: map[string][]byte{}, dummyHashes: map[int][]byte{}, clients: map[string]int{}, tried: map[[sha256.Size]byte]*loginAttempt{}, right: map[[sha256.Size]byte]bool{}}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, _ := strings.Cut(line, ":")
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil {
			return nil, fmt.Errorf("line %d: user %q has no bcrypt hash: create it with htpasswd -B", n, user)
		}
		p.hashes[user], p.dummyHashes[cost] = []byte(hash), []byte(hash)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(p.hashes) == 0 {
		return nil, errors.New("no users found")
	}
	p.costs = slices.Sorted(maps.Keys(p.dummyHashes))
	return p.checkLogin, nil
}

type passwordLogins struct {
	hashes map[string][]byte
	// costs are the costs of the hashes. dummyHashes has one hash of each cost, to compare with if the user does
	// not exist or has a hash of another cost, so that the time tells nothing.
	costs       []int
	dummyHashes map[int][]byte
	// turn lets one login at a time be compared.
	turn sync.Mutex

	mu sync.Mutex
	// tried are the logins that wait or are compared.
	tried map[[sha256.Size]byte]*loginAttempt
	// waiting are the logins that wait or are compared, clients how many of each address.
	waiting int
	clients map[string]int
	// right are the logins that were right: bcrypt is slow, and each request has one.
	right map[[sha256.Size]byte]bool
}

// loginAttempt is a login that is compared, for all who try the same at once.
type loginAttempt struct {
	done  chan struct{}
	right bool
}

func (p *passwordLogins) checkLogin(ctx context.Context, client, user, password string) (bool, error) {
	login := sha256.Sum256([]byte(user + "\x00" + password))
	tried, known, err := p.startAttempt(client, login, func() bool { return p.comparePassword(user, password) })
	if known || err != nil {
		return known, err
	}
	select {
	case <-tried.done:
		return tried.right, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// startAttempt reports whether a login is known to be right; otherwise it waits for its turn.
func (p *passwordLogins) startAttempt(client string, login [sha256.Size]byte, compare func() bool) (tried *loginAttempt, known bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tried = p.tried[login]
	switch {
	case p.right[login]:
		return nil, true, nil
	case tried != nil:
		return tried, false, nil
	case p.waiting >= maxWaiting || p.clients[client] >= maxWaitingClient:
		return nil, false, ErrBusy
	}
	p.waiting++
	p.clients[client]++
	tried = &loginAttempt{done: make(chan struct{})}
	p.tried[login] = tried
	go func() {
		p.turn.Lock()
		right := compare()
		p.turn.Unlock()
		p.finishAttempt(client, login, right)
	}()
	return tried, false, nil
}

func (p *passwordLogins) finishAttempt(client string, login [sha256.Size]byte, right bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if right && len(p.right) < maxRight {
		p.right[login] = true
	}
	tried := p.tried[login]
	tried.right = right
	close(tried.done)
	delete(p.tried, login)
	p.waiting--
	if p.clients[client]--; p.clients[client] == 0 {
		delete(p.clients, client)
	}
}

// comparePassword takes the same time for every user.
func (p *passwordLogins) comparePassword(user, password string) (right bool) {
	hash, known := p.hashes[user]
	cost := 0
	if known {
		cost, _ = bcrypt.Cost(hash) // it was read before
	}
	for _, c := range p.costs {
		if c == cost {
			right = bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil
		} else {
			_ = bcrypt.CompareHashAndPassword(p.dummyHashes[c], []byte(password))
		}
	}
	return right
}
