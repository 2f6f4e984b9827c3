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
	commands []*exec.Cmd
	reading  sync.WaitGroup
	mu       sync.Mutex
	seen     []sight
	news     chan struct{} // closed and replaced with each packet
}

// watch starts a tshark on every server's port to the switch, and waits until all
// capture.
func (l *netlab) watch() *eyes {
	l.t.Helper()
	e := &eyes{news: make(chan struct{})}
	began := make(chan string, len(labServers))
	for _, s := range labServers {
		cmd := exec.Command("ip", "netns", "exec", l.ns(s.name), "tshark", "-i", "tosw", "-l", "-n", "-f", "udp port 4789",
			"-T", "fields", "-E", "separator=;", "-e", "frame.time_epoch", "-e", "vxlan.vni", "-e", "ip.src", "-e", "ip.dst")
		out, err := cmd.StdoutPipe()
		if err != nil {
			l.t.Fatal(err)
		}
		says, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			l.t.Fatal(err)
		}
		e.commands = append(e.commands, cmd)
		e.reading.Go(func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				e.note(s.name, lines.Text())
			}
		})
		e.reading.Go(func() {
			for lines := bufio.NewScanner(says); lines.Scan(); {
				if strings.Contains(lines.Text(), "Capture started") {
					began <- s.name
				}
			}
		})
	}
	l.t.Cleanup(func() { e.stop() })
	timeout := time.After(30 * time.Second)
	for range labServers {
		select {
		case <-began:
		case <-timeout:
			l.t.Fatal("tshark does not begin to capture")
		}
	}
	return e
}

// stop ends the captures, and returns all that they saw.
func (e *eyes) stop() []sight {
	for _, c := range e.commands {
		_ = c.Process.Signal(os.Interrupt) // it still hands out what it has
	}
	e.reading.Wait()
	for _, c := range e.commands {
		_ = c.Wait()
	}
	e.commands = nil
	return e.seen
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
