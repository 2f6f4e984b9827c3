package schema

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	ignore "github.com/sabhiram/go-gitignore"
)

// IgnoreFile lists, in gitignore syntax, files that gray does not read.
const IgnoreFile = ".grayignore"

// Set is the documents of a repository. It follows the repository from
// snapshot to snapshot, at a cost that follows what changed; where it comes
// from makes no difference to what it holds.
type Set struct {
	files   Files
	ignored *ignore.GitIgnore
	byPath  map[string]parsed
	byName  map[Name][]*Document // in order of place; the first one counts
	broken  map[Name]int         // documents that are there but have errors of their own
	routes  map[string]routeFile // the routesFrom files that are read, by path
	users   map[string]map[Name]bool
	errs    map[string]Errors // by path
	twice   map[Name]bool     // names that several documents have
}

// routeFile is a routesFrom file and what it holds.
type routeFile struct {
	file   *File
	routes []Route
	errs   Errors
}

// NewSet returns an empty set.
func NewSet() *Set {
	return &Set{
		byPath: map[string]parsed{}, byName: map[Name][]*Document{}, broken: map[Name]int{},
		routes: map[string]routeFile{}, users: map[string]map[Name]bool{},
		errs: map[string]Errors{}, twice: map[Name]bool{},
	}
}

// Parse reads a whole snapshot. The set holds the documents that are right
// also where the error, an Errors, names others that are not.
func Parse(s *Snapshot) (*Set, error) {
	set := NewSet()
	set.Update(s)
	return set, set.Err()
}

// Update reads what differs from the last snapshot and returns the sorted names
// of the documents that are new, changed or gone. What is wrong tells Err.
func (s *Set) Update(snap *Snapshot) []Name {
	paths := snap.Files.Changed(s.files)
	if slices.Contains(paths, IgnoreFile) {
		s.readIgnore(snap.Files.Get(IgnoreFile))
		paths = append(paths, slices.Collect(maps.Keys(s.byPath))...)
		for f := range snap.Files.All() {
			paths = append(paths, f.Path)
		}
		slices.Sort(paths)
		paths = slices.Compact(paths)
	}
	s.files = snap.Files
	touched := map[Name]bool{}
	for _, p := range paths {
		if isYAML(p) {
			s.updateFile(p, touched)
		}
	}
	for _, p := range paths {
		for name := range s.users[p] {
			touched[name] = true
		}
	}
	for name := range touched {
		s.readRoutes(name)
	}
	return slices.SortedFunc(maps.Keys(touched), Name.Compare)
}

func isYAML(p string) bool {
	return strings.HasSuffix(p, ".yaml") || strings.HasSuffix(p, ".yml")
}

func (s *Set) readIgnore(f *File) {
	s.ignored = nil
	if f != nil && f.Err == nil {
		s.ignored = ignore.CompileIgnoreLines(strings.Split(string(f.Data), "\n")...)
	}
}

// updateFile reads one file anew and notes the names whose documents changed.
func (s *Set) updateFile(p string, touched map[Name]bool) {
	old := s.byPath[p]
	var fresh parsed
	file := s.files.Get(p)
	if file != nil && (s.ignored == nil || !s.ignored.MatchesPath(p)) {
		fresh = parseFile(file, old.docs)
	}
	for _, d := range old.docs {
		if !slices.Contains(fresh.docs, d) {
			s.remove(d)
			touched[d.Name] = true
		}
	}
	for _, d := range fresh.docs {
		if !slices.Contains(old.docs, d) {
			s.insert(d)
			touched[d.Name] = true
		}
	}
	for _, n := range old.broken {
		if s.broken[n]--; s.broken[n] == 0 {
			delete(s.broken, n)
		}
		touched[n] = true
	}
	for _, n := range fresh.broken {
		s.broken[n]++
		touched[n] = true
	}
	delete(s.errs, p)
	if len(fresh.errs) > 0 {
		s.errs[p] = fresh.errs
	}
	delete(s.byPath, p)
	if file != nil {
		s.byPath[p] = fresh
	}
}

