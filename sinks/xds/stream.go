package xds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/sinks/xds/lower"
)

// stream is one client's delta ADS stream, or a SotW stream that is translated to
// one. It does not list what the client has: that is everything as of a revision,
// but for the few names in due, claimed and refused.
type stream struct {
	sink  *Sink
	from  caller
	sotw  bool
	since time.Time
	wake  chan struct{}

	mu sync.Mutex
	clientInfo
	nonce   uint64 // of the last response
	types   [wireTypes]typeState
	warming map[string]uint64 // clusters that were sent and still need endpoints -> the nonce of that response
	blocked time.Time         // since when listeners and routes wait for warming clusters; zero: they do not
	settled uint64            // the revision of the wire up to which all is acknowledged or refused
	// noVirtualHosts: the client has none, whatever its first request for them says
	noVirtualHosts bool

	progress chan struct{} // closed and replaced when settled grows
	lastNACK *NACK
}

// clientInfo is what a client says of itself in its first request.
type clientInfo struct {
	node    string // empty: no request came yet
	agent   string // its program: envoy
	version string // of the program
}

// typeState is the state of one type of a stream.
type typeState struct {
	wanted   bool               // the client has asked for the type
	all      bool               // subscribed to everything
	names    map[string]bool    // else to these
	revision uint64             // all that changed up to this one was sent, but for due and queue
	due      []string           // names to send whatever the revision
	queue    [][]string         // the same, each list in its own response: parts of a refused one
	answers  map[string]bool    // names that were subscribed to since they were last sent: that one does not exist is an answer too
	claimed  map[string]string  // the initial versions, by name, that are not known to be up to date or stale yet
	compared bool               // claimed was compared with what is served, so due is complete
	loading  bool               // the client had nothing at first, and due is what it still lacks
	owed     bool               // the client waits for a response, even an empty one
	out      *sent              // the response without an ACK or NACK yet
	refused  map[string]refusal // by name
}

// sent is a response that was sent.
type sent struct {
	nonce uint64
	items []item
}

// item is a resource in a response.
type item struct {
	name   string
	packed *packed // nil: removed
}

// refusal is a version of a resource for which a NACK came.
type refusal struct{ version, message string }

func newStream(s *Sink, from caller, sotw bool) *stream {
	return &stream{
		sink: s, from: from, sotw: sotw, since: time.Now(), wake: make(chan struct{}, 1), warming: map[string]uint64{}, progress: make(chan struct{}),
	}
}

// progressed returns the revision that the stream has settled, and a channel that is
// closed when it changes. For a stream that has ended the revision is 0.
func (st *stream) progressed() (settled uint64, progress <-chan struct{}) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.settled, st.progress
}

func (st *stream) settle(revision uint64) {
	if revision != st.settled {
		st.settled = revision
		close(st.progress)
		st.progress = make(chan struct{})
	}
}

// end marks the stream as ended; it tells whether the client had refused something.
func (st *stream) end() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.settle(0)
	if st.node != "" {
		st.sink.admission.leave(st.node)
	}
	for t := range st.types {
		if len(st.types[t].refused) > 0 {
			return true
		}
	}
	return false
}

// handle handles a request: subscriptions, an ACK or a NACK. It ignores types that
// gray does not serve.
func (st *stream) handle(req *discoveryv3.DeltaDiscoveryRequest) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.node == "" {
		if err := st.identify(req.GetNode()); err != nil {
			return err
		}
	}
	t := typeOf(req.GetTypeUrl())
	if t == wireTypes {
		return nil
	}
	ts := &st.types[t]
	if err := ts.checkBounds(req); err != nil {
		return err
	}
	if !ts.wanted {
		ts.start(t, req)
		if t == typeVirtualHost && st.noVirtualHosts {
			ts.claimed, ts.loading, ts.owed = nil, true, ts.all
		}
	}
	st.subscribe(t, req)
	if ts.out != nil && req.GetResponseNonce() == strconv.FormatUint(ts.out.nonce, 10) {
		out := ts.out
		ts.out = nil
		if e := req.GetErrorDetail(); e != nil {
			st.nack(t, out, oneLine(e.GetMessage()))
		} else {
			st.ack(t, out)
		}
	}
	return nil
}

