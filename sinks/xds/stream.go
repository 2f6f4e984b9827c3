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
)

// stream is one Envoy's delta ADS stream, or what is made one. It does not list what its Envoy has:
// that is everything as of a revision, apart from the few names in due, claimed
// and refused.
type stream struct {
	sink  *Sink
	from  caller
	sotw  bool // a state-of-the-world stream, translated
	since time.Time
	wake  chan struct{}

	mu      sync.Mutex
	node    string
	agent   string // what it is: envoy
	version string // of that
	nonce   uint64
	types   [wireTypes]typeState
	warming map[string]uint64 // clusters whose endpoints have to follow, by the nonce that brought them
	blocked time.Time         // since when listeners and routes wait for warming clusters
	settled uint64            // the wire's revision up to which there is nothing left to do
	ended   bool
	// noVirtualHosts: whatever the client will say, it has none
	noVirtualHosts bool

	progress chan struct{} // closed and replaced when settled grows
	lastNACK *NACK
}

// typeState is where a stream stands with one type.
type typeState struct {
	wanted   bool
	all      bool              // subscribed to everything
	names    map[string]bool   // else to these
	revision uint64            // the client has been sent what changed up to this one, but for:
	due      []string          // names that are to be sent whatever the revision
	queue    [][]string        // the same, each in a response of its own: parts of one that was refused
	answers  map[string]bool   // names that were asked for: absence is an answer too
	claimed  map[string]string // what the client said it has, as long as it was not compared
	compared bool              // with what is served, so that due is complete
	loading  bool              // the client had nothing, and due is what it still lacks
	owed     bool              // an answer is, even an empty one: the client waits for it
	out      *sent             // waits for its acknowledgement
	refused  map[string]refusal
}

// sent is a response that waits for its acknowledgement.
type sent struct {
	nonce uint64
	items []item
}

// item is a resource in a response; a removal has no content.
type item struct {
	name   string
	packed *packed
}

// refusal is a version of a resource that the client refused.
type refusal struct{ version, message string }

func newStream(s *Sink, from caller, sotw bool) *stream {
	return &stream{
		sink: s, from: from, sotw: sotw, since: time.Now(), wake: make(chan struct{}, 1), warming: map[string]uint64{}, progress: make(chan struct{}),
	}
}

// standing is the revision up to which the stream is settled, and what is closed
// when that changes. A stream that has ended is not waited for.
func (st *stream) standing() (settled uint64, progress <-chan struct{}) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return 0, st.progress
	}
	return st.settled, st.progress
}

func (st *stream) settle(revision uint64) {
	if revision != st.settled {
		st.settled = revision
		st.signal()
	}
}

func (st *stream) signal() {
	close(st.progress)
	st.progress = make(chan struct{})
}

// end closes the books; it tells whether something had been refused.
func (st *stream) end() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ended = true
	st.signal()
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

// take handles a request: subscriptions, an ACK or a NACK. Types that gray does
// not serve are passed over: an Envoy may have other sources in its bootstrap.
func (st *stream) take(req *discoveryv3.DeltaDiscoveryRequest) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.node == "" {
		if err := st.greet(req.GetNode()); err != nil {
			return err
		}
	}
	t := typeOf(req.GetTypeUrl())
	if t == wireTypes {
		return nil
	}
	ts := &st.types[t]
	if err := ts.bounded(req); err != nil {
		return err
	}
	if !ts.wanted {
		ts.begin(t, req)
		if t == typeVirtualHost && st.noVirtualHosts {
			ts.claimed, ts.loading, ts.owed = nil, true, ts.all
		}
	}
	st.subscribe(t, req)
	if ts.out != nil && req.GetResponseNonce() == strconv.FormatUint(ts.out.nonce, 10) {
		out := ts.out
		ts.out = nil
		if e := req.GetErrorDetail(); e != nil {
			st.refuse(t, out, oneLine(e.GetMessage()))
		} else {
			st.accept(t, out)
		}
	}
	return nil
}

// greet learns who the client is.
func (st *stream) greet(n *corev3.Node) error {
	id := n.GetId()
	if id == "" || len(id) > maxNodeID || checkLabel(id) != nil {
		return status.Errorf(codes.InvalidArgument, "the first request has node id %q; want the name of a Node", id[:min(len(id), maxNodeID)])
	}
	err := st.from.mayBe(id)
	if err == nil && st.sotw && n.GetUserAgentName() == "envoy" {
		err = errSotwEnvoy
	}
	if err == nil {
		err = st.sink.admission.enter(id)
	}
	if err != nil {
		st.sink.often.Do(func() {
			st.sink.cfg.Log.Warn("a client of xDS is refused", "address", st.from.address, "node", id, "error", status.Convert(err).Message())
		})
		return err
	}
	st.node = id
	st.agent, st.version = told(n.GetUserAgentName()), told(n.GetUserAgentVersion())
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		st.version = fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	}
	return nil
}

