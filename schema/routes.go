package schema

import (
	"bytes"
	"encoding"
	"encoding/csv"
	"errors"
	"io"
	"slices"
	"strings"
)

// MaxCSV is the largest routesFrom file, in bytes.
const MaxCSV = 16 << 20

var routesHeader = []string{"vm", "prefix", "mac", "vtep"}

// parseRoutes reads a routesFrom file.
func parseRoutes(f *File) ([]Route, Errors) {
	if err := checkText(f, MaxCSV, "split the network"); err != nil {
		return nil, Errors{err}
	}
	var errs errorList
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(f.Data, []byte(byteOrderMark))))
	r.FieldsPerRecord = len(routesHeader)
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil || !slices.Equal(header, routesHeader) {
		errs.errorf(Position{f.Path, 1}, "", "the first line is not %s; write it there", strings.Join(routesHeader, ","))
		return nil, errs.list()
	}
	var routes []Route
	seen := map[Prefix]int{}
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return routes, errs.list()
		}
		if syntax, ok := errors.AsType[*csv.ParseError](err); ok {
			errs.errorf(Position{f.Path, syntax.Line}, "", "not CSV: %w", syntax.Err)
			if !errors.Is(err, csv.ErrFieldCount) {
				return routes, errs.list() // after a wrong quote, more errors would be noise
			}
			continue
		}
		line, _ := r.FieldPos(0)
		before := errs.count()
		route := parseRoute(record, Position{f.Path, line}, &errs)
		if first, twice := seen[route.Prefix]; twice && errs.count() == before {
			errs.errorf(Position{f.Path, line}, "prefix", "%s is routed already, at line %d", route.Prefix, first)
		}
		if errs.count() == before {
			seen[route.Prefix] = line
			routes = append(routes, route)
		}
	}
}

func parseRoute(record []string, at Position, errs *errorList) Route {
	// The fields are slices of the record's string; a clone lets it be freed.
	route := Route{VM: strings.Clone(record[0])}
	if route.VM == "" {
		errs.errorf(at, "vm", "is empty; fill it in")
	}
	for i, s := range []encoding.TextUnmarshaler{&route.Prefix, &route.MAC, &route.VTEP} {
		if err := s.UnmarshalText([]byte(record[i+1])); err != nil {
			errs.errorf(at, routesHeader[i+1], "%w", err)
		}
	}
	return route
}
