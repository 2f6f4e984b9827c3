package softswitch

import (
	"context"
	"fmt"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// readChunk is how many entities one response of a Read holds.
const readChunk = 1000

// Write carries out a batch. Each update succeeds or fails on its own; a batch
// in which some failed has the code UNKNOWN and one p4.v1.Error an update.
func (s *Switch) Write(_ context.Context, req *p4v1.WriteRequest) (*p4v1.WriteResponse, error) {
	if err := s.authorise(req.GetDeviceId(), req.GetRole(), req.GetElectionId()); err != nil {
		return nil, err
	}
	if req.GetAtomicity() != p4v1.WriteRequest_CONTINUE_ON_ERROR {
		return nil, status.Errorf(codes.Unimplemented, "atomicity %s is not offered; send CONTINUE_ON_ERROR", req.GetAtomicity())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "no forwarding pipeline is loaded")
	}
	errs := make([]error, len(req.GetUpdates()))
	failed := false
	for i, u := range req.GetUpdates() {
		errs[i] = s.update(u)
		failed = failed || errs[i] != nil
	}
	if failed {
		return nil, batchError(errs)
	}
	return &p4v1.WriteResponse{}, nil
}

// batchError packs the errors of a batch as the specification says.
func batchError(errs []error) error {
	st := &rpcstatus.Status{Code: int32(codes.Unknown), Message: "some updates failed"}
	for _, err := range errs {
		detail, packErr := anypb.New(&p4v1.Error{CanonicalCode: int32(status.Code(err)), Message: status.Convert(err).Message()})
		if packErr != nil {
			return status.Errorf(codes.Internal, "cannot pack an error: %v", packErr)
		}
		st.Details = append(st.Details, detail)
	}
	return status.ErrorProto(st)
}

// Read streams what the request asks for, in bounded responses.
func (s *Switch) Read(req *p4v1.ReadRequest, stream p4v1.P4Runtime_ReadServer) error {
	if err := s.checkDevice(req.GetDeviceId()); err != nil {
		return err
	}
	var found []*p4v1.Entity
	for _, e := range req.GetEntities() {
		var err error
		if found, err = s.read(found, e); err != nil {
			return err
		}
	}
	for len(found) > readChunk {
		if err := stream.Send(&p4v1.ReadResponse{Entities: found[:readChunk]}); err != nil {
			return err
		}
		found = found[readChunk:]
	}
	return stream.Send(&p4v1.ReadResponse{Entities: found})
}

// read appends what one entity of a request asks for. Entries are immutable, so
// that they can be sent after the lock is gone.
func (s *Switch) read(found []*p4v1.Entity, e *p4v1.Entity) ([]*p4v1.Entity, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.config == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "no forwarding pipeline is loaded")
	}
	var filter *p4v1.TableEntry
	counters := false
	switch v := e.GetEntity().(type) {
	case *p4v1.Entity_TableEntry:
		filter = v.TableEntry
	case *p4v1.Entity_DirectCounterEntry:
		filter, counters = v.DirectCounterEntry.GetTableEntry(), true
	default:
		return nil, status.Errorf(codes.Unimplemented, "only table entries and direct counters can be read")
	}
	if filter.GetTableId() != 0 {
		t := s.tables[filter.GetTableId()]
		if t == nil {
			return nil, status.Errorf(codes.NotFound, "there is no table %#x", filter.GetTableId())
		}
		return t.read(found, filter, counters)
	}
	for _, t := range s.tables {
		var err error
		if found, err = t.read(found, filter, counters); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// read appends the entries of a table that a filter asks for.
func (t *table) read(found []*p4v1.Entity, filter *p4v1.TableEntry, counters bool) ([]*p4v1.Entity, error) {
	if filter.GetIsDefaultAction() || t.info.Const || counters && t.info.Counter == 0 {
		return found, nil // default actions and constant entries belong to the program
	}
	add := func(e *entry) {
		data := &p4v1.CounterData{PacketCount: int64(e.packets.Load()), ByteCount: int64(e.bytes.Load())}
		if counters {
			c := &p4v1.DirectCounterEntry{TableEntry: e.proto, Data: data}
			found = append(found, &p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: c}})
			return
		}
		p := e.proto
		if filter.GetCounterData() != nil && t.info.Counter != 0 {
			p = proto.CloneOf(p)
			p.CounterData = data
		}
		found = append(found, &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: p}})
	}
	if len(filter.GetMatch()) == 0 {
		for _, e := range t.entries {
			if filter.GetPriority() == 0 || filter.GetPriority() == e.proto.GetPriority() {
				add(e)
			}
		}
		return found, nil
	}
	key, err := checkEntry(t.info, filter, false)
	if err != nil {
		return nil, err
	}
	if e := t.entries[key]; e != nil {
		add(e)
	}
	return found, nil
}

