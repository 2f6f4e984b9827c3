package schema

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzParse reads any bytes as a file of documents, a route file and an ignore
// file. Errors must name a file that exists and a line within it, and time and
// memory must follow the size of the input.
func FuzzParse(f *testing.F) {
	network := []byte("kind: Network\nmetadata: {name: n}\nspec: {vni: 1, routesFrom: r.csv}\n")
	for _, kind := range Kinds() {
		text, err := formatDocs.ReadFile("testdata/format/" + strings.ToLower(kind) + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte(csvText("10.0.0.1")), []byte("*.yml\n!a.yaml\n"))
	}
	archives, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			switch filepath.Ext(file.Name) {
			case ".yaml", ".yml":
				f.Add(file.Data, []byte(nil), []byte(nil))
			case ".csv":
				f.Add(network, file.Data, []byte(nil))
			case IgnoreFile:
				f.Add([]byte(node), []byte(nil), file.Data)
			}
		}
	}
	for _, b := range bombs() {
		if len(b.text) < 10_000 {
			f.Add([]byte(b.text), []byte(nil), []byte(nil))
		}
	}
	f.Add([]byte("{"), []byte(nil), []byte(nil)) // ends where the library counts another line
	f.Add([]byte("a: b\r---\r\x00\xff\u0085"), []byte("\"\r\n"), []byte("[\\"))
	f.Fuzz(func(t *testing.T, yaml, csv, ignore []byte) {
		size := len(yaml) + len(csv) + len(ignore)
		started, allocated := time.Now(), allocs()
		snap := &Snapshot{Files: NewFiles(&File{Path: "a.yaml", ID: "a", Data: yaml}, &File{Path: "r.csv", ID: "r", Data: csv}, &File{Path: IgnoreFile, ID: "i", Data: ignore})}
		set, err := Parse(snap)
		errs, _ := errors.AsType[Errors](err)
		for _, e := range errs {
			checkError(t, snap, e)
		}
		for _, n := range set.Names() {
			d := set.Get(n)
			for _, field := range []string{"", "spec.match[0].flow.vni", "spec.versions[1].name"} {
				if at := d.At(field); at.Line < 1 || at.Line > lines(yaml) {
					t.Errorf("%s of %s at %v", field, n, at)
				}
			}
			set.Routes(n.Name)
		}
		if took := time.Since(started); took > 30*time.Second {
			t.Errorf("took %v for %d bytes", took, size)
		}
		if got := allocs() - allocated; got > 64<<20+uint64(size)*8192 {
			t.Errorf("allocated %d bytes for %d", got, size)
		}
	})
}

// allocs is the bytes that this process has allocated so far.
func allocs() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// lines is the number of lines of a text; the end counts as one.
func lines(text []byte) int { return bytes.Count(text, []byte("\n")) + 1 }

func checkError(t *testing.T, snap *Snapshot, e *Error) {
	text := e.Error()
	if strings.ContainsAny(text, "\n\r\x1b") || len(text) > 8<<10 {
		t.Errorf("an error is not one bounded line: %.9000q", text)
	}
	if e.more > 0 || e.Path == "." {
		return
	}
	file := snap.Files.Get(e.Path)
	if file == nil || e.Line < 1 || e.Line > lines(file.Data) {
		t.Errorf("nothing stands at the place of %q", text)
	}
}

// The words that FuzzSetIncremental makes repositories of.
var (
	fuzzPaths = []string{"a.yaml", "b.yaml", "c/a.yml", "r.csv", "c/s.csv", IgnoreFile, ".dot.yaml", "p/p4info.txtpb", "p/device_config.bin"}
	fuzzTexts = []string{
		"", nodeText("a", "10.0.0.1"), nodeText("a", "10.0.0.2"), nodeText("b", "10.0.0.1"), nodeText("a", "x"), nodeText("a", "10.0.0.1") + "---\n" + nodeText("a", "10.0.0.3"),
		nodeText("b", "x") + "---\n" + nodeText("a", "10.0.0.1"), "\n" + nodeText("a", "10.0.0.1"), "]", "---\n---\n", "apiVersion: v1",
		networkText("a", 1, "r.csv"), networkText("b", 1, "r.csv"), networkText("a", 2, "c/s.csv"), networkText("b", 1, "r.csv") + "---\n" + networkText("a", 2, "r.csv"), networkText("a", 1, "../r.csv"),
		"\n\n" + networkText("a", 1, "r.csv"), csvText("10.0.0.1"), csvText("10.0.0.2"), csvText("x"), "a.yaml\n", "c/\n", "*\n!b.yaml\n", "a[\n", "#\xff", "\x00",
		switchText("a", "pipeline: p"), switchText("a", "pipeline: p, pushPipeline: never"), "\n" + switchText("a", "pipeline: v1model"),
	}
)