// told is what a client says of itself, short and on one line.
func told(s string) string {
	const most = 64
	return oneLine(strings.ToValidUTF8(s[:min(len(s), most)], ""))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// begin takes the first request of a type.
func (ts *typeState) begin(t wireType, req *discoveryv3.DeltaDiscoveryRequest) {
	*ts = typeState{
		wanted: true, names: map[string]bool{}, answers: map[string]bool{}, refused: map[string]refusal{},
		claimed: req.GetInitialResourceVersions(),
	}
	// Envoy names nothing where it wants all, and so it does for virtual hosts.
	names := req.GetResourceNamesSubscribe()
	ts.all = len(names) == 0 && t != typeEndpoints && t != typeRoutes || slices.ContainsFunc(names, func(n string) bool { return everything(t, n) })
	ts.loading = len(ts.claimed) == 0
	ts.owed = ts.all && ts.loading
}

// everything tells whether a name asks for all resources of a type.
func everything(t wireType, name string) bool {
	return name == "*" || t == typeVirtualHost && name == routesName
}

// bounded refuses requests that would make the server hold too much.
func (ts *typeState) bounded(req *discoveryv3.DeltaDiscoveryRequest) error {
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

// subscribe adds and removes names. A name that is asked for again is sent
// again: the client has dropped it.
func (st *stream) subscribe(t wireType, req *discoveryv3.DeltaDiscoveryRequest) {
	ts := &st.types[t]
	for _, name := range req.GetResourceNamesSubscribe() {
		if everything(t, name) {
			if ts.compared || !ts.all {
				ts.reload()
			}
			ts.all = true
			continue
		}
		ts.names[name] = true
		delete(ts.refused, name)
		if _, has := ts.claimed[name]; !has || ts.compared {
			ts.owe(name)
		}
		if _, has := ts.claimed[name]; t == typeRoutes && (!has || ts.compared) {
			st.dropVirtualHosts()
		}
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		if everything(t, name) {
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

// dropVirtualHosts notes that the client has no virtual hosts: it asks for routes
// that it does not have. Envoy drops virtual hosts with their routes, but then
// neither asks for them again nor stops saying that it has them.
func (st *stream) dropVirtualHosts() {
	vhosts := &st.types[typeVirtualHost]
	if st.noVirtualHosts = !vhosts.wanted; vhosts.wanted {
		vhosts.reload()
	}
}

// owe has a name sent, even if that is to say that there is no such resource.
func (ts *typeState) owe(name string) {
	if ts.answers[name] {
		return
	}
	ts.answers[name] = true
	if ts.due = append(ts.due, name); len(ts.due) > 2*maxNames { // of a client that asks on and on
		slices.Sort(ts.due)
		ts.due = slices.DeleteFunc(slices.Compact(ts.due), func(n string) bool { return !ts.all && !ts.names[n] })
	}
}

// reload has everything sent, all in one response: the client has dropped what
// it had, or may have.
func (ts *typeState) reload() {
	ts.claimed, ts.compared, ts.loading, ts.owed = nil, true, false, true
	ts.revision, ts.due, ts.queue = 0, nil, nil
	clear(ts.refused)
}

// accept takes an ACK.
func (st *stream) accept(t wireType, out *sent) {
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

// warm notes that a cluster need not be waited for: its endpoints have followed.
func (st *stream) warm(t wireType, name string, nonce uint64) {
	if t == typeEndpoints && st.warming[name] < nonce {
		delete(st.warming, name)
	}
}

// refuse takes a NACK. A resource that the message names, or that came alone, is
// not sent again until its content changes. The others, which Envoy may have
// dropped with it, are: those that came with a named one at once, else in
// halves, until the one at fault is found. What is no delta stream is given all at
// once, and its client takes what it can.
func (st *stream) refuse(t wireType, out *sent, message string) {
	ts := &st.types[t]
	var guilty, rest []item
	for _, it := range out.items {
		if it.packed != nil && mentions(message, it.name) {
			guilty = append(guilty, it)
		} else {
			rest = append(rest, it)
		}
	}
	half := halfOf(t, rest)
	switch {
	case !slices.ContainsFunc(out.items, func(it item) bool { return it.packed != nil }):
		guilty = out.items // removals alone: there is nothing to try again
	case st.sotw && (len(guilty) > 0 || ts.mentionsRefused(message)):
		st.accept(t, &sent{out.nonce, rest})
	case st.sotw:
		guilty = rest
	case len(guilty) > 0:
		ts.requeue(rest)
	case half > 0:
		ts.requeue(rest[:half])
		ts.requeue(rest[half:])
	default:
		guilty = rest
	}
	var names []string
	for _, it := range guilty {
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
		return // the culprit is still being looked for, or known
	}
	st.lastNACK = &NACK{
		Time: time.Now(), Type: shortType(t), Resource: strings.Join(names[:min(len(names), 5)], " "),
		Places: st.places(t, names, message), Message: message,
	}
	st.sink.cfg.Hints.Add(Target)
}

// mentionsRefused tells whether a message is about what was refused before.
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

// halfOf is where a response can be cut in two, 0 where it cannot.
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

// mentions tells whether a message holds a name as a whole word.
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

// subscribed tells whether the client wants a name and may see it: of the
// listeners an Envoy gets its own.
func (st *stream) subscribed(t wireType, name string) bool {
	ts := &st.types[t]
	return (ts.all || ts.names[name]) && (t != typeListener || name == st.node || st.sotw)
}

// table is where the resources of a type are for the stream.
func (st *stream) table(t wireType) wireType {
	switch {
	case st.sotw && t == typeListener:
		return apiListener
	case st.sotw && t == typeRoutes:
		return apiRoutes
	}
	return t
}

// served is a resource as it is served to the stream, nil where it is not.
func (st *stream) served(t wireType, name string) *packed { return st.sink.wire.get(st.table(t), name) }
