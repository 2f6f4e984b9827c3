package softswitch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// patience bounds every wait of these tests.
const patience = 10 * time.Second

const device = 7

// rig is a switch behind a real gRPC server, and a client of it.
type rig struct {
	testing.TB
	sw     *Switch
	conn   *grpc.ClientConn
	client p4v1.P4RuntimeClient
}

func newRig(t testing.TB) *rig {
	t.Helper()
	sw := New(device)
	server := grpc.NewServer(ServerOptions()...)
	sw.Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithMaxHeaderListSize(16<<20), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		_ = sw.Close()
	})
	return &rig{t, sw, conn, p4v1.NewP4RuntimeClient(conn)}
}

// ready makes a rig with a primary, election id 1, and the gray pipeline.
func ready(t testing.TB) *rig {
	t.Helper()
	r := newRig(t)
	c := r.stream()
	c.arbitrate("", id(1))
	c.wants("OK 0/1")
	r.push(pipeline.V1Model().P4Info)
	return r
}

func id(low uint64) *p4v1.Uint128 { return &p4v1.Uint128{Low: low} }

// stream is an open StreamChannel.
type stream struct {
	r        *rig
	s        p4v1.P4Runtime_StreamChannelClient
	close    context.CancelFunc
	standing chan string
}

// stream opens a channel. What comes in is written as "CODE high/low", with
// "role NAME" where there is one, and the end of the stream as its error's code.
func (r *rig) stream() *stream {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.Cleanup(cancel)
	s, err := r.client.StreamChannel(ctx)
	if err != nil {
		r.Fatal(err)
	}
	c := &stream{r, s, cancel, make(chan string, 100)}
	go func() {
		for {
			m, err := s.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				c.standing <- "end " + status.Code(err).String()
				return
			}
			a := m.GetArbitration()
			text := codes.Code(a.GetStatus().GetCode()).String()
			if e := a.GetElectionId(); e != nil {
				text += fmt.Sprintf(" %d/%d", e.GetHigh(), e.GetLow())
			}
			if a.GetRole() != nil {
				text += " role " + a.GetRole().GetName()
			}
			c.standing <- text
		}
	}()
	return c
}

func (c *stream) send(a *p4v1.MasterArbitrationUpdate) {
	c.r.Helper()
	if err := c.s.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{Arbitration: a}}); err != nil {
		c.r.Fatal(err)
	}
}

func (c *stream) arbitrate(role string, election *p4v1.Uint128) {
	c.r.Helper()
	a := &p4v1.MasterArbitrationUpdate{DeviceId: device, ElectionId: election}
	if role != "" {
		a.Role = &p4v1.Role{Name: role}
	}
	c.send(a)
}

// next waits for a message.
func (c *stream) next() string {
	c.r.Helper()
	select {
	case got := <-c.standing:
		return got
	case <-time.After(patience):
		c.r.Fatal("the stream says nothing")
		return ""
	}
}

// wants waits for a message and compares it.
func (c *stream) wants(want string) {
	c.r.Helper()
	if got := c.next(); got != want {
		c.r.Fatalf("the stream says %q, want %q", got, want)
	}
}

// quiet checks that no message has come: it asks for one, which must be the next.
func (c *stream) quiet(role string, own *p4v1.Uint128, next string) {
	c.r.Helper()
	c.arbitrate(role, own)
	c.wants(next)
}

func wantCode(t testing.TB, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: error %v, want code %s", what, err, want)
	}
}

// Updates and requests.

func (r *rig) push(info *p4configv1.P4Info) {
	r.Helper()
	config := &p4v1.ForwardingPipelineConfig{P4Info: info, Cookie: &p4v1.ForwardingPipelineConfig_Cookie{Cookie: 42}}
	if err := r.set(setConfig(commitNow, config)); err != nil {
		r.Fatal(err)
	}
}

// setConfig makes a request of the primary with election id 1.
func setConfig(a p4v1.SetForwardingPipelineConfigRequest_Action, c *p4v1.ForwardingPipelineConfig) *p4v1.SetForwardingPipelineConfigRequest {
	return &p4v1.SetForwardingPipelineConfigRequest{DeviceId: device, ElectionId: id(1), Action: a, Config: c}
}

func (r *rig) set(req *p4v1.SetForwardingPipelineConfigRequest) error {
	_, err := r.client.SetForwardingPipelineConfig(r.Context(), req)
	return err
}

