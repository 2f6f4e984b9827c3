// Headers and metadata of the gray gateway, for both architectures. Before it
// includes this, the program of each declares face_t, which has its own metadata.
#ifndef GRAY_HEADERS
#define GRAY_HEADERS

typedef bit<48> mac_t;
typedef bit<8>  vip_t;      // one per gateway on this switch; 0: none
typedef bit<8>  pool_t;     // one per version of a gateway, or blend; 0: none
typedef bit<8>  profile_t;  // one per gateway
typedef bit<16> backend_t;
typedef bit<9>  port_t;

const bit<16> TYPE_IPV4 = 0x0800;
const bit<16> TYPE_IPV6 = 0x86dd;
const bit<16> TYPE_VLAN = 0x8100;
const bit<8>  PROTO_TCP = 6;
const bit<8>  PROTO_UDP = 17;
const bit<8>  PROTO_ICMPV6 = 58;
const bit<16> PORT_VXLAN = 4789;

header ethernet_h { mac_t dst; mac_t src; bit<16> type; }
header vlan_h { bit<16> tci; bit<16> type; }
header ipv4_h {
  bit<4> version; bit<4> ihl; bit<8> tos; bit<16> len;
  bit<16> id; bit<3> flags; bit<13> offset;
  bit<8> ttl; bit<8> protocol; bit<16> checksum;
  bit<32> src; bit<32> dst;
}
// Options are ignored, but they are between the IP header and the ports. Tofino
// cannot parse a length that is in the packet, so they are parsed in up to four
// parts of one to four words. Every length from one to ten words is such a sum.
header options1_h { bit<32> data; }
header options2_h { bit<64> data; }
header options3_h { bit<96> data; }
header options4_h { bit<128> data; }
header ipv6_h {
  bit<4> version; bit<8> tc; bit<20> label;
  bit<16> len; bit<8> next; bit<8> hops;
  bit<128> src; bit<128> dst;
}
header tcp_h {
  bit<16> src_port; bit<16> dst_port; bit<32> seq; bit<32> ack;
  bit<16> flags; bit<16> window; bit<16> checksum; bit<16> urgent;
}
header udp_h { bit<16> src_port; bit<16> dst_port; bit<16> len; bit<16> checksum; }
header icmpv6_h { bit<8> type; bit<8> code; bit<16> checksum; }
header ports_h { bit<16> src_port; bit<16> dst_port; }
header vxlan_h { bit<8> flags; bit<24> reserved; bit<24> vni; bit<8> reserved2; }

struct headers_t {
  ethernet_h ethernet;
  vlan_h     vlan;
  ipv4_h     ipv4;
  options1_h options1;
  options2_h options2;
  options3_h options3;
  options4_h options4;
  ipv6_h     ipv6;
  tcp_h      tcp;
  udp_h      udp;
  icmpv6_h   icmpv6;
  vxlan_h    vxlan;
  ethernet_h inner_ethernet;
  ipv4_h     inner_ipv4;
  options1_h inner_options1;
  options2_h inner_options2;
  options3_h inner_options3;
  options4_h inner_options4;
  ipv6_h     inner_ipv6;
  ports_h    inner_l4;
}

struct metadata_t {
  face_t    face;
  bit<1>    malformed;    // the IP header does not match the EtherType
  bool      has_udp_sum;  // the outer UDP checksum is not 0, which means none
  bit<1>    dropped;      // the tables no longer matter
  // Lookup fields: inner, or outer with VNI 0 if the packet is not VXLAN.
  bit<1>    is_v6;
  bit<24>   vni;
  bit<32>   src4;
  bit<32>   dst4;
  bit<128>  src6;
  bit<128>  dst6;
  bit<8>    protocol;
  bit<16>   src_port;
  bit<16>   dst_port;
  // Results of the tables.
  vip_t     vip;
  profile_t profile;
  pool_t    pool;
  pool_t    pool_flow;
  pool_t    pool_src;
  pool_t    pool_dst;
  pool_t    pool_vpc;
  // The fields that are hashed, folded to 32 bits and masked.
  bit<32>   fold_src;
  bit<32>   fold_dst;
  bit<24>   hash_vni;
  bit<32>   hash_src;
  bit<32>   hash_dst;
  bit<8>    hash_protocol;
  bit<16>   hash_src_port;
  bit<16>   hash_dst_port;
  bit<16>   hash;
  bit<1>    generation;
  bit<16>   bucket;
  backend_t backend;
}

// The hash is the CRC32 of Ethernet over these 16 bytes. Its low bits select the
// bucket. The software gateway computes the same hash.
#define HASH_FIELDS { m.hash_vni, m.hash_src, m.hash_dst, m.hash_protocol, m.hash_src_port, m.hash_dst_port }

#endif
