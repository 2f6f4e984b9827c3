package xds

import (
	"slices"
	"strconv"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// warmWait is how long listeners and routes wait at the most for a client that does
// not subscribe to the endpoints of its clusters.
const warmWait = 5 * time.Second

// helloWait is how long a stream may be open without a request.
const helloWait = 15 * time.Second

// work is what is to be sent of one type.
type work struct {
	changed []item // since the stream's revision
	pending []item // for another reason
	later   []item // removals that have to wait
}

func (w *work) empty() bool { return len(w.changed)+len(w.pending) == 0 }

// next makes the next response. With a nil one there is nothing to send until the
// stream is woken, or until the wait is over if that is not zero. Clusters are sent
// first, then their endpoints; listeners and routes when those are acknowledged.
// Clusters and endpoints are removed last, when no route leads to them any more.
func (st *stream) next(now time.Time) (res *discoveryv3.DeltaDiscoveryResponse, wait time.Duration, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.sink.mu.RLock()
	defer st.sink.mu.RUnlock()
	if st.node == "" {
		if wait = helloWait - now.Sub(st.since); wait <= 0 {
			err = status.Errorf(codes.DeadlineExceeded, "no request came within %s", helloWait)
		}
		return nil, wait, err
	}
	if !st.sink.ready {
		st.settle(st.sink.wire.revision)
		return nil, 0, nil
	}
	var todo [wireTypes]work
	for t := range wireTypes {
		ts := &st.types[t]
		if !ts.wanted || ts.out != nil {
			continue
		}
		if ts.revision > 0 && ts.revision < st.sink.wire.tables[st.table(t)].forgotten {
			return nil, 0, status.Error(codes.Aborted, "too far behind; open a new stream")
		}
		todo[t] = st.collect(t)
	}
	for _, t := range []wireType{typeCluster, typeEndpoints} {
		if st.sendable(t, &todo[t]) {
			return st.respond(t, &todo[t]), 0, nil
		}
	}
	blocked, wait := st.routingBlocked(now)
	if !blocked {
		for t := typeListener; t < wireTypes; t++ {
			if st.sendable(t, &todo[t]) {
				return st.respond(t, &todo[t]), 0, nil
			}
		}
	}
	for _, t := range []wireType{typeCluster, typeEndpoints} {
		if later := todo[t].later; len(later) > 0 && !blocked {
			if wait = st.routingWait(now); wait == 0 && st.routingDone() {
				return st.respond(t, &work{pending: later}), 0, nil
			}
		}
	}
	st.caughtUp(&todo, blocked)
	return nil, wait, nil
}

// routingWait is how long a new client has left to ask for its listeners and routes.
// Until then it is not known where its old ones lead.
func (st *stream) routingWait(now time.Time) time.Duration {
	for t := typeListener; t < wireTypes; t++ {
		if !st.types[t].wanted && (t != typeVirtualHost || !st.sotw) {
			return max(0, warmWait-now.Sub(st.since))
		}
	}
	return 0
}

// sendable tells whether there is a response to send of a type.
func (st *stream) sendable(t wireType, w *work) bool {
	ts := &st.types[t]
	return ts.wanted && ts.out == nil && (ts.owed || !w.empty())
}

// routingBlocked tells whether listeners and routes wait for clusters, and how long
// at the most.
func (st *stream) routingBlocked(now time.Time) (blocked bool, wait time.Duration) {
	if st.types[typeCluster].out != nil || st.types[typeEndpoints].out != nil {
		return true, 0
	}
	if len(st.warming) > 0 {
		if st.blocked.IsZero() {
			st.blocked = now
		}
		if left := warmWait - now.Sub(st.blocked); left > 0 {
			return true, left
		}
		st.warming = map[string]uint64{}
	}
	st.blocked = time.Time{}
	return false, 0
}

// routingDone tells whether the client's listeners and routes are those that are
// served, so that none leads to what is not served any more. There must be nothing to
// send of them.
func (st *stream) routingDone() bool {
	for t := typeListener; t < wireTypes; t++ {
		ts := &st.types[t]
		if ts.out != nil || len(ts.refused) > 0 || len(ts.claimed) > 0 {
			return false
		}
	}
	return true
}

// caughtUp notes the revision of each type that has nothing left to send.
func (st *stream) caughtUp(todo *[wireTypes]work, blocked bool) {
	revision, settled := st.sink.wire.revision, !blocked
	for t := range wireTypes {
		ts := &st.types[t]
		if ts.out != nil {
			settled = false
		}
		if !ts.wanted || ts.out != nil || blocked && st.sendable(t, &todo[t]) {
			continue
		}
		ts.revision = revision
		ts.due = ts.due[:0]
		for _, it := range todo[t].later {
			ts.due = append(ts.due, it.name)
		}
	}
	if settled {
		st.settle(revision)
	}
}

// collect finds what is to be sent of a type.
func (st *stream) collect(t wireType) work {
	ts, table := &st.types[t], &st.sink.wire.tables[st.table(t)]
	if !ts.compared {
		st.compare(t)
	} else if len(ts.claimed) > 0 && !st.sink.partial {
		st.releaseClaimed(t)
	}
	var w work
	if len(ts.due)+len(ts.queue) == 0 && (table.tail == nil || table.tail.revision <= ts.revision) {
		return w
	}
	seen := map[string]bool{}
	table.since(ts.revision, func(e *entry) {
		if st.subscribed(t, e.name) {
			seen[e.name] = true
			st.add(t, &w, &w.changed, e.name)
		}
	})
	for len(ts.queue) > 0 {
		st.addAll(t, &w, ts.queue[0], seen)
		if !w.empty() {
			break
		}
		ts.due = append(ts.due, ts.queue[0]...) // removals that have to wait
		ts.queue = ts.queue[1:]
	}
	if len(ts.queue) == 0 {
		st.addAll(t, &w, ts.due, seen)
	}
	for _, items := range [][]item{w.changed, w.pending, w.later} {
		slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.name, b.name) })
	}
	return w
}

