package schema

import (
	"maps"
	"slices"
	"strings"
)

// Set is the documents of a repository. It is updated from snapshot to snapshot, at a
// cost that depends on what changed. Its content depends only on the last snapshot. It
// is not safe for concurrent use, but its documents are.
type Set struct {
	files   Files
	ignored ignoreList
	byPath  map[string]parsed
	byName  map[Name][]*Document  // sorted by place; the first one counts
	broken  map[Name]int          // documents that have errors of their own
	routes  map[string]*routeFile // the routesFrom files in use, by path
	folders folderUsers           // the folders of pipelines in use
	errs    map[string]Errors     // by path
	twice   map[Name]bool         // names of several documents
}

// routeFile is a routesFrom file and its content.
type routeFile struct {
	file   *File // nil: it is missing
	routes []Route
	errs   Errors
	users  map[*Document]*Error // the documents that name it, with the error if it is missing, made on demand
}

// NewSet returns an empty set.
func NewSet() *Set {
	return &Set{
		byPath: map[string]parsed{}, byName: map[Name][]*Document{}, broken: map[Name]int{},
		routes: map[string]*routeFile{}, folders: folderUsers{}, errs: map[string]Errors{}, twice: map[Name]bool{},
	}
}

// Parse reads a whole snapshot. The error is an Errors; the set then has the documents
// without errors.
func Parse(s *Snapshot) (*Set, error) {
	set := NewSet()
	set.Update(s)
	return set, set.Err()
}

// Update reads the files that changed since the last snapshot. It returns the sorted
// names of the documents that are new, changed or removed, or whose routes or pipeline
// are. Err returns the errors.
func (s *Set) Update(snap *Snapshot) []Name {
	paths := snap.Files.Changed(s.files)
	s.files = snap.Files
	if slices.Contains(paths, IgnoreFile) {
		paths = append(paths, s.updateIgnored()...)
		slices.Sort(paths)
		paths = slices.Compact(paths)
	}
	touched := map[Name]bool{}
	for _, p := range paths {
		if isDocuments(p) || isFolder(p) {
			s.updateFile(p, touched)
		}
	}
	for _, p := range paths {
		s.updateRoutes(p, touched)
		s.updatePipeline(p, touched)
	}
	return slices.SortedFunc(maps.Keys(touched), Name.Compare)
}

// isFolder tells, by its path, whether a file stands for a folder that is not read.
func isFolder(p string) bool { return strings.HasSuffix(p, "/") }

// isDocuments tells, by its path, whether a file has documents: it ends in .yaml or
// .yml, and neither it nor a folder around it starts with a dot.
func isDocuments(p string) bool {
	return (strings.HasSuffix(p, ".yaml") || strings.HasSuffix(p, ".yml")) && p[0] != '.' && !strings.Contains(p, "/.")
}

// updateIgnored reads the IgnoreFile again and returns the files that are ignored now or
// were before, but not both.
func (s *Set) updateIgnored() []string {
	old := s.ignored
	list, errs := parseIgnore(s.files.Get(IgnoreFile))
	s.ignored = list
	s.setErrs(IgnoreFile, errs)
	var paths []string
	for f := range s.files.All() {
		if (isDocuments(f.Path) || isFolder(f.Path)) && old.match(f.Path) != list.match(f.Path) {
			paths = append(paths, f.Path)
		}
	}
	return paths
}

func (s *Set) setErrs(p string, errs Errors) {
	delete(s.errs, p)
	if len(errs) > 0 {
		s.errs[p] = errs
	}
}

// updateFile reads one file again and adds the names of changed documents to touched.
func (s *Set) updateFile(p string, touched map[Name]bool) {
	old := s.byPath[p]
	var now parsed
	if file := s.files.Get(p); file != nil && !s.ignored.match(p) {
		now = parseFile(file, old.docs)
	}
	was, is := setOf(old.docs), setOf(now.docs)
	for _, d := range now.docs {
		if !was[d] {
			s.insert(d)
			touched[d.Name] = true
		}
	}
	for _, d := range old.docs {
		if !is[d] {
			s.remove(d)
			touched[d.Name] = true
		}
	}
	for _, n := range now.broken {
		s.broken[n]++
		touched[n] = true
	}
	for _, n := range old.broken {
		if s.broken[n]--; s.broken[n] == 0 {
			delete(s.broken, n)
		}
		touched[n] = true
	}
	s.setErrs(p, now.errs.list())
	now.errs = errorList{}
	delete(s.byPath, p)
	if len(now.docs)+len(now.broken) > 0 {
		s.byPath[p] = now
	}
}

func setOf(docs []*Document) map[*Document]bool {
	set := make(map[*Document]bool, len(docs))
	for _, d := range docs {
		set[d] = true
	}
	return set
}

