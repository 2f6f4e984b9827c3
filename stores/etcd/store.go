package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gray-release/gray/etcdclient"
)

// storeVersion is the layout of the keys; one of another is refused.
//
//	PREFIX/version                          this number
//	PREFIX/writer                           the leader that wrote last; its revision fences what an earlier one sent
//	PREFIX/committed                        the number of the last Write that is whole
//	PREFIX/data/BUCKET/KEY/WRITE/PART       a piece of a value, or "removed"
//
// A Write has the next number. What stands under a number above the committed one
// was never finished and does not count, and of a key the newest number counts: so a
// Write that is too large for one transaction is still made by one, that of the number.
//
// Nearly every Write fits into one transaction. Those that do not are a rollout's state,
// one value with the address of each VM that has moved (more than 10 MB for 1,000 VPCs
// of 1,000 VMs that move at the same time), and what a first commit stores, or one that changes
// much: a record for each number, switch and suspended policy, so thousands.
const storeVersion = "1"

// Bounds of a transaction, below what etcd allows by default (1.5 MiB, 128
// operations), and of a whole Write.
const (
	maxTxn     = 1 << 20
	maxOps     = 100
	maxPart    = 256 << 10 // bytes of a value under one key
	maxWrite   = 256 << 20
	pagePieces = 100 // keys of one answer, which with maxPart stay below etcdclient.MaxMessage
	pageKeys   = 10_000
)

const removed = "removed"

// ErrNotLeader is the error of a store whose replica does not lead.
var ErrNotLeader = errors.New("this replica does not lead, so that it may not write; the one that leads goes on")

// store is a reconciler.Backend for the replica that leads.
type store struct {
	reader
	lead *Lead

	mu     sync.Mutex
	writer int64  // revision of PREFIX/writer; 0: what earlier writers left is to be looked at first
	seq    uint64 // the committed number
}

// Close implements reconciler.Backend. The records stay.
func (s *store) Close() error { return nil }

// base is under what all of a record lies.
func (s *store) base(bucket, key string) string {
	return s.at("data", url.PathEscape(bucket), url.PathEscape(key)) + "/"
}

func number(n uint64) string { return fmt.Sprintf("%016x", n) }

// Load implements reconciler.Backend. It reads one revision of the bucket.
func (s *store) Load(bucket string, f func(key string, value []byte) error) error {
	ctx := s.lead.ctx
	last, err := s.committed(ctx)
	if err != nil {
		return err
	}
	values, err := s.records(ctx, bucket, "", last)
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if err := f(k, values[k]); err != nil {
			return err
		}
	}
	return nil
}

// Write implements reconciler.Backend. It fails with ErrNotLeader where another
// replica leads, whether this one knows it yet or not. After an error of etcd the
// Write may still be made, whole.
func (s *store) Write(bucket string, put map[string][]byte, remove []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx := s.lead.ctx
	if s.writer == 0 {
		if err := s.settle(ctx); err != nil {
			return err
		}
	}
	b, err := s.batch(bucket, put, remove)
	if err != nil {
		return err
	}
	if err := s.write(ctx, b); err != nil {
		s.writer = 0
		return err
	}
	s.seq++
	return nil
}

// batch is a Write as operations on keys.
type batch struct {
	puts   []clientv3.Op // the new pieces
	marks  []clientv3.Op // that records are removed, for a Write of several transactions
	commit clientv3.Op
	tidy   []clientv3.Op // take what no longer counts
}

func (s *store) batch(bucket string, put map[string][]byte, remove []string) (*batch, error) {
	b, size := &batch{}, 0
	write := number(s.seq + 1)
	for _, key := range slices.Sorted(maps.Keys(put)) {
		if key == "" {
			return nil, errors.New("a record without a key cannot be written")
		}
		base, value := s.base(bucket, key), put[key]
		size += len(value)
		b.tidy = append(b.tidy, clientv3.OpDelete(base, clientv3.WithRange(base+write)))
		for n := 0; n == 0 || len(value) > 0; n++ {
			part := value[:min(maxPart, len(value))]
			value = value[len(part):]
			b.puts = append(b.puts, clientv3.OpPut(fmt.Sprintf("%s%s/%06d", base, write, n), string(part)))
		}
	}
	if size > maxWrite {
		return nil, fmt.Errorf("a write of %d MiB to bucket %q in etcd is too large, the most is %d MiB; spread the documents over more shards", (size+1<<20-1)>>20, bucket, maxWrite>>20)
	}
	for _, key := range remove {
		if _, both := put[key]; both || key == "" {
			continue
		}
		base := s.base(bucket, key)
		b.marks = append(b.marks, clientv3.OpPut(base+write+"/"+removed, ""))
		b.tidy = append(b.tidy, clientv3.OpDelete(base, clientv3.WithPrefix()))
	}
	b.commit = clientv3.OpPut(s.at("committed"), write)
	return b, nil
}

