package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"golang.org/x/text/width"
)

// How many Networks are shown without --all.
const (
	mostNetworks = 10 // up to this many, all are shown
	mostMoving   = 20
	nextNetworks = 3
)

// stageDone is the stage of a Network that has moved and passed.
const stageDone rollout.Stage = "Done"

// plain replaces the characters that a terminal could take for commands: people and
// programs write the reasons and the evidence.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// state splits a status into phase, reason and message, without what it waits for.
func state(r *reconciler.RolloutStatus) (phase, reason, message string) {
	phase = string(r.Phase)
	if len(r.Conditions) > 0 {
		reason, message = r.Conditions[0].Reason, r.Conditions[0].Message
	}
	if reason == phase {
		reason = ""
	}
	message = strings.TrimSuffix(strings.TrimSuffix(message, r.Waits), "; ")
	return phase, reason, plain(message)
}

// stateLine is the state of a rollout on one line.
func stateLine(r *reconciler.RolloutStatus) string {
	phase, reason, message := state(r)
	text := strings.TrimSpace(phase + " " + reason)
	if about := strings.Join(some(message, plain(r.Waits)), "; "); about != "" {
		text += ": " + about
	}
	return text
}

// some returns the texts that are not empty.
func some(texts ...string) []string {
	return slices.DeleteFunc(texts, func(t string) bool { return t == "" })
}

