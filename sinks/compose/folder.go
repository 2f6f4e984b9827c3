package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// maxFile is the largest file that is read, in bytes.
const maxFile = 4 << 20

// The suffixes of file names: what comes before is the node's name.
const (
	ComposeSuffix   = ".compose.yaml"
	BootstrapSuffix = ".envoy.yaml"
	UnitSuffix      = ".envoy.service"
)

// errForeign is about a file of somebody else in the place of gray's.
var errForeign = errors.New("is there already and was not made by gray; move it away")

// Folder is a folder where gray keeps one file per node. A file is gray's if its name
// is a node's name and the suffix, and its first line is the one that Mark adds.
type Folder struct {
	Dir    string
	Suffix string // one of the three above
}

// Mark adds the first line by which gray recognizes its file of a node.
func Mark(node, text string) string { return mark(node) + text }

func mark(node string) string {
	return fmt.Sprintf("# Made by gray of Node %s, and overwritten by it: change the documents instead.\n", node)
}

// Read returns the texts of gray's files by node.
func (f Folder) Read() (map[string]string, error) {
	texts := map[string]string{}
	err := f.in(func(root *os.Root) error {
		dir, err := root.Open(".")
		if err != nil {
			return err
		}
		defer dir.Close()
		names, err := dir.Readdirnames(-1)
		if err != nil {
			return err
		}
		for _, name := range names {
			node, ok := strings.CutSuffix(name, f.Suffix)
			if !ok {
				continue
			}
			text, err := f.read(root, node)
			if errors.Is(err, errForeign) || errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			texts[node] = text
		}
		return nil
	})
	return texts, err
}

// read returns the text of a node's file. Whatever is not a regular file, or is larger
// than any that gray writes, is somebody else's.
func (f Folder) read(root *os.Root, node string) (string, error) {
	info, err := root.Lstat(node + f.Suffix)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errForeign
	}
	file, err := root.Open(node + f.Suffix)
	if err != nil {
		return "", err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxFile || !bytes.HasPrefix(b, []byte(mark(node))) {
		return "", errForeign
	}
	return string(b), nil
}

// Write replaces the file of a node by a text that begins with its mark. Readers see
// the old file or the new one. A file of somebody else is an error.
func (f Folder) Write(node, text string) error {
	name := node + f.Suffix
	if len(text) > maxFile {
		return fmt.Errorf("%s would have %d bytes, and may have %d; give the node fewer services", name, len(text), maxFile)
	}
	return f.in(func(root *os.Root) error {
		old, err := f.read(root, node)
		switch {
		case err == nil && old == text:
			return nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s %w", name, err)
		}
		// The name is fixed, so that the next write overwrites what a crash left.
		part := "." + name + ".part"
		if err := writeFile(root, part, text); err != nil {
			return errors.Join(err, root.Remove(part))
		}
		return root.Rename(part, name)
	})
}

func writeFile(root *os.Root, name, text string) error {
	file, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := file.WriteString(text); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Sync(); err != nil {
		return errors.Join(err, file.Close())
	}
	return file.Close()
}

// Remove removes the file of a node if it is gray's.
func (f Folder) Remove(node string) error {
	return f.in(func(root *os.Root) error {
		_, err := f.read(root, node)
		if errors.Is(err, errForeign) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return root.Remove(node + f.Suffix)
	})
}

// Sync makes the folder hold these texts by node and no other file of gray's. It
// returns the names of the files that it wrote and removed, each sorted. It goes on
// after an error, and joins those of all files.
func (f Folder) Sync(texts map[string]string) (written, removed []string, err error) {
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		return nil, nil, err
	}
	have, err := f.Read()
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, node := range slices.Sorted(maps.Keys(texts)) {
		if old, ok := have[node]; ok && old == texts[node] {
			continue
		}
		if err := f.Write(node, texts[node]); err != nil {
			errs = append(errs, err)
			continue
		}
		written = append(written, node+f.Suffix)
	}
	for _, node := range slices.Sorted(maps.Keys(have)) {
		if _, wanted := texts[node]; wanted {
			continue
		}
		if err := f.Remove(node); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, node+f.Suffix)
	}
	return written, removed, errors.Join(errs...)
}

// in calls do with the folder open; nothing outside of it can be reached.
func (f Folder) in(do func(*os.Root) error) error {
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return do(root)
}
