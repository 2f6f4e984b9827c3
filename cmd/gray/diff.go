package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources/dir"
	"github.com/gray-release/gray/sources/git"
)

// diffFlags are the flags of gray diff.
type diffFlags struct {
	base, head, output, admin string
	live, exitCode, strict    bool
}

func diffCommand() *cobra.Command {
	var f diffFlags
	cmd := &cobra.Command{
		Use: "diff [PATH]", Short: "Show what a commit would change", Args: cobra.MaximumNArgs(1),
		Long: "Compare the working tree at PATH with what the daemon has live or, with --base, two revisions without a daemon.",
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, argOr(args, ".")) },
	}
	cmd.Flags().StringVar(&f.base, "base", "", "compare with this revision, not with what is live")
	cmd.Flags().StringVar(&f.head, "head", "", "compare this revision; default: the working tree")
	cmd.Flags().BoolVar(&f.live, "live", false, "have the daemon read every target again first")
	cmd.Flags().StringVarP(&f.output, "output", "o", "text", "text, json or markdown")
	cmd.Flags().BoolVar(&f.exitCode, "exit-code", true, "exit with 1 if there is a difference")
	cmd.Flags().BoolVar(&f.strict, "strict", false, "warnings are errors: exit with 1")
	cmd.Flags().StringVar(&f.admin, "admin-listen", "127.0.0.1:18001", "the daemon's admin API, host:port")
	return cmd
}

func (f *diffFlags) run(cmd *cobra.Command, path string) error {
	switch f.output {
	case "text", "json", "markdown":
	default:
		return fmt.Errorf("-o %s is not known; want text, json or markdown", f.output)
	}
	if f.base != "" && f.live {
		return fmt.Errorf("--base needs no daemon and --live asks one; give only one of them")
	}
	d, err := f.compare(cmd.Context(), path)
	if err != nil {
		return err
	}
	if err := printDiff(cmd.OutOrStdout(), d, f.output); err != nil {
		return err
	}
	if err := tooOdd(cmd, f.strict, len(d.Warnings)); err != nil {
		return err
	}
	if f.exitCode && len(d.Changes)+len(d.Rollouts) > 0 {
		return errNo
	}
	if len(d.Unknown) > 0 {
		return fmt.Errorf("nothing changes of what is known, and %d targets are away; try again when gray status has them back", len(d.Unknown))
	}
	return nil
}

// snapshotAt reads a revision, or the working tree if the revision is empty.
func snapshotAt(ctx context.Context, path, revision string) (*schema.Snapshot, error) {
	if revision == "" {
		s, err := dir.Read(ctx, path)
		if err == nil {
			s.Revision = "working tree"
		}
		return s, err
	}
	root, sub, err := git.FindRoot(path)
	if err != nil {
		return nil, err
	}
	s, err := git.ReadRevision(ctx, root, revision, sub)
	if err == nil {
		s.Revision = revision
	}
	return s, err
}

func (f *diffFlags) compare(ctx context.Context, path string) (*admin.Diff, error) {
	head, err := snapshotAt(ctx, path, f.head)
	if err != nil {
		return nil, err
	}
	offline, err := newOffline()
	if err != nil {
		return nil, err
	}
	if f.base != "" {
		return compareOffline(ctx, offline, path, f.base, head)
	}
	// Invalid documents are reported without a daemon.
	c, err := offline.Compile(head, reconciler.Nothing())
	if err != nil {
		return nil, err
	}
	d, err := admin.Client{Address: f.admin}.Diff(ctx, head, f.live)
	if err != nil {
		return nil, err
	}
	d.Warnings = texts(c.Warnings)
	return d, nil
}

func texts(errs schema.Errors) []string {
	out := []string{}
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return out
}

// compareOffline plans from one snapshot to another.
func compareOffline(ctx context.Context, offline reconciler.Offline, path, baseRev string, head *schema.Snapshot) (*admin.Diff, error) {
	base, err := snapshotAt(ctx, path, baseRev)
	if err != nil {
		return nil, err
	}
	was := reconciler.Nothing()
	if base.Files.Len() > 0 {
		if was, err = offline.Compile(base, was); err != nil {
			return nil, fmt.Errorf("the base %s is not valid:\n%w", baseRev, err)
		}
	}
	is, err := offline.Compile(head, was)
	if err != nil {
		return nil, err
	}
	d := admin.NewDiff(baseRev, is.Plan(was, head.Revision))
	d.Warnings = texts(is.Warnings)
	return d, nil
}

