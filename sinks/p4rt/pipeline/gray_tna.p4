// The gray gateway for TNA (Tofino). gray_v1model.p4 describes what it does, and
// parser.p4 and tables.p4 have the code for both architectures. This file has what
// is specific to Tofino.
//
// The ingress parser itself drops truncated packets, as nothing here reads its
// error code.
#include <core.p4>
#include <tna.p4>

// The checksums are updated from these: the outer destination and the checksums of
// the received packet, complemented.
struct face_t {
  bit<32>  not_dst4;
  bit<128> not_dst6;
  bit<16>  not_ipv4_sum;
  bit<16>  not_l4_sum;
}

#include "headers.p4"
#include "ids.p4"

// FIRST complements the fields that are kept. The parser copies them, because fields
// that an action reads and writes together must be in one group of 16 containers, and
// an address comes with many other fields.
#define KEEP_IPV4 m.face.not_dst4 = h.ipv4.dst;
#define KEEP_IPV6 m.face.not_dst6 = h.ipv6.dst;
#define KEEP_SUM(checksum) m.face.not_l4_sum = checksum;
parser GrayParser(packet_in packet, out headers_t h, out metadata_t m, out ingress_intrinsic_metadata_t intrinsic) {
  state start {
    m = { ... };
    packet.extract(intrinsic);
    packet.advance(PORT_METADATA_SIZE);
    transition ethernet;
  }
#include "parser.p4"
}

// Two counters in a word of SRAM; the driver extends them to 64 bits.
#define DIRECT_COUNTER(name) DirectCounter<bit<32>>(CounterType_t.PACKETS_AND_BYTES) name;
#define PARSER_FAILED false
#define FIRST complement();
// A backend of the other family writes to the destination of a header that is not
// valid. No other field may share its container.
@pa_no_overlay("ingress", "h.ipv4.dst")
@pa_no_overlay("ingress", "h.ipv6.dst")
// Addresses are in whole words: without this the compiler tries so many ways to split
// them that it does not finish.
@pa_container_size("ingress", "h.ipv4.src", 32)
@pa_container_size("ingress", "h.ipv4.dst", 32)
@pa_container_size("ingress", "h.ipv6.src", 32)
@pa_container_size("ingress", "h.ipv6.dst", 32)
@pa_container_size("ingress", "h.inner_ipv6.src", 32)
@pa_container_size("ingress", "h.inner_ipv6.dst", 32)
@pa_container_size("ingress", "m.src4", 32)
@pa_container_size("ingress", "m.dst4", 32)
@pa_container_size("ingress", "m.src6", 32)
@pa_container_size("ingress", "m.dst6", 32)
@pa_container_size("ingress", "m.hash_src", 32)
@pa_container_size("ingress", "m.hash_dst", 32)
@pa_container_size("ingress", "m.fold_src", 32)
@pa_container_size("ingress", "m.fold_dst", 32)
@pa_container_size("ingress", "m.face.not_dst4", 32)
@pa_container_size("ingress", "m.face.not_dst6", 32)
control GrayIngress(inout headers_t h, inout metadata_t m, in ingress_intrinsic_metadata_t intrinsic,
                    in ingress_intrinsic_metadata_from_parser_t from_parser,
                    inout ingress_intrinsic_metadata_for_deparser_t deparser,
                    inout ingress_intrinsic_metadata_for_tm_t tm) {
  Hash<bit<16>>(HashAlgorithm_t.CRC32) crc;
  @id(ID_DROP) @name(".drop") action drop() {
    deparser.drop_ctl = 1;
    m.dropped = 1;
  }
  @hidden action send(in port_t port) {
    tm.ucast_egress_port = port;
    tm.bypass_egress = 1;
  }
  @hidden action complement() {
    m.face.not_dst4 = ~m.face.not_dst4;
    m.face.not_dst6 = ~m.face.not_dst6;
    m.face.not_ipv4_sum = ~h.ipv4.checksum;
    m.face.not_l4_sum = ~m.face.not_l4_sum;
  }
  @hidden action hash_fields() { m.hash = crc.get(HASH_FIELDS); }
#include "tables.p4"
}

// The checksums over the outer destination are updated by the difference (RFC 1624),
// which changes nothing if the destination stays. The deparser does it for all
// packets: a test whether the backend rewrote the destination would need another
// stage after the last table. A UDP checksum of 0 means none and stays 0; one whose
// new value is 0 is sent as 0xffff (RFC 768). Another checksum that is received as
// 0xffff, which no sender writes, is sent as 0, the same sum.
control GrayDeparser(packet_out packet, inout headers_t h, in metadata_t m,
                     in ingress_intrinsic_metadata_for_deparser_t deparser) {
  Checksum() ipv4_sum;
  Checksum() tcp4_sum;
  Checksum() tcp6_sum;
  Checksum() udp4_sum;
  Checksum() udp6_sum;
  Checksum() icmpv6_sum;
  apply {
    if (h.ipv4.isValid()) {
      h.ipv4.checksum = ipv4_sum.update({ m.face.not_ipv4_sum, m.face.not_dst4, h.ipv4.dst });
    }
    if (h.ipv4.isValid()) {
      h.tcp.checksum = tcp4_sum.update({ m.face.not_l4_sum, m.face.not_dst4, h.ipv4.dst });
    }
    if (h.ipv6.isValid()) {
      h.tcp.checksum = tcp6_sum.update({ m.face.not_l4_sum, m.face.not_dst6, h.ipv6.dst });
    }
    if (m.has_udp_sum && h.ipv4.isValid()) {
      h.udp.checksum = udp4_sum.update({ m.face.not_l4_sum, m.face.not_dst4, h.ipv4.dst }, true);
    }
    if (m.has_udp_sum && h.ipv6.isValid()) {
      h.udp.checksum = udp6_sum.update({ m.face.not_l4_sum, m.face.not_dst6, h.ipv6.dst }, true);
    }
    if (h.icmpv6.isValid()) {
      h.icmpv6.checksum = icmpv6_sum.update({ m.face.not_l4_sum, m.face.not_dst6, h.ipv6.dst });
    }
    packet.emit(h);
  }
}

// The egress is bypassed.
struct egress_headers_t {}
struct egress_metadata_t {}
parser EmptyParser(packet_in packet, out egress_headers_t h, out egress_metadata_t m, out egress_intrinsic_metadata_t intrinsic) {
  state start {
    packet.extract(intrinsic);
    transition accept;
  }
}
control EmptyEgress(inout egress_headers_t h, inout egress_metadata_t m, in egress_intrinsic_metadata_t intrinsic,
                    in egress_intrinsic_metadata_from_parser_t from_parser,
                    inout egress_intrinsic_metadata_for_deparser_t deparser,
                    inout egress_intrinsic_metadata_for_output_port_t port) { apply {} }
control EmptyDeparser(packet_out packet, inout egress_headers_t h, in egress_metadata_t m,
                      in egress_intrinsic_metadata_for_deparser_t deparser) { apply { packet.emit(h); } }

Pipeline(GrayParser(), GrayIngress(), GrayDeparser(), EmptyParser(), EmptyEgress(), EmptyDeparser()) pipe;
Switch(pipe) main;
