package serve_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"krtpkg.dev/krtpkg/pkg/serve"
)

func hash(t *testing.T, password string) string {
	t.Helper()
	data, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	file := "# users\n\na:" + hash(t, "right") + "\n  b:" + hash(t, "") + "\n"
	authorize, err := serve.LoadPasswords(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // all at once, and again when the right ones are known
		var all sync.WaitGroup
		for login, want := range map[[2]string]bool{
			{"a", "right"}: true, {"a", "wrong"}: false, {"a", ""}: false, {"b", ""}: true, {"b", "right"}: false,
			{"nobody", "right"}: false, {"nobody", ""}: false, {"", ""}: false, {"a", strings.Repeat("x", 100)}: false, {"# users", ""}: false,
		} {
			all.Go(func() {
				if got, err := authorize(t.Context(), fmt.Sprint(login), login[0], login[1]); got != want || err != nil {
					t.Errorf("%q: %v, %v", login, got, err)
				}
			})
		}
		all.Wait()
	}
	for text, want := range map[string]string{
		"":                                "no users found",
		"a:secret":                        `line 1: user "a" has no bcrypt hash`,
		"\na:$apr1$x$y":                   `line 2: user "a"`,
		"a":                               `line 1: user "a"`,
		"a:" + strings.Repeat("x", 1<<20): "too long",
	} {
		if _, err := serve.LoadPasswords(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	store := newLayout(t)
	addBundle(t, store, "edge", "1.0.0", nil)
	handler, err := serve.NewServer(t.Context(), []serve.Store{store}, serve.Options{Repository: "krt/edge"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(serve.RequireLogin(handler, func(_ context.Context, _, user, password string) (bool, error) {
		return user == "a" && password == "b", nil
	}))
	t.Cleanup(server.Close)
	for _, header := range [][]string{nil, {"Authorization", "Basic YTpj"}, {"Authorization", "Bearer YTpi"}, {"Authorization", "Basic %"}} {
		response, body := get(t, "GET", server.URL+"/v2/krt/edge/manifests/1.0.0", header...)
		if response.StatusCode != http.StatusUnauthorized || response.Header.Get("WWW-Authenticate") == "" || !strings.Contains(body, "UNAUTHORIZED") {
			t.Errorf("%q: %d %s", header, response.StatusCode, body)
		}
	}
	if response, _ := get(t, "GET", server.URL+"/v2/krt/edge/manifests/1.0.0", "Authorization", "Basic YTpi"); response.StatusCode != http.StatusOK {
		t.Errorf("with a login: %d", response.StatusCode)
	}
}

// Who guesses, from one address or from many, neither keeps others waiting for long nor learns by
// the time who is a user.
func TestGuessing(t *testing.T) {
	t.Parallel()
	made := func(password string, cost int) string {
		data, err := bcrypt.GenerateFromPassword([]byte(password), cost)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	login, err := serve.LoadPasswords(strings.NewReader("slow:" + made("right", 11) + "\nfast:" + made("right", 4) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	took := func(user string) time.Duration {
		best := time.Hour
		for range 3 {
			start := time.Now()
			if ok, err := login(t.Context(), "10.0.0.9", user, "wrong"); ok || err != nil {
				t.Fatalf("%s: %v, %v", user, ok, err)
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	slow := took("slow")
	for _, user := range []string{"fast", "nobody"} {
		if other := took(user); other < slow/8 || other > slow*8 { // it was a hundredth
			t.Errorf("a login of %s takes %s, of slow %s", user, other, slow)
		}
	}
	// 200 guesses from one address, and a right login from another.
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	busy := make(chan bool, 200)
	for i := range 200 {
		all.Go(func() {
			_, err := login(ctx, "10.0.0.1", "slow", fmt.Sprint(i))
			busy <- errors.Is(err, serve.ErrBusy)
		})
	}
	for range 196 {
		if !<-busy {
			break // one was compared already
		}
	}
	start := time.Now()
	if ok, err := login(t.Context(), "10.0.0.2", "slow", "right"); !ok || err != nil {
		t.Errorf("the right login: %v, %v", ok, err)
	}
	if waited := time.Since(start); waited > 10*time.Second { // all take half a minute
		t.Errorf("it waited for %s, and one takes %s", waited, slow)
	}
	cancel()
	all.Wait()
	if ok, err := login(t.Context(), "10.0.0.1", "slow", "right"); !ok || err != nil {
		t.Errorf("later from the same address: %v, %v", ok, err)
	}
	// Many that come with the same login at once, as the nodes of a site do, are one.
	fresh, err := serve.LoadPasswords(strings.NewReader("site:" + made("right", 8)))
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		all.Go(func() {
			if ok, err := fresh(t.Context(), "10.0.0.1", "site", "right"); !ok || err != nil {
				t.Errorf("a right login of many: %v, %v", ok, err)
			}
		})
	}
	all.Wait()
	// Over HTTP it is an answer that clients know.
	server := httptest.NewServer(serve.RequireLogin(http.NotFoundHandler(), func(context.Context, string, string, string) (bool, error) { return false, serve.ErrBusy }))
	t.Cleanup(server.Close)
	if response, body := get(t, "GET", server.URL+"/v2/", "Authorization", "Basic YTpi"); response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") != "1" || !strings.Contains(body, "TOOMANYREQUESTS") {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// Requests of pages of other sites are refused, and names that are not the loopback's.
func TestRefuseCrossSite(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		host    string
		header  []string
		local   bool
		allowed bool
	}{
		{"127.0.0.1:5000", nil, true, true},
		{"localhost:5000", nil, true, true},
		{"LOCALHOST", nil, true, true},
		{"registry.localhost:5000", nil, true, true},
		{"[::1]:5000", nil, true, true},
		{"[::ffff:127.0.0.1]:5000", nil, true, true},
		{"evil.example:5000", nil, true, false},
		{"localhost.evil.example:5000", nil, true, false},
		{"10.0.0.1:5000", nil, true, false},
		{"", nil, true, false},
		{"site.example", nil, false, true},
		{"127.0.0.1:5000", []string{"Origin", "http://127.0.0.1:5000"}, true, true},
		{"127.0.0.1:5000", []string{"Origin", "http://evil.example"}, true, false},
		{"127.0.0.1:5000", []string{"Origin", "http://127.0.0.1:8000"}, true, false},
		{"127.0.0.1:5000", []string{"Origin", "null"}, true, false},
		{"site.example", []string{"Origin", "https://evil.example"}, false, false},
		{"site.example", []string{"Sec-Fetch-Site", "cross-site"}, false, false},
		{"site.example", []string{"Sec-Fetch-Site", "same-site"}, false, false},
		{"site.example", []string{"Sec-Fetch-Site", "same-origin"}, false, true},
	} {
		request := httptest.NewRequest(http.MethodPost, "http://x/v2/a/blobs/uploads/", nil)
		request.Host = c.host
		for i := 0; i < len(c.header); i += 2 {
			request.Header.Set(c.header[i], c.header[i+1])
		}
		answer := httptest.NewRecorder()
		serve.RefuseCrossSite(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) }), c.local).ServeHTTP(answer, request)
		if want := map[bool]int{true: http.StatusCreated, false: http.StatusForbidden}[c.allowed]; answer.Code != want {
			t.Errorf("%q %q: %d, want %d", c.host, c.header, answer.Code, want)
		}
	}
}
