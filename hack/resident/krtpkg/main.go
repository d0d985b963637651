//go:build unix

// Command krtpkg stands in for krtpkg where tests run many commands: it has a resident krtpkg run its command line, which
// saves the start of a large program, and is one itself if that does not take it. See internal/residenttest.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	// A terminal belongs to processes of its session.
	if !isTerminal(os.Stdin) && !isTerminal(os.Stdout) && !isTerminal(os.Stderr) {
		if code, err := askResident(os.Getenv("KRTPKG_TEST_RESIDENT")); err == nil {
			os.Exit(code)
		}
	}
	err := syscall.Exec(os.Getenv("KRTPKG_TEST_PROGRAM"), append([]string{"krtpkg"}, os.Args[1:]...), os.Environ())
	fmt.Fprintln(os.Stderr, "start krtpkg:", err)
	os.Exit(126)
}

// isTerminal reports whether a file is a device other than the one for nothing.
func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// askResident returns the exit code of the command, or an error if it was not run.
func askResident(address string) (int, error) {
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	// What this process becomes otherwise has no use for it.
	syscall.CloseOnExec(socket)
	if err := syscall.Connect(socket, &syscall.SockaddrUnix{Name: address}); err != nil {
		return 0, err
	}
	// It goes with the command's standard input, output and error.
	rights := syscall.UnixRights(0, 1, 2)
	for request := encodeRequest(); len(request) > 0; {
		n, err := syscall.SendmsgN(socket, request, rights, nil, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		request, rights = request[n:], nil
	}
	var answer [1]byte
	if err := readByte(socket, &answer); err != nil {
		return 0, err
	}
	if answer[0] != 'y' {
		return 0, fmt.Errorf("it is not taken: the answer is %q", answer[0])
	}
	if err := readByte(socket, &answer); err != nil {
		fmt.Fprintln(os.Stderr, "krtpkg: the resident process ended:", err)
		return residentEnded, nil
	}
	return int(answer[0]), nil
}

// residentEnded is an exit code that krtpkg never has.
const residentEnded = 125

// encodeRequest returns the length of what follows in four bytes, then the folder, the umask, the number of arguments, these
// and the environment, each with a zero at its end.
func encodeRequest() []byte {
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	parts := []string{dir, strconv.Itoa(mask), strconv.Itoa(len(os.Args) - 1)}
	parts = append(append(parts, os.Args[1:]...), os.Environ()...)
	text := strings.Join(parts, "\x00")
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

func readByte(socket int, to *[1]byte) error {
	for {
		n, err := syscall.Read(socket, to[:])
		if err == syscall.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = syscall.EPIPE
		}
		return err
	}
}
