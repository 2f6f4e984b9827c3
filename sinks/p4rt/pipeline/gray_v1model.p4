// The gray gateway for v1model (BMv2).
//
// A packet for a VIP has up to four candidates for its pool: from the flow rules,
// its source VM, its destination VM and its VPC, in this order. The first one
// wins. If there is none, it goes to the VIP's default pool. A hash of the
// configured fields selects a bucket of the pool, and the bucket a backend.
//
// Dropped are packets for no VIP, truncated packets, and packets without a pool,
// bucket or backend. Fragments other than the first have ports 0 and are treated
// as plain traffic, as the VXLAN header is in another packet. TTL and hop limit
// do not change: the gateway is transparent.
//
// parser.p4 and tables.p4 have the code for this and for Tofino. This file has
// what is specific to v1model.
#include <core.p4>
#include <v1model.p4>

// The outer destination of the received packet, for the checksums over it.
struct face_t {
  bit<32>  dst4;
  bit<128> dst6;
}

#include "headers.p4"
#include "ids.p4"

#define KEEP_IPV4 m.face.dst4 = h.ipv4.dst;
#define KEEP_IPV6 m.face.dst6 = h.ipv6.dst;
#define KEEP_SUM(checksum)
parser GrayParser(packet_in packet, out headers_t h, inout metadata_t m, inout standard_metadata_t std) {
  state start { transition ethernet; }
#include "parser.p4"
}

control GrayVerify(inout headers_t h, inout metadata_t m) { apply {} }

#define DIRECT_COUNTER(name) direct_counter(CounterType.packets_and_bytes) name;
#define PARSER_FAILED (std.parser_error != error.NoError)
#define FIRST
control GrayIngress(inout headers_t h, inout metadata_t m, inout standard_metadata_t std) {
  @id(ID_DROP) @name(".drop") action drop() {
    mark_to_drop(std);
    m.dropped = 1;
  }
  @hidden action send(in port_t port) { std.egress_spec = port; }
  @hidden action hash_fields() { hash(m.hash, HashAlgorithm.crc32, 16w0, HASH_FIELDS, 32w0x10000); }
#include "tables.p4"
}

// If the outer destination was rewritten, the checksums over it are updated by
// the difference (RFC 1624). A UDP checksum of 0 means none and stays 0, for VXLAN
// too; one whose new value is 0 is sent as 0xffff (RFC 768).
control GrayEgress(inout headers_t h, inout metadata_t m, inout standard_metadata_t std) {
  bit<16> change = 0;  // the sum of the old address complemented and the new one
  @hidden action change_v4() {
    hash(change, HashAlgorithm.csum16, 16w0, { ~m.face.dst4, h.ipv4.dst }, 32w0x10000);
    change = ~change;
    hash(h.ipv4.checksum, HashAlgorithm.csum16, 16w0, { ~h.ipv4.checksum, change }, 32w0x10000);
  }
  @hidden action change_v6() {
    hash(change, HashAlgorithm.csum16, 16w0, { ~m.face.dst6, h.ipv6.dst }, 32w0x10000);
    change = ~change;
  }
  @hidden action update_tcp() {
    hash(h.tcp.checksum, HashAlgorithm.csum16, 16w0, { ~h.tcp.checksum, change }, 32w0x10000);
  }
  @hidden action update_udp() {
    hash(h.udp.checksum, HashAlgorithm.csum16, 16w0, { ~h.udp.checksum, change }, 32w0x10000);
  }
  @hidden action update_icmpv6() {
    hash(h.icmpv6.checksum, HashAlgorithm.csum16, 16w0, { ~h.icmpv6.checksum, change }, 32w0x10000);
  }
  apply {
    if (h.ipv4.isValid() && h.ipv4.dst != m.face.dst4) {
      change_v4();
    } else if (h.ipv6.isValid() && h.ipv6.dst != m.face.dst6) {
      change_v6();
    } else {
      return;
    }
    if (h.tcp.isValid()) {
      update_tcp();
    } else if (m.has_udp_sum) {
      update_udp();
      if (h.udp.checksum == 0) {
        h.udp.checksum = 0xffff;
      }
    } else if (h.icmpv6.isValid()) {
      update_icmpv6();
    }
  }
}

control GrayChecksum(inout headers_t h, inout metadata_t m) { apply {} }

control GrayDeparser(packet_out packet, in headers_t h) { apply { packet.emit(h); } }

V1Switch(GrayParser(), GrayVerify(), GrayIngress(), GrayEgress(), GrayChecksum(), GrayDeparser()) main;
