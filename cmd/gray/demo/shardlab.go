package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
)

// tenantVTEP is the host of the tenants that talk to the VMs, one in each VPC.
var tenantVTEP = netip.MustParseAddr("192.0.2.201")

// shardLab is a shard of VPCs on one machine, as the documents describe it. A tenant
// and the daemon's monitor send VXLAN to the VIP. A software gateway passes it to a
// gateway server, which looks up the host of the VM in the route table, and the VM
// answers. Each outer address is a UDP socket on 127.0.0.1 that the underlay knows, so
// that one process is enough.
type shardLab struct {
	sw      *softswitch.Switch
	vip     netip.Addr
	places  map[netip.Addr]netip.AddrPort // the socket's address, by outer address
	outers  map[netip.AddrPort]netip.Addr // the outer address, by the socket's
	conns   map[netip.Addr]*net.UDPConn   // the laboratory's own, by outer address
	vpcs    []*shardVPC                   // by name
	ends    map[shardKey]shardEnd         // everything with an address in a VPC
	readers []func()                      // of conns
	closed  chan struct{}
	done    sync.WaitGroup

	mu    sync.Mutex
	vms   map[shardKey]*shardVM
	loses map[shardLoss]bool
	round uint16
}

type (
	shardKey struct {
		vni     uint32
		address netip.Addr
	}
	// shardLoss says that the servers of a version drop the packets of a VPC.
	shardLoss struct {
		version string
		vni     uint32
	}
	shardVPC struct {
		name   string
		vni    uint32
		tenant shardEnd
		vms    []shardEnd // by address
	}
	// shardServer is a gateway server at a port of the switch.
	shardServer struct {
		version string
		mac     [6]byte
		conn    *net.UDPConn
	}
)

// shardVM says what happened to the packets for one VM.
type shardVM struct {
	shardEnd
	via      string         // the version that handled the last one
	served   map[string]int // by version, dropped ones included
	sent     int            // by the tenant
	answered int            // to the tenant
	lost     int            // the tenant's, dropped by a server
	last     uint16         // the round of the last answer
	late     int            // in what look returns: rounds since then
}

// newShardLab builds the laboratory for the Gateway and the Networks of a repository, on
// the ports of a switch.
func newShardLab(sw *softswitch.Switch, set *schema.Set) (l *shardLab, err error) {
	l = &shardLab{
		sw: sw, places: map[netip.Addr]netip.AddrPort{}, outers: map[netip.AddrPort]netip.Addr{}, conns: map[netip.Addr]*net.UDPConn{},
		ends: map[shardKey]shardEnd{}, vms: map[shardKey]*shardVM{}, closed: make(chan struct{}), loses: map[shardLoss]bool{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if err := l.listen(tenantVTEP, l.tenantTakes); err != nil {
		return l, err
	}
	for _, name := range set.Names() {
		switch spec := set.Get(name).Spec.(type) {
		case *schema.GatewaySpec:
			err = l.addGateway(spec)
		case *schema.NetworkSpec:
			err = l.addVPC(name.Name, spec)
		}
		if err != nil {
			return l, err
		}
	}
	for _, read := range l.readers { // they read the maps, which are complete now
		l.done.Go(read)
	}
	return l, nil
}

// listen opens the socket of an outer address, and calls take for each packet.
func (l *shardLab) listen(outer netip.Addr, take func(packet []byte, from netip.AddrPort)) error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	_ = conn.SetReadBuffer(1 << 20) // a smaller one is enough for this traffic
	l.conns[outer] = conn
	l.at(outer, conn.LocalAddr().(*net.UDPAddr).AddrPort())
	l.readers = append(l.readers, func() {
		b := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				take(b[:n], from)
			}
		}
	})
	return nil
}

func (l *shardLab) at(outer netip.Addr, place netip.AddrPort) {
	l.places[outer], l.outers[place] = place, outer
}

