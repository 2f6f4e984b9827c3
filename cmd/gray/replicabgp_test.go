package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/tools/etcdtest"
)

// TestRoutesStayWhenTheLeaderGoes holds that FRR and BIRD have the VIP all the time
// while one leader ends, or is killed, and the next one announces it.
func TestRoutesStayWhenTheLeaderGoes(t *testing.T) {
	t.Parallel()
	const a = "203.0.113.10/32"
	l := newBGPLab(t)
	secrets := t.TempDir()
	l.ok(os.WriteFile(filepath.Join(secrets, "bgp"), []byte("secret\n"), 0o600))
	server := etcdtest.New(t)
	server.Start()
	leader, next := l.lab, l.beside("18000", "18001")
	leader.startReplica(server, "one", "--secrets-dir", secrets)
	leader.until("the first leads", leads("one"))
	next.startReplica(server, "two", "--secrets-dir", secrets)
	next.until("the second follows", follows("one"))
	l.expect("the VIP", a)
	established := func(s *admin.Status) bool { return strings.Count(fmt.Sprint(s.Neighbors), "established") == 2 }
	leader.until("both sessions are up", established)
	if s := next.until("the follower answers", func(*admin.Status) bool { return true }); fmt.Sprint(s.Neighbors) != "[]" {
		t.Errorf("the follower has neighbors: %v", s.Neighbors)
	}
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		began := time.Now()
		leader.signal(end)
		_ = leader.daemon.Wait()
		leader.daemon = nil
		looks := 0
		next.until("the next one announces", func(s *admin.Status) bool {
			if looks++; !l.have(a) {
				t.Errorf("after %s a route is gone, at look %d", end, looks)
			}
			return established(s)
		})
		t.Logf("after %s the next leader had its sessions in %s, %d looks", end, time.Since(began), looks)
		l.expect("what the next leader announces", a)
		leader, next = next, leader
		next.startReplica(server, end.String(), "--secrets-dir", secrets)
		next.until("it follows again", func(s *admin.Status) bool { r, name, _ := role(s); return r == "follower" && name != "" })
	}
}
