package git

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
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
	Path           string // the folder of the repository to read
	Interval       time.Duration
	FollowRewrites bool   // follow a branch that was rewritten
	Insecure       bool   // allow http:// beyond loopback
	MirrorDir      string // where to mirror a remote; empty: the system's temporary folder
	Auth           Auth
	Hints          <-chan struct{} // additional hints, such as those of a watcher; may be nil
}

// Source implements reconciler.Source for a branch.
type Source struct {
	cfg     Config
	local   string   // the path of a local repository; empty for a remote
	mirror  *mirror  // the mirror of a remote; nil for a local repository
	secrets []string // in the URL
	changed chan struct{}
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu      sync.Mutex          // held by Fetch
	store   *filesystem.Storage // of a local repository, kept from the last Fetch
	good    state               // of the last commit that was read
	refused plumbing.Hash       // a commit to which the branch was rewritten
	refusal error               // why it was refused
}

// stale is an error that may be caused by what was kept since the last Fetch: Git may
// have packed objects, or the repository may have been replaced.
type stale struct{ error }

func (s stale) Unwrap() error { return s.error }

// New returns a source that has not fetched anything yet.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, changed: make(chan struct{}, 1)}
	s.cfg.Path = folder(cfg.Path)
	if cfg.Branch == "" {
		return nil, errors.New("the branch is missing; give --branch")
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

// poll gives a hint at every interval, with a jitter of a tenth so that many daemons
// do not poll together, and passes on the hints of others.
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

// Fetch implements reconciler.Source. After an error, the next Fetch compares with the
// last commit that was read.
func (s *Source) Fetch(ctx context.Context) (*schema.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	defer s.release()
	// First try with what was kept, then with what is on disk now, then from nothing.
	// A mirror needs no second try: nobody else changes it, so that it is complete or
	// has to be fetched again.
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

// After has a source that has read nothing yet refuse a commit that is not a descendant of
// the one that an earlier process had in force, main@sha1:<commit>. A revision of another
// branch, or of no branch, says nothing about this one.
func (s *Source) After(revision string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	branch, hash, _ := strings.Cut(revision, "@sha1:")
	if branch == s.cfg.Branch && plumbing.IsHash(hash) && s.good.tip.IsZero() {
		s.good = state{tip: plumbing.NewHash(hash)}
	}
}

// release closes files but forgets nothing. A pack that Git removes must not stay on
// disk because it is open here.
func (s *Source) release() {
	if s.mirror != nil {
		_ = s.mirror.store.Close()
	}
	if s.store != nil {
		_ = s.store.Close()
	}
}

// explain adds the repository to an error, and removes secrets from it.
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

// next makes the state of the branch's newest commit from an earlier one; with fresh,
// without using anything that was kept.
func (s *Source) next(ctx context.Context, from state, fresh bool) (state, error) {
	store, tip, err := s.newest(ctx, fresh)
	if err != nil {
		return state{}, err
	}
	if tip == s.good.tip && !s.good.tree.IsZero() {
		return s.good, nil
	}
	return advance(ctx, store, s.cfg.Path, from, tip)
}

// newest finds the branch's newest commit and a store that has it. It refuses a commit
// that is not a descendant of the last one, unless rewrites may be followed.
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
		case cut && s.mirror == nil: // its history may still be fetched
			return nil, tip, stale{s.rewritten(tip, cut)}
		}
		s.refused, s.refusal = tip, s.rewritten(tip, cut)
		return nil, tip, s.refusal
	}
}

func (s *Source) rewritten(tip plumbing.Hash, cut bool) error {
	if cut {
		return fmt.Errorf("branch %s: the local history of %s does not reach back to %s; fetch more of it, or run with --follow-rewrites",
			s.cfg.Branch, tip, s.good.tip)
	}
	return fmt.Errorf("branch %s was rewritten: %s is not a descendant of %s; push a commit on top of that, or run with --follow-rewrites",
		s.cfg.Branch, tip, s.good.tip)
}

// resolve finds the branch's newest commit, at the remote if there is one, and a store
// that has it.
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
