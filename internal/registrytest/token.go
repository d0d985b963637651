package registrytest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// issuer and service name the two parties in Distribution's configuration and in tokens.
const (
	tokenIssuer  = "registrytest issuer"
	tokenService = "registrytest registry"
)

// tokenServer issues the JSON Web Tokens of Distribution's token authentication and, for
// registries that have none of their own, checks them.
type tokenServer struct {
	realm              string // its address
	rootFile           string // the certificate that registries trust
	cert               []byte
	key                *ecdsa.PrivateKey
	username, password string
}

// accessGrant is a claim: what may be done to what.
type accessGrant struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

type tokenClaims struct {
	Issuer    string        `json:"iss"`
	Subject   string        `json:"sub"`
	Audience  string        `json:"aud"`
	Expires   int64         `json:"exp"`
	NotBefore int64         `json:"nbf"`
	IssuedAt  int64         `json:"iat"`
	ID        string        `json:"jti"`
	Access    []accessGrant `json:"access"`
}

// tokenPath is on the registry's own host and port, since nothing else is accepted on the
// loopback interface: go-containerregistry and oras-go refuse a realm there, lest a registry
// make them send credentials to a service of their machine, unless it is the registry itself.
const tokenPath = "/token"

func (r *Registry) newTokenServer() (*tokenServer, error) {
	cert, key, err := issueCertificate(&x509.Certificate{
		Subject:  pkix.Name{CommonName: tokenIssuer},
		IsCA:     true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}, nil, nil)
	if err != nil {
		return nil, err
	}
	s := &tokenServer{
		realm:    r.URL + tokenPath,
		rootFile: filepath.Join(r.run, "token.pem"),
		cert:     cert.Raw,
		key:      key,
		username: r.Username,
		password: r.Password,
	}
	return s, writePEM(s.rootFile, "CERTIFICATE", cert.Raw)
}

// serveBefore answers at the realm and leaves the rest to next.
func (s *tokenServer) serveBefore(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == tokenPath {
			s.ServeHTTP(w, req)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// ServeHTTP issues a token for the asked scopes to whoever has the credentials.
func (s *tokenServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet {
		// Clients try OAuth 2 by POST first, and take this as a sign to use GET.
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if !hasBasic(req, s.username, s.password) {
		writeUnauthorized(w, `Basic realm="registrytest tokens"`)
		return
	}
	query := req.URL.Query()
	granted, err := parseScopes(query["scope"])
	if err != nil || query.Get("service") != tokenService {
		http.Error(w, fmt.Sprintf("service %q, scopes: %v", query.Get("service"), err), http.StatusBadRequest)
		return
	}
	token, err := s.issueToken(granted)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

// parseScopes reads "repository:NAME:pull,push"; one value may hold several, parted by spaces.
// The name may hold colons, the type and the actions not.
func parseScopes(values []string) ([]accessGrant, error) {
	var all []accessGrant
	for _, scope := range strings.Fields(strings.Join(values, " ")) {
		kind, rest, _ := strings.Cut(scope, ":")
		last := strings.LastIndexByte(rest, ':')
		if last < 0 {
			return nil, fmt.Errorf("malformed scope %q", scope)
		}
		all = append(all, accessGrant{kind, rest[:last], strings.Split(rest[last+1:], ",")})
	}
	return all, nil
}

var base64URL = base64.RawURLEncoding

func (s *tokenServer) issueToken(granted []accessGrant) (string, error) {
	header, err := json.Marshal(map[string]any{
		"typ": "JWT",
		"alg": "ES256",
		// Both generations of Distribution find the key by this chain; their key IDs differ.
		"x5c": []string{base64.StdEncoding.EncodeToString(s.cert)},
	})
	if err != nil {
		return "", err
	}
	now := time.Now()
	body, err := json.Marshal(tokenClaims{
		Issuer: tokenIssuer, Subject: s.username, Audience: tokenService,
		Expires: now.Add(5 * time.Minute).Unix(), NotBefore: now.Unix(), IssuedAt: now.Unix(),
		ID: rand.Text(), Access: granted,
	})
	if err != nil {
		return "", err
	}
	signed := base64URL.EncodeToString(header) + "." + base64URL.EncodeToString(body)
	sum := sha256.Sum256([]byte(signed))
	x, y, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		return "", err
	}
	var signature [64]byte
	x.FillBytes(signature[:32])
	y.FillBytes(signature[32:])
	return signed + "." + base64URL.EncodeToString(signature[:]), nil
}

// verifyToken returns what a token of this server's grants.
func (s *tokenServer) verifyToken(token string) ([]accessGrant, error) {
	signed, encoded, _ := cutLast(token, ".")
	signature, err := base64URL.DecodeString(encoded)
	if err != nil || len(signature) != 64 {
		return nil, errors.New("malformed token")
	}
	sum := sha256.Sum256([]byte(signed))
	x, y := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(&s.key.PublicKey, sum[:], x, y) {
		return nil, errors.New("token of another issuer")
	}
	_, body, _ := strings.Cut(signed, ".")
	data, err := base64URL.DecodeString(body)
	if err != nil {
		return nil, err
	}
	var c tokenClaims
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, err
	}
	if time.Now().Unix() > c.Expires {
		return nil, errors.New("token has expired")
	}
	return c.Access, nil
}

// requireToken lets requests pass whose token grants what they are about to do.
func (s *tokenServer) requireToken(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		needed := scopeOf(req)
		token, bearer := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		challenge := fmt.Sprintf("Bearer realm=%q,service=%q", s.realm, tokenService)
		if needed.Name != "" {
			challenge += fmt.Sprintf(",scope=%q", needed.Type+":"+needed.Name+":"+strings.Join(needed.Actions, ","))
		}
		if !bearer {
			writeUnauthorized(w, challenge)
			return
		}
		granted, err := s.verifyToken(token)
		if err != nil {
			writeUnauthorized(w, challenge+`,error="invalid_token"`)
			return
		}
		if !coversAccess(granted, needed) {
			writeUnauthorized(w, challenge+`,error="insufficient_scope"`)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// scopeOf returns what a request needs: nothing but a valid token for the API's root.
func scopeOf(req *http.Request) accessGrant {
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	if path == "_catalog" {
		return accessGrant{"registry", "catalog", []string{"*"}}
	}
	// The last of these words is the API's: a repository may bear one in its name.
	end := -1
	for _, word := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		end = max(end, strings.LastIndex(path, word))
	}
	if end < 0 {
		return accessGrant{}
	}
	actions := []string{"pull"}
	switch req.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		actions = []string{"pull", "push"}
	case http.MethodDelete:
		actions = []string{"delete"}
	}
	return accessGrant{"repository", path[:end], actions}
}

func coversAccess(granted []accessGrant, needed accessGrant) bool {
	for _, action := range needed.Actions {
		if !slices.ContainsFunc(granted, func(a accessGrant) bool {
			return a.Type == needed.Type && a.Name == needed.Name && slices.Contains(a.Actions, action)
		}) {
			return false
		}
	}
	return true
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