func (st *stream) addAll(t wireType, w *work, names []string, seen map[string]bool) {
	ts := &st.types[t]
	for _, name := range names {
		if !seen[name] && (ts.all || ts.names[name]) {
			seen[name] = true
			st.add(t, w, &w.pending, name)
		}
	}
}

// add adds a name to the work, unless the client is up to date with it.
func (st *stream) add(t wireType, w *work, to *[]item, name string) {
	ts := &st.types[t]
	it := item{name: name}
	if st.subscribed(t, name) {
		it.packed = st.served(t, name)
	}
	version, claimed := ts.claimed[name]
	switch {
	case claimed && it.packed != nil && it.packed.version == version:
	case it.packed != nil && ts.refused[name].version == it.packed.version:
	case it.packed == nil && !t.routing() && !ts.answers[name]:
		w.later = append(w.later, it)
	default:
		*to = append(*to, it)
	}
}

// compare compares what the client said it has with what is served, once. What was
// never served stays claimed while the state is partial.
func (st *stream) compare(t wireType) {
	ts, entries := &st.types[t], st.sink.wire.tables[st.table(t)].entries
	ts.compared, ts.revision = true, st.sink.wire.revision
	check := func(name string, p *packed) {
		if p == nil || !st.subscribed(t, name) {
			return
		}
		if version, has := ts.claimed[name]; !has || version != p.version {
			ts.due = append(ts.due, name)
		}
		delete(ts.claimed, name)
	}
	if ts.all {
		for name, e := range entries {
			check(name, e.packed)
		}
	} else {
		for name := range ts.names {
			check(name, st.served(t, name))
		}
	}
	for name := range ts.claimed {
		if e := entries[name]; e != nil && e.packed == nil {
			ts.due = append(ts.due, name)
		}
	}
	if !st.sink.partial {
		st.releaseClaimed(t)
	}
}

// releaseClaimed removes what the client said it has and gray does not know. What it
// has refused, perhaps because of that, is sent once more.
func (st *stream) releaseClaimed(t wireType) {
	ts := &st.types[t]
	for name, version := range ts.claimed {
		if p := st.served(t, name); p == nil || p.version != version {
			ts.due = append(ts.due, name)
		}
	}
	for name := range ts.refused {
		ts.due = append(ts.due, name)
	}
	ts.claimed = nil
	clear(ts.refused)
}

// respond makes a response, for which the client owes an ACK or NACK. What is pending
// may be sent in parts of about chunk bytes. But the virtual hosts of a client that
// had others before are sent at once, as a domain may move between any two of them.
func (st *stream) respond(t wireType, w *work) *discoveryv3.DeltaDiscoveryResponse {
	ts := &st.types[t]
	st.nonce++
	res := &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: typePrefix + typeNames[t], Nonce: strconv.FormatUint(st.nonce, 10),
		SystemVersionInfo: strconv.FormatUint(st.sink.wire.revision, 10),
	}
	items, size := slices.Concat(w.changed, w.pending), 0
	inParts := ts.loading || t != typeVirtualHost
	n := 0
	for ; n < len(items) && (n <= len(w.changed) || !inParts || size < st.sink.chunk); n++ {
		it := items[n]
		delete(ts.answers, it.name)
		delete(ts.claimed, it.name)
		if it.packed == nil {
			res.RemovedResources = append(res.RemovedResources, it.name)
			continue
		}
		size += len(it.packed.body.GetValue())
		res.Resources = append(res.Resources, &discoveryv3.Resource{Name: it.name, Version: it.packed.version, Resource: it.packed.body})
	}
	ts.answers = emptied(ts.answers)
	ts.keep(items[n:], w.later)
	ts.out, ts.owed, ts.revision = &sent{st.nonce, items[:n]}, false, st.sink.wire.revision
	if t == typeCluster {
		st.warmUp(items[:n])
	}
	return res
}

// emptied replaces an empty map by a new one: a map never gives back the memory of
// what it had.
func emptied[V any](m map[string]V) map[string]V {
	if len(m) == 0 {
		return map[string]V{}
	}
	return m
}

// keep notes what is left of the work. It was taken from the queue if there is one,
// else from due.
func (ts *typeState) keep(left, later []item) {
	if len(ts.queue) > 0 {
		ts.queue = ts.queue[1:]
	} else {
		ts.due = nil
		ts.loading = ts.loading && len(left) > 0
	}
	for _, it := range slices.Concat(left, later) {
		ts.due = append(ts.due, it.name)
	}
}

// warmUp notes which clusters need endpoints before requests are routed to them. To
// Envoy a changed cluster needs them again, although it does not subscribe again.
// While they are not served, the client uses those that it had.
func (st *stream) warmUp(items []item) {
	endpoints := &st.types[typeEndpoints]
	for _, it := range items {
		if it.packed == nil {
			delete(st.warming, it.name)
			continue
		}
		served := st.served(typeEndpoints, it.name) != nil
		if st.sotw && !served {
			continue // it may have subscribed before, and SotW cannot say that there are none
		}
		st.warming[it.name] = st.nonce
		delete(endpoints.claimed, it.name)
		if served && st.subscribed(typeEndpoints, it.name) {
			endpoints.mustSend(it.name)
		}
	}
}
