package sources

import (
	"errors"
	"path"
	"strings"
)

// maxLinks bounds how many symbolic links are followed for one file.
const maxLinks = 8

// What is wrong with a symbolic link.
var (
	ErrLeaves   = errors.New("is a symbolic link that leaves the repository; put the file itself here")
	ErrDangling = errors.New("is a symbolic link to nothing in the repository")
	errTooMany  = errors.New("is a symbolic link that leads to too many others")
)

// Readlink tells where the symbolic link at a path points; false if there is
// none. The path has no link above its last part.
type Readlink func(p string) (target string, isLink bool, err error)

// Resolve follows all symbolic links on a path, part by part as a file system
// does, and returns a path with none. Paths are slash-separated and relative to
// the root, which is never left: not by an absolute target, not by "..", and
// not into .git, where the secrets of a clone lie. Whether something is at the
// end is for the caller to see.
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
