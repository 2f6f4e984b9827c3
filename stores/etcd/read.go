package etcd

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gray-release/gray/etcdclient"
)

// reader reads what leaders have stored, which needs no lease.
type reader struct {
	client *clientv3.Client
	prefix string
	over   error // the error of a read whose context has ended
}

func (r *reader) at(parts ...string) string { return r.prefix + "/" + strings.Join(parts, "/") }

// bucket is the prefix of all records of a bucket.
func (r *reader) bucket(name string) string { return r.at("data", url.PathEscape(name)) + "/" }

// commit is the last complete Write.
type commit struct {
	number   uint64 // 0: there is none yet
	made     int64  // the revision at which it was made
	revision int64  // the revision at which it was read
}

// committed returns the last complete Write.
func (r *reader) committed(ctx context.Context) (commit, error) {
	res, err := r.get(ctx, r.at("committed"))
	if err != nil {
		return commit{}, err
	}
	c := commit{revision: res.Header.GetRevision()}
	if len(res.Kvs) == 0 {
		return c, nil
	}
	kv := res.Kvs[0]
	if c.number, err = strconv.ParseUint(string(kv.Value), 16, 64); err != nil {
		return commit{}, fmt.Errorf("%s in etcd is not a number: %q", r.at("committed"), kv.Value)
	}
	c.made = kv.ModRevision
	return c, nil
}

// layout reports whether anything was stored yet, and refuses another layout.
func (r *reader) layout(ctx context.Context) (known bool, err error) {
	res, err := r.get(ctx, r.at("version"))
	if err != nil || len(res.Kvs) == 0 {
		return false, err
	}
	if v := string(res.Kvs[0].Value); v != storeVersion {
		return false, fmt.Errorf("the store in etcd below %s has layout %q, this gray reads %q; use the gray that wrote it, or another prefix in --state", r.prefix, v, storeVersion)
	}
	return true, nil
}

// records reads the records of a bucket whose keys begin with a prefix, as of a commit.
// It reads at the commit's revision, so that later tidying does not matter.
func (r *reader) records(ctx context.Context, bucket, prefix string, c commit) (map[string][]byte, error) {
	values := map[string][]byte{}
	var last string // the record and the number of the last value
	err := r.pages(ctx, r.bucket(bucket)+url.PathEscape(prefix), c.revision, pagePieces, func(p piece, value []byte) error {
		if p.write > c.number {
			return nil
		}
		if of := p.key + "/" + number(p.write); of != last {
			last = of
			values[p.key] = []byte{}
		}
		if p.part == removed {
			delete(values, p.key)
			return nil
		}
		values[p.key] = append(values[p.key], value...)
		return nil
	})
	return values, err
}

func (r *reader) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	asking, cancel := context.WithTimeout(ctx, etcdclient.AnswerWait)
	defer cancel()
	res, err := r.client.Get(asking, key, options...)
	if ctx.Err() != nil {
		return nil, r.over
	}
	if err != nil {
		return nil, etcdclient.Plain(err)
	}
	return res, nil
}

// piece is a parsed key below PREFIX/data.
type piece struct {
	path, bucket, key string
	write             uint64
	part              string
}

// pages calls f for every piece below a prefix at a revision, in order. With page
// pageKeys there are no values.
func (r *reader) pages(ctx context.Context, prefix string, rev, page int64, f func(piece, []byte) error) error {
	options := []clientv3.OpOption{clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(page), clientv3.WithRev(rev)}
	if page == pageKeys {
		options = append(options, clientv3.WithKeysOnly())
	}
	for from := prefix; ; {
		res, err := r.get(ctx, from, options...)
		if err != nil {
			return err
		}
		for _, kv := range res.Kvs {
			p := piece{path: string(kv.Key)}
			parts := strings.Split(strings.TrimPrefix(p.path, r.at("data")+"/"), "/")
			ok := len(parts) == 4
			if ok {
				var bucketErr, keyErr, writeErr error
				p.bucket, bucketErr = url.PathUnescape(parts[0])
				p.key, keyErr = url.PathUnescape(parts[1])
				p.write, writeErr = strconv.ParseUint(parts[2], 16, 64)
				p.part = parts[3]
				ok = bucketErr == nil && keyErr == nil && writeErr == nil
			}
			if !ok {
				return fmt.Errorf("the key %q in etcd is not gray's; give gray a --state prefix of its own", p.path)
			}
			if err := f(p, kv.Value); err != nil {
				return err
			}
		}
		if !res.More {
			return nil
		}
		from = string(res.Kvs[len(res.Kvs)-1].Key) + "\x00"
	}
}
