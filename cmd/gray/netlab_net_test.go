package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// build makes the namespaces of a laboratory and what is between them.
func (l *netlab) build() {
	l.t.Helper()
	l.namespace("fab")
	l.batch("ip", "fab", "link add br0 type bridge", "link set br0 up")
	l.namespace("sw")
	l.in("sw", "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1") // p10 is a port, and speaks for nobody
	l.cable("fab", "uplink", "sw", "p10")
	l.cable("fab", "fmon", "sw", "mon") // of the daemon, which probes and checks the servers
	l.batch("bridge", "fab", "fdb add "+labSwitchMAC+" dev uplink master static")
	l.batch("ip", "sw", "addr add "+labMonitorVTEP+"/24 dev mon", "neigh add 192.0.2.1 lladdr "+labSwitchMAC+" dev mon nud permanent",
		"route add "+labVIP+"/32 via 192.0.2.1 src "+labMonitorVTEP)
	for _, s := range labServers {
		l.server(s)
	}
	var hosts []int
	for _, v := range l.vms {
		if !slices.Contains(hosts, v.host) {
			hosts = append(hosts, v.host)
			l.host(v)
		}
		l.vm(v)
	}
}

// must runs a command.
func (l *netlab) must(args ...string) string {
	l.t.Helper()
	return l.feed("", args...)
}

// feed runs a command with an input.
func (l *netlab) feed(input string, args ...string) string {
	l.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v: %s\n%s", strings.Join(args, " "), err, out, input)
	}
	return string(out)
}

func (l *netlab) ns(name string) string { return l.prefix + "-" + name }

// in runs a command in a namespace.
func (l *netlab) in(ns string, args ...string) string {
	l.t.Helper()
	return l.must(append([]string{"ip", "netns", "exec", l.ns(ns)}, args...)...)
}

// batch has ip or bridge take a list of commands in a namespace.
func (l *netlab) batch(tool, ns string, lines ...string) {
	l.t.Helper()
	l.feed(strings.Join(lines, "\n")+"\n", tool, "-n", l.ns(ns), "-batch", "-")
}

// inside runs a function on a thread in a namespace, which ends with it. What it
// opens stays there.
func (l *netlab) inside(ns string, do func() error) error {
	f, err := os.Open("/var/run/netns/" + l.ns(ns))
	if err != nil {
		return err
	}
	defer f.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- do()
	}()
	return <-done
}

// dial opens a connection from beside the daemon.
func (l *netlab) dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = l.inside("sw", func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// listen opens a listener beside the daemon.
func (l *netlab) listen(address string) net.Listener {
	l.t.Helper()
	var listener net.Listener
	err := l.inside("sw", func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return listener
}

func (l *netlab) namespace(name string) {
	l.t.Helper()
	l.must("ip", "netns", "add", l.ns(name))
	l.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", l.ns(name)).Run() })
	l.batch("ip", name, "link set lo up")
	knobs := []string{"sysctl", "-qw"}
	for _, k := range []string{"all", "default"} {
		knobs = append(knobs, "net.ipv4.conf."+k+".rp_filter=0", "net.ipv6.conf."+k+".disable_ipv6=1")
	}
	l.in(name, knobs...)
}

// cable puts a veth pair between two namespaces; an end in the fabric is a port
// of its bridge.
func (l *netlab) cable(a, aName, b, bName string) {
	l.t.Helper()
	l.must("ip", "link", "add", aName, "netns", l.ns(a), "type", "veth", "peer", "name", bName, "netns", l.ns(b))
	up := []string{"link set " + aName + " up"}
	if a == "fab" {
		up = append(up, "link set "+aName+" master br0")
	}
	l.batch("ip", a, up...)
	l.batch("ip", b, "link set "+bName+" up")
}

// vnis lists the VPCs.
func (l *netlab) vnis() []int {
	var all []int
	for _, v := range l.vms {
		all = append(all, v.vni)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// server makes a host that owns the VIP. What comes to the router of a VPC it routes
// to the VPC's VMs; what comes to a VM's own MAC address, as the monitor's does, it
// switches.
func (l *netlab) server(s labServer) {
	l.t.Helper()
	l.namespace(s.name)
	l.cable("sw", fmt.Sprintf("p%d", s.number), s.name, "tosw")
	l.cable("fab", "f"+s.name, s.name, "under")
	ip := []string{
		"link set tosw address " + s.mac(), fmt.Sprintf("addr add 192.0.2.1%d/24 dev under", s.number), "addr add " + labVIP + "/32 dev lo",
	}
	var bridge []string
	knobs := []string{"sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0"}
	for _, vni := range l.vnis() {
		vx, br := fmt.Sprintf("vx%d", vni), fmt.Sprintf("br%d", vni)
		ip = append(
			ip,
			fmt.Sprintf("link add %s address %s type vxlan id %d local %s dstport 4789 nolearning", vx, labRouterMAC, vni, labVIP),
			fmt.Sprintf("link add %s address %s type bridge", br, labRouterMAC),
			fmt.Sprintf("link set %s master %s", vx, br), "link set "+vx+" up", "link set "+br+" up",
			fmt.Sprintf("rule add iif %s table %d", br, vni), // two VPCs may use the same addresses: each has a table of its own
		)
		bridge = append(bridge, "link set dev "+vx+" hairpin on learning off")
		knobs = append(knobs, "net.ipv4.conf."+br+".rp_filter=0", "net.ipv4.conf."+br+".send_redirects=0")
		end := func(address, mac, vtep string) {
			ip = append(ip, fmt.Sprintf("route add %s/32 dev %s table %d", address, br, vni), fmt.Sprintf("neigh add %s lladdr %s dev %s nud permanent", address, mac, br))
			bridge = append(bridge, fmt.Sprintf("fdb add %s dev %s dst %s", mac, vx, vtep), fmt.Sprintf("fdb add %s dev %s master static", mac, vx))
		}
		end(labMonitor, labMonitorMAC, labMonitorVTEP)
		for _, v := range l.vms {
			if v.vni == vni {
				end(v.address, v.mac(), v.vtep())
			}
		}
	}
	l.batch("ip", s.name, ip...)
	l.batch("bridge", s.name, bridge...)
	l.in(s.name, knobs...)
}

// host makes the host of a VM: all VXLAN of its VMs goes to the VIP.
func (l *netlab) host(v labVM) {
	l.t.Helper()
	name := fmt.Sprintf("h%d", v.host)
	l.namespace(name)
	l.cable("fab", "f"+name, name, "under")
	l.batch("ip", name, "addr add "+v.vtep()+"/24 dev under", "neigh add 192.0.2.1 lladdr "+labSwitchMAC+" dev under nud permanent",
		"route add "+labVIP+"/32 via 192.0.2.1")
}

// vm makes a VM. Its interface is a VXLAN of its host.
func (l *netlab) vm(v labVM) {
	l.t.Helper()
	l.namespace(v.name)
	l.batch("ip", fmt.Sprintf("h%d", v.host), fmt.Sprintf("link add vx netns %s address %s mtu 1450 type vxlan id %d local %s dstport 4789 nolearning", l.ns(v.name), v.mac(), v.vni, v.vtep()))
	l.batch("ip", v.name, "link set vx up", "addr add "+v.address+"/32 dev vx", "neigh add 10.0.0.1 lladdr "+labRouterMAC+" dev vx nud permanent",
		"route add 10.0.0.1/32 dev vx", "route add 10.0.0.0/16 via 10.0.0.1 dev vx")
	l.batch("bridge", v.name, "fdb add "+labRouterMAC+" dev vx dst "+labVIP)
}
