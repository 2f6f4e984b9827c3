package sources

import (
	"errors"
	"path"
	"strings"

	"github.com/gray-release/gray/schema"
)

// maxLinks bounds how many symbolic links are followed for one file.
const maxLinks = 8

// What is wrong with a symbolic link.
var (
	ErrLeaves   = errors.New("is a symbolic link that leaves the repository; put the file itself here")
	ErrDangling = errors.New("is a symbolic link to nothing in the repository")
	errTooMany  = errors.New("is a symbolic link that leads to too many others")
)

// What is wrong with a folder. Its documents would be gone without a word.
var (
	ErrSubmodule = errors.New("is a submodule or another Git repository, which gray does not read; put its files here, or list it in " + schema.IgnoreFile)
	errFolder    = errors.New("is a symbolic link to a folder, which gray does not read; put its files here, or list it in " + schema.IgnoreFile)
	errOutside   = errors.New("is a symbolic link that leaves the repository; put its files here, or list it in " + schema.IgnoreFile)
)

// LinkedFolder returns what is wrong with a symbolic link that has not the name of a
// file that gray reads: whether it leads to a folder, or out of the repository with a
// name like a folder's. isFolder tells what is at a path without links.
func LinkedFolder(p string, readlink Readlink, isFolder func(string) (bool, error)) (wrong, err error) {
	at, err := Resolve(p, readlink)
	switch {
	case errors.Is(err, ErrLeaves) && path.Ext(p) == "":
		return errOutside, nil
	case errors.Is(err, ErrLeaves), errors.Is(err, errTooMany):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if is, err := isFolder(at); !is || err != nil {
		return nil, err
	}
	return errFolder, nil
}

// Unread is what a snapshot has for a folder that is not read.
func Unread(p string, why error) *schema.File {
	return &schema.File{Path: p + "/", ID: "error:" + why.Error(), Err: why}
}

// Readlink returns the target of the symbolic link at a path, and false if there is no
// link. Only the last part of the path may be a link.
type Readlink func(p string) (target string, isLink bool, err error)

// Resolve follows all symbolic links in a path, part by part as a file system does, and
// returns a path without links. Paths are slash-separated and relative to the root. A
// link cannot leave the root, by an absolute target or by "..", nor lead into .git,
// where a clone keeps secrets. Resolve does not check that anything is at the path that
// it returns.
func Resolve(p string, readlink Readlink) (string, error) {
	todo := strings.Split(p, "/")
	var at []string
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch {
		case part == "" || part == ".":
			continue
		case part == ".." && len(at) > 0:
			at = at[:len(at)-1]
			continue
		case part == ".." || strings.EqualFold(part, ".git"):
			return "", ErrLeaves
		}
		target, isLink, err := readlink(path.Join(path.Join(at...), part))
		if err != nil {
			return "", err
		}
		if !isLink {
			at = append(at, part)
			continue
		}
		if links++; links > maxLinks {
			return "", errTooMany
		}
		if path.IsAbs(target) {
			return "", ErrLeaves
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return path.Join(at...), nil
}
