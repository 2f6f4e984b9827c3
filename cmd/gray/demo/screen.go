package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// screen is an output that, on a terminal, redraws some lines at its end. Elsewhere
// there are no such lines and no escape sequences.
type screen struct {
	out   io.Writer
	fd    int
	live  bool // it is a terminal
	color bool

	mu    sync.Mutex
	lines []string // at the end now
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		s.fd, s.live, s.color = int(f.Fd()), true, os.Getenv("NO_COLOR") == ""
	}
	return s
}

// Write puts whole lines above those at the end.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(b), s.draw(string(b), s.lines)
}

// show replaces the lines at the end.
func (s *screen) show(lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live {
		_ = s.draw("", lines)
	}
}

// draw writes everything at once to avoid flicker.
func (s *screen) draw(text string, lines []string) error {
	var b strings.Builder
	if n := len(s.lines); n > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r\x1b[J", n) // up, and clear what is below
	}
	b.WriteString(text)
	s.lines = lines
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	_, err := io.WriteString(s.out, b.String())
	return err
}

// cut shortens the rest of a line so that the terminal does not wrap it.
func (s *screen) cut(text string, before int) string {
	w, _, err := term.GetSize(s.fd)
	if err != nil || w <= 0 {
		w = 80
	}
	return text[:min(len(text), max(w-1-before, 0))]
}

// paint colors a text by a code of the terminal: 31 is red, 32 green, 2 dim.
func (s *screen) paint(code int, text string) string {
	if !s.color {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", code, text)
}
