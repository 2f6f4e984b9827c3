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
#include <core.p4>
#include <v1model.p4>
#include "headers.p4"
#include "ids.p4"

parser GrayParser(packet_in packet, out headers_t h, inout metadata_t m, inout standard_metadata_t std) {
  state start {
    packet.extract(h.ethernet);
    transition select(h.ethernet.type) {
      TYPE_VLAN: vlan;
      TYPE_IPV4: ipv4;
      TYPE_IPV6: ipv6;
      default: accept;
    }
  }
  state vlan {
    packet.extract(h.vlan);
    transition select(h.vlan.type) {
      TYPE_IPV4: ipv4;
      TYPE_IPV6: ipv6;
      default: accept;
    }
  }
  state ipv4 {
    packet.extract(h.ipv4);
    verify(h.ipv4.version == 4 && h.ipv4.ihl >= 5, error.ParserInvalidArgument);
    m.src4 = h.ipv4.src;
    m.dst4 = h.ipv4.dst;
    m.protocol = h.ipv4.protocol;
    packet.extract(h.ipv4_options, (bit<32>)(((bit<16>)h.ipv4.ihl - 5) * 32));
    transition select(h.ipv4.offset, h.ipv4.protocol) {
      (0, PROTO_UDP): udp;
      (0, PROTO_TCP): tcp;
      default: accept;
    }
  }
  state ipv6 {
    packet.extract(h.ipv6);
    verify(h.ipv6.version == 6, error.ParserInvalidArgument);
    m.is_v6 = 1;
    m.src6 = h.ipv6.src;
    m.dst6 = h.ipv6.dst;
    m.protocol = h.ipv6.next;
    transition select(h.ipv6.next) {
      PROTO_UDP: udp;
      PROTO_TCP: tcp;
      default: accept;
    }
  }
  state tcp {
    packet.extract(h.tcp);
    m.src_port = h.tcp.src_port;
    m.dst_port = h.tcp.dst_port;
    transition accept;
  }
  state udp {
    packet.extract(h.udp);
    m.src_port = h.udp.src_port;
    m.dst_port = h.udp.dst_port;
    transition select(h.udp.dst_port) {
      PORT_VXLAN: vxlan;
      default: accept;
    }
  }
  state vxlan {
    packet.extract(h.vxlan);
    packet.extract(h.inner_ethernet);
    m.vni = h.vxlan.vni;
    m.is_v6 = 0;
    m.src4 = 0;
    m.dst4 = 0;
    m.src6 = 0;
    m.dst6 = 0;
    m.protocol = 0;
    m.src_port = 0;
    m.dst_port = 0;
    transition select(h.inner_ethernet.type) {
      TYPE_IPV4: inner_ipv4;
      TYPE_IPV6: inner_ipv6;
      default: accept;
    }
  }
  state inner_ipv4 {
    packet.extract(h.inner_ipv4);
    verify(h.inner_ipv4.version == 4 && h.inner_ipv4.ihl >= 5, error.ParserInvalidArgument);
    m.src4 = h.inner_ipv4.src;
    m.dst4 = h.inner_ipv4.dst;
    m.protocol = h.inner_ipv4.protocol;
    packet.extract(h.inner_ipv4_options, (bit<32>)(((bit<16>)h.inner_ipv4.ihl - 5) * 32));
    transition select(h.inner_ipv4.offset, h.inner_ipv4.protocol) {
      (0, PROTO_UDP): inner_l4;
      (0, PROTO_TCP): inner_l4;
      default: accept;
    }
  }
  state inner_ipv6 {
    packet.extract(h.inner_ipv6);
    verify(h.inner_ipv6.version == 6, error.ParserInvalidArgument);
    m.is_v6 = 1;
    m.src6 = h.inner_ipv6.src;
    m.dst6 = h.inner_ipv6.dst;
    m.protocol = h.inner_ipv6.next;
    transition select(h.inner_ipv6.next) {
      PROTO_UDP: inner_l4;
      PROTO_TCP: inner_l4;
      default: accept;
    }
  }
  state inner_l4 {
    packet.extract(h.inner_l4);
    m.src_port = h.inner_l4.src_port;
    m.dst_port = h.inner_l4.dst_port;
    transition accept;
  }
}

control GrayVerify(inout headers_t h, inout metadata_t m) { apply {} }

