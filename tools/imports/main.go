// Command imports checks that packages import one way only:
//
//	schema < policies < reconciler < {sources, sinks} < admin < cmd
//
// and that each vendor's library stays in the one folder that may see it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

const module = "github.com/gray-release/gray/"

// ranks orders the top-level folders; a package may import lower ranks only, or
// its own folder. The files of testdata stand below everything, and so does client,
// which is for the programs of others.
var ranks = map[string]int{"testdata": 0, "client": 0, "schema": 1, "policies": 2, "reconciler": 3, "sources": 4, "sinks": 4, "admin": 5, "cmd": 6}

// owners names the only folder that may import a library, tests apart.
var owners = map[string]string{
	"github.com/envoyproxy/go-control-plane": "sinks/xds",
	"github.com/p4lang/p4runtime":            "sinks/p4rt",
	"github.com/go-git/go-git":               "sources/git",
	"github.com/fsnotify/fsnotify":           "sources/dir",
	"github.com/compose-spec/compose-go":     "sinks/compose",
	"github.com/osrg/gobgp":                  "sinks/bgp",
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	var wrong []error
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return errors.Join(wrong...)
		} else if err != nil {
			return err
		}
		for _, i := range p.Imports {
			if err := check(strings.TrimPrefix(p.ImportPath, module), i); err != nil {
				wrong = append(wrong, err)
			}
		}
	}
}

func check(from, to string) error {
	for library, owner := range owners {
		if strings.HasPrefix(to, library) && !strings.HasPrefix(from, owner) {
			return fmt.Errorf("%s imports %s, which only %s may", from, to, owner)
		}
	}
	inner, ours := strings.CutPrefix(to, module)
	if !ours {
		return nil
	}
	a, _, _ := strings.Cut(from, "/")
	b, _, _ := strings.Cut(inner, "/")
	if a == b && a != "sinks" || a == "sinks" && b == "sinks" && sinkOf(from) == sinkOf(inner) {
		return nil
	}
	if ranks[b] >= ranks[a] {
		return fmt.Errorf("%s imports %s, against the order of the folders", from, inner)
	}
	return nil
}

// sinkOf is a sink's folder: sinks never import each other.
func sinkOf(p string) string {
	parts := strings.SplitN(p, "/", 3)
	return parts[min(1, len(parts)-1)]
}
