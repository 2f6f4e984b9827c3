package p4rt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/tools/testnet"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// lab is a software gateway behind a gRPC server that can be disturbed.
type lab struct {
	testing.TB
	address string
	options []grpc.ServerOption
	wrap    func(*softswitch.Switch) p4v1.P4RuntimeServer // nil: as it is
	like    string                                        // its personality; empty: strict

	mu        sync.Mutex
	sw        *softswitch.Switch
	server    *grpc.Server
	elections []election // that were asked for, in order

	sent    atomic.Int64 // updates and pipelines that came
	batches atomic.Int64 // Writes that came
	reads   atomic.Int64
	hook    atomic.Pointer[hook]
}

// hook sees a unary call before the switch does; an error is the answer.
type hook func(ctx context.Context, req any) error

func newLab(t testing.TB, options ...grpc.ServerOption) *lab {
	t.Helper()
	l := &lab{TB: t, address: "127.0.0.1:0", options: options}
	l.start()
	t.Cleanup(l.stop)
	return l
}

// start serves an empty switch, at the same address as before.
func (l *lab) start() {
	l.Helper()
	sw := softswitch.New(1)
	if l.like != "" {
		like, err := softswitch.PersonalityOf(l.like)
		if err != nil {
			l.Fatal(err)
		}
		sw = softswitch.NewLike(1, like)
	}
	l.serve(sw)
}

func (l *lab) serve(sw *softswitch.Switch) {
	l.Helper()
	var listener net.Listener
	testnet.Eventually(l, func() string { return l.address + " cannot be listened at" }, func() bool {
		var err error
		listener, err = net.Listen("tcp", l.address)
		return err == nil
	})
	server := grpc.NewServer(append(append(softswitch.ServerOptions(), l.options...), grpc.UnaryInterceptor(l.unary), grpc.StreamInterceptor(l.stream))...)
	if l.wrap != nil {
		p4v1.RegisterP4RuntimeServer(server, l.wrap(sw))
	} else {
		sw.Register(server)
	}
	l.mu.Lock()
	l.address, l.sw, l.server = listener.Addr().String(), sw, server
	l.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
}

// stop ends the server and with it all connections.
func (l *lab) stop() {
	l.mu.Lock()
	server := l.server
	l.mu.Unlock()
	server.Stop()
}

// cut ends all connections; the switch goes on as it was.
func (l *lab) cut() {
	l.Helper()
	l.stop()
	l.serve(l.sw)
}

// reconnect cuts the connections and waits until a sink is primary again.
func (l *lab) reconnect(s *Sink) {
	l.Helper()
	before := len(l.asked())
	l.cut()
	testnet.Eventually(l, func() string { return "no new arbitration: " + roleOf(s) }, func() bool { return len(l.asked()) > before })
	waitRole(l, s, "primary")
}

func (l *lab) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	switch r := req.(type) {
	case *p4v1.WriteRequest:
		l.batches.Add(1)
		l.sent.Add(int64(len(r.GetUpdates())))
	case *p4v1.SetForwardingPipelineConfigRequest:
		l.sent.Add(1)
	}
	h := l.hook.Load()
	if h != nil {
		err := (*h)(ctx, req)
		if errors.Is(err, errDone) {
			return &p4v1.WriteResponse{}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return handler(ctx, req)
}

// errDone is returned by a hook that has made a Write itself.
var errDone = errors.New("done")

func (l *lab) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if strings.HasSuffix(info.FullMethod, "/Read") {
		l.reads.Add(1)
	}
	return handler(srv, &recorder{s, l})
}

// recorder notes the election ids that come on a stream.
type recorder struct {
	grpc.ServerStream
	l *lab
}

func (r *recorder) RecvMsg(m any) error {
	err := r.ServerStream.RecvMsg(m)
	if req, ok := m.(*p4v1.StreamMessageRequest); ok && err == nil {
		id := req.GetArbitration().GetElectionId()
		r.l.mu.Lock()
		r.l.elections = append(r.l.elections, election{id.GetHigh(), id.GetLow()})
		r.l.mu.Unlock()
	}
	return err
}

// asked is the election ids that were asked for.
func (l *lab) asked() []election {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.elections)
}

// onWrite calls f for every Write before the switch sees it.
func (l *lab) onWrite(f func(ctx context.Context, req *p4v1.WriteRequest) error) {
	h := hook(func(ctx context.Context, req any) error {
		if w, ok := req.(*p4v1.WriteRequest); ok {
			return f(ctx, w)
		}
		return nil
	})
	l.hook.Store(&h)
}

// stall receives calls and answers none.
func (l *lab) stall() {
	h := hook(func(ctx context.Context, _ any) error {
		<-ctx.Done()
		return ctx.Err()
	})
	l.hook.Store(&h)
}

// client is a connection of somebody else.
func (l *lab) client() p4v1.P4RuntimeClient {
	l.Helper()
	return dialTest(l, l.address)
}

func dialTest(t testing.TB, address string) p4v1.P4RuntimeClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return p4v1.NewP4RuntimeClient(conn)
}

