package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"golang.org/x/text/width"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
)

// How often a rollout is looked at, and how long an answer may take.
const (
	watchEvery   = time.Second
	watchTimeout = 5 * time.Second
)

// watcher shows a rollout as it goes on: on a terminal a picture that is drawn over
// the one before, elsewhere a line for each change.
type watcher struct {
	out, errs io.Writer
	all       bool
	size      func() (columns, rows int) // nil: it is no terminal
	color     bool
	drawn     int    // lines of the picture on the terminal
	last      string // what was printed last
	trouble   string // why the daemon does not answer
}

func newWatcher(cmd *cobra.Command, all bool) *watcher {
	w := &watcher{out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), all: all}
	file, ok := w.out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) || os.Getenv("TERM") == "dumb" {
		return w
	}
	w.color = os.Getenv("NO_COLOR") == ""
	w.size = func() (int, int) {
		columns, rows, err := term.GetSize(int(file.Fd()))
		if err != nil || columns < 1 || rows < 2 {
			return 80, 24
		}
		return columns, rows
	}
	return w
}

// follow watches a rollout until it has completed or failed. A daemon that goes away
// after it has answered once is waited for.
func (f *rolloutFlags) follow(cmd *cobra.Command, name string) error {
	ctx, w := cmd.Context(), newWatcher(cmd, f.all)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for seen := false; ; {
		limited, cancel := context.WithTimeout(ctx, watchTimeout)
		r, _, err := f.client().Rollout(limited, name)
		cancel()
		switch {
		case ctx.Err() != nil:
			return errors.New("interrupted; the rollout goes on")
		case err != nil && !seen:
			return about(name, err)
		case errors.Is(err, reconciler.ErrNoRollout):
			fmt.Fprintf(w.errs, "gray: %s has no rollout any more; all its units go to the default\n", name)
			return errNo
		case err != nil:
			w.absent(err)
		default:
			seen = true
			w.show(r.RolloutStatus, time.Now())
			if r.Phase == rollout.PhaseCompleted {
				return nil
			}
			if over(r.RolloutStatus) {
				return errNo
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// over tells whether a rollout has failed and nothing of it is under way.
func over(r *reconciler.RolloutStatus) bool {
	return failed(r) && r.Phase != rollout.PhaseRollingBack
}

// absent says once that the daemon does not answer.
func (w *watcher) absent(err error) {
	if w.trouble == "" {
		fmt.Fprintf(w.errs, "gray: %v; still trying\n", err)
		w.drawn = 0 // the picture before stays above this line
	}
	w.trouble = err.Error()
}

// show shows how a rollout stands now.
func (w *watcher) show(r *reconciler.RolloutStatus, now time.Time) {
	if w.trouble != "" {
		fmt.Fprintln(w.errs, "gray: the daemon answers again")
		w.trouble, w.drawn = "", 0
	}
	if w.size != nil {
		w.draw(r)
		return
	}
	text := fmt.Sprintf("%d/%d VMs, %d/%d Networks, %s", r.Moved, r.Total, finished(r), len(r.Networks), standing(r))
	if text != w.last {
		fmt.Fprintf(w.out, "%s %s\n", stamp(now), text)
	}
	w.last = text
}

// draw replaces the picture, which never is larger than the terminal, in one write.
// Its end stays below the screen's for the cursor.
func (w *watcher) draw(r *reconciler.RolloutStatus) {
	columns, rows := w.size()
	lines := rolloutLines(r, w.all)
	if most := rows - 1; len(lines) > most {
		lines = append(lines[:most-1:most-1], fmt.Sprintf("and %d more lines", len(lines)-most+1))
	}
	for i, l := range lines {
		lines[i] = cut(l, columns)
		if w.color && strings.HasPrefix(l, "phase ") {
			lines[i] = strings.Replace(lines[i], string(r.Phase), paint(r), 1)
		}
	}
	text := strings.Join(lines, "\n") + "\n"
	if text == w.last && w.drawn > 0 {
		return
	}
	up := "\r"
	if w.drawn > 0 {
		up = fmt.Sprintf("\x1b[%dA\r\x1b[J", w.drawn)
	}
	_, _ = io.WriteString(w.out, up+text) // a terminal that is gone shows nothing
	w.last, w.drawn = text, len(lines)
}

// paint is the phase in the color of how good that is.
func paint(r *reconciler.RolloutStatus) string {
	color := 36 // cyan
	switch {
	case failed(r):
		color = 31 // red
	case r.Phase == rollout.PhaseCompleted:
		color = 32 // green
	case r.Phase == rollout.PhasePaused:
		color = 33 // yellow
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", color, r.Phase)
}

// cut is as much of a line as fits so many columns.
func cut(line string, columns int) string {
	at := 0
	for i, r := range line {
		wide := 1
		if k := width.LookupRune(r).Kind(); k == width.EastAsianWide || k == width.EastAsianFullwidth {
			wide = 2
		}
		if at += wide; at > columns {
			return line[:i]
		}
	}
	return line
}
