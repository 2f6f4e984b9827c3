package testdata

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// FreeAddress is a loopback address, host:port, that nobody listens on. Its port is
// below those that a system gives by itself to connections and to listeners without
// one, so that it is still free when it is used.
func FreeAddress() (string, error) {
	const from, ports, tries = 20_000, 12_000, 100
	var last error
	for range tries {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(from+rand.IntN(ports)))
		l, err := net.Listen("tcp", address)
		if err != nil {
			last = err
			continue
		}
		return address, l.Close()
	}
	return "", fmt.Errorf("no port is free: %w", last)
}

// FreePort is the port of a FreeAddress.
func FreePort() (int, error) {
	address, err := FreeAddress()
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}
