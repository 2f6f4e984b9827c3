package packets

import (
	"net/netip"
	"testing"
)

// The sums are those of Python's zlib.crc32 over the bytes in the comment.
func TestHashIsCRC32InNetworkOrder(t *testing.T) {
	all := Hash{VNI: true, Src: true, Dst: true, Protocol: true, SrcPort: true, DstPort: true}
	v4 := Packet{VNI: 1002, Src: netip.MustParseAddr("10.0.0.5"), Dst: netip.MustParseAddr("10.0.0.9"), Protocol: 6, SrcPort: 40001, DstPort: 443}
	v6 := Packet{VNI: 1, Src: netip.MustParseAddr("2001:db8::1:2"), Dst: netip.MustParseAddr("2001:db8:ff::9"), Protocol: 17, SrcPort: 1, DstPort: 65535}
	for _, test := range []struct {
		packet Packet
		hash   Hash
		want   uint32
	}{
		{v4, all, 0x022efa46},                                // 0003ea 0a000005 0a000009 06 9c41 01bb
		{v4, Hash{VNI: true, Src: true}, 0xfc29361e},         // 0003ea 0a000005 00000000 00 0000 0000
		{v6, all, 0xaabf5410},                                // 000001 20000dba 20fe0db1 11 0001 ffff
		{Packet{VNI: 7}, all, 0x8976e195},                    // 000007 and zeros
		{v4, Hash{SrcPort: true, DstPort: true}, 0x2fdda9fb}, // 0... 9c41 01bb
	} {
		if got := test.packet.HashFields().Masked(test.hash.Masks()).Sum(); got != test.want {
			t.Errorf("%s over %s: %#08x, want %#08x", test.packet, test.hash, got, test.want)
		}
	}
}