control GrayIngress(inout headers_t h, inout metadata_t m, inout standard_metadata_t std) {
  @id(0x13000001) @name(".count_flow_v4") direct_counter(CounterType.packets_and_bytes) count_flow_v4;
  @id(0x13000002) @name(".count_flow_v6") direct_counter(CounterType.packets_and_bytes) count_flow_v6;
  @id(0x13000003) @name(".count_vm_src_v4") direct_counter(CounterType.packets_and_bytes) count_vm_src_v4;
  @id(0x13000004) @name(".count_vm_dst_v4") direct_counter(CounterType.packets_and_bytes) count_vm_dst_v4;
  @id(0x13000005) @name(".count_vm_src_v6") direct_counter(CounterType.packets_and_bytes) count_vm_src_v6;
  @id(0x13000006) @name(".count_vm_dst_v6") direct_counter(CounterType.packets_and_bytes) count_vm_dst_v6;
  @id(0x13000007) @name(".count_vpc") direct_counter(CounterType.packets_and_bytes) count_vpc;
  @id(0x13000008) @name(".count_backend") direct_counter(CounterType.packets_and_bytes) count_backend;

  @id(ID_DROP) @name(".drop") action drop() { mark_to_drop(std); exit; }

  @id(ID_SET_VIP) @name(".set_vip")
  action set_vip(@id(1) vip_t vip, @id(2) pool_t pool, @id(3) profile_t profile) {
    m.vip = vip;
    m.pool = pool;
    m.profile = profile;
  }
  @id(ID_VIP_V4) @name(".vip_v4") table vip_v4 {
    key = { h.ipv4.dst: exact @id(1) @name("dst"); }
    actions = { set_vip; @defaultonly drop; }
    const default_action = drop();
    size = 1024;
  }
  @id(ID_VIP_V6) @name(".vip_v6") table vip_v6 {
    key = { h.ipv6.dst: exact @id(1) @name("dst"); }
    actions = { set_vip; @defaultonly drop; }
    const default_action = drop();
    size = 1024;
  }

  @id(ID_FLOW_POOL) @name(".flow_pool") action flow_pool(@id(1) pool_t pool) { m.pool_flow = pool; }
  @id(ID_SRC_POOL) @name(".src_pool") action src_pool(@id(1) pool_t pool) { m.pool_src = pool; }
  @id(ID_DST_POOL) @name(".dst_pool") action dst_pool(@id(1) pool_t pool) { m.pool_dst = pool; }
  @id(ID_VPC_POOL) @name(".vpc_pool") action vpc_pool(@id(1) pool_t pool) { m.pool_vpc = pool; }

  @id(ID_GRAY_FLOW_V4) @name(".gray_flow_v4") table gray_flow_v4 {
    key = {
      m.vip: exact @id(1) @name("vip");
      m.vni: ternary @id(2) @name("vni");
      m.src4: ternary @id(3) @name("src");
      m.dst4: ternary @id(4) @name("dst");
      m.protocol: ternary @id(5) @name("protocol");
      m.src_port: range @id(6) @name("src_port");
      m.dst_port: range @id(7) @name("dst_port");
    }
    actions = { flow_pool; @defaultonly NoAction; }
    const default_action = NoAction();
    size = 2048;
    counters = count_flow_v4;
  }
  @id(ID_GRAY_FLOW_V6) @name(".gray_flow_v6") table gray_flow_v6 {
    key = {
      m.vip: exact @id(1) @name("vip");
      m.vni: ternary @id(2) @name("vni");
      m.src6: ternary @id(3) @name("src");
      m.dst6: ternary @id(4) @name("dst");
      m.protocol: ternary @id(5) @name("protocol");
      m.src_port: range @id(6) @name("src_port");
      m.dst_port: range @id(7) @name("dst_port");
    }
    actions = { flow_pool; @defaultonly NoAction; }
    const default_action = NoAction();
    size = 1024;
    counters = count_flow_v6;
  }

  @id(ID_GRAY_VM_SRC_V4) @name(".gray_vm_src_v4") table gray_vm_src_v4 {
    key = {
      m.vip: exact @id(1) @name("vip");
      m.vni: exact @id(2) @name("vni");
      m.src4: exact @id(3) @name("src");
    }
    actions = { src_pool; @defaultonly NoAction; }
    const default_action = NoAction();
    size = 65536;
    counters = count_vm_src_v4;
  }
  @id(ID_GRAY_VM_DST_V4) @name(".gray_vm_dst_v4") table gray_vm_dst_v4 {
    key = {
      m.vip: exact @id(1) @name("vip");
      m.vni: exact @id(2) @name("vni");
      m.dst4: exact @id(3) @name("dst");
    }
    actions = { dst_pool; @defaultonly NoAction; }
    const default_action = NoAction();
    size = 65536;
    counters = count_vm_dst_v4;
  }
  @id(ID_GRAY_VM_SRC_V6) @name(".gray_vm_src_v6") table gray_vm_src_v6 {
    key = {
      m.vip: exact @id(1) @name("vip");
      m.vni: exact @id(2) @name("vni");
      m.src6: exact @id(3) @name("src");
    }
    actions = { src_pool; @defaultonly NoAction; }
    const default_action = NoAction();
    size = 16384;
    counters = count_vm_src_v6;
  }
  @id(ID_GRAY_VM_DST_V6) @name(".gray_vm_dst_v6") table gray_vm_dst_v6 {
    key = {
      m.vip: exact @id(1) @name("vip");
      m.vni: exact @id(2) @name("vni");
      m.dst6: exact @id(3) @name("dst");
    }
    actions = { dst_pool; @defaultonly NoAction; }
    const default_action = NoAction();
    size = 16384;
    counters = count_vm_dst_v6;
  }

  @id(ID_GRAY_VPC) @name(".gray_vpc") table gray_vpc {
    key = {
      m.vip: exact @id(1) @name("vip");
      m.vni: exact @id(2) @name("vni");
    }
    actions = { vpc_pool; @defaultonly NoAction; }
    const default_action = NoAction();
    size = 16384;
    counters = count_vpc;
  }

  @id(ID_TAKE_FLOW) @name(".take_flow") action take_flow() { m.pool = m.pool_flow; }
  @id(ID_TAKE_SRC) @name(".take_src") action take_src() { m.pool = m.pool_src; }
  @id(ID_TAKE_DST) @name(".take_dst") action take_dst() { m.pool = m.pool_dst; }
  @id(ID_TAKE_VPC) @name(".take_vpc") action take_vpc() { m.pool = m.pool_vpc; }
  @id(ID_TAKE_DEFAULT) @name(".take_default") action take_default() {}
  @id(ID_RESOLVE) @name(".resolve") table resolve {
    key = {
      m.pool_flow: ternary @id(1) @name("flow");
      m.pool_src: ternary @id(2) @name("src");
      m.pool_dst: ternary @id(3) @name("dst");
      m.pool_vpc: ternary @id(4) @name("vpc");
    }
    actions = { take_flow; take_src; take_dst; take_vpc; take_default; }
    const default_action = take_default();
    const entries = {
      (0, 0, 0, 0): take_default();
      (0, 0, 0, _): take_vpc();
      (0, 0, _, _): take_dst();
      (0, _, _, _): take_src();
      (_, _, _, _): take_flow();
    }
  }

  @id(ID_SET_MASKS) @name(".set_masks")
  action set_masks(@id(1) bit<24> vni, @id(2) bit<32> src, @id(3) bit<32> dst,
                   @id(4) bit<8> protocol, @id(5) bit<16> src_port, @id(6) bit<16> dst_port) {
    m.hash_vni = m.vni & vni;
    m.hash_src = m.hash_src & src;
    m.hash_dst = m.hash_dst & dst;
    m.hash_protocol = m.protocol & protocol;
    m.hash_src_port = m.src_port & src_port;
    m.hash_dst_port = m.dst_port & dst_port;
  }
  @id(ID_HASH_PROFILE) @name(".hash_profile") table hash_profile {
    key = { m.profile: exact @id(1) @name("profile"); }
    actions = { set_masks; @defaultonly drop; }
    const default_action = drop();
    size = 256;
  }

  @id(ID_SET_GENERATION) @name(".set_generation")
  action set_generation(@id(1) bit<1> generation, @id(2) bit<16> mask) {
    m.generation = generation;
    m.bucket = (bit<16>)m.hash & mask;
  }
  @id(ID_POOL) @name(".pool") table pool {
    key = { m.pool: exact @id(1) @name("pool"); }
    actions = { set_generation; @defaultonly drop; }
    const default_action = drop();
    size = 256;
  }

  @id(ID_SET_BACKEND) @name(".set_backend") action set_backend(@id(1) backend_t backend) { m.backend = backend; }
  @id(ID_BUCKET) @name(".bucket") table bucket {
    key = {
      m.pool: exact @id(1) @name("pool");
      m.generation: exact @id(2) @name("generation");
      m.bucket: exact @id(3) @name("hash");
    }
    actions = { set_backend; @defaultonly drop; }
    const default_action = drop();
    size = 524288;
  }

  @id(ID_FORWARD_MAC) @name(".forward_mac")
  action forward_mac(@id(1) mac_t dst_mac, @id(2) mac_t src_mac, @id(3) bit<9> port) {
    h.ethernet.dst = dst_mac;
    h.ethernet.src = src_mac;
    std.egress_spec = port;
  }
  // The outer UDP checksum becomes 0, "none": the rewritten address would make
  // it wrong, and VXLAN does without (RFC 7348, RFC 6935). A TCP checksum would
  // be wrong too, so the compiler refuses forward: ip for now.
  @id(ID_FORWARD_IP_V4) @name(".forward_ip_v4")
  action forward_ip_v4(@id(1) mac_t dst_mac, @id(2) mac_t src_mac, @id(3) bit<9> port, @id(4) bit<32> address) {
    h.ethernet.dst = dst_mac;
    h.ethernet.src = src_mac;
    std.egress_spec = port;
    h.ipv4.dst = address;
    h.udp.checksum = 0;
  }
  @id(ID_FORWARD_IP_V6) @name(".forward_ip_v6")
  action forward_ip_v6(@id(1) mac_t dst_mac, @id(2) mac_t src_mac, @id(3) bit<9> port, @id(4) bit<128> address) {
    h.ethernet.dst = dst_mac;
    h.ethernet.src = src_mac;
    std.egress_spec = port;
    h.ipv6.dst = address;
    h.udp.checksum = 0;
  }
  @id(ID_BACKEND) @name(".backend") table backend {
    key = { m.backend: exact @id(1) @name("backend"); }
    actions = { forward_mac; forward_ip_v4; forward_ip_v6; @defaultonly drop; }
    const default_action = drop();
    size = 4096;
    counters = count_backend;
  }

  action fold_v4() {
    m.hash_src = m.src4;
    m.hash_dst = m.dst4;
  }
  action fold_v6() {
    m.hash_src = m.src6[127:96] ^ m.src6[95:64] ^ m.src6[63:32] ^ m.src6[31:0];
    m.hash_dst = m.dst6[127:96] ^ m.dst6[95:64] ^ m.dst6[63:32] ^ m.dst6[31:0];
  }

  apply {
    if (std.parser_error != error.NoError) {
      drop();
    }
    if (h.ipv4.isValid()) {
      vip_v4.apply();
    } else if (h.ipv6.isValid()) {
      vip_v6.apply();
    } else {
      drop();
    }
    if (m.is_v6 == 0) {
      fold_v4();
      gray_flow_v4.apply();
      gray_vm_src_v4.apply();
      gray_vm_dst_v4.apply();
    } else {
      fold_v6();
      gray_flow_v6.apply();
      gray_vm_src_v6.apply();
      gray_vm_dst_v6.apply();
    }
    gray_vpc.apply();
    hash_profile.apply();
    resolve.apply();
    hash(m.hash, HashAlgorithm.crc32, 32w0,
         { m.hash_vni, m.hash_src, m.hash_dst, m.hash_protocol, m.hash_src_port, m.hash_dst_port }, 64w0x100000000);
    pool.apply();
    bucket.apply();
    backend.apply();
  }
}

control GrayEgress(inout headers_t h, inout metadata_t m, inout standard_metadata_t std) { apply {} }

control GrayChecksum(inout headers_t h, inout metadata_t m) {
  apply {
    update_checksum(h.ipv4.isValid(),
      { h.ipv4.version, h.ipv4.ihl, h.ipv4.tos, h.ipv4.len, h.ipv4.id, h.ipv4.flags, h.ipv4.offset,
        h.ipv4.ttl, h.ipv4.protocol, h.ipv4.src, h.ipv4.dst, h.ipv4_options.data },
      h.ipv4.checksum, HashAlgorithm.csum16);
  }
}

control GrayDeparser(packet_out packet, in headers_t h) { apply { packet.emit(h); } }

V1Switch(GrayParser(), GrayVerify(), GrayIngress(), GrayEgress(), GrayChecksum(), GrayDeparser()) main;