// underlay implements probe.Options.Underlay.
func (l *shardLab) underlay(outer netip.AddrPort) netip.AddrPort {
	if place, ok := l.places[outer.Addr()]; ok && outer.Port() == vxlanPort {
		return place
	}
	return outer
}

// addGateway opens the sockets of the VIP and of the servers behind it.
func (l *shardLab) addGateway(g *schema.GatewaySpec) error {
	l.vip = g.VIPs[0].Addr
	for _, v := range g.Versions {
		for _, b := range v.Backends {
			if err := l.listen(b.Address.Addr, func([]byte, netip.AddrPort) {}); err != nil {
				return err
			}
			s := &shardServer{version: v.Name, mac: *b.MAC, conn: l.conns[b.Address.Addr]}
			if err := l.sw.Attach(uint32(*b.Port), func(frame []byte) { l.serve(s, frame) }); err != nil {
				return err
			}
		}
	}
	return l.listen(l.vip, func(packet []byte, from netip.AddrPort) {
		if src, ok := l.outers[from]; ok {
			l.sw.Inject(outer(src, l.vip, packet))
		}
	})
}

// addVPC opens the sockets of a VPC's hosts, and chooses one for its monitor, which the
// daemon opens.
func (l *shardLab) addVPC(name string, n *schema.NetworkSpec) error {
	v := &shardVPC{name: name, vni: uint32(*n.VNI)}
	v.tenant = shardEnd{name: "tenant", address: netip.MustParseAddr("10.0.255.253"), mac: [6]byte{2, 0xaa, 0, 0, 0, 0xfd}, vtep: tenantVTEP}
	monitor := shardEnd{"monitor", n.Monitor.Address.Addr, n.Monitor.MAC, n.Monitor.VTEP.Addr}
	if _, ok := l.places[monitor.vtep]; !ok {
		place, err := freeUDP()
		if err != nil {
			return err
		}
		l.at(monitor.vtep, place)
	}
	for _, r := range n.Routes {
		vm := shardEnd{r.VM, r.Prefix.Addr(), r.MAC, r.VTEP.Addr}
		if _, ok := l.places[vm.vtep]; !ok {
			if err := l.listen(vm.vtep, func(packet []byte, _ netip.AddrPort) { l.hostTakes(vm.vtep, packet) }); err != nil {
				return err
			}
		}
		l.vms[shardKey{v.vni, vm.address}] = &shardVM{shardEnd: vm, served: map[string]int{}}
		v.vms = append(v.vms, vm)
	}
	slices.SortFunc(v.vms, func(a, b shardEnd) int { return a.address.Compare(b.address) })
	for _, e := range append(slices.Clone(v.vms), v.tenant, monitor) {
		l.ends[shardKey{v.vni, e.address}] = e
	}
	l.vpcs = append(l.vpcs, v)
	return nil
}

// freeUDP finds a free UDP port on 127.0.0.1.
func freeUDP() (netip.AddrPort, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return netip.AddrPort{}, err
	}
	return conn.LocalAddr().(*net.UDPAddr).AddrPort(), conn.Close()
}

// serve handles a frame from the switch as a gateway server does: it looks up the VM in
// the route table of the VPC and forwards the packet to the VM's host.
func (l *shardLab) serve(s *shardServer, frame []byte) {
	const headers = etherSize + ipv4Size + udpSize
	if len(frame) < headers || [6]byte(frame) != s.mac {
		return
	}
	packet := frame[headers:]
	e, ok := parseEcho(packet)
	if !ok {
		return
	}
	l.mu.Lock()
	vm := l.vms[shardKey{e.vni, e.dst}]
	lost := l.loses[shardLoss{s.version, e.vni}]
	if vm != nil {
		vm.via = s.version
		vm.served[s.version]++
		if lost && l.ends[shardKey{e.vni, e.src}].vtep == tenantVTEP {
			vm.lost++
		}
	}
	l.mu.Unlock()
	if vm != nil && !lost {
		_, _ = s.conn.WriteToUDPAddrPort(packet, l.places[vm.vtep]) // what is lost is counted
	}
}