func printDiff(w io.Writer, d *admin.Diff, output string) error {
	switch output {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(d)
	case "markdown":
		_, err := io.WriteString(w, markdown(d))
		return err
	}
	if len(d.Changes)+len(d.Rollouts) == 0 && len(d.Unknown) == 0 {
		_, err := fmt.Fprintf(w, "%snothing changes: %s and %s mean the same\n", outcome(d), d.Base, d.Head)
		return err
	}
	rollouts := ""
	for _, line := range d.Rollouts {
		rollouts += line + "\n"
	}
	_, err := fmt.Fprintf(w, "%s%s%s%s\n", d.Text, rollouts, outcome(d), summary(d))
	return err
}

// outcome lists the changes that wait and why the plan is refused, one per line.
func outcome(d *admin.Diff) string {
	var b strings.Builder
	for _, w := range d.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	for _, u := range d.Unknown {
		fmt.Fprintf(&b, "unknown: %s\n", u.Message)
	}
	for i, w := range d.Waiting {
		if i == mostWaiting {
			fmt.Fprintf(&b, "waits: and %d more\n", len(d.Waiting)-i)
			break
		}
		fmt.Fprintf(&b, "waits: %s\n", w.Message)
	}
	for _, r := range d.Refused {
		fmt.Fprintf(&b, "refused, on all targets: %s\n", r.Message)
	}
	return b.String()
}

// mostWaiting bounds how many waiting changes are listed for people.
const mostWaiting = 20

func summary(d *admin.Diff) string {
	text := fmt.Sprintf("%s -> %s: %d to create, %d to update, %d to delete", d.Base, d.Head, d.Counts.Create, d.Counts.Update, d.Counts.Delete)
	if n := rolloutChanges(d); n > 0 {
		text += fmt.Sprintf(", %d of rollouts", n)
	}
	if n := len(d.Waiting); n > 0 {
		text += fmt.Sprintf(", %d wait", n)
	}
	if len(d.Refused) > 0 {
		text += "; the daemon will refuse it"
	}
	return text
}

// rolloutChanges counts the changes of rollouts, without their consequences.
func rolloutChanges(d *admin.Diff) int {
	n := 0
	for _, line := range d.Rollouts {
		if !strings.HasPrefix(line, ">") {
			n++
		}
	}
	return n
}

// markdown renders a comment for a pull request: the totals, then a table of changes.
func markdown(d *admin.Diff) string {
	var b strings.Builder
	if len(d.Changes)+len(d.Rollouts) == 0 && len(d.Unknown) == 0 {
		fmt.Fprintf(&b, "### gray: nothing changes\n\n`%s` and `%s` mean the same.\n", d.Base, d.Head)
	} else {
		fmt.Fprintf(&b, "### gray: %d changes\n\n%s.\n", len(d.Changes)+rolloutChanges(d), summary(d))
	}
	for _, u := range d.Unknown {
		fmt.Fprintf(&b, "\n> **Unknown** %s\n", cell(u.Message))
	}
	for _, r := range d.Refused {
		fmt.Fprintf(&b, "\n> **Refused, on all targets** %s\n", cell(r.Message))
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(&b, "\n> **Warning** %s\n", cell(w))
	}
	for i, w := range d.Waiting {
		if i == mostWaiting {
			fmt.Fprintf(&b, "\n> **Waits** and %d more\n", len(d.Waiting)-i)
			break
		}
		fmt.Fprintf(&b, "\n> **Waits** %s\n", cell(w.Message))
	}
	if len(d.Rollouts) > 0 {
		b.WriteString("\n| | rollout |\n|---|---|\n")
	}
	for _, line := range d.Rollouts {
		op, what, _ := strings.Cut(line, " rollout ")
		op = map[string]string{"+": "create", "~": "update", "-": "delete", ">": "then"}[op]
		fmt.Fprintf(&b, "| %s | %s |\n", op, cell(what))
	}
	if len(d.Changes) == 0 {
		return b.String()
	}
	b.WriteString("\n| | target | resource | change | document |\n|---|---|---|---|---|\n")
	for _, c := range d.Changes {
		what := c.New
		switch c.Op {
		case "update":
			what = c.Old + " → " + c.New
		case "delete":
			what = "~~" + c.Old + "~~"
		}
		origin := ""
		if c.Origin != nil {
			origin = "`" + c.Origin.String() + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s `%s` | %s | %s |\n", c.Op, c.Target, c.Kind, cell(c.Name), cell(what), origin)
	}
	return b.String()
}

// cell escapes a text for a table, so that a document cannot write Markdown into a
// review.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "`", "'", "<", "&lt;", "[", "\\[").Replace(s)
}
