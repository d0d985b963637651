package source_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/source"
)

func TestParseNetrc(t *testing.T) {
	t.Parallel()
	logins := source.ParseNetrc(`# machine comment.example login a password b
machine one.example login me password secret
machine two.example
	login you
	account x
	password p#w
macdef init
machine macro.example login a password b

machine ONE.example login other password other
default login any password any
machine three.example password only
machine`)
	for host, want := range map[string]string{
		"one.example": "me secret true", "One.Example": "me secret true", "two.example": "you p#w true", "three.example": " only true",
		"comment.example": "  false", "macro.example": "  false", "other.example": "  false",
	} {
		user, password, ok := logins(host)
		if got := fmt.Sprint(user, " ", password, " ", ok); got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
}

// A login is sent to its host over https, and to no other that it redirects to.
func TestLoginsStayAtTheirHost(t *testing.T) {
	t.Parallel()
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the login went to another host")
		}
		fmt.Fprint(w, "a: b\n")
	}))
	t.Cleanup(other.Close)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/elsewhere" {
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+"/x", http.StatusFound)
			return
		}
		fmt.Fprint(w, "a: b\n")
	}))
	t.Cleanup(server.Close)
	client := server.Client()
	client.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // the other one's certificate
	fetcher := &source.Fetcher{Client: client, Logins: source.ParseNetrc("machine 127.0.0.1 login me password secret")}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("a: b\n")))
	for _, path := range []string{"/here", "/elsewhere"} {
		if _, err := fetcher.FetchURL(t.Context(), server.URL+path, sum); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	fetcher.Logins = nil
	if _, err := fetcher.FetchURL(t.Context(), server.URL+"/here", sum); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a login: %v", err)
	}
}

func FuzzParseNetrc(f *testing.F) {
	f.Add("machine a login b password c\nmacdef x\n\ndefault login d")
	f.Fuzz(func(t *testing.T, text string) {
		if _, _, ok := source.ParseNetrc(text)("default"); ok && !strings.Contains(strings.ToLower(text), "default") {
			t.Errorf("%q: a login for a machine that is not there", text)
		}
	})
}