// write makes a batch: by one transaction where it fits, else piece by piece with
// the commit after them.
func (s *store) write(ctx context.Context, b *batch) error {
	if all := slices.Concat(b.puts, []clientv3.Op{b.commit}, b.tidy); len(chunks(all)) == 1 {
		return s.txn(ctx, all)
	}
	for _, ops := range chunks(append(slices.Clone(b.puts), b.marks...)) {
		if err := s.txn(ctx, ops); err != nil {
			return err
		}
	}
	if err := s.txn(ctx, []clientv3.Op{b.commit}); err != nil {
		return err
	}
	for _, ops := range chunks(b.tidy) {
		if s.txn(ctx, ops) != nil {
			s.writer = 0 // the Write is made; the next one tidies
			break
		}
	}
	return nil
}

// chunks cuts operations into transactions that etcd takes.
func chunks(ops []clientv3.Op) [][]clientv3.Op {
	var all [][]clientv3.Op
	first, size := 0, 0
	for i, op := range ops {
		n := len(op.KeyBytes()) + len(op.RangeBytes()) + len(op.ValueBytes()) + 32
		if i > first && (i-first >= maxOps || size+n > maxTxn) {
			all = append(all, ops[first:i])
			first, size = i, 0
		}
		size += n
	}
	if first < len(ops) {
		all = append(all, ops[first:])
	}
	return all
}

// txn makes operations in one transaction, if this replica still leads and no later
// writer has begun.
func (s *store) txn(ctx context.Context, ops []clientv3.Op) error {
	_, err := s.fenced(ctx, ops, clientv3.Compare(clientv3.ModRevision(s.at("writer")), "=", s.writer))
	return err
}

func (s *store) fenced(ctx context.Context, ops []clientv3.Op, also ...clientv3.Cmp) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdclient.AnswerWait)
	defer cancel()
	res, err := s.lead.client.Txn(ctx).If(append(also, s.lead.fence())...).Then(ops...).Commit()
	switch {
	case s.lead.ctx.Err() != nil || err == nil && !res.Succeeded:
		return 0, ErrNotLeader
	case err != nil:
		return 0, etcdclient.Plain(err)
	}
	return res.Header.GetRevision(), nil
}

// settle makes this the writer, after which nothing of an earlier one can arrive,
// and takes away what was left unfinished.
func (s *store) settle(ctx context.Context) error {
	if err := s.checkVersion(ctx); err != nil {
		return err
	}
	writer, err := s.fenced(ctx, []clientv3.Op{clientv3.OpPut(s.at("writer"), s.lead.key)})
	if err != nil {
		return err
	}
	done, err := s.committed(ctx)
	if err != nil {
		return err
	}
	s.writer = writer
	var stale []clientv3.Op
	var last piece
	var lastKeys []string // of the newest number of last that counts
	drop := func(keys ...string) {
		for _, k := range keys {
			stale = append(stale, clientv3.OpDelete(k))
		}
	}
	err = s.pages(ctx, s.at("data")+"/", done.revision, pageKeys, func(r piece, _ []byte) error {
		switch {
		case r.write > done.number:
			drop(r.path)
			return nil
		case r.bucket != last.bucket || r.key != last.key:
			lastKeys = nil
		case r.write != last.write:
			drop(lastKeys...)
			lastKeys = nil
		}
		if last = r; r.part == removed {
			drop(r.path)
			return nil
		}
		lastKeys = append(lastKeys, r.path)
		return nil
	})
	for _, ops := range chunks(stale) {
		if err == nil {
			err = s.txn(ctx, ops)
		}
	}
	if err != nil {
		s.writer = 0
		return err
	}
	s.seq = done.number
	return nil
}

// checkVersion writes the layout's number where there is none.
func (s *store) checkVersion(ctx context.Context) error {
	if known, err := s.layout(ctx); err != nil || known {
		return err
	}
	_, err := s.fenced(ctx, []clientv3.Op{clientv3.OpPut(s.at("version"), storeVersion)})
	return err
}
