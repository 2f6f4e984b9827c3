package git

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/gray-release/gray/schema"
)

// fetchTimeout bounds one fetch from a remote.
const fetchTimeout = 2 * time.Minute

// Config says which branch to follow.
type Config struct {
	URL            string // a path, or file://, https://, ssh://, user@host:path
	Branch         string
	Path           string // the folder in the repository that is read
	Interval       time.Duration
	FollowRewrites bool // follow a branch that was rewritten
	Insecure       bool // allow http:// beyond loopback
	Auth           Auth
	Hints          <-chan struct{} // further reasons to look, such as a watcher's; may be nil
}

// Source implements reconciler.Source for a branch.
type Source struct {
	cfg     Config
	local   string // the path of a local repository, else empty
	auth    transport.AuthMethod
	remote  *gogit.Repository // the mirror of a remote
	tip     plumbing.Hash     // the last good commit
	tree    plumbing.Hash
	files   schema.Files
	links   map[string]bool // files that are symbolic links
	changed chan struct{}
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// New returns a source that has not fetched anything yet.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, links: map[string]bool{}, changed: make(chan struct{}, 1)}
	s.cfg.Path = path.Clean("/" + cfg.Path)[1:]
	if cfg.Branch == "" {
		return nil, errors.New("no branch is named; give --branch")
	}
	var err error
	if s.local, err = localPath(cfg.URL, cfg.Insecure); err != nil {
		return nil, err
	}
	if s.local == "" {
		if s.auth, err = cfg.Auth.method(cfg.URL); err != nil {
			return nil, err
		}
		if s.remote, err = gogit.Init(memory.NewStorage(), nil); err != nil {
			return nil, err
		}
		_, err = s.remote.CreateRemote(&config.RemoteConfig{Name: "origin", URLs: []string{cfg.URL}})
		if err != nil {
			return nil, fmt.Errorf("cannot use %s: %w", Redact(cfg.URL), redactError(err, cfg.URL))
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Go(func() { s.poll(ctx) })
	return s, nil
}

// localPath is the path of a local repository, or empty for a remote.
func localPath(raw string, insecure bool) (string, error) {
	if p, ok := strings.CutPrefix(raw, "file://"); ok {
		return p, nil
	}
	e, err := transport.NewEndpoint(raw)
	if err != nil {
		return "", fmt.Errorf("%s is no Git URL: %w", Redact(raw), redactError(err, raw))
	}
	switch e.Protocol {
	case "file":
		return raw, nil
	case "https", "ssh":
		return "", nil
	case "http":
		if insecure || isLoopback(e.Host) {
			return "", nil
		}
		return "", fmt.Errorf("%s is plaintext; use https, or --insecure", Redact(raw))
	}
	return "", fmt.Errorf("%s: the protocol %s is not read; use https, ssh or a path", Redact(raw), e.Protocol)
}

// Redact takes user and password out of a URL.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return raw
	}
	u.User = nil
	return u.String()
}

func redactError(err error, raw string) error {
	if err == nil || Redact(raw) == raw {
		return err
	}
	u, _ := url.Parse(raw)
	text := strings.ReplaceAll(err.Error(), raw, Redact(raw))
	if p, ok := u.User.Password(); ok && p != "" {
		text = strings.ReplaceAll(text, p, "xxxxx")
	}
	return errors.New(strings.ReplaceAll(text, u.User.String()+"@", ""))
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

// Close ends the polling.
func (s *Source) Close() error {
	s.stop()
	s.done.Wait()
	return nil
}

// Fetch implements reconciler.Source. After an error the last good commit is
// what the next Fetch compares with.
func (s *Source) Fetch(ctx context.Context) (*schema.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	repo, tip, err := s.resolve(ctx)
	if err != nil {
		return nil, redactError(err, s.cfg.URL)
	}
	commit, err := repo.CommitObject(tip)
	if err != nil {
		return nil, fmt.Errorf("cannot read commit %s: %w", tip, err)
	}
	if err := s.checkForward(repo, commit); err != nil {
		return nil, err
	}
	if tip != s.tip {
		if err := s.advance(ctx, repo, commit); err != nil {
			return nil, err
		}
	}
	return &schema.Snapshot{Revision: s.cfg.Branch + "@sha1:" + tip.String(), Files: s.files}, nil
}

// resolve finds the branch's newest commit, after asking the remote if there is
// one. A local repository is opened anew, to see objects that were packed since.
func (s *Source) resolve(ctx context.Context) (*gogit.Repository, plumbing.Hash, error) {
	if s.local != "" {
		repo, err := openLocal(s.local)
		if err != nil {
			return nil, plumbing.ZeroHash, err
		}
		ref, err := repo.Reference(plumbing.NewBranchReferenceName(s.cfg.Branch), true)
		if err != nil {
			return nil, plumbing.ZeroHash, fmt.Errorf("the repository %s has no branch %q with a commit", s.local, s.cfg.Branch)
		}
		return repo, ref.Hash(), nil
	}
	target := plumbing.NewRemoteReferenceName("origin", s.cfg.Branch)
	spec := config.RefSpec("+" + plumbing.NewBranchReferenceName(s.cfg.Branch).String() + ":" + target.String())
	err := s.remote.FetchContext(ctx, &gogit.FetchOptions{
		RemoteName: "origin", RefSpecs: []config.RefSpec{spec}, Auth: s.auth, Tags: gogit.NoTags, CABundle: s.cfg.Auth.caBundle(),
	})
	if err != nil && !errors.Is(err, gogit.NoErrAlreadyUpToDate) {
		return nil, plumbing.ZeroHash, fmt.Errorf("cannot fetch %s: %w", Redact(s.cfg.URL), err)
	}
	ref, err := s.remote.Reference(target, true)
	if err != nil {
		return nil, plumbing.ZeroHash, fmt.Errorf("the repository %s has no branch %q with a commit", Redact(s.cfg.URL), s.cfg.Branch)
	}
	return s.remote, ref.Hash(), nil
}

func openLocal(p string) (*gogit.Repository, error) {
	repo, err := gogit.PlainOpenWithOptions(p, &gogit.PlainOpenOptions{EnableDotGitCommonDir: true})
	if err != nil {
		return nil, fmt.Errorf("cannot open the repository %s: %w", p, err)
	}
	return repo, nil
}

// checkForward refuses a branch that was rewritten, unless it may be followed.
func (s *Source) checkForward(repo *gogit.Repository, tip *object.Commit) error {
	if s.tip.IsZero() || s.tip == tip.Hash || s.cfg.FollowRewrites {
		return nil
	}
	old, err := repo.CommitObject(s.tip)
	if err == nil {
		var ok bool
		if ok, err = old.IsAncestor(tip); ok {
			return nil
		}
	}
	if err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) {
		return fmt.Errorf("cannot compare commits %s and %s: %w", s.tip, tip.Hash, err)
	}
	return fmt.Errorf("branch %s was rewritten: %s does not follow %s; push a commit on top of it, or run with --follow-rewrites", s.cfg.Branch, tip.Hash, s.tip)
}