// SetForwardingPipelineConfig verifies, saves or commits a pipeline. A commit
// empties all tables.
func (s *Switch) SetForwardingPipelineConfig(_ context.Context, req *p4v1.SetForwardingPipelineConfigRequest) (*p4v1.SetForwardingPipelineConfigResponse, error) {
	if err := s.authorise(req.GetDeviceId(), req.GetRole(), req.GetElectionId()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	config := req.GetConfig()
	switch req.GetAction() {
	case p4v1.SetForwardingPipelineConfigRequest_VERIFY,
		p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_SAVE,
		p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT:
		if err := verifyConfig(config); err != nil {
			return nil, err
		}
	case p4v1.SetForwardingPipelineConfigRequest_COMMIT:
		if config != nil {
			return nil, status.Errorf(codes.InvalidArgument, "COMMIT takes no config; it commits the saved one")
		}
		if s.saved == nil {
			return nil, status.Errorf(codes.NotFound, "no config is saved")
		}
		config = s.saved
	case p4v1.SetForwardingPipelineConfigRequest_RECONCILE_AND_COMMIT:
		return nil, status.Errorf(codes.Unimplemented, "RECONCILE_AND_COMMIT is not offered; send VERIFY_AND_COMMIT")
	default:
		return nil, status.Errorf(codes.InvalidArgument, "the request has no action")
	}
	switch req.GetAction() {
	case p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_SAVE:
		s.saved = config
	case p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT, p4v1.SetForwardingPipelineConfigRequest_COMMIT:
		s.commit(config)
	}
	return &p4v1.SetForwardingPipelineConfigResponse{}, nil
}

func verifyConfig(c *p4v1.ForwardingPipelineConfig) error {
	if c.GetP4Info() == nil || len(c.GetP4Info().GetTables()) == 0 {
		return status.Errorf(codes.InvalidArgument, "the config has no P4Info with tables")
	}
	ids := map[uint32]bool{}
	for _, t := range c.GetP4Info().GetTables() {
		if id := t.GetPreamble().GetId(); id == 0 || ids[id] {
			return status.Errorf(codes.InvalidArgument, "table id %#x is zero or stands twice in the P4Info", id)
		}
		ids[t.GetPreamble().GetId()] = true
	}
	return nil
}

func (s *Switch) commit(config *p4v1.ForwardingPipelineConfig) {
	s.config, s.saved = config, nil
	s.info = pipeline.NewInfo(config.GetP4Info())
	s.tables = map[uint32]*table{}
	for id, t := range s.info.Tables {
		s.tables[id] = &table{info: t, entries: map[string]*entry{}}
	}
	s.plane = newPlane(isGray(config.GetP4Info()))
	s.pushes.Add(1)
}

// isGray tells whether a P4Info is one that the packet path can run.
func isGray(p *p4configv1.P4Info) bool {
	a, errA := proto.MarshalOptions{Deterministic: true}.Marshal(&p4configv1.P4Info{Tables: p.GetTables(), Actions: p.GetActions()})
	g := pipeline.P4Info()
	b, errB := proto.MarshalOptions{Deterministic: true}.Marshal(&p4configv1.P4Info{Tables: g.GetTables(), Actions: g.GetActions()})
	return errA == nil && errB == nil && string(a) == string(b)
}

// GetForwardingPipelineConfig returns the committed pipeline or parts of it.
func (s *Switch) GetForwardingPipelineConfig(_ context.Context, req *p4v1.GetForwardingPipelineConfigRequest) (*p4v1.GetForwardingPipelineConfigResponse, error) {
	if err := s.checkDevice(req.GetDeviceId()); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.config == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "no forwarding pipeline is loaded")
	}
	part := &p4v1.ForwardingPipelineConfig{Cookie: s.config.GetCookie()}
	switch req.GetResponseType() {
	case p4v1.GetForwardingPipelineConfigRequest_ALL:
		part.P4Info, part.P4DeviceConfig = s.config.GetP4Info(), s.config.GetP4DeviceConfig()
	case p4v1.GetForwardingPipelineConfigRequest_P4INFO_AND_COOKIE:
		part.P4Info = s.config.GetP4Info()
	case p4v1.GetForwardingPipelineConfigRequest_DEVICE_CONFIG_AND_COOKIE:
		part.P4DeviceConfig = s.config.GetP4DeviceConfig()
	case p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY:
	default:
		return nil, status.Errorf(codes.InvalidArgument, "response type %s is not known", req.GetResponseType())
	}
	return &p4v1.GetForwardingPipelineConfigResponse{Config: part}, nil
}

func (s *Switch) checkDevice(id uint64) error {
	if id != s.deviceID {
		return status.Error(codes.NotFound, fmt.Sprintf("there is no device %d here; this is device %d", id, s.deviceID))
	}
	return nil
}
