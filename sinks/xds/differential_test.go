package xds

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/tools/testnet"
)

// TestEnvoyAsTraced makes random policies and random requests: a real Envoy answers
// each as policies.TraceRequest says. GRAY_ROUNDS is how many sets of policies are
// tried.
func TestEnvoyAsTraced(t *testing.T) {
	rounds := 40
	if n, err := strconv.Atoi(os.Getenv("GRAY_ROUNDS")); err == nil {
		rounds = n
	}
	h := newHost(t, Config{}, "")
	w := &requestWorld{host: h, rnd: rand.New(rand.NewPCG(7, 7)), set: schema.NewSet(), compiler: policies.NewCompiler(policies.NewIDs(), nil)}
	w.base = w.documents(testnet.FreePort(), testnet.FreePort())
	var e *envoy
	for round := 0; round < rounds; round++ {
		if !w.commit(w.policies()) {
			continue
		}
		h.mustApply()
		if e == nil {
			node := h.ir.Get(policies.Name{Kind: schema.KindNode, Name: "host-1"}).(*policies.Node)
			e = startEnvoy(h, node)
			e.answers("api/v1 HTTP/1.1", "ready.internal")
		}
		h.synced("host-1")
		for range 100 {
			if !w.agrees(e, w.request()) {
				t.Fatalf("round %d, with the policies\n%s", round, w.last)
			}
		}
	}
	if w.refused > rounds*9/10 || w.gray == 0 || w.found404 == 0 {
		t.Errorf("of %d rounds %d were refused; %d requests went to another version than the default, %d to nobody", rounds, w.refused, w.gray, w.found404)
	}
	t.Logf("%d rounds, %d of them with policies in conflict; %d requests, %d not to the default", rounds, w.refused, w.requests, w.gray)
}

// requestWorld is what the random policies are about.
type requestWorld struct {
	host     *host
	rnd      *rand.Rand
	set      *schema.Set
	compiler *policies.Compiler
	base     string
	last     string

	refused, requests, gray, found404 int
}

func (w *requestWorld) documents(port, admin uint16) string {
	var b strings.Builder
	for _, s := range []struct{ name, spec string }{
		{"api", `hosts: [ready.internal, api.internal, "*.w.internal", other.v.w.internal]`},
		{"user", `hosts: [user.internal, "*.v.w.internal"], routeBy: {header: x-user, key: id}, retries: 1`},
	} {
		fmt.Fprintf(&b, "---\nkind: Service\nmetadata: {name: %s}\nspec: {%s, default: v1, versions: [", s.name, s.spec)
		for v := 1; v <= 3; v++ {
			host, port, _ := strings.Cut(backend(w.host.t, fmt.Sprintf("%s/v%d", s.name, v)), ":")
			fmt.Fprintf(&b, "{name: v%d, endpoints: [{address: %s, port: %s}]},", v, host, port)
		}
		b.WriteString("]}\n")
	}
	fmt.Fprintf(&b, "---\nkind: Node\nmetadata: {name: host-1}\nspec: {address: 127.0.0.1, proxy: {port: %d, adminPort: %d}}\n", port, admin)
	return b.String()
}

// commit compiles policies; false where they are in conflict.
func (w *requestWorld) commit(text string) bool {
	w.last = text
	file := &schema.File{Path: "policies.yaml", ID: text, Data: []byte(text)}
	base := &schema.File{Path: "base.yaml", ID: "base", Data: []byte(w.base)}
	ir, units, err := w.compiler.Compile(w.set, w.set.Update(&schema.Snapshot{Files: schema.NewFiles(base, file)}), policies.Facts{})
	if err != nil {
		if !strings.Contains(err.Error(), "is also the priority of") && !strings.Contains(err.Error(), "routes for Service") {
			w.host.t.Fatalf("%v\n%s", err, text)
		}
		w.refused++
		return false
	}
	w.host.ir = ir
	for _, n := range units {
		w.host.names[n] = true
		if ir.Get(n) == nil {
			delete(w.host.names, n)
		}
	}
	return true
}

func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

var (
	traceAccounts = []string{"1", "2", "50002001", "A b", "a b", "ü;,", "x.w.internal", "_2e"}
	traceValues   = []string{"canary", "can", "canary-2", "beta", "2", "a,b", "ü"}
)

func (w *requestWorld) policies() string {
	var b strings.Builder
	for i := range w.rnd.IntN(5) {
		fmt.Fprintf(&b, "---\nkind: GrayPolicy\nmetadata: {name: p%d}\nspec:\n  targets: [%s]\n  version: v%d\n  priority: %d\n  match:\n", i,
			oneOf(w.rnd, "{kind: Service, name: api}", "{kind: Service, name: user}", "{kind: Service, name: api}, {kind: Service, name: user}"),
			1+w.rnd.IntN(3), oneOf(w.rnd, 50, 100, 101, 102, 200))
		for range 1 + w.rnd.IntN(3) {
			fmt.Fprintf(&b, "  - {%s}\n", w.entry())
		}
		if w.rnd.IntN(2) == 0 {
			b.WriteString("  exclude:\n")
			for range 1 + w.rnd.IntN(2) {
				fmt.Fprintf(&b, "  - {%s}\n", w.entry())
			}
		}
	}
	return b.String()
}