// fuzzView is all that can be asked of one name.
type fuzzView struct {
	Position Position
	Metadata Metadata
	Spec     any
	Routes   []Route
	Pipeline [2]string // the ids of its files
	Broken   bool
}

func viewOf(s *Set, n Name) fuzzView {
	v := fuzzView{Broken: s.Broken(n)}
	if d := s.Get(n); d != nil {
		v.Position, v.Metadata, v.Spec = d.Position, d.Metadata, d.Spec
	}
	if n.Kind == KindNetwork {
		v.Routes = s.Routes(n.Name)
	}
	if sw, ok := v.Spec.(*SwitchSpec); ok {
		for i, f := range []*File{s.Pipeline(sw.Pipeline).P4Info, s.Pipeline(sw.Pipeline).DeviceConfig} {
			if f != nil {
				v.Pipeline[i] = f.ID
			}
		}
	}
	return v
}

// FuzzSetIncremental follows a repository through edits, two bytes each. After
// each the set must equal a fresh one, and every name that differs from before
// must have been told.
func FuzzSetIncremental(f *testing.F) {
	all := names(KindNode, "a", KindNode, "b", KindNetwork, "a", KindNetwork, "b", KindSwitch, "a")
	f.Add([]byte{})
	// One file is put, changed and removed; doubles come and go; a route file
	// is shared, goes and comes back; an ignore file comes and goes.
	f.Add([]byte{0, 1, 0, 2, 0, 255, 1, 1, 0, 1, 0, 3})
	f.Add([]byte{0, 1, 1, 1, 2, 5, 0, 255, 1, 255, 2, 1})
	f.Add([]byte{3, 17, 0, 11, 1, 12, 3, 18, 3, 255, 0, 16, 1, 255, 3, 19, 3, 17})
	f.Add([]byte{3, 17, 1, 13, 0, 11, 4, 19, 0, 255, 1, 14, 3, 18})
	f.Add([]byte{0, 1, 1, 3, 2, 6, 5, 20, 5, 22, 5, 21, 5, 23, 5, 255, 5, 24})
	f.Add([]byte{0, 4, 1, 1, 0, 1, 1, 4, 0, 254, 5, 254, 3, 254})
	// The files of a pipeline come, change, are refused and go.
	f.Add([]byte{0, 26, 7, 0, 8, 0, 8, 1, 8, 254, 8, 255, 0, 27, 7, 1, 7, 255, 1, 26, 0, 255, 7, 2, 1, 28})
	f.Fuzz(func(t *testing.T, edits []byte) {
		if len(edits) > 200 {
			edits = edits[:200]
		}
		var files Files
		set, before := NewSet(), NewSet()
		for edit := range slices.Chunk(edits, 2) {
			path := fuzzPaths[int(edit[0])%len(fuzzPaths)]
			what := edit[len(edit)-1]
			switch what {
			case 255:
				files = files.With(nil, []string{path})
			case 254:
				files = files.With([]*File{{Path: path, ID: "refused", Err: errors.New("is refused")}}, nil)
			default:
				files = files.With([]*File{file(path, fuzzTexts[int(what)%len(fuzzTexts)])}, nil)
			}
			snap := &Snapshot{Files: files}
			touched := set.Update(snap)
			fresh := first(Parse(snap))
			if diff := cmp.Diff(problems(fresh), problems(set)); diff != "" {
				t.Fatalf("errors after %v (-fresh +incremental):\n%s", edits, diff)
			}
			if diff := cmp.Diff(fresh.Names(), set.Names()); diff != "" {
				t.Fatalf("names after %v (-fresh +incremental):\n%s", edits, diff)
			}
			for _, n := range all {
				now := viewOf(fresh, n)
				if diff := cmp.Diff(now, viewOf(set, n), byValue); diff != "" {
					t.Fatalf("%s after %v (-fresh +incremental):\n%s", n, edits, diff)
				}
				if !slices.Contains(touched, n) && !cmp.Equal(viewOf(before, n), now, byValue) {
					t.Fatalf("%s changed with %v and Update returned %v", n, edits, touched)
				}
			}
			before = fresh
		}
	})
}

