// The gray gateway for v1model (BMv2).
//
// A packet for a VIP gets up to four candidates for its pool, side by side:
// from the flow rules, its source VM, its destination VM and its VPC. The first
// that is there wins, else the VIP's default pool. A hash over the chosen
// fields picks a bucket of the pool and with it a backend.
//
// Dropped: what is for no VIP, what is cut short, what has no pool, bucket or
// backend. A fragment that is not the first has ports 0, and is looked at as
// plain traffic, as its VXLAN header is in another packet. TTL and hop limit
// stay as they are: the gateway is transparent.
//
// parser.p4 and tables.p4 say all of that, here and for Tofino. What stands in
// this file is what only v1model does this way.
#include <core.p4>
#include <v1model.p4>

// The outer destination as it came, for the checksums over it.
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

// Where the outer destination was rewritten, the checksums over it are updated
// by the difference (RFC 1624). A UDP checksum of 0 is none and stays so, that
// of VXLAN too; one that comes out as 0 is sent as 0xffff (RFC 768).
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