func (s *Set) insert(d *Document) {
	same := s.byName[d.Name]
	i, _ := slices.BinarySearchFunc(same, d, func(a, b *Document) int { return a.Compare(b) })
	s.byName[d.Name] = slices.Insert(slices.Clone(same), i, d)
	if len(same) > 0 {
		s.twice[d.Name] = true
	}
	if f := routesFrom(d); f != "" {
		if s.users[f] == nil {
			s.users[f] = map[Name]bool{}
		}
		s.users[f][d.Name] = true
	}
}

func (s *Set) remove(d *Document) {
	same := slices.DeleteFunc(slices.Clone(s.byName[d.Name]), func(x *Document) bool { return x == d })
	s.byName[d.Name] = same
	if len(same) < 2 {
		delete(s.twice, d.Name)
	}
	if len(same) == 0 {
		delete(s.byName, d.Name)
	}
	if f := routesFrom(d); f != "" {
		delete(s.users[f], d.Name)
		if len(s.users[f]) == 0 {
			delete(s.users, f)
			delete(s.routes, f)
		}
	}
}

// Compare orders documents by place.
func (d *Document) Compare(e *Document) int { return d.Position.Compare(e.Position) }

// routesFrom is the file that a Network reads its routes from, or "".
func routesFrom(d *Document) string {
	if n, ok := d.Spec.(*NetworkSpec); ok {
		return n.RoutesFrom
	}
	return ""
}

// readRoutes reads the routesFrom file of a Network if it changed.
func (s *Set) readRoutes(name Name) {
	d := s.Get(name)
	if d == nil || routesFrom(d) == "" {
		return
	}
	p := routesFrom(d)
	file := s.files.Get(p)
	if have, ok := s.routes[p]; ok && have.file == file {
		return
	}
	r := routeFile{file: file}
	switch {
	case path.Ext(p) != ".csv":
		r.errs = Errors{d.Errorf("spec.routesFrom", "%q does not end in .csv", clip(p))}
	case file == nil:
		r.errs = Errors{d.Errorf("spec.routesFrom", "there is no file %q in the repository", clip(p))}
	default:
		r.routes, r.errs = parseRoutes(file)
	}
	s.routes[p] = r
}

// Err is all that is wrong with the documents on their own, an Errors, or nil.
func (s *Set) Err() error {
	var errs Errors
	for _, e := range s.errs {
		errs = append(errs, e...)
	}
	for _, r := range s.routes {
		errs = append(errs, r.errs...)
	}
	for name := range s.twice {
		same := s.byName[name]
		for _, d := range same[1:] {
			errs = append(errs, d.Errorf("metadata.name", "there is a %s %q already, at %s; give each its own name", d.Kind, name.Name, same[0].Position))
		}
	}
	if len(errs) == 0 && len(s.byName) == 0 {
		errs = Errors{{Position: Position{Path: "."}, Err: errors.New("holds no gray document; is this the right folder and branch?")}}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs.Sort()
}

// Get returns a document, or nil. Of several with one name it is the first by
// place.
func (s *Set) Get(name Name) *Document {
	if same := s.byName[name]; len(same) > 0 {
		return same[0]
	}
	return nil
}

// Broken tells whether there is a document of that name which has errors of its
// own, so that nobody need complain that it is missing.
func (s *Set) Broken(name Name) bool { return s.broken[name] > 0 }

// Routes is a Network's route table, from the document or its routesFrom file.
func (s *Set) Routes(name string) []Route {
	d := s.Get(Name{KindNetwork, name})
	if d == nil {
		return nil
	}
	n := d.Spec.(*NetworkSpec)
	if n.RoutesFrom != "" {
		return s.routes[n.RoutesFrom].routes
	}
	return n.Routes
}

// Len is the number of documents.
func (s *Set) Len() int { return len(s.byName) }

// Names returns the names of all documents, sorted.
func (s *Set) Names() []Name { return slices.SortedFunc(maps.Keys(s.byName), Name.Compare) }

// String says how many documents the set holds.
func (s *Set) String() string { return fmt.Sprintf("%d documents", s.Len()) }
