package git

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/gray-release/gray/schema"
)

// fetchTimeout bounds one Fetch.
const fetchTimeout = 5 * time.Minute

// Config says which branch to follow.
type Config struct {
	URL            string // a path, or file://, https://, ssh://, user@host:path
	Branch         string
	Path           string // the folder in the repository that is read
	Interval       time.Duration
	FollowRewrites bool   // follow a branch that was rewritten
	Insecure       bool   // allow http:// beyond loopback
	MirrorDir      string // where a remote is mirrored; empty: the system's temporary folder
	Auth           Auth
	Hints          <-chan struct{} // further reasons to look, such as a watcher's; may be nil
}

// Source implements reconciler.Source for a branch.
type Source struct {
	cfg     Config
	local   string   // the path of a local repository, else empty
	mirror  *mirror  // of a remote, else nil
	secrets []string // of the URL
	changed chan struct{}
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu      sync.Mutex          // held by Fetch
	store   *filesystem.Storage // of a local repository, kept from the last Fetch
	good    state               // of the last good commit
	refused plumbing.Hash       // a commit that the branch was rewritten to
	refusal error               // what was said of it
}

// stale is an error that may come from what was kept since the last Fetch: Git
// may have packed objects, or the repository may be another one.
type stale struct{ error }

func (s stale) Unwrap() error { return s.error }

// New returns a source that has not fetched anything yet.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, changed: make(chan struct{}, 1)}
	s.cfg.Path = folder(cfg.Path)
	if cfg.Branch == "" {
		return nil, errors.New("no branch is named; give --branch")
	}
	local, remote, err := locate(cfg.URL, cfg.Insecure)
	if err != nil {
		return nil, err
	}
	s.local = local
	if remote != nil {
		s.secrets = urlSecrets(cfg.URL, remote)
		if err := cfg.Auth.check(remote); err != nil {
			return nil, clean(err, s.secrets)
		}
		if s.mirror, err = newMirror(remote, cfg.Auth, cfg.Branch, cfg.MirrorDir); err != nil {
			return nil, err
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Go(func() { s.poll(ctx) })
	return s, nil
}

// poll gives a hint every interval, give or take a tenth so that many daemons
// spread, and passes on the hints of others.
func (s *Source) poll(ctx context.Context) {
	for {
		var tick <-chan time.Time
		if s.cfg.Interval > 0 {
			tick = time.After(s.cfg.Interval*9/10 + rand.N(s.cfg.Interval/5+1))
		}
		select {
		case <-tick:
		case _, open := <-s.cfg.Hints:
			if !open {
				s.cfg.Hints = nil
				continue
			}
		case <-ctx.Done():
			return
		}
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
}

// Changed implements reconciler.Source.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Close ends the polling, and removes the mirror of a remote.
func (s *Source) Close() error {
	s.stop()
	s.done.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mirror != nil {
		return s.mirror.close()
	}
	return nil
}

// Fetch implements reconciler.Source. After an error the last good commit is
// what the next Fetch compares with.
func (s *Source) Fetch(ctx context.Context) (*schema.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	defer s.release()
	// First with what was kept since the last time, then with what is on disk
	// now, then with nothing taken for granted. A mirror is only changed by its
	// source: it is whole or thrown away.
	last := 2
	if s.mirror != nil {
		last = 1
	}
	var err error
	for attempt := range last + 1 {
		from := s.good
		if attempt == last {
			from.tree = plumbing.ZeroHash
		}
		var next state
		if next, err = s.next(ctx, from, attempt > 0); err == nil {
			s.good = next
			return &schema.Snapshot{Revision: s.cfg.Branch + "@sha1:" + next.tip.String(), Files: next.files}, nil
		}
		if again := (stale{}); !errors.As(err, &again) || ctx.Err() != nil {
			break
		}
	}
	return nil, s.explain(ctx, err)
}

// release closes files, and forgets nothing: a pack that Git removes must not
// stay on disk because it is open here.
func (s *Source) release() {
	if s.mirror != nil {
		_ = s.mirror.store.Close()
	}
	if s.store != nil {
		_ = s.store.Close()
	}
}

// explain names the repository in an error, and takes secrets out of it.
func (s *Source) explain(ctx context.Context, err error) error {
	secrets := s.secrets
	if s.mirror != nil {
		secrets = append(secrets[:len(secrets):len(secrets)], s.mirror.secrets...)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("it took too long: %w", err)
	}
	return clean(fmt.Errorf("cannot fetch %s: %w", Redact(s.cfg.URL), err), secrets)
}

// next makes the state of the branch's newest commit from an earlier one. A
// fresh one takes nothing that was kept.
func (s *Source) next(ctx context.Context, from state, fresh bool) (state, error) {
	store, tip, err := s.newest(ctx, fresh)
	if err != nil {
		return state{}, err
	}
	if tip == s.good.tip {
		return s.good, nil
	}
	return advance(ctx, store, s.cfg.Path, from, tip)
}

// newest finds the branch's newest commit, in a store that holds it, and refuses
// one that does not come after the last good one, unless it may be followed.
func (s *Source) newest(ctx context.Context, fresh bool) (*filesystem.Storage, plumbing.Hash, error) {
	for depth := window; ; depth *= deepen {
		store, tip, err := s.resolve(ctx, depth, fresh && depth == window)
		if err != nil {
			return nil, tip, err
		}
		if tip == s.refused {
			return nil, tip, s.refusal
		}
		old := s.good.tip
		if s.cfg.FollowRewrites {
			old = plumbing.ZeroHash
		}
		ok, cut, err := follows(ctx, store, tip, old)
		switch {
		case err != nil:
			return nil, tip, err
		case ok:
			s.refused = plumbing.ZeroHash
			return store, tip, nil
		case cut && s.mirror != nil && depth < maxWindow:
			continue
		case cut && s.mirror == nil: // the rest of its history may come later
			return nil, tip, stale{s.rewritten(tip, cut)}
		}
		s.refused, s.refusal = tip, s.rewritten(tip, cut)
		return nil, tip, s.refusal
	}
}

func (s *Source) rewritten(tip plumbing.Hash, cut bool) error {
	if cut {
		return fmt.Errorf("branch %s: the history of %s that is here does not reach back to %s; fetch more of it, or run with --follow-rewrites",
			s.cfg.Branch, tip, s.good.tip)
	}
	return fmt.Errorf("branch %s was rewritten: %s does not follow %s; push a commit on top of it, or run with --follow-rewrites",
		s.cfg.Branch, tip, s.good.tip)
}

// resolve finds the branch's newest commit, after asking the remote if there is
// one, and a store that holds it.
func (s *Source) resolve(ctx context.Context, depth int, fresh bool) (*filesystem.Storage, plumbing.Hash, error) {
	if s.mirror != nil {
		if fresh {
			if err := s.mirror.reset(); err != nil {
				return nil, plumbing.ZeroHash, err
			}
		}
		tip, err := s.mirror.fetch(ctx, depth)
		return s.mirror.store, tip, err
	}
	if s.store == nil || fresh {
		s.release()
		store, err := openLocal(s.local)
		if err != nil {
			return nil, plumbing.ZeroHash, err
		}
		s.store = store
	}
	tip, err := branchTip(s.store, s.cfg.Branch)
	return s.store, tip, err
}
