package xds

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// BenchmarkPeers changes one endpoint, or one route, among many services, and
// waits until the last of many clients has it: by gray, and by go-control-plane's
// SnapshotCache with the same resources, where one snapshot is for all clients.
// "inline" has it send virtual hosts in their RouteConfiguration, as control
// planes commonly do, and else by VHDS, as gray does.
func BenchmarkPeers(b *testing.B) {
	for _, c := range []struct {
		change            string
		services, clients int
	}{
		{"endpoint", 1000, 1000},
		{"route", 1000, 1},
		{"route", 1000, 100},
		{"route", 5000, 1},
		{"route", 5000, 100},
	} {
		for _, server := range []string{"gray", "SnapshotCache", "SnapshotCache-inline"} {
			if c.change == "endpoint" && server == "SnapshotCache-inline" {
				continue
			}
			b.Run(fmt.Sprintf("%s/services=%d/clients=%d/%s", c.change, c.services, c.clients, server), func(b *testing.B) {
				benchPeer(b, server, c.change, c.services, c.clients)
			})
		}
	}
}

// rival is a server that is compared.
type rival interface {
	// change prepares that a service has an endpoint port and a default version; the
	// function does it.
	change(service string, port int, version string) func()
}

func benchPeer(b *testing.B, server, change string, services, clients int) {
	base := restingMemory()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := grpc.NewServer(ServerOptions()...)
	defer g.Stop()
	load := map[string]int{resourcev3.ClusterType: services * 2, resourcev3.EndpointType: services * 2, resourcev3.VirtualHostType: services + 1}
	var p rival
	if server == "gray" {
		p = newGrayPeer(b, g, services, clients)
	} else {
		inline := server == "SnapshotCache-inline"
		if inline {
			delete(load, resourcev3.VirtualHostType)
			load[resourcev3.RouteType] = 1
		}
		p = newSnapshotPeer(b, g, services, inline)
	}
	go func() { _ = g.Serve(l) }()
	crowd := startCrowd(b, crowdSpec{l.Addr().String(), clients, load})
	kind, name := resourcev3.EndpointType, "s7/v1"
	if change == "route" {
		kind, name = resourcev3.VirtualHostType, "gray/s7"
		if server == "SnapshotCache-inline" {
			kind, name = resourcev3.RouteType, lower.RoutesName
		}
	}
	var last, cpu time.Duration
	var bytes, n int
	for b.Loop() {
		n++
		crowd.arm(kind, name)
		port, version := 8000, "v1"
		if change == "route" {
			version = fmt.Sprintf("v%d", n%2+1)
		} else {
			port += n % 2
		}
		change := p.change("s7", port, version)
		before, start := cpuTime(), time.Now()
		done := make(chan struct{})
		go func() { defer close(done); change() }()
		size, err := strconv.Atoi(crowd.says("done"))
		last += time.Since(start)
		<-done
		cpu += cpuTime() - before
		if err != nil {
			b.Fatal(err)
		}
		bytes += size
	}
	b.ReportMetric(float64(last.Microseconds())/float64(n)/1000, "ms-to-last")
	b.ReportMetric(float64(cpu.Microseconds())/float64(n)/1000, "cpu-ms/change")
	b.ReportMetric(float64(bytes)/float64(n*clients), "B/client")
	b.ReportMetric(float64(liveMemory()-base)/(1<<20), "MiB")
	runtime.KeepAlive(p)
}

// liveMemory is what the process holds after a collection: heap and stacks.
func liveMemory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// restingMemory is liveMemory once what ran before has let go of its own.
func restingMemory() int64 {
	for before := liveMemory(); ; {
		time.Sleep(50 * time.Millisecond)
		now := liveMemory()
		if before-now < 1<<20 {
			return now
		}
		before = now
	}
}

// cpuTime is what the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchService is a service of the benchmark: two versions of two endpoints each,
// of which the first of v1 has the port.
func benchService(name string, port int, version string) *requests.Service {
	s := &requests.Service{Name: name, Hosts: []string{name + ".internal"}, Protocol: "http", Default: version, Origin: schema.Position{Path: "s.yaml"}}
	for i, v := range []string{"v1", "v2"} {
		s.Versions = append(s.Versions, requests.ServiceVersion{Name: v, Endpoints: []requests.Endpoint{
			{Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: uint16(port), Weight: 1},
			{Address: netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), Port: 9000, Weight: 1},
		}})
		port = 9000
	}
	return s
}

// grayPeer is gray's sink.
type grayPeer struct {
	b    *testing.B
	sink *Sink
	ir   *policies.IR
}

