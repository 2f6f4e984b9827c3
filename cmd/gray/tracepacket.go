package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// tracePacketFlags are the flags of gray trace packet.
type tracePacketFlags struct {
	traceFlags
	vip, src, dst, proto string
	vni                  uint32
	sport, dport         uint16
	onSwitch             string
}

func tracePacketCommand() *cobra.Command {
	var f tracePacketFlags
	packet := &cobra.Command{
		Use: "packet [PATH]", Short: "Follow a packet through the tables of a switch", Args: cobra.MaximumNArgs(1),
		Long: "Tell which entry of which table, document and line decides about a packet, its bucket, server and port.\n" +
			"Exit code 1 where the switch drops it, or with --base where the two commits send it different ways.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.packet()
			if err != nil {
				return err
			}
			return f.run(cmd, pathArg(args), traceReport{Packet: p.String()}, admin.TraceQuery{Packet: &p, Switch: f.onSwitch})
		},
	}
	flags := packet.Flags()
	flags.StringVar(&f.vip, "vip", "", "the outer destination")
	flags.Uint32Var(&f.vni, "vni", 0, "the VXLAN network identifier; 0: traffic that is not VXLAN")
	flags.StringVar(&f.src, "src", "", "the inner source; the outer one of traffic that is not VXLAN")
	flags.StringVar(&f.dst, "dst", "", "the inner destination; default for traffic that is not VXLAN: the VIP")
	flags.StringVar(&f.proto, "proto", "tcp", "tcp, udp, icmp or 0 to 255")
	flags.Uint16Var(&f.sport, "sport", 0, "the source port")
	flags.Uint16Var(&f.dport, "dport", 0, "the destination port")
	flags.StringVar(&f.onSwitch, "switch", "", "the switch; default: the first one that has the VIP")
	f.register(packet)
	return packet
}

// packet reads the packet off the flags.
func (f *tracePacketFlags) packet() (packets.Packet, error) {
	p := packets.Packet{VNI: f.vni, SrcPort: f.sport, DstPort: f.dport}
	if f.vni > schema.MaxVNI {
		return p, fmt.Errorf("--vni %d is above the largest VNI, %d", f.vni, schema.MaxVNI)
	}
	if f.dst == "" && f.vni == 0 {
		f.dst = f.vip
	}
	for _, a := range []struct {
		flag, value string
		to          *netip.Addr
	}{{"--vip", f.vip, &p.VIP}, {"--src", f.src, &p.Src}, {"--dst", f.dst, &p.Dst}} {
		var addr schema.Addr
		if a.value == "" {
			return p, fmt.Errorf("%s is missing; give an IP address", a.flag)
		}
		if err := addr.UnmarshalText([]byte(a.value)); err != nil {
			return p, fmt.Errorf("%s: %w", a.flag, err)
		}
		*a.to = addr.Addr
	}
	if p.Src.Is4() != p.Dst.Is4() {
		return p, fmt.Errorf("--src %s and --dst %s are of different IP versions", p.Src, p.Dst)
	}
	var proto schema.Protocol
	if err := proto.UnmarshalText([]byte(f.proto)); err != nil {
		return p, fmt.Errorf("--proto: %w", err)
	}
	p.Protocol = uint8(proto)
	if p.Protocol != 6 && p.Protocol != 17 && (f.sport != 0 || f.dport != 0) {
		return p, fmt.Errorf("--proto %s has no ports; leave out --sport and --dport, or say tcp or udp", f.proto)
	}
	return p, nil
}

// packetOutcome says in a sentence where the packet goes.
func packetOutcome(t *packets.Trace) string {
	if t.Dropped != "" {
		return "dropped: " + t.Dropped
	}
	return fmt.Sprintf("leaves by port %d to %s of %s", t.Port, t.Backend, t.Version)
}