// other is another controller, of a role.
type other struct {
	testing.TB
	client p4v1.P4RuntimeClient
	role   string
	id     *p4v1.Uint128
	close  context.CancelFunc
}

// newOther becomes primary of a role with an election id.
func newOther(t testing.TB, client p4v1.P4RuntimeClient, role string, id *p4v1.Uint128) *other {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s, err := client.StreamChannel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a := &p4v1.MasterArbitrationUpdate{DeviceId: 1, ElectionId: id}
	if role != "" {
		a.Role = &p4v1.Role{Name: role}
	}
	if err := s.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{Arbitration: a}}); err != nil {
		t.Fatal(err)
	}
	m, err := s.Recv()
	if err != nil || m.GetArbitration().GetStatus().GetCode() != 0 {
		t.Fatalf("the other controller is not primary: %v, error %v", m, err)
	}
	return &other{t, client, role, id, cancel}
}

func (o *other) write(updates ...*p4v1.Update) {
	o.Helper()
	_, err := o.client.Write(o.Context(), &p4v1.WriteRequest{DeviceId: 1, Role: o.role, ElectionId: o.id, Updates: updates})
	if err != nil {
		o.Fatal(reason(err))
	}
}

// newSink makes a sink with short pauses.
func newSink(t testing.TB, epoch uint64) *Sink {
	t.Helper()
	s := New(Config{Epoch: epoch})
	s.limits.retry = 10 * time.Millisecond
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// target is the Switch document of a lab.
func (l *lab) target() *reconciler.Resource { return targetAt(l.address) }

// switchOf is a Switch document whose pipeline is right.
func switchOf(sw *policies.Switch) *reconciler.Resource {
	self, err := lowerSwitch(sw)
	if err != nil {
		panic(err)
	}
	return self
}

func targetAt(address string) *reconciler.Resource {
	return switchOf(&policies.Switch{Name: "gw-a", Address: address, DeviceID: 1, Push: "ifDifferent"})
}

// load gives the switch gray's pipeline.
func (l *lab) load(s *Sink) *reconciler.Resource {
	l.Helper()
	self := l.target()
	if err := s.Apply(l.Context(), self, []reconciler.Change{{New: self}}); err != nil {
		l.Fatal(err)
	}
	return self
}

// vpcs are rules of so many VPCs, from a VNI on.
func vpcs(self *reconciler.Resource, from, n uint32, pool uint8) []*reconciler.Resource {
	all := make([]*reconciler.Resource, n)
	for i := range all {
		all[i] = resourceOf(self, &ruleBody{table: pipeline.TableVPC, vip: 1, pool: pool, match: vniOnly(from + uint32(i))})
	}
	return all
}

func vniOnly(vni uint32) packets.Match {
	anyPort := packets.PortRange{Hi: 65535}
	return packets.Match{VNI: vni, Protocol: -1, SrcPort: anyPort, DstPort: anyPort}
}

// resourceOf is a body that is one entry, as a resource.
func resourceOf(self *reconciler.Resource, b entryBody) *reconciler.Resource {
	table := entryOf(b).GetTableId()
	_, name := decode(entryOf(b), new(block))
	return &reconciler.Resource{
		Key:  reconciler.Key{Target: self.Target, Kind: tableKinds[table], Name: name},
		Rank: rankOf(table), Body: b,
	}
}

// updateOf is one update of an entry.
func updateOf(t p4v1.Update_Type, e *p4v1.TableEntry) *p4v1.Update { return new(block).updateOf(t, e) }

func creates(resources ...*reconciler.Resource) []reconciler.Change {
	var all []reconciler.Change
	for _, r := range resources {
		all = append(all, reconciler.Change{New: r})
	}
	return all
}

func deletes(resources ...*reconciler.Resource) []reconciler.Change {
	var all []reconciler.Change
	for _, r := range resources {
		all = append(all, reconciler.Change{Old: r})
	}
	return all
}

// holds compares the entries of the switch with those that it should have.
func holds(t testing.TB, s *Sink, self *reconciler.Resource, want ...*reconciler.Resource) {
	t.Helper()
	state, err := s.Observe(t.Context(), self.Target, self)
	if err != nil {
		t.Fatal(err)
	}
	delete(state, self.Key)
	for _, w := range want {
		if got := state[w.Key]; got == nil || !got.Body.Equal(w.Body) {
			t.Errorf("%s: observed %v, want %s", w.Key, got, w.Body)
		}
		delete(state, w.Key)
	}
	for k, r := range state {
		t.Errorf("%s: %s is there and should not", k, r.Body)
	}
}

// failures are the errors of an Apply by key.
func failures(t testing.TB, err error) map[reconciler.Key]error {
	t.Helper()
	partial, ok := errors.AsType[*reconciler.PartialError](err)
	if !ok {
		t.Fatalf("error %v, want errors by key", err)
	}
	return partial.Keys
}

func (l *lab) String() string { return fmt.Sprintf("%+v", l.sw.Stats()) }
