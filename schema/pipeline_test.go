package schema

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func switchText(name, rest string) string {
	return "kind: Switch\nmetadata: {name: " + name + "}\nspec: {address: \"127.0.0.1:1\", " + rest + "}\n"
}

// TestUpdatePipeline walks a set through edits of a pipeline's files, and holds
// which Switches each one touches and what is wrong after it.
func TestUpdatePipeline(t *testing.T) {
	const none = `.yaml:3: spec.pipeline: folder "p" holds no device_config.bin or device_config.json to load; put the device config there, or load the pipeline by other means and set pushPipeline: never`
	large := &File{Path: "p/device_config.bin", ID: "large", Err: errors.New("the file has 16777217 bytes, the most is 16777216")}
	set := NewSet()
	var files Files
	for i, step := range []struct {
		what   string
		put    []*File
		remove []string
		want   []Name
		errs   string
	}{
		{"first", []*File{file("a.yaml", switchText("a", "pipeline: p")), file("b.yaml", switchText("b", "pipeline: q")), file("p/p4info.txtpb", "1"), file("p/device_config.bin", "1"), file("q/p4info.txtpb", "1"), file("q/device_config.json", "1")}, nil, names("Switch", "a", "Switch", "b"), ""},
		{"P4Info", []*File{file("p/p4info.txtpb", "2")}, nil, names("Switch", "a"), ""},
		{"device config", []*File{file("q/device_config.json", "2")}, nil, names("Switch", "b"), ""},
		{"deeper", []*File{file("p/q/p4info.txtpb", "2")}, nil, nil, ""},
		{"no device config", nil, []string{"p/device_config.bin"}, names("Switch", "a"), "a" + none},
		{"a device config of another name", []*File{file("p/device_config.json", "1")}, nil, names("Switch", "a"), ""},
		{"a second one", []*File{file("p/device_config.bin", "1")}, nil, names("Switch", "a"), `a.yaml:3: spec.pipeline: folder "p" holds device_config.bin and device_config.json; keep the one that the switch wants`},
		{"only one", nil, []string{"p/device_config.json"}, names("Switch", "a"), ""},
		{"refused", []*File{large}, nil, names("Switch", "a"), `a.yaml:3: spec.pipeline: p/device_config.bin: the file has 16777217 bytes, the most is 16777216`},
		{"none again", nil, []string{"p/device_config.bin"}, names("Switch", "a"), "a" + none},
		{"not needed", []*File{file("a.yaml", switchText("a", "pipeline: p, pushPipeline: never"))}, nil, names("Switch", "a"), ""},
		{"two users", []*File{file("b.yaml", switchText("b", "pipeline: p"))}, nil, names("Switch", "b"), "b" + none},
		{"for both", []*File{file("p/device_config.bin", "3")}, nil, names("Switch", "a", "Switch", "b"), ""},
		{"to gray's own", []*File{file("a.yaml", switchText("a", "pipeline: v1model")), file("b.yaml", switchText("b", "pipeline: tna, pushPipeline: never"))}, nil, names("Switch", "a", "Switch", "b"), ""},
		{"that nobody names", nil, []string{"p/p4info.txtpb", "p/device_config.bin"}, nil, ""},
		{"at the root", []*File{file("a.yaml", switchText("a", `pipeline: "."`)), file("p4info.txtpb", "1"), file("device_config.bin", "1")}, nil, names("Switch", "a"), ""},
		{"and changed there", []*File{file("device_config.bin", "2")}, nil, names("Switch", "a"), ""},
	} {
		files = files.With(step.put, step.remove)
		if diff := cmp.Diff(step.want, set.Update(&Snapshot{Files: files})); diff != "" {
			t.Errorf("step %d, %s: names (-want +got):\n%s", i, step.what, diff)
		}
		if diff := cmp.Diff(step.errs, problems(set)); diff != "" {
			t.Errorf("step %d, %s: errors (-want +got):\n%s", i, step.what, diff)
		}
	}
	pipe := set.Pipeline(".")
	if string(pipe.P4Info.Data) != "1" || string(pipe.DeviceConfig.Data) != "2" {
		t.Errorf("the pipeline is %+v", pipe)
	}
}
