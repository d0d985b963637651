package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func reservePorts() (etcd, peer, api int, err error) {
	ports := make([]int, 3)
	for i := range ports {
		if ports[i], err = reservePort(); err != nil {
			return 0, 0, 0, fmt.Errorf("reserve a port: %w", err)
		}
	}
	return ports[0], ports[1], ports[2], nil
}

// reservePort picks a free port of 127.0.0.1 and keeps it for as long as this process
// lives: its socket is bound but does not listen, so connections go to the component that
// binds the port as well, with SO_REUSEPORT set like here. A port that was picked and
// released could be taken by anyone until the component gets there.
func reservePort() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	unix.CloseOnExec(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	return addr.(*unix.SockaddrInet4).Port, nil
}
