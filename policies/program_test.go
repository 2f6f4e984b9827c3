package policies

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
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

// sizesOf reads table sizes well enough for these tests; the real reader is
// pipeline.TableSizes, which needs protobuf.
func sizesOf(text []byte) (map[string]int, error) {
	if string(text) == "tables: 7" {
		return nil, errors.New("syntax error (line 1:9)")
	}
	sizes := map[string]int{}
	for _, m := range regexp.MustCompile(`(?s)\ntables \{.*?name: "(\w+)".*?\n  size: (\d+)`).FindAllSubmatch(text, -1) {
		sizes[string(m[1])], _ = strconv.Atoi(string(m[2]))
	}
	return sizes, nil
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
	return r.c.Compile(r.set, r.set.Update(&schema.Snapshot{Files: r.files}), Facts{})
}

// A change of a pipeline's files makes the switch anew and nothing else, and the
// gateways must fit the sizes in its P4Info.
func TestProgram(t *testing.T) {
	const plain = `{address: "127.0.0.1:9559"}`
	base := strings.Replace(worldBase, plain, `{address: "127.0.0.1:9559", pipeline: pipelines/big}`, 1)
	if base == worldBase {
		t.Fatal("the documents have no switch to change")
	}
	r := &pipelineRepo{t: t, set: schema.NewSet(), c: NewCompiler(NewIDs(), sizesOf)}
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
		full, _, err := NewCompiler(NewIDs(), sizesOf).Compile(r.set, r.set.Names(), Facts{})
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
