package source

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	neturl "net/url"
	"slices"
	"strings"
)

// Credential is the login of a [CredentialHelper].
type Credential struct {
	User, Password string
	// Raw is the helper's own form.
	Raw string
}

// CredentialHelper finds logins for servers that ask for one. Calls may be concurrent.
type CredentialHelper interface {
	// FindCredential returns the login for a URL, or nil if it has none. The URL may have a user;
	// challenges are the server's WWW-Authenticate headers.
	FindCredential(ctx context.Context, url *neturl.URL, challenges []string) (*Credential, error)
	// ApproveCredential is called with a login that the server took, RejectCredential with one that it refused.
	ApproveCredential(ctx context.Context, c *Credential) error
	RejectCredential(ctx context.Context, c *Credential) error
}

// errLoginRequired is the error of a server that asks for a login which is not there.
var errLoginRequired = errors.New("add a login for it to ~/.netrc or to git's credential helpers")

// newClient returns a client for the requests for one URL, the URL without its login, and the guard of its answers. A login goes to the
// host of the URL and to no other that it redirects to: the login in the URL, or that of the netrc file, at once;
// that of a helper when the server asks for it, over https.
func (f *Fetcher) newClient(url *neturl.URL) (*http.Client, *neturl.URL, *answerGuard) {
	client := *cmp.Or(f.Client, http.DefaultClient)
	guard := &answerGuard{next: client.Transport}
	if guard.next == nil {
		guard.next = http.DefaultTransport
	}
	t := &loginTransport{next: guard, origin: url}
	password, whole := url.User.Password()
	if url.User != nil {
		t.setLogin(url.User.Username(), password)
	} else if user, password, known := f.findLogin(url.Scheme, url.Hostname()); known {
		t.setLogin(user, password)
	}
	if url.Scheme == "https" && !whole {
		t.helper = f.Helper
	}
	client.Transport = t
	client.CheckRedirect = refuseInsecureRedirects(client.CheckRedirect)
	bare := *url
	bare.User = nil
	return &client, &bare, guard
}

// findLogin returns that of a host, if there is one and the connection is private.
func (f *Fetcher) findLogin(scheme, host string) (user, password string, ok bool) {
	if f.Logins == nil || scheme != "https" {
		return "", "", false
	}
	return f.Logins(host)
}

// loginTransport adds a login to the requests to one host. Requests must follow each other.
type loginTransport struct {
	next   http.RoundTripper
	origin *neturl.URL
	// header is the Authorization header; "" for none.
	header string
	// helper is asked once; nil if it may not be asked, or was.
	helper CredentialHelper
}

func (t *loginTransport) setLogin(user, password string) {
	request := http.Request{Header: http.Header{}}
	request.SetBasicAuth(user, password)
	t.header = request.Header.Get("Authorization")
}

// RoundTrip implements [http.RoundTripper].
func (t *loginTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	if !isSameOrigin(request.URL, t.origin) {
		return t.next.RoundTrip(request)
	}
	response, err := t.next.RoundTrip(t.withLogin(request))
	if err != nil || response.StatusCode != http.StatusUnauthorized || t.helper == nil || request.Body != nil && request.GetBody == nil {
		return response, err
	}
	helper, ctx := t.helper, request.Context()
	t.helper = nil
	credential, err := helper.FindCredential(ctx, t.origin, response.Header.Values("WWW-Authenticate"))
	if err != nil {
		return nil, errors.Join(err, response.Body.Close())
	}
	if credential == nil {
		return response, nil
	}
	// Not read to its end, which may be far: the connection is given up.
	if err := response.Body.Close(); err != nil {
		return nil, err
	}
	again := request.Clone(ctx)
	if request.GetBody != nil {
		if again.Body, err = request.GetBody(); err != nil {
			return nil, err
		}
	}
	t.setLogin(credential.User, credential.Password)
	if response, err = t.next.RoundTrip(t.withLogin(again)); err != nil {
		return nil, err
	}
	told := error(nil)
	switch {
	case response.StatusCode == http.StatusUnauthorized:
		told = helper.RejectCredential(ctx, credential)
	case response.StatusCode < http.StatusBadRequest:
		told = helper.ApproveCredential(ctx, credential)
	}
	if told != nil {
		return nil, errors.Join(told, response.Body.Close())
	}
	return response, nil
}

// withLogin returns the request with the login, if there is one.
func (t *loginTransport) withLogin(request *http.Request) *http.Request {
	if t.header == "" {
		return request
	}
	with := request.Clone(request.Context())
	with.Header.Set("Authorization", t.header)
	return with
}

// isSameOrigin reports whether two URLs have the same scheme, host and port.
func isSameOrigin(a, b *neturl.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && strings.EqualFold(hostAndPort(a), hostAndPort(b))
}

func hostAndPort(u *neturl.URL) string {
	port := u.Port()
	if i := slices.Index([]string{"http", "https"}, u.Scheme); port == "" && i >= 0 {
		port = []string{"80", "443"}[i]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
