package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gray-release/gray/admin"
)

// The shard: three VPCs of eight VMs with the same addresses, and beside it a VPC
// that nobody moves.
const (
	shardSize    = 8
	shardControl = 1004
)

var shardVNIs = []int{1001, 1002, 1003}

func shardVMs() []labVM {
	var vms []labVM
	add := func(vni, n int) {
		for i := range n {
			vms = append(vms, labVM{fmt.Sprintf("vm%d-%d", vni, i), vni, fmt.Sprintf("10.0.0.%d", 5+i), 1 + i})
		}
	}
	for _, vni := range shardVNIs {
		add(vni, shardSize)
	}
	add(shardControl, 2)
	return vms
}

// shardVM is one VM of a VPC, by its number from 0.
func (l *netlab) shardVM(vni, i int) labVM {
	for _, v := range l.vms {
		if v.vni == vni && v.host == 1+i {
			return v
		}
	}
	l.t.Fatalf("VPC %d has no VM %d", vni, i)
	return labVM{}
}

// Where Envoy takes requests, the two versions of the service, and the webhook.
const (
	shardHook  = "127.0.0.1:18090"
	shardProxy = "127.0.0.1:15001"
	shardAPI1  = "127.0.0.1:18081"
	shardAPI2  = "127.0.0.1:18082"
)

const shardService = `apiVersion: gray.dev/v1alpha1
kind: Service
metadata: {name: vpc-api}
spec:
  hosts: [vpc-api.internal]
  protocol: http
  default: v1
  versions:
  - {name: v1, endpoints: [{address: 127.0.0.1, port: 18081}]}
  - {name: v2, endpoints: [{address: 127.0.0.1, port: 18082}]}
---
apiVersion: gray.dev/v1alpha1
kind: Node
metadata: {name: host-1}
spec: {address: 127.0.0.1, proxy: {port: 15001, bind: 127.0.0.1, adminPort: 15000}}
`

// shard is the laboratory of a shard: VMs, servers, switch, daemon, the service in two
// versions and a real Envoy before it. The daemon speaks to the switch through a valve
// and tells a webhook.
type shard struct {
	*netlab
	valve *valve
	told  *received
}

// newShard makes a shard with everything on v1.
func newShard(t *testing.T) *shard {
	t.Helper()
	needNetwork(t, "ip", "bridge", "ping", "tshark", "git")
	envoy := testEnvoy(t)
	l := newNetlab(t, shardVMs()...)
	s := &shard{l, l.valve(), &received{json: make(chan admin.Event, 1000)}}
	for version, address := range map[string]string{"v1": shardAPI1, "v2": shardAPI2} {
		l.serve(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, version) }))
	}
	l.serve(shardHook, s.told)
	l.write("hooks.yaml", "[{url: http://"+shardHook+"/, format: json}]")
	labels := map[int]string{}
	for _, vni := range shardVNIs {
		labels[vni] = "shard: s1"
	}
	more := map[string]string{"service.yaml": shardService, "switch.yaml": strings.ReplaceAll(labGateway()["switch.yaml"], "127.0.0.1:9559", shardValve)}
	l.begin(labels, more, "--secrets-dir", l.dir, "--webhooks", "hooks.yaml")
	file := l.write("envoy.yaml", renderBootstrap(t, l.repo, "host-1", defaultXDS))
	log := l.file(filepath.Join(l.dir, "envoy.log"))
	l.start("sw", nil, log, envoy, "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn")
	t.Cleanup(func() {
		if b, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("Envoy said\n%s", b)
		}
	})
	l.until(func(s *admin.Status) bool {
		return synced(s.Proxies) && s.Conditions[0].Status == "True"
	})
	l.mesh()
	return s
}