// lower gives the resources of a unit.
func (p *grayPeer) lower(n policies.Name, unit any) []*reconciler.Resource {
	p.ir.Put(n, unit)
	all, err := p.sink.Lower(p.ir, n)
	if err != nil {
		p.b.Fatal(err)
	}
	return all
}

func (p *grayPeer) apply(resources []*reconciler.Resource) {
	changes := make([]reconciler.Change, len(resources))
	for i, r := range resources {
		changes[i] = reconciler.Change{New: r}
	}
	if err := p.sink.Apply(p.b.Context(), nil, changes); err != nil {
		p.b.Fatal(err)
	}
}

func newGrayPeer(b *testing.B, g *grpc.Server, services, clients int) *grayPeer {
	sink, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	p := &grayPeer{b, sink, policies.NewIR(policies.NewIDs())}
	p.apply(p.resources(services, clients))
	sink.Register(g)
	return p
}

// resources are those of so many services and nodes.
func (p *grayPeer) resources(services, nodes int) []*reconciler.Resource {
	var all []*reconciler.Resource
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		all = append(all, p.lower(policies.Name{Kind: schema.KindService, Name: name}, benchService(name, 8000, "v1"))...)
	}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i)
		all = append(all, p.lower(policies.Name{Kind: schema.KindNode, Name: name},
			&policies.Node{Name: name, Bind: netip.MustParseAddr("127.0.0.1"), Port: 15001, AdminPort: 15000})...)
	}
	return all
}

func (p *grayPeer) change(service string, port int, version string) func() {
	resources := p.lower(policies.Name{Kind: schema.KindService, Name: service}, benchService(service, port, version))
	return func() { p.apply(resources) }
}

// snapshotPeer is go-control-plane's cache, with one snapshot for all nodes.
type snapshotPeer struct {
	b         *testing.B
	cache     cachev3.SnapshotCache
	inline    bool
	gray      *grayPeer // makes the resources
	resources map[resourcev3.Type][]types.Resource
	index     map[string]int // of a type and name in these
	version   int
}

// oneForAll is the key of the snapshot.
type oneForAll struct{}

func (oneForAll) ID(*corev3.Node) string { return "all" }

func newSnapshotPeer(b *testing.B, g *grpc.Server, services int, inline bool) *snapshotPeer {
	sink, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	p := &snapshotPeer{
		b: b, cache: cachev3.NewSnapshotCache(true, oneForAll{}, nil), inline: inline,
		gray: &grayPeer{b, sink, policies.NewIR(policies.NewIDs())}, resources: map[resourcev3.Type][]types.Resource{}, index: map[string]int{},
	}
	messages, err := Native(p.gray.resources(services, 1))
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range messages {
		p.put(m)
	}
	p.set()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(context.Background(), p.cache, nil))
	return p
}

// put puts a message in the place of the one with its name.
func (p *snapshotPeer) put(m proto.Message) {
	kind := typePrefix + string(m.ProtoReflect().Descriptor().FullName())
	id := kind + " " + cachev3.GetResourceName(m)
	if i, ok := p.index[id]; ok {
		p.resources[kind][i] = m
		return
	}
	p.index[id] = len(p.resources[kind])
	p.resources[kind] = append(p.resources[kind], m)
}

// set makes the next snapshot of all resources.
func (p *snapshotPeer) set() {
	p.version++
	resources := map[resourcev3.Type][]types.Resource{}
	for kind, list := range p.resources {
		resources[kind] = list
	}
	if p.inline {
		routes := &routev3.RouteConfiguration{Name: lower.RoutesName, VhostHeader: lower.KeyHeader}
		for _, vh := range p.resources[resourcev3.VirtualHostType] {
			routes.VirtualHosts = append(routes.VirtualHosts, vh.(*routev3.VirtualHost))
		}
		resources[resourcev3.RouteType] = []types.Resource{routes}
		delete(resources, resourcev3.VirtualHostType)
	}
	snapshot, err := cachev3.NewSnapshot(strconv.Itoa(p.version), resources)
	if err != nil {
		p.b.Fatal(err)
	}
	if err := p.cache.SetSnapshot(p.b.Context(), "all", snapshot); err != nil {
		p.b.Fatal(err)
	}
}

func (p *snapshotPeer) change(service string, port int, version string) func() {
	messages, err := Native(p.gray.lower(policies.Name{Kind: schema.KindService, Name: service}, benchService(service, port, version)))
	if err != nil {
		p.b.Fatal(err)
	}
	return func() {
		for _, m := range messages {
			p.put(m)
		}
		p.set()
	}
}
