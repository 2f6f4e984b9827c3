package schema

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// MaxVNI is the largest VXLAN network identifier.
const MaxVNI = 1<<24 - 1

// decimal reads a decimal number of at most high. A leading zero is refused, as it could
// mean an octal number.
func decimal(s string, high uint64) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	switch {
	case err == nil && len(s) > 1 && s[0] == '0':
		return 0, strconv.ErrSyntax
	case err == nil && n > high:
		return 0, strconv.ErrRange
	}
	return n, err
}

// VNI is a VXLAN network identifier.
type VNI uint32

// UnmarshalText reads a decimal number.
func (v *VNI) UnmarshalText(text []byte) error {
	n, err := decimal(string(text), MaxVNI)
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%s is above the largest VNI, %d", text, MaxVNI)
	}
	if err != nil {
		return fmt.Errorf("%q is not a VNI; want a number from 0 to %d", text, MaxVNI)
	}
	*v = VNI(n)
	return nil
}

// Addr is an IP address.
type Addr struct{ netip.Addr }

// UnmarshalText reads an IPv4 or IPv6 address without zone.
func (a *Addr) UnmarshalText(text []byte) error {
	addr, err := netip.ParseAddr(string(text))
	if err != nil {
		return fmt.Errorf("%q is not an IP address", text)
	}
	if addr.Zone() != "" {
		return fmt.Errorf("%q has a zone; want a plain IP address", text)
	}
	a.Addr = addr.Unmap()
	return nil
}

// Prefix is an IP prefix without host bits.
type Prefix struct{ netip.Prefix }

// UnmarshalText reads address/length. An address alone is a full-length prefix.
func (p *Prefix) UnmarshalText(text []byte) error {
	s := string(text)
	if !strings.Contains(s, "/") {
		var a Addr
		if err := a.UnmarshalText(text); err != nil {
			return fmt.Errorf("%q is not an IP prefix; want address/length", s)
		}
		p.Prefix = netip.PrefixFrom(a.Addr, a.BitLen())
		return nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil || prefix.Addr().Is4In6() {
		return fmt.Errorf("%q is not an IP prefix; want address/length", s)
	}
	if prefix != prefix.Masked() {
		return fmt.Errorf("%s has host bits set; write %s", s, prefix.Masked())
	}
	p.Prefix = prefix
	return nil
}

// MAC is an Ethernet address.
type MAC [6]byte

// UnmarshalText reads six octets, separated by colons or by dashes.
func (m *MAC) UnmarshalText(text []byte) error {
	hw, err := net.ParseMAC(string(text))
	if err != nil || len(hw) != len(m) || len(text) != len("02:00:00:00:00:01") {
		return fmt.Errorf("%q is not a MAC address; want six octets such as \"02:00:00:00:00:01\"", text)
	}
	if hw[0]&1 != 0 {
		return fmt.Errorf("%s is a group address; want the address of one interface", text)
	}
	copy(m[:], hw)
	return nil
}

// String returns the form with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Protocol is an IP protocol number.
type Protocol uint8

// UnmarshalText reads tcp, udp, icmp or a number.
func (p *Protocol) UnmarshalText(text []byte) error {
	switch s := string(text); s {
	case "tcp":
		*p = 6
	case "udp":
		*p = 17
	case "icmp":
		*p = 1
	default:
		n, err := decimal(s, 255)
		if err != nil {
			return fmt.Errorf("%q is not a protocol; want tcp, udp, icmp or 0 to 255", s)
		}
		*p = Protocol(n)
	}
	return nil
}

// PortRange is an inclusive range of TCP or UDP ports.
type PortRange struct{ Lo, Hi uint16 }

// UnmarshalText reads "443" or "40000-40999".
func (r *PortRange) UnmarshalText(text []byte) error {
	lo, hi, isRange := strings.Cut(string(text), "-")
	if !isRange {
		hi = lo
	}
	l, errLo := decimal(lo, 65535)
	h, errHi := decimal(hi, 65535)
	switch {
	case errLo != nil || errHi != nil:
		return fmt.Errorf("%q is not a port; want 0 to 65535, or a range such as 40000-40999", text)
	case l > h:
		return fmt.Errorf("the range %s is empty; write %s-%s", text, hi, lo)
	}
	*r = PortRange{uint16(l), uint16(h)}
	return nil
}

// Duration is a length of time.
type Duration time.Duration

// UnmarshalText reads the notation of Go: 500ms, 30s, 2h.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration; want a number with a unit, such as 500ms, 30s or 2h", text)
	}
	if v < 0 {
		return fmt.Errorf("%s is negative", text)
	}
	*d = Duration(v)
	return nil
}

// String returns the notation of documents.
func (d Duration) String() string { return time.Duration(d).String() }

// Percent is a percentage, 0 to 100.
type Percent int

// UnmarshalText reads "5%".
func (p *Percent) UnmarshalText(text []byte) error {
	s, ok := strings.CutSuffix(string(text), "%")
	n, err := decimal(s, 100)
	if !ok || err != nil {
		return fmt.Errorf("%q is not a percentage; want 0%% to 100%%", text)
	}
	*p = Percent(n)
	return nil
}

// Batch is the cumulative size of a rollout's batch: a number or a percentage of VMs.
type Batch struct {
	N         int
	IsPercent bool
}

// UnmarshalText reads "5" or "25%".
func (b *Batch) UnmarshalText(text []byte) error {
	if strings.HasSuffix(string(text), "%") {
		var p Percent
		if err := p.UnmarshalText(text); err != nil {
			return err
		}
		if p == 0 {
			return fmt.Errorf("%q is not a batch; want more than 0%%", text)
		}
		*b = Batch{int(p), true}
		return nil
	}
	n, err := decimal(string(text), math.MaxInt32)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is not a batch; want a count from 1 or a percentage", text)
	}
	*b = Batch{int(n), false}
	return nil
}

// Community is a BGP community (RFC 1997): the AS number in the upper half.
type Community uint32

// UnmarshalText reads "64512:100".
func (c *Community) UnmarshalText(text []byte) error {
	as, value, ok := strings.Cut(string(text), ":")
	a, errA := decimal(as, 65535)
	v, errV := decimal(value, 65535)
	if !ok || errA != nil || errV != nil {
		return fmt.Errorf("%q is not a community; want asn:value, each 0 to 65535", text)
	}
	*c = Community(a<<16 | v)
	return nil
}

// String returns asn:value.
func (c Community) String() string { return fmt.Sprintf("%d:%d", c>>16, c&0xffff) }