// write writes a file of the laboratory.
func (l *netlab) write(name, text string) (path string) {
	l.t.Helper()
	path = filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// serve serves HTTP beside the daemon until the test ends.
func (l *netlab) serve(address string, h http.Handler) {
	l.t.Helper()
	server := &http.Server{Handler: h}
	listener := l.listen(address)
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(listener) })
	l.t.Cleanup(func() { _ = server.Close(); done.Wait() })
}

// mesh has every VM ping every other one of its VPC.
func (l *netlab) mesh() {
	l.t.Helper()
	var all sync.WaitGroup
	for _, v := range l.vms {
		var others []string
		for _, o := range l.vms {
			if o.vni == v.vni && o != v {
				others = append(others, o.address)
			}
		}
		all.Go(func() {
			script := "for a in " + strings.Join(others, " ") + "; do ping -n -q -c 1 -W 5 $a || exit 1; done"
			if out, err := exec.Command("ip", "netns", "exec", l.ns(v.name), "sh", "-c", script).CombinedOutput(); err != nil {
				l.t.Errorf("%s does not reach all of its VPC: %v: %s", v.name, err, out)
			}
		})
	}
	all.Wait()
	if l.t.Failed() {
		l.t.FailNow()
	}
}

// accountAnswer is what an account's request got.
type accountAnswer struct {
	sent, at time.Time // when the request left, and the answer was there
	version  string    // or what went wrong
}

// callers are clients that send requests of accounts through Envoy without a pause.
type callers struct {
	end     context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	answers map[string][]accountAnswer // by account
}

// call starts a caller for every VPC's account.
func (l *netlab) call() *callers {
	c := &callers{answers: map[string][]accountAnswer{}}
	ctx, end := context.WithCancel(l.t.Context())
	c.end = end
	l.t.Cleanup(c.stop)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 8, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return l.dial(ctx, network, shardProxy)
		},
	}}
	for _, vni := range l.vnis() {
		c.running.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					a := accountAnswer{sent: time.Now()}
					a.version = request(client, labAccount(vni))
					a.at = time.Now()
					c.note(labAccount(vni), a)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return c
}

// request is one request of an account, and says which version answered it.
func request(client *http.Client, account string) string {
	req, err := http.NewRequest(http.MethodGet, "http://vpc-api.internal/", nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("x-ucloud-routeby", "account_id="+account)
	res, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Sprintf("%s %s", res.Status, b)
	}
	return string(b)
}

func (c *callers) note(account string, a accountAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[account] = append(c.answers[account], a)
}

// since is what an account was answered to requests sent since a time.
func (c *callers) since(account string, at time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var versions []string
	for _, a := range slices.Backward(c.answers[account]) {
		if a.sent.Before(at) {
			break
		}
		versions = append(versions, a.version)
	}
	return versions
}

// stop ends the callers, each after the request that is under way.
func (c *callers) stop() {
	c.end()
	c.running.Wait()
}

// valve is a way to the switch that can be shut: what the daemon writes then waits.
type valve struct{ shut sync.RWMutex }

// shardValve is where the valve of a laboratory takes connections.
const shardValve = "127.0.0.1:9560"

// valve puts a valve before the switch.
func (l *netlab) valve() *valve {
	l.t.Helper()
	v := &valve{}
	listener := l.listen(shardValve)
	l.t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := l.dial(l.t.Context(), "tcp", "127.0.0.1:9559")
			if err != nil {
				_ = from.Close() // the switch does not listen yet; the daemon tries again
				continue
			}
			go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
			go v.copy(to, from)
		}
	}()
	return v
}

func (v *valve) copy(to, from net.Conn) {
	defer to.Close()
	b := make([]byte, 1<<16)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		v.shut.RLock()
		_, err = to.Write(b[:n])
		v.shut.RUnlock()
		if err != nil {
			return
		}
	}
}

// close shuts the valve until the function that it returns is called.
func (v *valve) close(t *testing.T) (open func()) {
	v.shut.Lock()
	open = sync.OnceFunc(v.shut.Unlock)
	t.Cleanup(open)
	return open
}
