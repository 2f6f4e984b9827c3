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

// storeVersion is the version of the layout of the keys. Another one is refused.
//
//	PREFIX/version                          this version
//	PREFIX/writer                           the leader that wrote last; its revision fences earlier leaders
//	PREFIX/committed                        the number of the last complete Write
//	PREFIX/data/BUCKET/KEY/WRITE/PART       a piece of a value, or "removed"
//
// Each Write gets the next number. A number above the committed one was never completed
// and does not count; of each key the newest number counts. So a Write that is too large
// for one transaction is atomic: it counts when its number is committed.
//
// Nearly every Write fits into one transaction. Two kinds may not: the state of a
// rollout, a value with the address of each VM that has moved (more than 10 MB for 1,000
// VPCs of 1,000 VMs that move at the same time), and a large commit, which stores a
// record for each ID, switch and suspended policy.
const storeVersion = "1"

// Bounds of a transaction, below what etcd allows by default (1.5 MiB, 128
// operations), and of a whole Write.
const (
	maxTxn     = 1 << 20
	maxOps     = 100
	maxPart    = 256 << 10 // bytes of a value under one key
	maxWrite   = 256 << 20
	pagePieces = 100 // keys of one answer; with maxPart it stays below etcdclient.MaxMessage
	pageKeys   = 10_000
)

const removed = "removed"

// ErrNotLeader is the error of a write by a replica that does not lead.
var ErrNotLeader = errors.New("this replica is not the leader and must not write; the leader goes on")

// store holds the records for the replica that leads.
type store struct {
	reader
	lead *Lead

	mu     sync.Mutex
	writer int64  // the revision of PREFIX/writer; 0: settle has to run first
	seq    uint64 // the committed number
}

// base is the prefix of all pieces of a record.
func (s *store) base(bucket, key string) string {
	return s.at("data", url.PathEscape(bucket), url.PathEscape(key)) + "/"
}

func number(n uint64) string { return fmt.Sprintf("%016x", n) }

// Load is the Load of board.Records. It reads the bucket at one revision.
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

// Write is the Write of board.Records. It fails with ErrNotLeader if another replica
// leads, even if this one does not know that yet. After an error of etcd the whole Write
// may still have been made.
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
	marks  []clientv3.Op // mark records as removed, if there are several transactions
	commit clientv3.Op
	tidy   []clientv3.Op // delete what no longer counts
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
		return nil, fmt.Errorf("a write of %d MiB to bucket %q in etcd is larger than %d MiB; spread the documents over more shards", (size+1<<20-1)>>20, bucket, maxWrite>>20)
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

// write makes a Write: in one transaction if it fits, else piece by piece with the
// commit at the end.
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
			s.writer = 0 // the Write is made; the next one tidies up
			break
		}
	}
	return nil
}

// chunks splits operations into transactions that etcd accepts.
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

// txn makes operations in one transaction if this replica still leads, and no later
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

// settle makes this the writer, so that nothing from an earlier one can arrive any more,
// and deletes unfinished Writes.
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
	var lastKeys []string // the pieces of the newest number of last
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

// checkVersion writes the version of the layout if there is none.
func (s *store) checkVersion(ctx context.Context) error {
	if known, err := s.layout(ctx); err != nil || known {
		return err
	}
	_, err := s.fenced(ctx, []clientv3.Op{clientv3.OpPut(s.at("version"), storeVersion)})
	return err
}
