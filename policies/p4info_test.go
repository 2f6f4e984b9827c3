package policies

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/schema"
)

// committed is the P4Info of gray's own pipeline.
func committed(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../sinks/p4rt/pipeline/gray_v1model.p4info.txtpb")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The sizes of a P4Info as p4c writes it are read, of the known tables and no
// others.
func TestTableSizes(t *testing.T) {
	sizes, err := tableSizes([]byte(committed(t)))
	if err != nil {
		t.Fatal(err)
	}
	for table, want := range TableSizes {
		if sizes[table] != want {
			t.Errorf("table %s: %d, want %d", table, sizes[table], want)
		}
	}
	if len(sizes) != len(TableSizes) {
		t.Errorf("%d tables, want %d", len(sizes), len(TableSizes))
	}
	for text, want := range map[string]string{
		"tables { preamble { name: 1 } }":               "(line 1:27): invalid value for string",
		"pkg_info {\n arch: \"v1model\" }\n} ":          "(line 3:1)",
		"tables { size: 99999999999999999999 }":         "(line 1:16): invalid value for int64",
		"tables { preamble { name: \"pool\" } size: 1 ": "unexpected EOF",
	} {
		if got, err := tableSizes([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.HasPrefix(err.Error(), "proto") {
			t.Errorf("%s: %v, error %v, want %s", text, got, err, want)
		}
	}
}

// A text that is nested without end is refused, and not gone into.
func TestDeepP4Info(t *testing.T) {
	const want = "it is nested more than 100 levels deep"
	for _, level := range []string{"a{", "tables{", "a<", "a:[{", "a{ #}\n", `b:"}" a{`, `b:'\'}' a{`, "b:\"\\\\\" a{"} {
		if _, err := tableSizes([]byte(strings.Repeat(level, schema.MaxP4Info/len(level)))); err == nil || err.Error() != want {
			t.Errorf("%q: %v", level, err)
		}
	}
	for _, flat := range []string{`b:"{" `, `b:'{' `, "#{\n", `b:"\"{" `, "a{} "} {
		if _, err := tableSizes([]byte(strings.Repeat(flat, 1000))); err != nil {
			t.Errorf("%q: %v", flat, err)
		}
	}
	if _, err := tableSizes([]byte("b:\"\n" + strings.Repeat("a{", schema.MaxP4Info/2))); err == nil {
		t.Error("a string that does not end is read")
	}
}

// FuzzTableSizes holds that no text is too much.
func FuzzTableSizes(f *testing.F) {
	f.Add([]byte("tables { preamble { name: \"pool\" } size: 256 } x: [{ y: 1 }]"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_, _ = tableSizes(text)
	})
}

// pipelineRepo is a switch with a pipeline of the repository and a gateway with
// two pools of 16,384 buckets.
type pipelineRepo struct {
	t     *testing.T
	set   *schema.Set
	c     *Compiler
	files schema.Files
	ids   int
}

func (r *pipelineRepo) commit(pathsAndTexts ...string) (*IR, []Name, error) {
	r.t.Helper()
	for i := 0; i < len(pathsAndTexts); i += 2 {
		r.ids++
		r.files = r.files.With([]*schema.File{{Path: pathsAndTexts[i], ID: fmt.Sprint(r.ids), Data: []byte(pathsAndTexts[i+1])}}, nil)
	}
	return r.c.Compile(r.set, r.set.Update(&schema.Snapshot{Files: r.files}))
}

// A change of a pipeline's files makes the switch anew and nothing else, and the
// gateways must fit the sizes in its P4Info.
func TestProgram(t *testing.T) {
	const plain = `{address: "127.0.0.1:9559"}`
	base := strings.Replace(worldBase, plain, `{address: "127.0.0.1:9559", pipeline: pipelines/big}`, 1)
	if base == worldBase {
		t.Fatal("the documents have no switch to change")
	}
	r := &pipelineRepo{t: t, set: schema.NewSet(), c: NewCompiler(NewIDs())}
	info := committed(t)
	ir, _, err := r.commit("all.yaml", base, "pipelines/big/p4info.txtpb", info, "pipelines/big/device_config.bin", "one")
	if err != nil {
		t.Fatal(err)
	}
	first := ir.Switch("sw").Program
	if string(first.P4Info) != info || string(first.DeviceConfig) != "one" || first.Cookie == 0 || !first.Loads || first.Origin.Path != "all.yaml" {
		t.Errorf("the program is %q, %q, cookie %#x, %v", first.P4Info, first.DeviceConfig, first.Cookie, first.Origin)
	}
	cookies := []uint64{first.Cookie}
	for _, files := range [][]string{
		{"pipelines/big/device_config.bin", "two"},
		{"pipelines/big/p4info.txtpb", info + "# changed\n"},
	} {
		ir, units, err := r.commit(files...)
		if err != nil || !slices.Equal(units, []Name{{Kind: schema.KindSwitch, Name: "sw"}}) {
			t.Errorf("with %s the units are %v, error %v", files[0], units, err)
		}
		cookie := ir.Switch("sw").Program.Cookie
		if slices.Contains(cookies, cookie) {
			t.Errorf("with %s the cookie is one of before", files[0])
		}
		cookies = append(cookies, cookie)
		full, _, err := NewCompiler(NewIDs()).Compile(r.set, r.set.Names())
		if err != nil || full.Switch("sw").Program.Cookie != cookie {
			t.Errorf("with %s a full pass has another program; error %v", files[0], err)
		}
	}

	small := strings.Replace(info, "size: 524288", "size: 100", 1)
	if small == info {
		t.Fatal("the P4Info has no bucket table to change")
	}
	_, _, err = r.commit("pipelines/big/p4info.txtpb", small)
	if want := "its size is 100; use fewer versions, percentages or buckets"; err == nil || !strings.Contains(err.Error(), "table bucket of switch sw would hold") || !strings.Contains(err.Error(), want) {
		t.Errorf("with few buckets the error is %v, want %s", err, want)
	}
	_, _, err = r.commit("pipelines/big/p4info.txtpb", "tables: 7")
	if want := "all.yaml:"; err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "spec.pipeline: pipelines/big/p4info.txtpb is no P4Info in protobuf's text format: syntax error (line 1:9)") {
		t.Errorf("with nonsense the error is %v", err)
	}
	if _, units, err := r.commit("pipelines/big/p4info.txtpb", info); err != nil || len(units) == 0 {
		t.Errorf("put right, the units are %v, error %v", units, err)
	}
	_, _, err = r.commit("all.yaml", worldBase)
	if err != nil || r.c.ir.Switch("sw").Program != nil {
		t.Errorf("back to gray's own the switch has %+v, error %v", r.c.ir.Switch("sw").Program, err)
	}
}
