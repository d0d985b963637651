package cli_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// An archive served with TLS is read by whoever knows the authority, and by nobody else.
func TestServeWithTLS(t *testing.T) {
	t.Parallel()
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.write(web...)
	s.ok("build", "-f", ".")
	s.ok("export", "oci:dist:1.0.0", "edge.tar")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.write("site.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"site.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))

	cmd, _, _ := s.command("serve", "--listen", "127.0.0.1:0", "--tls-cert", "site.crt", "--tls-key", "site.key", "edge.tar")
	cmd.Stderr = nil
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, stderr)
	_, address, ok := strings.Cut(strings.TrimSpace(line), "serving edge.tar at https://")
	if !ok {
		t.Fatalf("it says %q", line)
	}
	name := "/" + bundleName(t, s)
	s.ok("inspect", "--registry-ca", "site.crt", address+name+":1.0.0")
	s.refused(1, "certificate", "inspect", address+name+":1.0.0")
	s.refused(2, "must be used together", "serve", "--tls-cert", "site.crt", "edge.tar")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("interrupted it ends with %d", code)
	}
}

// bundleName returns what the archive's root is called.
func bundleName(t *testing.T, s *site) string {
	t.Helper()
	for line := range strings.Lines(s.ok("list", "edge.tar")) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "1.0.0" {
			return fields[1]
		}
	}
	t.Fatal("the archive lists no 1.0.0")
	return ""
}