// rolloutLines describes one rollout for people.
func rolloutLines(r *reconciler.RolloutStatus, all bool) []string {
	var b strings.Builder
	out := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	phase, reason, message := state(r)
	line("rollout", "%s, run %d: %s of %s", r.Policy, r.Run, r.Version, strings.Join(r.Targets, ", "))
	line("phase", "%s since %s", strings.TrimSpace(phase+" "+reason), stamp(r.Since))
	if message != "" && (r.Failure == nil || message != plain(r.Failure.String())) {
		line("message", "%s", message)
	}
	if r.Waits != "" {
		line("waits", "%s", plain(r.Waits))
	}
	line("moved", "%d of %d VMs, %d of %d Networks", r.Moved, r.Total, finished(r), len(r.Networks))
	line("batches", "%s", strings.Join(r.Batches, ", "))
	if len(r.Conditions) > 0 {
		line("commit", "%s", r.Conditions[0].ObservedRevision)
	}
	for _, o := range r.Overrides {
		line("override", "%s", plain(o))
	}
	for _, s := range r.Split {
		line("split", "%s", s)
	}
	for _, o := range r.Others {
		line("others", "%s", o)
	}
	for _, g := range r.Gates {
		line("gate", "%s; open it with: gray rollout promote %s --gate %s", gateText(g), r.Policy, g.ID)
	}
	if r.Failure != nil {
		for i, l := range failureLines(r.Failure) {
			line([]string{"failure", ""}[min(i, 1)], "%s", l)
		}
		if r.Phase == rollout.PhaseRolledBack {
			line("next", "a commit that changes what has failed, or: gray rollout retry %s", r.Policy)
		}
	}
	fmt.Fprintln(out, "\t")
	_ = out.Flush() // a strings.Builder takes everything
	writeNetworks(&b, r, all)
	lines := strings.Split(strings.TrimRight(b.String(), "\n "), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return lines
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// finished counts the Networks that have moved and passed.
func finished(r *reconciler.RolloutStatus) int {
	n := 0
	for i := range r.Networks {
		if r.Networks[i].Stage == stageDone {
			n++
		}
	}
	return n
}

// failureLines says what went wrong, followed by the evidence.
func failureLines(f *rollout.Failure) []string {
	text := f.Reason
	if f.Network != "" {
		text += fmt.Sprintf(", batch %d of Network %s", f.Batch, f.Network)
	}
	if f.Who != "" {
		text += ", by " + f.Who
	}
	if f.Why != "" {
		text += ": " + f.Why
	}
	if f.Revision != "" {
		text += ", at " + f.Revision
	}
	lines := []string{plain(text) + ", " + stamp(f.At)}
	for _, e := range f.Evidence {
		lines = append(lines, "  "+plain(e))
	}
	return lines
}

// writeNetworks prints the table of Networks: all, or those that move now or next.
func writeNetworks(w io.Writer, r *reconciler.RolloutStatus, all bool) {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	shown, done, left, moving := pick(r.Networks, all)
	if len(shown) > 0 {
		fmt.Fprint(out, "NETWORK\tVNI\tMOVED\tBATCH\tSTAGE\n")
	}
	for _, n := range shown {
		batch, stage := "-", cmp.Or(string(n.Stage), "to come")
		if r.Phase == rollout.PhaseRolledBack || r.Phase == rollout.PhaseRollingBack {
			stage = "not reached"
		}
		if b := n.Reached; b != nil {
			stage = fmt.Sprintf("went back from batch %d of %d, %d VMs", b.Batch, len(r.Batches), b.VMs)
		}
		if n.Batch > 0 {
			batch = fmt.Sprintf("%d of %d", n.Batch, len(r.Batches))
		}
		if n.Dead > 0 {
			stage += fmt.Sprintf(", %d checks failed before it moved", n.Dead)
		}
		fmt.Fprintf(out, "%s\t%d\t%s %d/%d\t%s\t%s\n", n.Name, n.VNI, bar(n), n.Moved, n.Total, batch, stage)
	}
	_ = out.Flush()
	var rest []string
	for _, c := range []struct {
		n    int
		what string
	}{{done, "done"}, {moving, "moving"}, {left, "to come"}} {
		if c.n > 0 {
			rest = append(rest, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if len(rest) > 0 {
		fmt.Fprintf(w, "and %d more Networks: %s; add --all to see them\n", done+moving+left, strings.Join(rest, ", "))
	}
}

// pick chooses the Networks to show, and counts the others by stage: done, left (not
// begun) and moving.
func pick(networks []reconciler.NetworkProgress, all bool) (shown []reconciler.NetworkProgress, done, left, moving int) {
	if all || len(networks) <= mostNetworks {
		return networks, 0, 0, 0
	}
	next := 0
	for _, n := range networks {
		switch {
		case n.Reached != nil && len(shown) < mostMoving:
			shown = append(shown, n)
		case n.Stage == stageDone:
			done++
		case n.Stage != "" && len(shown)-next < mostMoving, n.Stage == "" && next < nextNetworks:
			if n.Stage == "" {
				next++
			}
			shown = append(shown, n)
		case n.Stage != "":
			moving++
		default:
			left++
		}
	}
	return shown, done, left, moving
}

// bar draws how much of a Network has moved. It is full only when everything has, and
// empty only when nothing has.
func bar(n reconciler.NetworkProgress) string {
	const width = 20
	full := 0
	switch {
	case n.Stage == stageDone || n.Moved > 0 && n.Moved == n.Total:
		full = width
	case n.Moved > 0:
		full = min(max(n.Moved*width/n.Total, 1), width-1)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", width-full) + "]"
}

// printRollouts prints the table of all rollouts.
func printRollouts(w io.Writer, rollouts []reconciler.RolloutStatus) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "ROLLOUT\tPHASE\tBATCH\tMOVED\tMESSAGE\n")
	for i := range rollouts {
		r := &rollouts[i]
		phase, reason, message := state(r)
		text := strings.Join(some(strings.Join(some(reason, message), ": "), plain(r.Waits)), "; ")
		fmt.Fprintf(out, "%s\t%s\t%s\t%d/%d\t%s\n", r.Policy, phase, batchAtHand(r), r.Moved, r.Total, text)
	}
	return out.Flush()
}

// statusRollouts prints the rollouts for gray status: a line for each and, for the
// policy or Network that was asked for, its Networks too.
func statusRollouts(w io.Writer, rollouts []reconciler.RolloutStatus, names []string) error {
	var about, named []reconciler.RolloutStatus
	for _, r := range rollouts {
		if len(names) > 0 && r.Policy != names[0] {
			r.Networks = slices.DeleteFunc(slices.Clone(r.Networks), func(n reconciler.NetworkProgress) bool { return n.Name != names[0] })
			if len(r.Networks) == 0 {
				continue
			}
		}
		if about = append(about, r); len(names) > 0 {
			named = append(named, r)
		}
	}
	if len(about) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	if err := printRollouts(w, about); err != nil {
		return err
	}
	for i := range named {
		fmt.Fprintln(w)
		writeNetworks(w, &named[i], false)
	}
	return nil
}

// batchAtHand is the batch of the first Network that moves.
func batchAtHand(r *reconciler.RolloutStatus) string {
	for i := range r.Networks {
		if n := &r.Networks[i]; n.Stage != "" && n.Stage != stageDone {
			return fmt.Sprintf("%s %d of %d", n.Name, n.Batch, len(r.Batches))
		}
	}
	return "-"
}

// printAudit prints the audit log: a line for each event, with its evidence below.
func printAudit(w io.Writer, records []reconciler.AuditRecord) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "TIME\tROLLOUT\tRUN\tCOMMIT\tEVENT\tMESSAGE\n")
	for _, rec := range records {
		head := fmt.Sprintf("%s\t%s\t%d\t%s", stamp(rec.Time), rec.Policy, rec.Run, short(rec.Revision))
		if len(rec.Events) == 0 {
			fmt.Fprintf(out, "%s\t%s\tby %s\n", head, rec.Verb, plain(strings.Join(some(rec.Who, rec.Why), ": ")))
		}
		for _, e := range rec.Events {
			fmt.Fprintf(out, "%s\t%s\t%s\n", head, e.Reason, plain(e.Message))
		}
		for _, l := range rec.Evidence {
			fmt.Fprintf(out, "\t\t\t\t\t  %s\n", plain(l))
		}
	}
	return out.Flush()
}

// short abbreviates a revision: main@sha1:0123456789ab becomes 01234567.
func short(revision string) string {
	_, digest, ok := strings.Cut(revision, ":")
	if !ok {
		digest = revision
	}
	return digest[:min(len(digest), 8)]
}

// How often a rollout is looked at, and how long an answer may take.
const (
	watchEvery   = time.Second
	watchTimeout = 5 * time.Second
)

// watcher shows the progress of a rollout: on a terminal as a picture that is redrawn
// in place, elsewhere as a line for each change.
type watcher struct {
	out, errs io.Writer
	all       bool
	size      func() (columns, rows int) // nil: the output is no terminal
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

// follow shows a rollout until it has completed or failed. It waits for a daemon that
// goes away after it has answered once.
func (f *rolloutFlags) follow(cmd *cobra.Command, name string) error {
	ctx, w := cmd.Context(), newWatcher(cmd, f.all)
	var late <-chan time.Time
	if f.timeout > 0 {
		late = time.After(f.timeout)
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for seen := false; ; {
		limited, cancel := context.WithTimeout(ctx, watchTimeout)
		r, _, err := f.client().Rollout(limited, name)
		cancel()
		switch {
		case ctx.Err() != nil:
			return errors.New("interrupted; the rollout continues")
		case err != nil && !seen:
			return about(name, err)
		case errors.Is(err, reconciler.ErrNoRollout):
			fmt.Fprintf(w.errs, "gray: %s has no rollout any more; all its units go to the default version\n", name)
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
		case <-late:
			fmt.Fprintf(w.errs, "gray: not completed within %s; the rollout continues\n", f.timeout)
			return errNo
		}
	}
}

// over reports whether a rollout has failed and its rollback is not under way.
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

// show shows the current state of a rollout.
func (w *watcher) show(r *reconciler.RolloutStatus, now time.Time) {
	if w.trouble != "" {
		fmt.Fprintln(w.errs, "gray: the daemon answers again")
		w.trouble, w.drawn = "", 0
	}
	if w.size != nil {
		w.draw(r)
		return
	}
	text := fmt.Sprintf("%d/%d VMs, %d/%d Networks, %s", r.Moved, r.Total, finished(r), len(r.Networks), stateLine(r))
	if text != w.last {
		fmt.Fprintf(w.out, "%s %s\n", stamp(now), text)
	}
	w.last = text
}

// draw replaces the picture in one write. The picture always fits the terminal, whose
// last line is left to the cursor.
func (w *watcher) draw(r *reconciler.RolloutStatus) {
	columns, rows := w.size()
	var lines []string
	for _, l := range rolloutLines(r, w.all) {
		lines = append(lines, fold(l, columns)...)
	}
	if most := rows - 1; len(lines) > most {
		lines = append(lines[:most-1:most-1], fmt.Sprintf("and %d more lines", len(lines)-most+1))
	}
	for i, l := range lines {
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

// paint colors the phase: red for failed, green for completed.
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

// fold breaks a line that is too wide, at spaces where there are some, so that nothing of
// it is lost.
func fold(line string, columns int) (lines []string) {
	const indent = "    "
	for {
		part := cut(line, columns)
		if part == line || part == "" || len(part) <= len(indent) {
			return append(lines, part)
		}
		if at := strings.LastIndex(part, " "); at > len(indent) && strings.TrimSpace(part[:at]) != "" {
			part = part[:at]
		}
		lines = append(lines, strings.TrimRight(part, " "))
		line = indent + strings.TrimLeft(line[len(part):], " ")
	}
}

// cut shortens a line to so many columns.
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
