//go:build unix

package residenttest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Serve listens at the address in the first argument and runs commands until whoever started the process ends.
// run has os.Args, the environment, the folder and the standard streams of a process of its own; its context ends with
// the client.
func Serve(run func(context.Context) int) {
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		// Nothing comes: it ends.
		io.Copy(io.Discard, os.NewFile(3, "life"))
		os.Exit(0)
	}()
	s := &server{run: run, once: pickReadOnce(os.Environ())}
	fmt.Println()
	if err := s.setStreams(nil); err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go s.answer(conn.(*net.UnixConn))
	}
}

type server struct {
	run  func(context.Context) int
	once map[string]string
	busy sync.Mutex
}

// answer runs what a client asks for, if it can be run here and now.
func (s *server) answer(conn *net.UnixConn) {
	defer conn.Close()
	r, err := readRequest(conn)
	defer r.closeStreams()
	if err != nil || !maps.Equal(s.once, pickReadOnce(r.env)) || !s.busy.TryLock() {
		_, _ = conn.Write([]byte{'n'})
		return
	}
	// Whoever reads the answer may ask for the next command at once.
	_, _ = conn.Write(s.runRequest(conn, r))
}

// runRequest runs what a client asks for, and returns the last byte of the answer.
func (s *server) runRequest(conn *net.UnixConn, r *request) []byte {
	isUsable := true
	defer func() {
		if isUsable {
			s.busy.Unlock()
		}
	}()
	if err := s.enter(r); err != nil {
		return []byte{'n'}
	}
	if _, err := conn.Write([]byte{'y'}); err != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		// Nothing comes before the client ends.
		io.Copy(io.Discard, conn)
		cancel()
	}()
	code, panicked := s.runCommand(ctx)
	// Nobody knows what a panic leaves: the next commands run elsewhere.
	isUsable = !panicked
	// Whoever reads the output sees its end.
	if err := s.setStreams(nil); err != nil {
		log.Fatal(err)
	}
	r.closeStreams()
	return []byte{byte(code)}
}

// runCommand returns the exit code of a command. One that panics has that of a process that does.
func (s *server) runCommand(ctx context.Context) (code int, panicked bool) {
	defer func() {
		if cause := recover(); cause != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n\n%s", cause, debug.Stack())
			code, panicked = 2, true
		}
	}()
	return s.run(ctx), false
}

// enter makes the process what the client's would be.
func (s *server) enter(r *request) error {
	os.Clearenv()
	for _, variable := range r.env {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	os.Args = append([]string{"krtpkg"}, r.args...)
	syscall.Umask(r.umask)
	return errors.Join(os.Chdir(r.dir), s.setStreams(r.streams))
}

// setStreams makes files standard input, output and error; nil stands for nothing.
func (s *server) setStreams(files []int) error {
	if files == nil {
		null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(null)
		files = []int{null, null, null}
	}
	for i, file := range files {
		if err := unix.Dup2(file, i); err != nil {
			return err
		}
	}
	return nil
}

// request is what a client sends.
type request struct {
	dir       string
	umask     int
	args, env []string
	streams   []int
}

func (r *request) closeStreams() {
	for _, file := range r.streams {
		unix.Close(file)
	}
	r.streams = nil
}

// maxRequest is the most that the system lets a process have as arguments and environment.
const maxRequest = 8 << 20

// readRequest returns a request whose streams are open even if there is an error.
func readRequest(conn *net.UnixConn) (*request, error) {
	r := &request{}
	head, rights := make([]byte, 4), make([]byte, unix.CmsgSpace(3*4))
	n, nrights, _, _, err := conn.ReadMsgUnix(head, rights)
	if err != nil {
		return r, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:nrights])
	if err != nil || len(messages) != 1 {
		return r, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	if r.streams, err = unix.ParseUnixRights(&messages[0]); err != nil {
		return r, err
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return r, err
	}
	size := binary.BigEndian.Uint32(head)
	if len(r.streams) != 3 || size > maxRequest {
		return r, fmt.Errorf("%d bytes with %d streams", size, len(r.streams))
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(conn, text); err != nil {
		return r, err
	}
	return r, r.decode(strings.Split(string(text), "\x00"))
}

func (r *request) decode(parts []string) error {
	if len(parts) < 3 {
		return fmt.Errorf("%d parts", len(parts))
	}
	r.dir = parts[0]
	umask, err := strconv.Atoi(parts[1])
	if err != nil {
		return err
	}
	r.umask = umask
	args, err := strconv.Atoi(parts[2])
	if err != nil || args < 0 || args > len(parts)-3 {
		return fmt.Errorf("%d arguments of %d parts: %w", args, len(parts), err)
	}
	r.args, r.env = parts[3:3+args], parts[3+args:]
	return nil
}