func insert(e *p4v1.TableEntry) *p4v1.Update { return update(p4v1.Update_INSERT, e) }
func modify(e *p4v1.TableEntry) *p4v1.Update { return update(p4v1.Update_MODIFY, e) }
func remove(e *p4v1.TableEntry) *p4v1.Update { return update(p4v1.Update_DELETE, e) }

func update(kind p4v1.Update_Type, e *p4v1.TableEntry) *p4v1.Update {
	return &p4v1.Update{Type: kind, Entity: &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: e}}}
}

// write sends a batch as the primary with election id 1.
func (r *rig) write(updates ...*p4v1.Update) error {
	_, err := r.client.Write(r.Context(), &p4v1.WriteRequest{DeviceId: device, ElectionId: id(1), Updates: updates})
	return err
}

func (r *rig) mustWrite(updates ...*p4v1.Update) {
	r.Helper()
	if err := r.write(updates...); err != nil {
		r.Fatalf("%v: %v", err, perUpdate(r, err))
	}
}

// perUpdate reads the errors of a batch.
func perUpdate(t testing.TB, err error) []*p4v1.Error {
	t.Helper()
	var errs []*p4v1.Error
	for _, d := range status.Convert(err).Proto().GetDetails() {
		e := new(p4v1.Error)
		if err := d.UnmarshalTo(e); err != nil {
			t.Fatal(err)
		}
		errs = append(errs, e)
	}
	return errs
}

// read returns what a request gives, and how the stream ends.
func (r *rig) read(entities ...*p4v1.Entity) ([]*p4v1.Entity, error) {
	r.Helper()
	s, err := r.client.Read(r.Context(), &p4v1.ReadRequest{DeviceId: device, Entities: entities})
	if err != nil {
		r.Fatal(err)
	}
	var all []*p4v1.Entity
	for {
		res, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, res.GetEntities()...)
	}
}

func asked(e *p4v1.TableEntry) *p4v1.Entity {
	return &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: e}}
}

func askedCounter(e *p4v1.TableEntry) *p4v1.Entity {
	return &p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: &p4v1.DirectCounterEntry{TableEntry: e}}}
}

// Entries.

func num(v uint64) []byte { return pipeline.FromUint(v) }

func exact(field uint32, value []byte) *p4v1.FieldMatch {
	return &p4v1.FieldMatch{FieldId: field, FieldMatchType: &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: value}}}
}

func ternary(field uint32, value, mask []byte) *p4v1.FieldMatch {
	return &p4v1.FieldMatch{FieldId: field, FieldMatchType: &p4v1.FieldMatch_Ternary_{Ternary: &p4v1.FieldMatch_Ternary{Value: value, Mask: mask}}}
}

func between(field uint32, low, high []byte) *p4v1.FieldMatch {
	return &p4v1.FieldMatch{FieldId: field, FieldMatchType: &p4v1.FieldMatch_Range_{Range: &p4v1.FieldMatch_Range{Low: low, High: high}}}
}

func action(id uint32, params ...[]byte) *p4v1.TableAction {
	a := &p4v1.Action{ActionId: id}
	for i, p := range params {
		a.Params = append(a.Params, &p4v1.Action_Param{ParamId: uint32(i + 1), Value: p})
	}
	return &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: a}}
}

func tableEntry(table uint32, a *p4v1.TableAction, match ...*p4v1.FieldMatch) *p4v1.TableEntry {
	return &p4v1.TableEntry{TableId: table, Match: match, Action: a}
}

// vpc sends a VNI to a pool.
func vpc(vip, vni, pool uint64) *p4v1.TableEntry {
	return tableEntry(pipeline.TableVPC, action(pipeline.ActionVPCPool, num(pool)), exact(1, num(vip)), exact(2, num(vni)))
}

// flow sends what fields match to a pool.
func flow(priority int32, vip, pool uint64, fields ...*p4v1.FieldMatch) *p4v1.TableEntry {
	e := tableEntry(pipeline.TableFlowV4, action(pipeline.ActionFlowPoolV4, num(pool)), append([]*p4v1.FieldMatch{exact(1, num(vip))}, fields...)...)
	e.Priority = priority
	return e
}

// with changes a fresh entry.
func with(e *p4v1.TableEntry, change func(*p4v1.TableEntry)) *p4v1.TableEntry {
	change(e)
	return e
}
