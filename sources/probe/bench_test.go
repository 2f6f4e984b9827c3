package probe

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/gray-release/gray/tools/testnet"
)

// TestMain makes the test binary a peer of its own, so that a benchmark measures
// the prober's processor time alone.
func TestMain(m *testing.M) {
	if vip := os.Getenv("GRAY_TEST_PEER"); vip != "" {
		if err := peerMain(vip); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	testnet.Main(m)
}

// peerMain answers all echo requests at a VIP until its standard input ends.
func peerMain(vip string) error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(vip), 4789)))
	if err != nil {
		return err
	}
	_ = conn.SetReadBuffer(4 << 20)
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	fmt.Println("ready")
	p := &peer{conn: conn}
	b := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		echoes(p, dissect(b[:n], from))
	}
}

// BenchmarkOverlayPing pings 10,000 addresses in one probe, at the default
// rate and as fast as it goes.
func BenchmarkOverlayPing(b *testing.B) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GRAY_TEST_PEER="+testVIP.String())
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	for _, rate := range []int{DefaultRate, 100_000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) {
			r := request(MaxTargets)
			r.Tests[0].Timeout = time.Second
			p := New(Options{Rate: rate})
			before, began := processor(), time.Now()
			lost := 0
			for b.Loop() {
				res := p.Probe(b.Context(), r)
				lost += res.Tests[0].Sent - res.Tests[0].Received
				if res.Verdict == Unknown {
					b.Logf("%s", res.Reason)
				}
			}
			took, used := time.Since(began), processor()-before
			probes := float64(b.N * 3 * MaxTargets)
			b.ReportMetric(probes/took.Seconds(), "probes/s")
			b.ReportMetric(100*used.Seconds()/took.Seconds(), "%cpu")
			b.ReportMetric(float64(used.Nanoseconds())/probes, "cpu-ns/probe")
			b.ReportMetric(float64(lost)/float64(b.N), "lost/op")
		})
	}
}

// processor is the time that this process has used.
func processor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
