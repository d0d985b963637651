package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// serviceRange are the addresses of Services. It is loopback, so that a request that goes astray
// is refused at once instead of waiting for packets that a network swallows.
var serviceRange = netip.MustParsePrefix("127.96.0.0/16")

// egressConfig sends what the API server calls inside the cluster through the proxy at a socket
// (KEP-1281).
const egressConfig = `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
  - name: cluster
    connection:
      proxyProtocol: HTTPConnect
      transport: {uds: {udsName: %q}}
`

// services answer for the pods behind Services, which KWOK only plays: webhooks admit
// everything and convert by changing the version alone, and aggregated API servers are there
// and serve no resources. They have certificates of the cluster's authority, which the API
// server trusts where a webhook names no other.
type services struct {
	authority *authority

	mu    sync.Mutex
	certs map[string]*tls.Certificate
}

// serve answers at a socket until it is closed.
func (s *services) serve(socket string) (io.Closer, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.connect(conn)
		}
	}()
	return listener, nil
}

// connect answers CONNECT: for a Service's address itself, for this machine with a connection. KWOK's
// nodes and pods have addresses where nobody is, which are refused at once.
func (s *services) connect(conn net.Conn) {
	defer conn.Close()
	buffered := bufio.NewReader(conn)
	request, err := http.ReadRequest(buffered)
	if err != nil || request.Method != http.MethodConnect {
		return
	}
	host, _, _ := net.SplitHostPort(request.Host)
	address, err := netip.ParseAddr(host)
	if err == nil && serviceRange.Contains(address) {
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err == nil {
			s.answer(conn)
		}
		return
	}
	if host != "localhost" && !address.IsLoopback() {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	there, err := net.DialTimeout("tcp", request.Host, 5*time.Second)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	defer there.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(there, buffered)
		there.Close()
	}()
	_, _ = io.Copy(conn, there)
}

// answer speaks HTTPS on a connection until its end.
func (s *services) answer(conn net.Conn) {
	done := make(chan struct{})
	server := &http.Server{
		Handler:   http.HandlerFunc(handle),
		TLSConfig: &tls.Config{GetCertificate: s.certificate},
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				close(done)
			}
		},
	}
	one := &oneListener{conn: conn, done: done}
	_ = server.ServeTLS(one, "", "")
}

// oneListener has one connection.
type oneListener struct {
	conn net.Conn
	once bool
	done chan struct{}
}

func (l *oneListener) Accept() (net.Conn, error) {
	if l.once {
		<-l.done
		return nil, io.EOF
	}
	l.once = true
	return l.conn, nil
}

func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }

// certificate returns one for whatever name is asked for.
func (s *services) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cert := s.certs[hello.ServerName]; cert != nil {
		return cert, nil
	}
	issued, err := s.authority.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "service"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{hello.ServerName},
	})
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(issued.certPEM, issued.keyPEM)
	if err != nil {
		return nil, err
	}
	s.certs[hello.ServerName] = &cert
	return &cert, nil
}

// handle is a webhook, or an API server without resources.
func handle(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		discover(w, r.URL.Path)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		return
	}
	reply, err := review(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	write(w, reply)
}

func review(body []byte) (any, error) {
	var kind metav1.TypeMeta
	if err := json.Unmarshal(body, &kind); err != nil {
		return nil, err
	}
	switch kind.Kind {
	case "AdmissionReview":
		var in admissionv1.AdmissionReview
		if err := json.Unmarshal(body, &in); err != nil || in.Request == nil {
			return nil, errors.Join(errors.New("no request"), err)
		}
		return admissionv1.AdmissionReview{TypeMeta: kind, Response: &admissionv1.AdmissionResponse{UID: in.Request.UID, Allowed: true}}, nil
	case "ConversionReview":
		var in apiextensionsv1.ConversionReview
		if err := json.Unmarshal(body, &in); err != nil || in.Request == nil {
			return nil, errors.Join(errors.New("no request"), err)
		}
		out := &apiextensionsv1.ConversionResponse{UID: in.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
		for _, object := range in.Request.Objects {
			var u unstructured.Unstructured
			if err := json.Unmarshal(object.Raw, &u.Object); err != nil {
				return nil, err
			}
			u.SetAPIVersion(in.Request.DesiredAPIVersion)
			out.ConvertedObjects = append(out.ConvertedObjects, runtime.RawExtension{Object: &u})
		}
		return apiextensionsv1.ConversionReview{TypeMeta: kind, Response: out}, nil
	}
	return nil, errors.New("neither an admission nor a conversion")
}

// discover answers for /apis/GROUP/VERSION.
func discover(w http.ResponseWriter, at string) {
	parts := strings.Split(strings.Trim(path.Clean(at), "/"), "/")
	if len(parts) != 3 || parts[0] != "apis" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	write(w, metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: parts[1] + "/" + parts[2],
		APIResources: []metav1.APIResource{},
	})
}

func write(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the client may be gone
}