func (w *requestWorld) entry() string {
	var fields []string
	if w.rnd.IntN(2) == 0 {
		fields = append(fields, fmt.Sprintf("accounts: [%q, %q]", oneOf(w.rnd, traceAccounts...), oneOf(w.rnd, traceAccounts...)))
	}
	if w.rnd.IntN(2) == 0 {
		var tests []string
		for range 1 + w.rnd.IntN(2) {
			test := fmt.Sprintf("%s: %q", oneOf(w.rnd, "exact", "prefix", "suffix"), oneOf(w.rnd, traceValues...))
			switch w.rnd.IntN(4) {
			case 0:
				test = fmt.Sprintf("present: %t", w.rnd.IntN(2) == 0)
			case 1:
				test = fmt.Sprintf("regex: %q", oneOf(w.rnd, "can.*", ".*", "", "(?i)BETA|2", "[a-z]+", "can(ary)?", `\w*,b`)+oneOf(w.rnd, "", "x?"))
			}
			tests = append(tests, fmt.Sprintf("{name: %s, %s, invert: %t}", oneOf(w.rnd, "x-env", "x-ver"), test, w.rnd.IntN(3) == 0))
		}
		fields = append(fields, "headers: ["+strings.Join(tests, ", ")+"]")
	}
	if len(fields) == 0 || w.rnd.IntN(4) == 0 {
		fields = append(fields, fmt.Sprintf("percent: %d", oneOf(w.rnd, 0, 1, 10, 50, 90, 99, 100)))
	}
	return strings.ReplaceAll(strings.Join(fields, ", "), `regex: ""`, `regex: "x*"`)
}

func (w *requestWorld) request() requests.Request {
	r := requests.Request{Path: "/x", Headers: map[string][]string{}}
	r.Host = oneOf(w.rnd, "api.internal", "API.internal:80", "user.internal", "a.w.internal", "b.a.w.internal", "x.v.w.internal", "other.v.w.internal",
		"w.internal", "v.w.internal", "nobody.internal", "internal")
	account := oneOf(w.rnd, append(slices.Clone(traceAccounts), fmt.Sprint(w.rnd.IntN(1000)))...)
	routing := oneOf(w.rnd, "%s=%s", "a=b; %s=%s", `%s="%s"; z`, `%s = "%s" , id=1, account_id=2`, "%[1]s=; %[1]s=%[2]s", "z%[1]s=%[2]s")
	for header, key := range map[string]string{"x-ucloud-routeby": "account_id", "x-user": "id"} {
		if w.rnd.IntN(4) > 0 {
			r.Headers[header] = []string{fmt.Sprintf(routing, key, account)}
			if w.rnd.IntN(3) == 0 {
				r.Headers[header] = append([]string{oneOf(w.rnd, "z=1", "flag", "")}, r.Headers[header]...)
			}
		}
	}
	for _, name := range []string{"x-env", "x-ver"} {
		if w.rnd.IntN(2) == 0 {
			for range 1 + w.rnd.IntN(5)/3 {
				r.Headers[name] = append(r.Headers[name], oneOf(w.rnd, append(slices.Clone(traceValues), "", "Beta", "x")...))
			}
		}
	}
	if w.rnd.IntN(4) == 0 { // forged, which changes nothing
		r.Headers["x-gray-key"] = []string{oneOf(w.rnd, "user.internal", "api/a1", "user/a50002001", "api/x", "gray")}
		r.Headers["x-gray-slot"] = []string{"0"}
	}
	return r
}

// agrees sends a request.
func (w *requestWorld) agrees(e *envoy, r requests.Request) bool {
	w.host.t.Helper()
	w.requests++
	req, err := http.NewRequest(http.MethodGet, "http://"+e.proxy+r.Path, nil)
	if err != nil {
		w.host.t.Fatal(err)
	}
	req.Host = r.Host
	for name, lines := range r.Headers {
		for _, line := range lines {
			req.Header.Add(name, line)
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.host.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(res.Body)
	trace := requests.Follow(w.host.ir, r)
	want, status := trace.Cluster+" HTTP/1.1", http.StatusOK
	switch {
	case trace.NotFound != "":
		want, status = "gray: no service has the host "+r.Host+"\n", http.StatusNotFound
		w.found404++
	case trace.Version != "v1":
		w.gray++
	}
	if string(body) == want && res.StatusCode == status {
		return true
	}
	w.host.t.Errorf("%q: envoy says %d %q, the trace %q: %+v", r, res.StatusCode, body, want, trace)
	return false
}
