package git

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

const (
	// window is how many commits of history are fetched. It must reach back to the
	// commit that was read last: then the server sends only what is new, and a
	// rewritten branch is noticed. If it does not reach back, it is multiplied by
	// deepen, up to maxWindow.
	window    = 32
	deepen    = 8
	maxWindow = window * deepen * deepen * deepen
	// maxPacks is the number of fetches after which a mirror is made again.
	maxPacks = 200
	// maxHaves bounds how many of our commits are named to a server.
	maxHaves = 16
)

// Bounds of a fetch, in bytes. They are variables for the tests.
var (
	maxPack   int64 = 2 << 30   // one fetch, compressed
	maxObject int64 = 256 << 20 // one object, which go-git holds in memory to check it
)

// mirror is a bare repository on disk with what was fetched from a remote.
//
// It has to serve a daemon for months, so it is not in memory: there go-git keeps all
// objects unpacked for ever. A folder of 1,000 documents has a tree of 40 kB in each
// commit, and a repository may have many files that gray does not read. Nor does the
// mirror have the full history, which nobody reads and which can be far larger than the
// documents, but only the newest commits, to notice a rewritten branch. Each fetch adds
// a small pack. After maxPacks of them, or when anything cannot be read, the mirror is
// fetched again. That costs one snapshot, repairs any damage and bounds its size. The
// mirror is only a cache: the Source keeps what was read last.
type mirror struct {
	endpoint *transport.Endpoint
	auth     Auth
	branch   string
	dir      string
	store    *filesystem.Storage
	tip      plumbing.Hash   // the commit that was fetched last
	depth    int             // how many commits were fetched with it
	haves    []plumbing.Hash // the commits that were fetched
	shallow  []plumbing.Hash // the commits whose parents were not
	packs    int
	secrets  []string // of the last fetch
}

// newMirror makes an empty mirror in a new folder below dir, which it creates if
// necessary; if dir is empty, below the system's temporary folder.
func newMirror(endpoint *transport.Endpoint, auth Auth, branch, dir string) (*mirror, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the folder for the mirror: %w", err)
		}
		// A daemon that was killed left its mirror.
		old, _ := filepath.Glob(filepath.Join(dir, "gray-mirror-*"))
		for _, o := range old {
			_ = os.RemoveAll(o)
		}
	}
	own, err := os.MkdirTemp(dir, "gray-mirror-")
	if err != nil {
		return nil, fmt.Errorf("cannot make the folder for the mirror: %w", err)
	}
	m := &mirror{endpoint: endpoint, auth: auth, branch: branch, dir: own}
	return m, m.reset()
}

// reset makes the mirror empty.
func (m *mirror) reset() error {
	if m.store != nil {
		_ = m.store.Close()
	}
	if err := errors.Join(os.RemoveAll(m.dir), os.Mkdir(m.dir, 0o700)); err != nil {
		return fmt.Errorf("cannot empty the mirror: %w", err)
	}
	m.tip, m.depth, m.haves, m.shallow, m.packs = plumbing.ZeroHash, 0, nil, nil, 0
	m.store = openStore(osfs.New(m.dir))
	if err := m.store.Init(); err != nil {
		return fmt.Errorf("cannot make the mirror: %w", err)
	}
	return nil
}

func (m *mirror) close() error {
	return errors.Join(m.store.Close(), os.RemoveAll(m.dir))
}

// fetch fetches the branch's newest commit into the mirror, with depth commits of
// history, and returns it.
func (m *mirror) fetch(ctx context.Context, depth int) (plumbing.Hash, error) {
	session, secrets, err := m.auth.connect(ctx, m.endpoint)
	m.secrets = secrets
	if err != nil {
		return plumbing.ZeroHash, err
	}
	defer session.Close()
	refs, err := session.AdvertisedReferencesContext(ctx)
	if errors.Is(err, pktline.ErrInvalidPktLen) {
		err = fmt.Errorf("it does not answer like a Git server: %w; is the URL right?", err)
	}
	if err != nil && !errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return plumbing.ZeroHash, err
	}
	var tip plumbing.Hash
	if err == nil {
		tip = refs.References[plumbing.NewBranchReferenceName(m.branch).String()]
	}
	if tip.IsZero() {
		return tip, noBranch(m.branch)
	}
	if tip == m.tip && depth <= m.depth {
		return tip, nil
	}
	if m.packs >= maxPacks {
		if err := m.reset(); err != nil {
			return tip, err
		}
	}
	if err := m.pull(ctx, session, refs.Capabilities, tip, depth); err != nil {
		return tip, err
	}
	m.tip, m.depth = tip, depth
	m.haves = append(m.haves, tip)
	m.haves = m.haves[max(0, len(m.haves)-maxHaves):]
	return tip, nil
}

