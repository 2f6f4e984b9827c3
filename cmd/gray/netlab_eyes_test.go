package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sight is a packet that a capture saw.
type sight struct {
	server   string
	at       time.Time
	vni      string
	src, dst string // inner
}

// eyes are the captures on the servers.
type eyes struct {
	mu   sync.Mutex
	seen []sight
	news chan struct{} // closed and replaced with each packet
}

// watch starts a tshark on every server's port to the switch.
func (l *netlab) watch() *eyes {
	l.t.Helper()
	e := &eyes{news: make(chan struct{})}
	for _, s := range labServers {
		cmd := exec.Command("ip", "netns", "exec", l.ns(s.name), "tshark", "-i", "tosw", "-l", "-n", "-Q", "-f", "udp port 4789",
			"-T", "fields", "-E", "separator=;", "-e", "frame.time_epoch", "-e", "vxlan.vni", "-e", "ip.src", "-e", "ip.dst")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
		go func() {
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				e.note(s.name, lines.Text())
			}
		}()
	}
	return e
}

// note takes one line of a capture.
func (e *eyes) note(server, line string) {
	f := strings.Split(line, ";")
	if len(f) != 4 {
		return
	}
	seconds, err := strconv.ParseFloat(f[0], 64)
	src, dst := strings.Split(f[2], ","), strings.Split(f[3], ",")
	if err != nil || len(src) < 2 || len(dst) < 2 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, sight{server, time.UnixMicro(int64(seconds * 1e6)), f[1], src[1], dst[1]})
	close(e.news)
	e.news = make(chan struct{})
}

// after waits until every pair of a VPC's addresses was seen so often since a
// time, and returns all that was seen since.
func (l *netlab) after(e *eyes, since time.Time, often int, flows ...labFlow) []sight {
	l.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		e.mu.Lock()
		news := e.news
		recent := slices.DeleteFunc(slices.Clone(e.seen), func(s sight) bool { return !s.at.After(since) })
		e.mu.Unlock()
		missing := ""
		for _, f := range flows {
			n := 0
			for _, s := range recent {
				if f.has(s) {
					n++
				}
			}
			if n < often {
				missing = fmt.Sprintf("%d packets of %s -> %s were seen, want %d", n, f.from.name, f.to.name, often)
			}
		}
		if missing == "" {
			return recent
		}
		select {
		case <-news:
		case <-timeout:
			log, _ := os.ReadFile(l.logs)
			l.t.Fatalf("%s\n%s", missing, log)
		}
	}
}
