package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
)

// The daemon brings a switch from gray's own pipeline to one that a commit holds,
// and from that to a later commit's.
func TestPipelineOfTheRepository(t *testing.T) {
	l := newLab(t)
	l.startDaemon()
	l.live()
	const config = "pipelines/big/device_config.bin"
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(l.Repo, filepath.FromSlash(path))
		l.ok(os.MkdirAll(filepath.Dir(path), 0o755))
		l.ok(os.WriteFile(path, []byte(text), 0o644))
	}
	runs := func(want string, loads int64) {
		t.Helper()
		l.ok(l.Commit(t.Context(), want))
		l.live()
		c, closeConn := l.client()
		defer closeConn()
		res, err := c.GetForwardingPipelineConfig(t.Context(), &p4v1.GetForwardingPipelineConfigRequest{DeviceId: 1})
		l.ok(err)
		if got := string(res.GetConfig().GetP4DeviceConfig()); got != want {
			t.Errorf("the switch runs %.40q, want %q", got, want)
		}
		if n := l.sw.Stats().Pushes; int64(n) != loads {
			t.Errorf("%d pipelines were loaded, want %d", n, loads)
		}
	}
	entries := l.entries(0)
	info, err := os.ReadFile("../../sinks/p4rt/pipeline/gray_v1model.p4info.txtpb")
	l.ok(err)
	document, err := os.ReadFile(filepath.Join(l.Repo, "gateways", "vpc-gw.yaml"))
	l.ok(err)
	write("pipelines/big/p4info.txtpb", strings.Replace(string(info), "size: 524288", "size: 1048576", 1))
	write("gateways/vpc-gw.yaml", strings.Replace(string(document), "pipeline: v1model", "pipeline: pipelines/big", 1))
	write(config, "one")
	runs("one", 2)
	write(config, "two")
	runs("two", 3)
	if n := l.entries(0); n != entries {
		t.Errorf("%d entries are on the switch, there were %d on the first pipeline", n, entries)
	}
}