// identify reads the identity of the client, and admits or refuses it.
func (st *stream) identify(n *corev3.Node) error {
	id := n.GetId()
	if id == "" || len(id) > maxNodeID || lower.CheckLabel(id) != nil {
		return status.Errorf(codes.InvalidArgument, "the first request has node id %q; want the name of a Node", id[:min(len(id), maxNodeID)])
	}
	err := st.from.checkNode(id)
	if err == nil && st.sotw && n.GetUserAgentName() == "envoy" {
		err = errSotwEnvoy
	}
	if err == nil {
		err = st.sink.admission.enter(id)
	}
	if err != nil {
		st.sink.logLimit.Do(func() {
			st.sink.cfg.Log.Warn("a client of xDS is refused", "address", st.from.address, "node", id, "error", status.Convert(err).Message())
		})
		return err
	}
	if st.sink.cfg.Alone && !st.sotw {
		st.sink.cfg.Hints.Add(Target)
	}
	st.clientInfo = clientInfo{id, short(n.GetUserAgentName()), short(n.GetUserAgentVersion())}
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		st.version = fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	}
	return nil
}

// short cuts what a client says of itself, and makes it one line.
func short(s string) string {
	const most = 64
	return oneLine(strings.ToValidUTF8(s[:min(len(s), most)], ""))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// start handles the first request of a type.
func (ts *typeState) start(t wireType, req *discoveryv3.DeltaDiscoveryRequest) {
	*ts = typeState{
		wanted: true, names: map[string]bool{}, answers: map[string]bool{}, refused: map[string]refusal{},
		claimed: req.GetInitialResourceVersions(),
	}
	// Without names Envoy subscribes to everything, also for virtual hosts.
	names := req.GetResourceNamesSubscribe()
	ts.all = len(names) == 0 && t != typeEndpoints && t != typeRoutes || slices.ContainsFunc(names, func(n string) bool { return isWildcard(t, n) })
	ts.loading = len(ts.claimed) == 0
	ts.owed = ts.all && ts.loading
}

// isWildcard tells whether a name asks for all resources of a type.
func isWildcard(t wireType, name string) bool {
	return name == "*" || t == typeVirtualHost && name == lower.RoutesName
}

// checkBounds refuses a request that would make the server store too much.
func (ts *typeState) checkBounds(req *discoveryv3.DeltaDiscoveryRequest) error {
	if len(ts.names)+len(req.GetResourceNamesSubscribe()) > maxNames || len(req.GetInitialResourceVersions()) > maxNames {
		return status.Errorf(codes.ResourceExhausted, "more than %d names of one type", maxNames)
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		if len(name) > maxName {
			return status.Errorf(codes.InvalidArgument, "a name has %d bytes; the most is %d", len(name), maxName)
		}
	}
	return nil
}

// subscribe adds and removes names. A name that is subscribed to again is sent again:
// the client has dropped the resource.
func (st *stream) subscribe(t wireType, req *discoveryv3.DeltaDiscoveryRequest) {
	ts := &st.types[t]
	for _, name := range req.GetResourceNamesSubscribe() {
		if isWildcard(t, name) {
			if ts.compared || !ts.all {
				ts.reload()
			}
			ts.all = true
			continue
		}
		ts.names[name] = true
		delete(ts.refused, name)
		if _, has := ts.claimed[name]; !has || ts.compared {
			ts.mustSend(name)
		}
		if _, has := ts.claimed[name]; t == typeRoutes && (!has || ts.compared) {
			st.dropVirtualHosts()
		}
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		if isWildcard(t, name) {
			ts.all = false
		}
		if _, was := ts.refused[name]; was {
			delete(ts.refused, name)
			st.sink.cfg.Hints.Add(Target)
		}
		delete(ts.names, name)
		delete(ts.answers, name)
		if t == typeEndpoints || t == typeCluster {
			delete(st.warming, name)
		}
	}
}

// dropVirtualHosts notes that the client has no virtual hosts, as it subscribes to
// routes that it has not. Envoy drops virtual hosts together with their routes, but
// does not subscribe to them again, and says on a new stream that it has them.
func (st *stream) dropVirtualHosts() {
	vhosts := &st.types[typeVirtualHost]
	if st.noVirtualHosts = !vhosts.wanted; vhosts.wanted {
		vhosts.reload()
	}
}

// mustSend makes sure that a name is sent, even if only to say that it does not exist.
func (ts *typeState) mustSend(name string) {
	if ts.answers[name] {
		return
	}
	ts.answers[name] = true
	if ts.due = append(ts.due, name); len(ts.due) > 2*maxNames { // the client subscribes without end
		slices.Sort(ts.due)
		ts.due = slices.DeleteFunc(slices.Compact(ts.due), func(n string) bool { return !ts.all && !ts.names[n] })
	}
}

// reload has everything sent in one response: the client has dropped what it had, or
// may have.
func (ts *typeState) reload() {
	ts.claimed, ts.compared, ts.loading, ts.owed = nil, true, false, true
	ts.revision, ts.due, ts.queue = 0, nil, nil
	clear(ts.refused)
}

// ack handles an ACK.
func (st *stream) ack(t wireType, out *sent) {
	ts := &st.types[t]
	cleared := false
	for _, it := range out.items {
		if _, was := ts.refused[it.name]; was {
			delete(ts.refused, it.name)
			cleared = true
		}
		st.warm(t, it.name, out.nonce)
	}
	st.warming = emptied(st.warming)
	if cleared {
		st.sink.cfg.Hints.Add(Target)
	}
}

// warm notes that the endpoints of a cluster have arrived.
func (st *stream) warm(t wireType, name string, nonce uint64) {
	if t == typeEndpoints && st.warming[name] < nonce {
		delete(st.warming, name)
	}
}

// nack handles a NACK. A resource that the message names, or that was sent alone, is
// not sent again until its content changes. The others are, as Envoy may have dropped
// them too: in one response if the message names a resource, else in two halves,
// until the bad one is found. A SotW client was sent everything and has taken what it
// could.
func (st *stream) nack(t wireType, out *sent, message string) {
	ts := &st.types[t]
	var bad, rest []item
	for _, it := range out.items {
		if it.packed != nil && mentions(message, it.name) {
			bad = append(bad, it)
		} else {
			rest = append(rest, it)
		}
	}
	half := halfOf(t, rest)
	switch {
	case !slices.ContainsFunc(out.items, func(it item) bool { return it.packed != nil }):
		bad = out.items // only removals: there is nothing to send again
	case st.sotw && (len(bad) > 0 || ts.mentionsRefused(message)):
		st.ack(t, &sent{out.nonce, rest})
	case st.sotw:
		bad = rest
	case len(bad) > 0:
		ts.requeue(rest)
	case half > 0:
		ts.requeue(rest[:half])
		ts.requeue(rest[half:])
	default:
		bad = rest
	}
	var names []string
	for _, it := range bad {
		names = append(names, it.name)
		if it.packed != nil {
			ts.refused[it.name] = refusal{it.packed.version, message}
		}
		st.warm(t, it.name, out.nonce)
		if t == typeCluster {
			delete(st.warming, it.name)
		}
	}
	if len(names) == 0 && len(out.items) > 0 {
		return // the bad one is not found yet, or is known
	}
	st.lastNACK = &NACK{
		Time: time.Now(), Type: shortType(t), Resource: strings.Join(names[:min(len(names), 5)], " "),
		Places: st.places(t, names, message), Message: message,
	}
	st.sink.cfg.Hints.Add(Target)
}

// mentionsRefused tells whether a message names what was refused before.
func (ts *typeState) mentionsRefused(message string) bool {
	for name := range ts.refused {
		if mentions(message, name) {
			return true
		}
	}
	return false
}

func shortType(t wireType) string { return typeNames[t][strings.LastIndexByte(typeNames[t], '.')+1:] }

func (ts *typeState) requeue(items []item) {
	if len(items) == 0 {
		return
	}
	names := make([]string, len(items))
	for i, it := range items {
		names[i] = it.name
	}
	ts.queue = append(ts.queue, names)
}

// halfOf is where a response can be cut in two; 0: nowhere.
func halfOf(t wireType, items []item) int {
	cut := func(i int) bool { return groupName(t, items[i-1].name) != groupName(t, items[i].name) }
	mid := len(items) / 2
	for i := mid; i > 0; i-- {
		if i < len(items) && cut(i) {
			return i
		}
	}
	for i := mid + 1; i < len(items); i++ {
		if cut(i) {
			return i
		}
	}
	return 0
}

// mentions tells whether a message has a name as a whole word.
func mentions(message, name string) bool {
	partOfName := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '@' || c == '/' || c == '_'
	}
	for at := 0; ; {
		i := strings.Index(message[at:], name)
		if i < 0 {
			return false
		}
		i += at
		end := i + len(name)
		if (i == 0 || !partOfName(message[i-1])) && (end == len(message) || !partOfName(message[end])) {
			return true
		}
		at = i + 1
	}
}

// subscribed tells whether the client wants a name and may have it: of the listeners
// an Envoy gets only its own.
func (st *stream) subscribed(t wireType, name string) bool {
	ts := &st.types[t]
	return (ts.all || ts.names[name]) && (t != typeListener || name == st.node || st.sotw)
}

// table is the table with the resources of a type for the stream.
func (st *stream) table(t wireType) wireType {
	switch {
	case st.sotw && t == typeListener:
		return apiListener
	case st.sotw && t == typeRoutes:
		return apiRoutes
	}
	return t
}

// served is a resource as it is served to the stream; nil: it is not.
func (st *stream) served(t wireType, name string) *packed { return st.sink.wire.get(st.table(t), name) }
