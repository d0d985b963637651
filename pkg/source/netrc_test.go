package source_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"strings"
	"sync/atomic"
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

// A login is sent to its host over https, and to no other that it redirects to: not to another name, nor to
// another port.
func TestLoginsStayAtTheirHost(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s: the login went to another host", r.Host)
		}
		if r.URL.Path == "/private" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, "a: b\n")
	}))
	t.Cleanup(other.Close)
	named := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/name":
			http.Redirect(w, r, named+"/x", http.StatusFound)
		case "/port":
			http.Redirect(w, r, other.URL+"/x", http.StatusFound)
		case "/private":
			http.Redirect(w, r, other.URL+"/private", http.StatusFound)
		case "/moved":
			http.Redirect(w, r, "https://"+r.Host+"/here", http.StatusFound)
		default:
			fmt.Fprint(w, "a: b\n")
		}
	}))
	t.Cleanup(server.Close)
	client := server.Client()
	client.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // the other one's certificate
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("a: b\n")))
	host := strings.TrimPrefix(server.URL, "https://")
	for name, c := range map[string]struct {
		fetcher source.Fetcher
		from    string
	}{
		"netrc":       {source.Fetcher{Logins: source.ParseNetrc("machine 127.0.0.1 login me password secret")}, server.URL},
		"helper":      {source.Fetcher{Helper: ownLogin(host)}, server.URL},
		"both":        {source.Fetcher{Helper: ownLogin(host), Logins: source.ParseNetrc("machine 127.0.0.1 login me password old")}, server.URL},
		"URL":         {source.Fetcher{}, "https://me:secret@" + host},
		"user of URL": {source.Fetcher{Helper: ownLogin(host)}, "https://me@" + host},
	} {
		c.fetcher.Client = client
		c.fetcher.Mirrors = []source.Mirror{{Prefix: "https://up.example", Replacement: c.from}}
		for _, path := range []string{"/here", "/moved", "/name", "/port"} {
			if _, err := c.fetcher.FetchURL(t.Context(), "https://up.example"+path, sum); err != nil {
				t.Errorf("%s: %s: %v", name, path, err)
			}
		}
		asked.Store(0)
		if _, err := c.fetcher.FetchURL(t.Context(), "https://up.example/private", sum); err == nil || !strings.Contains(err.Error(), "401") || asked.Load() != 1 {
			t.Errorf("%s: a host behind a redirect that wants a login: %v, asked %d times", name, err, asked.Load())
		}
	}
	_, err := (&source.Fetcher{Client: client}).FetchURL(t.Context(), server.URL+"/here", sum)
	if err == nil || !strings.HasSuffix(err.Error(), "HTTP status 401 Unauthorized: add a login for it to ~/.netrc or to git's credential helpers") {
		t.Errorf("without a login: %v", err)
	}
	_, err = (&source.Fetcher{Client: client, Helper: ownLogin("")}).FetchURL(t.Context(), server.URL+"/here", sum)
	if err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a login of the helper: %v", err)
	}
}

// A helper is not asked over http, where everybody would read the login.
func TestHelpersAreNotAskedOverHTTP(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the login was sent")
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	fetcher := source.Fetcher{Helper: ownLogin(strings.TrimPrefix(server.URL, "http://")), Mirrors: []source.Mirror{{Prefix: "https://up.example", Replacement: server.URL}}}
	if _, err := fetcher.FetchURL(t.Context(), "https://up.example/a", sum("")); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("got %v", err)
	}
	if _, err := fetcher.ListRefs(t.Context(), "https://up.example/a"); err == nil || !strings.Contains(err.Error(), "authentication required") {
		t.Errorf("got %v", err)
	}
}

// ownLogin is a helper that has the login of one host.
type ownLogin string

func (o ownLogin) FindCredential(_ context.Context, url *neturl.URL, _ []string) (*source.Credential, error) {
	if url.Host != string(o) {
		return nil, nil
	}
	return &source.Credential{User: "me", Password: "secret"}, nil
}

func (o ownLogin) ApproveCredential(context.Context, *source.Credential) error { return nil }

func (o ownLogin) RejectCredential(context.Context, *source.Credential) error { return nil }

func FuzzParseNetrc(f *testing.F) {
	f.Add("machine a login b password c\nmacdef x\n\ndefault login d")
	f.Fuzz(func(t *testing.T, text string) {
		if _, _, ok := source.ParseNetrc(text)("default"); ok && !strings.Contains(strings.ToLower(text), "default") {
			t.Errorf("%q: a login for a machine that is not there", text)
		}
	})
}
