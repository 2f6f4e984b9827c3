package schema

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
)

// MaxCSV is the largest routesFrom file that is read, in bytes.
const MaxCSV = 16 << 20

var routesHeader = []string{"vm", "prefix", "mac", "vtep"}

// parseRoutes reads a routesFrom file.
func parseRoutes(f *File) ([]Route, Errors) {
	at := func(line int, field, format string, args ...any) *Error {
		return &Error{Position: Position{f.Path, line}, Field: field, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case f.Err != nil:
		return nil, Errors{at(1, "", "%w", f.Err)}
	case len(f.Data) > MaxCSV:
		return nil, Errors{at(1, "", "the file has %d bytes, the most is %d; split the network", len(f.Data), MaxCSV)}
	}
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(f.Data, []byte("\ufeff"))))
	r.FieldsPerRecord = len(routesHeader)
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil || !slices.Equal(header, routesHeader) {
		return nil, Errors{at(1, "", "the first line is not vm,prefix,mac,vtep; write it there")}
	}
	var routes []Route
	var errs Errors
	seen := map[Prefix]int{}
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return routes, errs
		}
		var syntax *csv.ParseError
		if errors.As(err, &syntax) {
			errs = append(errs, at(syntax.Line, "", "not CSV: %w", syntax.Err))
			if !errors.Is(err, csv.ErrFieldCount) {
				return routes, errs // quotes are out of step: what follows would be noise
			}
			continue
		}
		line, _ := r.FieldPos(0)
		route := Route{VM: record[0]}
		scalars := []interface{ UnmarshalText([]byte) error }{&route.Prefix, &route.MAC, &route.VTEP}
		bad := len(errs)
		if route.VM == "" {
			errs = append(errs, at(line, "vm", "is empty; fill it in"))
		}
		for i, s := range scalars {
			if err := s.UnmarshalText([]byte(record[i+1])); err != nil {
				errs = append(errs, at(line, routesHeader[i+1], "%s", clipError(err)))
			}
		}
		if first, twice := seen[route.Prefix]; twice && len(errs) == bad {
			errs = append(errs, at(line, "prefix", "%s is routed already, at line %d", route.Prefix, first))
		}
		seen[route.Prefix] = line
		routes = append(routes, route)
	}
}