// scalar is a type that is read from text, with the text that gives its value
// back and what must hold for a value.
type scalar struct {
	read   func(string) (any, error)
	text   func(any) string
	inside func(any) bool
}

func scalarOf[T any, P interface {
	*T
	encoding.TextUnmarshaler
}](text func(T) string, inside func(T) bool,
) scalar {
	return scalar{
		func(s string) (any, error) {
			v := new(T)
			err := P(v).UnmarshalText([]byte(s))
			return *v, err
		},
		func(v any) string { return text(v.(T)) },
		func(v any) bool { return inside(v.(T)) },
	}
}

// scalars are the types that are read from text, by their name.
func scalars() map[string]scalar {
	return map[string]scalar{
		"VNI":      scalarOf(func(v VNI) string { return fmt.Sprint(v) }, func(v VNI) bool { return v <= MaxVNI }),
		"Addr":     scalarOf(Addr.String, func(a Addr) bool { return a.IsValid() && a.Zone() == "" && !a.Is4In6() }),
		"Prefix":   scalarOf(Prefix.String, func(p Prefix) bool { return p.IsValid() && p.Prefix == p.Masked() && !p.Addr().Is4In6() }),
		"MAC":      scalarOf(MAC.String, func(m MAC) bool { return m[0]&1 == 0 }),
		"Protocol": scalarOf(func(p Protocol) string { return strconv.Itoa(int(p)) }, func(Protocol) bool { return true }),
		"PortRange": scalarOf(func(r PortRange) string { return fmt.Sprintf("%d-%d", r.Lo, r.Hi) },
			func(r PortRange) bool { return r.Lo <= r.Hi }),
		"Duration": scalarOf(func(d Duration) string { return time.Duration(d).String() }, func(d Duration) bool { return d >= 0 }),
		"Percent":  scalarOf(func(p Percent) string { return fmt.Sprintf("%d%%", p) }, func(p Percent) bool { return p >= 0 && p <= 100 }),
		"Batch": scalarOf(func(b Batch) string { return strconv.Itoa(b.N) + map[bool]string{true: "%"}[b.IsPercent] },
			func(b Batch) bool { return b.N >= 1 && (!b.IsPercent || b.N <= 100) }),
		"Community": scalarOf(func(c Community) string { return fmt.Sprintf("%d:%d", c>>16, c&0xffff) }, func(Community) bool { return true }),
	}
}

// FuzzScalars reads any text as each of the scalar types: what is accepted is
// within its range, and its text is read as the same again.
func FuzzScalars(f *testing.F) {
	for _, s := range []string{
		"", "0", "00", "5", "-1", "+1", "16777215", "16777216", "99999999999999999999", "10.0.0.1", "10.0.0.0/8", "10.0.0.1/8", "::1", "2001:db8::/32", "::ffff:1.2.3.4", "fe80::1%eth0",
		"02:00:00:00:00:01", "02-00-00-00-00-01", "0200.0000.0001", "01:00:00:00:00:01", "tcp", "udp", "icmp", "255", "256", "443", "1-65535", "2-1", "500ms", "1.5h", ".5s", "2h3m", "1µs", "-5s", "5%", "100%", "101%", "0%", "64512:100", "65536:1",
	} {
		f.Add(s)
	}
	types, schemas := scalars(), scalarValidators(f)
	if len(types) != len(schemas) {
		f.Fatalf("%d types are fuzzed and %d have a schema", len(types), len(schemas))
	}
	f.Fuzz(func(t *testing.T, text string) {
		for name, s := range types {
			v, err := s.read(text)
			if err != nil {
				continue
			}
			if !s.inside(v) {
				t.Errorf("%s: %q is read as %v", name, text, v)
			}
			if again, err := s.read(s.text(v)); err != nil || again != v {
				t.Errorf("%s: %q is read as %v, its text %q as %v (%v)", name, text, v, s.text(v), again, err)
			}
			if !acceptsScalar(schemas[name], text) {
				t.Errorf("%s: the JSON Schema refuses %q, which is read as %v", name, text, v)
			}
		}
	})
}
