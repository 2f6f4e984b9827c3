package main

const (
	module     = "github.com/gray-release/gray"
	everywhere = "*" // as an owner: all folders
)

// ranks orders the folders at the root: a package may import lower ranks and its own
// folder. Folders of equal rank do not import each other, nor does a source import
// another source, a sink another sink, or a store another store.
var ranks = map[string]int{
	"": 0, "secrets": 0, "etcdclient": 0, "schema": 1, "policies": 2, "reconciler": 3, "sources": parts, "sinks": parts, "stores": parts, "admin": 5, "cmd": 6,
	"client": apart, "tools": apart,
}

const (
	parts = 4  // its packages do not import each other
	apart = -1 // its packages import only their own folder
)

// inner says what each package of policies may import of policies: the algebras do not
// know the compiler; requests has the steps of a trace and health checks from packets.
var inner = map[string][]string{
	"policies":          {"policies/packets", "policies/requests", "policies/rollout"},
	"policies/packets":  nil,
	"policies/memo":     nil,
	"policies/requests": {"policies/memo", "policies/packets"},
	"policies/rollout":  nil,
}

// algebras do not know kinds of documents: this is all that they may use of schema.
var (
	algebras = []string{"policies/packets", "policies/requests"}
	ofSchema = []string{"Position"}
)

// helpers are packages only for tests. They count as tests themselves.
var helpers = []string{"tools/testnet", "tools/etcdtest", "sinks/sinktest"}

// owner is the folders that may import a library, and those whose tests may.
type owner struct{ product, tests []string }

func in(folders ...string) owner { return owner{product: folders} }

func (o owner) andTests(folders ...string) owner {
	o.tests = folders
	return o
}

// owners has the owner of each library, by the beginning of its import path.
var owners = map[string]owner{
	"github.com/envoyproxy/go-control-plane":   in("sinks/xds"),
	"google.golang.org/genproto":               in("sinks/p4rt").andTests("sinks/xds"),
	"google.golang.org/grpc":                   in("sinks/xds", "sinks/p4rt", "sources/etcd", "stores", "etcdclient", "cmd", "client", "tools/fabricsim").andTests("tools/etcdtest"),
	"google.golang.org/protobuf":               in("sinks/xds", "sinks/p4rt"),
	"github.com/p4lang/p4runtime":              in("sinks/p4rt", "tools/fabricsim").andTests("cmd"),
	"github.com/osrg/gobgp":                    in("sinks/bgp"),
	"github.com/compose-spec/compose-go":       in("sinks/compose"),
	"github.com/go-git/go-git":                 in("sources/git"),
	"github.com/go-git/go-billy":               in("sources/git"),
	"golang.org/x/crypto":                      in("sources/git"),
	"github.com/fsnotify/fsnotify":             in("sources/dir"),
	"github.com/prometheus-community/pro-bing": in("sources/health"),
	"go.etcd.io/etcd/client":                   in("sources/etcd", "stores", "etcdclient", "client/etcd", "client/example").andTests("cmd", "tools/etcdtest"),
	"go.etcd.io/etcd/server":                   in().andTests("tools/etcdtest", "cmd"),
	"go.uber.org/zap":                          in("sources/etcd", "stores", "etcdclient").andTests("cmd", "tools/etcdtest"),
	"go.etcd.io/bbolt":                         in("stores"),
	"github.com/google/btree":                  in("reconciler"),
	"go.yaml.in/yaml":                          in("schema", "sinks/compose", "cmd"),
	"sigs.k8s.io/yaml":                         in("sinks/xds").andTests("cmd"),
	"github.com/santhosh-tekuri/jsonschema":    in("schema"),
	"golang.org/x/text":                        in("schema", "cmd"),
	"github.com/spf13/cobra":                   in("cmd"),
	"github.com/spf13/pflag":                   in("cmd"),
	"golang.org/x/term":                        in("cmd"),
	"golang.org/x/sys":                         in("sinks/p4rt/softswitch", "sources/probe").andTests("sources/dir", "cmd", "tools/testnet"),
	"golang.org/x/time":                        in("sinks/xds", "sources/probe"),
	"github.com/google/go-cmp":                 in().andTests(everywhere),
	"github.com/rogpeppe/go-internal":          in().andTests("schema", "cmd"),
	"github.com/onosproject":                   in("tools/fabricsim"),
	"github.com/cilium/cilium":                 in("tools/maglevbench"),
	"github.com/cilium/hive":                   in("tools/maglevbench"),
}
