package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/policies/requests"
)

// traceRequestFlags are the flags of gray trace request.
type traceRequestFlags struct {
	traceFlags
	host, path string
	headers    []string
}

func traceRequestCommand() *cobra.Command {
	var f traceRequestFlags
	request := &cobra.Command{
		Use: "request [PATH]", Short: "Follow a request through an Envoy", Args: cobra.MaximumNArgs(1),
		Long: "Tell which policy, document and line decides about a request, and its cluster and endpoints.\n" +
			"Exit code 1 where no service has the host, or with --base where the two commits answer it differently.",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request()
			if err != nil {
				return err
			}
			return f.run(cmd, pathArg(args), traceReport{Request: requestText(r)}, admin.TraceQuery{Request: &r})
		},
	}
	flags := request.Flags()
	flags.StringVar(&f.host, "host", "", "the Host or :authority value")
	flags.StringVar(&f.path, "path", "/", "the path")
	flags.StringArrayVar(&f.headers, "header", nil, "a header as 'name: value'; may be repeated")
	f.register(request)
	return request
}

// request reads the request off the flags.
func (f *traceRequestFlags) request() (requests.Request, error) {
	r := requests.Request{Host: f.host, Path: f.path, Headers: map[string][]string{}}
	if f.host == "" {
		return r, fmt.Errorf("--host is missing; give the Host or :authority value")
	}
	if !strings.HasPrefix(f.path, "/") {
		return r, fmt.Errorf("--path %q does not begin with a slash", f.path)
	}
	for _, line := range f.headers {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.Trim(value, " \t")
		if !ok || name == "" {
			return r, fmt.Errorf("--header %q is not 'name: value'", line)
		}
		r.Headers[name] = append(r.Headers[name], value)
	}
	return r, nil
}

func requestText(r requests.Request) string {
	text := "GET http://" + r.Host + r.Path
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		for _, line := range r.Headers[name] {
			text += fmt.Sprintf(", %s: %s", name, line)
		}
	}
	return text
}

// requestOutcome says in a sentence who answers.
func requestOutcome(t *requests.Trace) string {
	if t.NotFound != "" {
		return "404: " + t.NotFound
	}
	return fmt.Sprintf("answered by %s of Service %s", t.Version, t.Service)
}
