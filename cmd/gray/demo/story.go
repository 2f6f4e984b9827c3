package demo

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gray-release/gray/sinks/p4rt/softswitch"
)

// story makes commits, and shows before and after each who reaches which version.
func (d *demo) story(ctx context.Context) error {
	d.say("gray demo: two HTTP backends, a real Envoy, a software gateway, a Git repository and the daemon.")
	d.say("\n1. The first commit has no policy: everybody is on v1.")
	d.expect(ctx, "v1", "v1", "v1")
	d.say("\n2. Two policies: account 50002001 goes gray on both planes, and one TCP flow of VPC 1002.")
	for _, p := range []string{"policies/early-adopter.yaml", "policies/one-flow.yaml"} {
		if err := d.CopyFile(p); err != nil {
			return err
		}
	}
	if err := d.showDiff(ctx); err != nil {
		return err
	}
	d.say("\n$ git commit -m 'An early adopter and one flow go gray'")
	if err := d.Commit(ctx, "An early adopter and one flow go gray"); err != nil {
		return err
	}
	d.expect(ctx, "v2", "v2", "v2")
	d.say("\n3. The commit is reverted.")
	if err := os.RemoveAll(filepath.Join(d.Repo, "policies")); err != nil {
		return err
	}
	if err := d.showDiff(ctx); err != nil {
		return err
	}
	d.say("\n$ git revert HEAD")
	if err := d.Git(ctx, "checkout", "-q", "--", "."); err != nil {
		return err
	}
	if err := d.Git(ctx, "revert", "--no-edit", "HEAD"); err != nil {
		return err
	}
	d.expect(ctx, "v1", "v1", "v1")
	return nil
}

// expect shows who reaches which version: the early adopter's account and VPC and the
// one flow as given, and everybody else v1.
func (d *demo) expect(ctx context.Context, account, vpc, flow string) {
	d.expectHTTP(ctx, "50002001", account)
	d.expectHTTP(ctx, "50009999", "v1")
	d.expectPacket(ctx, "a VXLAN packet of VNI 1001", packetSpec{1001, "10.0.0.5", "10.0.1.5", 40001, 443}, vpc)
	d.expectPacket(ctx, "a VXLAN packet of VNI 1003", packetSpec{1003, "10.0.0.5", "10.0.1.5", 40001, 443}, "v1")
	d.expectPacket(ctx, "the TCP flow 10.0.0.5:40001 -> 10.0.0.9:443 of VNI 1002", packetSpec{1002, "10.0.0.5", "10.0.0.9", 40001, 443}, flow)
	d.expectPacket(ctx, "its neighbour from source port 40002", packetSpec{1002, "10.0.0.5", "10.0.0.9", 40002, 443}, "v1")
}

// verdict tries until the answer is the wanted one or the time is up, and prints the
// answer.
func (d *demo) verdict(ctx context.Context, what, want string, try func() (version, detail string)) {
	deadline := time.Now().Add(wait)
	for {
		got, detail := try()
		if got == want || time.Now().After(deadline) || ctx.Err() != nil {
			sign := "ok    "
			if got != want {
				sign = "FAILED"
				d.failed++
				detail += ", expected " + want
			}
			d.say("  %s %s %s", sign, what, detail)
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (d *demo) expectHTTP(ctx context.Context, account, want string) {
	proxy := &url.URL{Scheme: "http", Host: d.Address("15001")}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}, Timeout: 2 * time.Second}
	d.verdict(ctx, "account "+account, want, func() (string, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vpc-api.internal/", nil)
		if err != nil {
			return "", err.Error()
		}
		req.Header.Set("x-ucloud-routeby", "account_id="+account+"; region=cn-bj2")
		res, err := client.Do(req)
		if err != nil {
			return "", "got no answer: " + err.Error()
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(res.Body, 200))
		version := strings.TrimSpace(string(b))
		return version, "is answered by " + version
	})
}

func (d *demo) expectPacket(ctx context.Context, what string, p packetSpec, want string) {
	d.verdict(ctx, what, want, func() (string, string) {
		port := d.lab.send(p)
		version := map[bool]string{true: "v1", false: "v2"}[port <= 4]
		if port == 0 {
			return "", "is dropped"
		}
		return version, fmt.Sprintf("leaves on port %d, a %s port", port, version)
	})
}

// packetSpec is a TCP segment in a VXLAN packet for the quickstart's VIP.
type packetSpec struct {
	vni              uint32
	src, dst         string
	srcPort, dstPort uint16
}

// packetLab sends packets through a switch with in-memory ports.
type packetLab struct {
	sw  *softswitch.Switch
	out chan uint32
}

func newPacketLab(sw *softswitch.Switch) (*packetLab, error) {
	lab := &packetLab{sw: sw, out: make(chan uint32, 1)}
	for port := uint32(1); port <= 6; port++ {
		if err := sw.Attach(port, func([]byte) { lab.out <- port }); err != nil {
			return nil, err
		}
	}
	return lab, nil
}

// send returns the port that a packet leaves on, 0 if it is dropped.
func (l *packetLab) send(p packetSpec) uint32 {
	if !l.sw.Inject(p.frame()) {
		return 0
	}
	return <-l.out
}

// frame encodes the packet.
func (p packetSpec) frame() []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp[0:], p.srcPort)
	binary.BigEndian.PutUint16(tcp[2:], p.dstPort)
	tcp[12] = 5 << 4
	payload := vxlan(p.vni, append(ethernet([6]byte{2}, [6]byte{2}), ipv4(6, netip.MustParseAddr(p.src), netip.MustParseAddr(p.dst), tcp)...))
	return outer(netip.MustParseAddr("192.0.2.101"), netip.MustParseAddr("203.0.113.10"), payload)
}
