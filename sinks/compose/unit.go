package compose

import (
	"fmt"
	"path"
	"strings"

	"github.com/gray-release/gray/policies"
)

// BootstrapFile is where the unit's Envoy reads its bootstrap on the host.
const BootstrapFile = "/etc/gray/envoy.yaml"

// lowPort is the first port that needs no capability.
const lowPort = 1024

// unitText is the unit. Its arguments are the node's name, the paths of Envoy and of
// its bootstrap, and the lines that its ports need.
const unitText = `# Put what gray render bootstrap %[1]s prints at %[3]s, and this beside the
# other units, such as /etc/systemd/system/gray-envoy.service. Then:
# systemctl daemon-reload && systemctl enable --now gray-envoy

[Unit]
Description=Envoy of gray on Node %[1]s
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStartPre=%[2]s --mode validate -c %[3]s
ExecStart=%[2]s --disable-hot-restart -c %[3]s
Restart=always
RestartSec=1
LimitNOFILE=1048576

# Where the host has a user of this name, it is that one: give it the files that the
# bootstrap names to read. Else systemd makes one for as long as the unit runs.
DynamicUser=yes
User=gray-envoy

NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service mincore
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
# MemoryDenyWriteExecute is not for Envoy: its Lua compiles what it runs.
%[4]s
[Install]
WantedBy=multi-user.target
`

// Unit is the systemd unit of a node's Envoy, for a host without containers. envoy
// is the path of the program on that host.
func Unit(n *policies.Node, envoy string) (string, error) {
	if !path.IsAbs(envoy) || path.Clean(envoy) != envoy || strings.ContainsAny(envoy, " \t\r\n%$\\\"';") {
		return "", fmt.Errorf("%q is not a plain absolute path to Envoy; give one such as /usr/bin/envoy", envoy)
	}
	caps := "CapabilityBoundingSet=\nPrivateUsers=yes\n"
	if n.Port < lowPort || n.AdminPort < lowPort {
		caps = "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"
	}
	return Mark(n.Name, fmt.Sprintf(unitText, n.Name, envoy, BootstrapFile, caps)), nil
}