func (s *Set) insert(d *Document) {
	same := s.byName[d.Name]
	i, _ := slices.BinarySearchFunc(same, d, (*Document).Compare)
	same = slices.Insert(same, i, d)
	s.byName[d.Name] = same
	if len(same) > 1 {
		s.twice[d.Name] = true
	}
	if p := routesFrom(d); p != "" {
		if s.routes[p] == nil {
			s.routes[p] = &routeFile{users: map[*Document]*Error{}}
			s.routes[p].read(s.files.Get(p))
		}
		s.routes[p].users[d] = nil
	}
	if folder := pipelineFolder(d); folder != "" {
		s.folders.add(folder, d, s.checkPipeline(folder, d))
	}
}

func (s *Set) remove(d *Document) {
	same := s.byName[d.Name]
	i, _ := slices.BinarySearchFunc(same, d, (*Document).Compare)
	for same[i] != d {
		i++ // its successor was inserted before it
	}
	same = slices.Delete(same, i, i+1)
	s.byName[d.Name] = same
	if len(same) < 2 {
		delete(s.twice, d.Name)
	}
	if len(same) == 0 {
		delete(s.byName, d.Name)
	}
	if p := routesFrom(d); p != "" {
		delete(s.routes[p].users, d)
		if len(s.routes[p].users) == 0 {
			delete(s.routes, p)
		}
	}
	if folder := pipelineFolder(d); folder != "" {
		s.folders.remove(folder, d)
	}
}

// routesFrom is the routesFrom file of a Network, or "".
func routesFrom(d *Document) string {
	if n, ok := d.Spec.(*NetworkSpec); ok {
		return n.RoutesFrom
	}
	return ""
}

// updateRoutes reads a routesFrom file again if documents name it.
func (s *Set) updateRoutes(p string, touched map[Name]bool) {
	r := s.routes[p]
	if r == nil {
		return
	}
	if file := s.files.Get(p); file != r.file {
		r.read(file)
	}
	for d := range r.users {
		touched[d.Name] = true
	}
}

func (r *routeFile) read(file *File) {
	r.file, r.routes, r.errs = file, nil, nil
	if file != nil {
		r.routes, r.errs = parseRoutes(file)
	}
}

// Err returns the errors of the documents on their own, as an Errors, or nil.
func (s *Set) Err() error {
	var errs Errors
	for _, e := range s.errs {
		errs = append(errs, e...)
	}
	for p, r := range s.routes {
		errs = append(errs, r.errs...)
		if r.file == nil {
			errs = append(errs, r.missing(p)...)
		}
	}
	errs = append(errs, s.folders.errs()...)
	for name := range s.twice {
		errs = append(errs, doubles(s.byName[name])...)
	}
	if len(errs) == 0 && len(s.byName) == 0 {
		return Errors{newError(Position{Path: "."}, "", "holds no gray document; is this the right folder and branch?")}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs.Sort()
}

// missing returns an error for every document that names a missing file.
func (r *routeFile) missing(p string) Errors {
	var errs Errors
	for d, err := range r.users {
		if err == nil {
			err = d.Errorf("spec.routesFrom", "there is no file %q in the repository", clip(p))
			r.users[d] = err
		}
		errs = append(errs, err)
	}
	return errs
}

// doubles returns an error for every document of one name but the first. Errors beyond
// maxErrors are only counted.
func doubles(same []*Document) Errors {
	var errs Errors
	rest := same[1:]
	for _, d := range rest[:min(len(rest), maxErrors)] {
		errs = append(errs, newError(Position{d.Path, d.named}, "metadata.name",
			"there is a %s %q already, at %s; give each its own name", d.Kind, d.Name.Name, same[0].Position))
	}
	return errs.and(len(rest) - len(errs))
}

// Get returns a document, or nil. Of several with the same name it returns the first by
// place.
func (s *Set) Get(name Name) *Document {
	if same := s.byName[name]; len(same) > 0 {
		return same[0]
	}
	return nil
}

// Broken tells whether a document of that name has errors of its own. It should not be
// reported as missing then.
func (s *Set) Broken(name Name) bool { return s.broken[name] > 0 }

// Routes returns a Network's route table, from the document or its routesFrom file.
func (s *Set) Routes(name string) []Route {
	d := s.Get(Name{KindNetwork, name})
	if d == nil {
		return nil
	}
	n := d.Spec.(*NetworkSpec)
	if n.RoutesFrom != "" {
		return s.routes[n.RoutesFrom].routes // exists as long as the document does
	}
	return n.Routes
}

// Len is the number of documents.
func (s *Set) Len() int { return len(s.byName) }

// Names returns the names of all documents, sorted.
func (s *Set) Names() []Name { return slices.SortedFunc(maps.Keys(s.byName), Name.Compare) }
