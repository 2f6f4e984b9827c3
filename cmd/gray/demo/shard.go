package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources/dir"
)

// The documents of the shard. %d is the port of the switch's P4Runtime server.
const shardGateway = `# One switch, two stable servers behind it and a new one.
apiVersion: gray.dev/v1alpha1
kind: Switch
metadata: {name: gw-a}
spec: {address: "127.0.0.1:%d", deviceID: 1, pipeline: v1model}
---
apiVersion: gray.dev/v1alpha1
kind: Gateway
metadata: {name: vpc-gw}
spec:
  vips: [203.0.113.10]
  switches: [gw-a]
  forward: mac
  hash: {buckets: 256}
  default: v1
  versions:
  - name: v1
    backends:
    - {name: gw1, address: 192.0.2.11, mac: "02:00:00:00:00:11", port: 1}
    - {name: gw2, address: 192.0.2.12, mac: "02:00:00:00:00:12", port: 2}
  - name: v2
    backends:
    - {name: gw9, address: 192.0.2.19, mac: "02:00:00:00:00:19", port: 9}
`

// shardPolicy is the rollout.
const shardPolicy = `# The shard goes to the new server, VPC after VPC and batch by batch.
apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: gateway-v2}
spec:
  targets: [{kind: Gateway, name: vpc-gw}]
  version: v2
  rollout:
    networkSelector: {shard: s1}
    batches: [1, 25%, 100%]
    bake: 1s
    verify:
      ping: {count: 3, timeout: 1s, peers: 8, source: overlay}
      retries: 1
`

// shardNetwork makes the document of a VPC: 20 VMs on four hosts.
func shardNetwork(vni int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# A VPC and its route table.
apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: vpc-%d, labels: {shard: s1}}
spec:
  vni: %d
  monitor: {address: 10.0.255.254, mac: "02:aa:00:00:00:fe", vtep: 192.0.2.200}
  routes:
`, vni, vni)
	for i := 1; i <= 20; i++ {
		fmt.Fprintf(&b, "  - {vm: vm-%d, prefix: 10.0.0.%d/32, mac: \"02:aa:00:%02x:%02x:%02x\", vtep: 192.0.2.%d}\n", i, i, vni>>8, vni&255, i, 101+i%4)
	}
	return b.String()
}

// makeShard makes the repository of the shard without its policy, and reads it.
func (d *demo) makeShard(ctx context.Context) (*schema.Set, error) {
	d.Repo = filepath.Join(d.Dir, "repo")
	files := map[string]string{
		"gateways/vpc-gw.yaml":   fmt.Sprintf(shardGateway, d.Ports["9559"]),
		"networks/vpc-1001.yaml": shardNetwork(1001),
		"networks/vpc-1002.yaml": shardNetwork(1002),
	}
	for name, text := range files {
		if err := d.write(name, text); err != nil {
			return nil, err
		}
	}
	if err := d.Git(ctx, "init", "-q", "-b", "main"); err != nil {
		return nil, err
	}
	if err := d.Commit(ctx, "The shard as it is: everybody on v1"); err != nil {
		return nil, err
	}
	s, err := dir.Read(ctx, d.Repo)
	if err != nil {
		return nil, err
	}
	return schema.Parse(s)
}
