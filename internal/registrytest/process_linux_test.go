package registrytest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/hack"
)

// orphaner makes the test binary a program that starts a registry and waits to be killed.
const orphaner = "REGISTRYTEST_ORPHANER"

func TestMain(m *testing.M) {
	if os.Getenv(orphaner) != "" {
		r, err := RunRegistry(context.Background(), Options{Kind: Distribution2})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(r.Host, r.run)
		select {}
	}
	os.Exit(m.Run())
}

// TestOrphan kills a program that runs a registry.
func TestOrphan(t *testing.T) {
	hack.SkipIfShort(t)
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), orphaner+"=1")
	parent.Stderr = os.Stderr
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	host, run, _ := strings.Cut(strings.TrimSpace(line), " ")
	defer os.RemoveAll(run)
	if conn, err := net.Dial("tcp", host); err != nil {
		t.Fatal(err)
	} else {
		conn.Close()
	}

	parent.Process.Kill()
	parent.Wait()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			return
		}
		conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("the registry lives on")
		}
	}
}
