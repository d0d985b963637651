package serve

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// Guard lets only those pass whom authorize takes. With nil it lets everybody.
func Guard(next http.Handler, authorize func(user, password string) bool) http.Handler {
	if authorize == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || !authorize(user, password) {
			refuseBody(w, r)
			w.Header().Set("WWW-Authenticate", `Basic realm="krtpkg"`)
			fail(w, r, &problem{http.StatusUnauthorized, "UNAUTHORIZED", "log in"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Passwords reads Apache's file of users (httpd.apache.org/docs/2.4/misc/password_encryptions.html),
// of which only bcrypt's hashes are taken, and gives what [Guard] asks.
func Passwords(r io.Reader) (authorize func(user, password string) bool, err error) {
	p := &passwords{hashes: map[string][]byte{}}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("line %d: user %q has no bcrypt hash: make it with htpasswd -B", n, user)
		}
		p.hashes[user], p.nobody = []byte(hash), []byte(hash)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(p.hashes) == 0 {
		return nil, errors.New("it names no user")
	}
	return p.authorize, nil
}

type passwords struct {
	hashes map[string][]byte
	// nobody is compared with for users that are not there, which takes as long.
	nobody []byte
	// right are the logins that were right: bcrypt is slow, and each request has one.
	right sync.Map
	// mu lets one login at a time be compared: whoever guesses takes no more than one CPU.
	mu sync.Mutex
}

func (p *passwords) authorize(user, password string) bool {
	login := sha256.Sum256([]byte(user + "\x00" + password))
	if _, ok := p.right.Load(login); ok {
		return true
	}
	hash, known := p.hashes[user]
	if !known {
		hash = p.nobody
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !known {
		return false
	}
	p.right.Store(login, true)
	return true
}