// hostTakes answers for the VMs of a host.
func (l *shardLab) hostTakes(host netip.Addr, packet []byte) {
	e, ok := parseEcho(packet)
	if !ok || e.kind != icmpRequest {
		return
	}
	vm, from := l.ends[shardKey{e.vni, e.dst}], l.ends[shardKey{e.vni, e.src}]
	if vm.vtep == host && vm.mac == e.dstMAC && from.vtep.IsValid() {
		_, _ = l.conns[host].WriteToUDPAddrPort(e.reply(), l.places[from.vtep])
	}
}

// tenantTakes counts an answer.
func (l *shardLab) tenantTakes(packet []byte, _ netip.AddrPort) {
	e, ok := parseEcho(packet)
	if !ok || e.kind != icmpReply {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if vm := l.vms[shardKey{e.vni, e.src}]; vm != nil {
		vm.answered++
		if n := e.sequence(); int16(n-vm.last) > 0 {
			vm.last = n
		}
	}
}

// lose makes the servers of a version drop the packets of a VPC.
func (l *shardLab) lose(version string, vni uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loses[shardLoss{version, vni}] = true
}

// send sends one packet from the tenant of each VPC to each of its VMs.
func (l *shardLab) send() {
	l.mu.Lock()
	l.round++
	round := l.round
	for _, vm := range l.vms {
		vm.sent++
	}
	l.mu.Unlock()
	for _, v := range l.vpcs {
		for _, vm := range v.vms {
			_, _ = l.conns[tenantVTEP].WriteToUDPAddrPort(echoRequest(v.vni, v.tenant, vm, round), l.places[l.vip])
		}
	}
}

// traffic sends again and again until it is stopped.
func (l *shardLab) traffic(interval time.Duration) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	l.done.Go(func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			l.send()
			select {
			case <-tick.C:
			case <-end:
				return
			case <-l.closed:
				return
			}
		}
	})
	return func() { close(end); <-ended }
}

// look says what happened to the packets for a VPC's VMs, by address.
func (l *shardLab) look(v *shardVPC) []shardVM {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]shardVM, 0, len(v.vms))
	for _, e := range v.vms {
		vm := *l.vms[shardKey{v.vni, e.address}]
		vm.served = maps.Clone(vm.served)
		vm.late = int(int16(l.round - vm.last))
		out = append(out, vm)
	}
	return out
}

// lookAll is look for every VPC.
func (l *shardLab) lookAll() [][]shardVM {
	var all [][]shardVM
	for _, v := range l.vpcs {
		all = append(all, l.look(v))
	}
	return all
}

// answers waits until every VM has answered a packet that was sent after the call and
// went through a version.
func (l *shardLab) answers(ctx context.Context, version string) error {
	l.mu.Lock()
	begin := l.round
	l.mu.Unlock()
	return l.until(ctx, func(vm *shardVM) bool { return int16(vm.last-begin) > 0 && vm.via == version })
}

// settle waits until no packet is under way: each was answered, or dropped by a server.
func (l *shardLab) settle(ctx context.Context) error {
	return l.until(ctx, func(vm *shardVM) bool { return vm.sent == vm.answered+vm.lost })
}

// until waits until a condition holds for every VM.
func (l *shardLab) until(ctx context.Context, holds func(*shardVM) bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		wrong := l.but(holds)
		if wrong == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is on %s, sent %d, answered %d, lost %d", wrong.name, wrong.via, wrong.sent, wrong.answered, wrong.lost)
		}
	}
}

// but returns a VM for which a condition does not hold, or nil.
func (l *shardLab) but(holds func(*shardVM) bool) *shardVM {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, vm := range l.vms {
		if !holds(vm) {
			wrong := *vm
			return &wrong
		}
	}
	return nil
}

// close closes the sockets and waits for their readers.
func (l *shardLab) close() error {
	close(l.closed)
	var errs []error
	for _, c := range l.conns {
		errs = append(errs, c.Close())
	}
	l.done.Wait()
	return errors.Join(errs...)
}
