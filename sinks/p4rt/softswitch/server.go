package softswitch

import (
	"context"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// readChunk is how many entities one response of a Read holds.
const readChunk = 1000

var errNoPipeline = status.Error(codes.FailedPrecondition, "no forwarding pipeline is loaded")

// Write makes the updates of a batch. Each succeeds or fails on its own. If any fails,
// the error has the code UNKNOWN and one p4.v1.Error per update.
func (s *Switch) Write(_ context.Context, req *p4v1.WriteRequest) (*p4v1.WriteResponse, error) {
	done, err := s.authorise(req.GetDeviceId(), req.GetRole(), req.GetElectionId())
	if err != nil {
		return nil, err
	}
	defer done()
	if req.GetAtomicity() != p4v1.WriteRequest_CONTINUE_ON_ERROR {
		return nil, status.Errorf(codes.Unimplemented, "atomicity %s is not supported; send CONTINUE_ON_ERROR", req.GetAtomicity())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.program()
	if p == nil {
		return nil, errNoPipeline
	}
	errs, failed := s.personality.writeAll(p, req.GetUpdates())
	for _, err := range errs {
		if err == nil {
			s.stats.writes.Add(1)
		}
	}
	if failed {
		return nil, batchError(s.personality.message, errs)
	}
	return &p4v1.WriteResponse{}, nil
}

// batchError packs the errors of a batch as the specification says.
func batchError(message string, errs []error) error {
	st := &rpcstatus.Status{Code: int32(codes.Unknown), Message: message}
	for _, err := range errs {
		detail, packErr := anypb.New(&p4v1.Error{CanonicalCode: int32(status.Code(err)), Message: status.Convert(err).Message()})
		if packErr != nil {
			return status.Errorf(codes.Internal, "cannot pack an error: %v", packErr)
		}
		st.Details = append(st.Details, detail)
	}
	return status.ErrorProto(st)
}

// Read streams what the request asks for, in bounded responses, all as of one moment.
// Its valid entities are answered before the errors of the others.
func (s *Switch) Read(req *p4v1.ReadRequest, stream p4v1.P4Runtime_ReadServer) error {
	if err := s.checkDevice(req.GetDeviceId()); err != nil {
		return err
	}
	found, errs, err := s.readAll(req.GetEntities())
	if err != nil {
		return err
	}
	for most := s.personality.chunk(len(found)); len(found) > most; found = found[most:] {
		if err := stream.Send(&p4v1.ReadResponse{Entities: found[:most]}); err != nil {
			return err
		}
	}
	if err := stream.Send(&p4v1.ReadResponse{Entities: found}); err != nil {
		return err
	}
	for _, err := range errs {
		if err != nil {
			return batchError("some requests failed", errs)
		}
	}
	return nil
}

// readAll collects what filters ask for, and an error for each filter that is not
// valid. Entries are immutable, so they can be sent after the lock is released.
func (s *Switch) readAll(filters []*p4v1.Entity) (found []*p4v1.Entity, errs []error, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.program()
	if p == nil {
		return nil, nil, errNoPipeline
	}
	errs = make([]error, len(filters))
	for i, e := range filters {
		found, errs[i] = p.read(found, s.personality.filter(e))
	}
	return found, errs, nil
}

// program is the one that Reads and Writes are for. The caller holds the lock.
func (s *Switch) program() *program {
	if s.saved != nil {
		return s.saved
	}
	return s.live
}

// SetForwardingPipelineConfig verifies, saves or commits a pipeline. Writes are for a
// saved pipeline as soon as it is saved; packets use it once it is committed. A commit
// without a save begins with empty tables.
func (s *Switch) SetForwardingPipelineConfig(_ context.Context, req *p4v1.SetForwardingPipelineConfigRequest) (*p4v1.SetForwardingPipelineConfigResponse, error) {
	done, err := s.authorise(req.GetDeviceId(), req.GetRole(), req.GetElectionId())
	if err != nil {
		return nil, err
	}
	defer done()
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
	case p4v1.SetForwardingPipelineConfigRequest_RECONCILE_AND_COMMIT:
		return nil, status.Errorf(codes.Unimplemented, "RECONCILE_AND_COMMIT is not supported; send VERIFY_AND_COMMIT")
	default:
		return nil, status.Errorf(codes.InvalidArgument, "the request has no action")
	}
	switch req.GetAction() {
	case p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_SAVE:
		s.saved = newProgram(config)
	case p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT:
		s.commit(newProgram(config))
	case p4v1.SetForwardingPipelineConfigRequest_COMMIT:
		s.commit(s.saved)
	}
	return &p4v1.SetForwardingPipelineConfigResponse{}, nil
}

func verifyConfig(c *p4v1.ForwardingPipelineConfig) error {
	if len(c.GetP4Info().GetTables()) == 0 {
		return status.Errorf(codes.InvalidArgument, "the config has no P4Info with tables")
	}
	ids := map[uint32]bool{}
	for _, t := range c.GetP4Info().GetTables() {
		if id := t.GetPreamble().GetId(); id == 0 || ids[id] {
			return status.Errorf(codes.InvalidArgument, "table id %#x is zero or occurs twice in the P4Info", id)
		}
		ids[t.GetPreamble().GetId()] = true
	}
	return nil
}

func (s *Switch) commit(p *program) {
	s.live, s.saved = p, nil
	s.plane.Store(p.plane)
	s.pushes.Add(1)
}

// GetForwardingPipelineConfig returns the pipeline that Reads and Writes are for, or
// parts of it; nothing if there is none.
func (s *Switch) GetForwardingPipelineConfig(_ context.Context, req *p4v1.GetForwardingPipelineConfigRequest) (*p4v1.GetForwardingPipelineConfigResponse, error) {
	if err := s.checkDevice(req.GetDeviceId()); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.program()
	if p == nil {
		return &p4v1.GetForwardingPipelineConfigResponse{}, nil
	}
	part := &p4v1.ForwardingPipelineConfig{Cookie: p.config.GetCookie()}
	switch req.GetResponseType() {
	case p4v1.GetForwardingPipelineConfigRequest_ALL:
		part.P4Info, part.P4DeviceConfig = p.config.GetP4Info(), p.config.GetP4DeviceConfig()
	case p4v1.GetForwardingPipelineConfigRequest_P4INFO_AND_COOKIE:
		part.P4Info = p.config.GetP4Info()
	case p4v1.GetForwardingPipelineConfigRequest_DEVICE_CONFIG_AND_COOKIE:
		part.P4DeviceConfig = p.config.GetP4DeviceConfig()
	case p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY:
	default:
		return nil, status.Errorf(codes.InvalidArgument, "response type %s is not known", req.GetResponseType())
	}
	return &p4v1.GetForwardingPipelineConfigResponse{Config: part}, nil
}

func (s *Switch) checkDevice(id uint64) error {
	if id != s.deviceID {
		return status.Errorf(codes.NotFound, "there is no device %d here; this is device %d", id, s.deviceID)
	}
	return nil
}
