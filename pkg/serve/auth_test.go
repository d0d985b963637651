package serve_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

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
	authorize, err := serve.Passwords(strings.NewReader(file))
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
				if got := authorize(login[0], login[1]); got != want {
					t.Errorf("%q: %v", login, got)
				}
			})
		}
		all.Wait()
	}
	for text, want := range map[string]string{
		"":                                "names no user",
		"a:secret":                        `line 1: user "a" has no bcrypt hash`,
		"\na:$apr1$x$y":                   `line 2: user "a"`,
		"a":                               `line 1: user "a"`,
		"a:" + strings.Repeat("x", 1<<20): "too long",
	} {
		if _, err := serve.Passwords(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	store := newLayout(t)
	addBundle(t, store, "edge", "1.0.0", nil)
	handler, err := serve.New(t.Context(), []serve.Store{store}, serve.Options{Repository: "krt/edge"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(serve.Guard(handler, func(user, password string) bool { return user == "a" && password == "b" }))
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