// pull fetches a commit.
func (m *mirror) pull(ctx context.Context, session transport.UploadPackSession, able *capability.List, tip plumbing.Hash, depth int) error {
	req := packp.NewUploadPackRequestFromCapabilities(able)
	req.Wants = []plumbing.Hash{tip}
	req.Haves = m.haves
	if able.Supports(capability.Shallow) { // otherwise the server sends all history
		req.Depth, req.Shallows = packp.DepthCommits(depth), m.shallow
	}
	for _, c := range []capability.Capability{capability.Shallow, capability.NoProgress} {
		if able.Supports(c) {
			if err := req.Capabilities.Set(c); err != nil {
				return err
			}
		}
	}
	res, err := session.UploadPack(ctx, req)
	if errors.Is(err, transport.ErrEmptyUploadPackRequest) {
		return nil // there is nothing to fetch
	}
	if err != nil {
		return err
	}
	defer func() { _ = res.Close() }()
	var pack io.Reader = res
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, res)
	case req.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, res)
	}
	if err := m.receive(&limited{pack, maxPack}); err != nil {
		return err
	}
	open := map[plumbing.Hash]bool{}
	for _, h := range append(m.shallow, res.Shallows...) {
		open[h] = true
	}
	for _, h := range res.Unshallows {
		delete(open, h)
	}
	m.shallow = slices.Collect(maps.Keys(open))
	return nil
}

// receive adds a pack to the mirror.
func (m *mirror) receive(r io.Reader) error {
	pack := bufio.NewReader(r)
	// A pack without objects is not stored. Its header is "PACK", the version and the
	// number of objects.
	if head, err := pack.Peek(12); err != nil {
		return fmt.Errorf("the remote sent no pack: %w", err)
	} else if binary.BigEndian.Uint32(head[8:]) == 0 {
		_, err := io.Copy(io.Discard, pack)
		return err
	}
	w, err := m.store.PackfileWriter()
	if err != nil {
		return err
	}
	if err := cmp.Or(checkPack(io.TeeReader(pack, w)), w.Close()); err != nil { // go-git does not remove its temporary files
		rest, _ := filepath.Glob(filepath.Join(m.dir, "objects", "pack", "tmp_*"))
		for _, f := range rest {
			_ = os.Remove(f)
		}
		return err
	}
	m.packs++
	return nil
}

// checkPack reads a pack to its end and refuses one with an object that is too large
// for memory.
func checkPack(r io.Reader) error {
	s := packfile.NewScanner(r)
	_, count, err := s.Header()
	if err != nil {
		return err
	}
	for range count {
		object, err := s.NextObjectHeader()
		if err != nil {
			return err
		}
		size := object.Length
		var start head
		if size <= maxObject {
			if _, _, err := s.NextObject(&start); err != nil {
				return err
			}
		}
		if object.Type.IsDelta() {
			size = max(size, start.result())
		}
		if size > maxObject {
			return fmt.Errorf("the remote has an object of %d bytes, more than %d; keep documents in a repository of their own", size, maxObject)
		}
	}
	_, err = s.Checksum()
	return err
}

// head keeps the first bytes of what is written to it.
type head struct {
	start []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.start = append(h.start, p[:min(len(p), 2*binary.MaxVarintLen64-len(h.start))]...)
	return len(p), nil
}

// result is the size of the object that a delta makes. A delta begins with the size of
// its base, followed by this size.
func (h *head) result() int64 {
	_, n := binary.Uvarint(h.start)
	if n <= 0 {
		return 0
	}
	size, _ := binary.Uvarint(h.start[n:])
	return int64(min(size, 1<<62))
}
