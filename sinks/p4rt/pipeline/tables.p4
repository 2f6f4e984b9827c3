// Counters, actions, tables and their order, for both architectures. The program of
// each includes this in its ingress control, which has parameters h and m. It defines
//   DIRECT_COUNTER(name)  the declaration of a direct counter
//   PARSER_FAILED         whether the packet is truncated
//   FIRST                 what it does first with each packet
//   action drop()         drops the packet and sets m.dropped
//   action send(port)     sends the packet out of a port
//   action hash_fields()  m.hash = the low bits of CRC32 over HASH_FIELDS
//
// The rule tables are looked up in parallel: none uses the result of another. On
// Tofino each table that depends on another needs a stage, and the path through
// vip, rules, resolve, pool, bucket and backend needs all stages there are.

// For Tofino, p4c derives the ids of counters from their names and ignores @id. For
// BMv2, @id sets the same ones.
@id(0x136b1b76) @name(".count_flow_v4") DIRECT_COUNTER(count_flow_v4)
@id(0x13bcdc18) @name(".count_flow_v6") DIRECT_COUNTER(count_flow_v6)
@id(0x13979c32) @name(".count_vm_src_v4") DIRECT_COUNTER(count_vm_src_v4)
@id(0x1357724d) @name(".count_vm_dst_v4") DIRECT_COUNTER(count_vm_dst_v4)
@id(0x135351a9) @name(".count_vm_src_v6") DIRECT_COUNTER(count_vm_src_v6)
@id(0x1302ada3) @name(".count_vm_dst_v6") DIRECT_COUNTER(count_vm_dst_v6)
@id(0x137c3ecc) @name(".count_vpc") DIRECT_COUNTER(count_vpc)
@id(0x13ad51e6) @name(".count_backend") DIRECT_COUNTER(count_backend)

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

// A direct counter belongs to one table, and so does an action that counts.
@id(ID_FLOW_POOL_V4) @name(".flow_pool_v4")
action flow_pool_v4(@id(1) pool_t pool) { m.pool_flow = pool; count_flow_v4.count(); }
@id(ID_FLOW_POOL_V6) @name(".flow_pool_v6")
action flow_pool_v6(@id(1) pool_t pool) { m.pool_flow = pool; count_flow_v6.count(); }
@id(ID_SRC_POOL_V4) @name(".src_pool_v4")
action src_pool_v4(@id(1) pool_t pool) { m.pool_src = pool; count_vm_src_v4.count(); }
@id(ID_SRC_POOL_V6) @name(".src_pool_v6")
action src_pool_v6(@id(1) pool_t pool) { m.pool_src = pool; count_vm_src_v6.count(); }
@id(ID_DST_POOL_V4) @name(".dst_pool_v4")
action dst_pool_v4(@id(1) pool_t pool) { m.pool_dst = pool; count_vm_dst_v4.count(); }
@id(ID_DST_POOL_V6) @name(".dst_pool_v6")
action dst_pool_v6(@id(1) pool_t pool) { m.pool_dst = pool; count_vm_dst_v6.count(); }
@id(ID_VPC_POOL) @name(".vpc_pool")
action vpc_pool(@id(1) pool_t pool) { m.pool_vpc = pool; count_vpc.count(); }

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
  actions = { flow_pool_v4; @defaultonly NoAction; }
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
  actions = { flow_pool_v6; @defaultonly NoAction; }
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
  actions = { src_pool_v4; @defaultonly NoAction; }
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
  actions = { dst_pool_v4; @defaultonly NoAction; }
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
  actions = { src_pool_v6; @defaultonly NoAction; }
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
  actions = { dst_pool_v6; @defaultonly NoAction; }
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
  size = 5;
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
  m.bucket = m.hash & mask;
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
action forward_mac(@id(1) mac_t dst_mac, @id(2) mac_t src_mac, @id(3) port_t port) {
  h.ethernet.dst = dst_mac;
  h.ethernet.src = src_mac;
  send(port);
  count_backend.count();
}
// Each program updates the checksums over the outer destination. An address of the
// other family is not written to any header, and the packet keeps its VIP.
@id(ID_FORWARD_IP_V4) @name(".forward_ip_v4")
action forward_ip_v4(@id(1) mac_t dst_mac, @id(2) mac_t src_mac, @id(3) port_t port, @id(4) bit<32> address) {
  h.ethernet.dst = dst_mac;
  h.ethernet.src = src_mac;
  h.ipv4.dst = address;
  send(port);
  count_backend.count();
}
@id(ID_FORWARD_IP_V6) @name(".forward_ip_v6")
action forward_ip_v6(@id(1) mac_t dst_mac, @id(2) mac_t src_mac, @id(3) port_t port, @id(4) bit<128> address) {
  h.ethernet.dst = dst_mac;
  h.ethernet.src = src_mac;
  h.ipv6.dst = address;
  send(port);
  count_backend.count();
}
@id(ID_BACKEND) @name(".backend") table backend {
  key = { m.backend: exact @id(1) @name("backend"); }
  actions = { forward_mac; forward_ip_v4; forward_ip_v6; @defaultonly drop; }
  const default_action = drop();
  size = 4096;
  counters = count_backend;
}

// Plain packets are looked up by their outer fields. An IPv6 address is hashed as the
// XOR of its four words: first two pairs in parallel, as Tofino's ALUs have two
// inputs, then their results.
@hidden action plain_v4() {
  m.src4 = h.ipv4.src;
  m.dst4 = h.ipv4.dst;
  m.protocol = h.ipv4.protocol;
  m.hash_src = h.ipv4.src;
  m.hash_dst = h.ipv4.dst;
}
@hidden action plain_v6() {
  m.is_v6 = 1;
  m.src6 = h.ipv6.src;
  m.dst6 = h.ipv6.dst;
  m.protocol = h.ipv6.next;
  m.hash_src = h.ipv6.src[127:96] ^ h.ipv6.src[95:64];
  m.fold_src = h.ipv6.src[63:32] ^ h.ipv6.src[31:0];
  m.hash_dst = h.ipv6.dst[127:96] ^ h.ipv6.dst[95:64];
  m.fold_dst = h.ipv6.dst[63:32] ^ h.ipv6.dst[31:0];
}
@hidden action inner_v4() {
  m.hash_src = m.src4;
  m.hash_dst = m.dst4;
}
@hidden action inner_v6() {
  m.hash_src = m.src6[127:96] ^ m.src6[95:64];
  m.fold_src = m.src6[63:32] ^ m.src6[31:0];
  m.hash_dst = m.dst6[127:96] ^ m.dst6[95:64];
  m.fold_dst = m.dst6[63:32] ^ m.dst6[31:0];
}
@hidden action fold() {
  m.hash_src = m.hash_src ^ m.fold_src;
  m.hash_dst = m.hash_dst ^ m.fold_dst;
}

// The compiler for Tofino puts nothing else in the stages between the rule tables of
// one family. So the hash is begun before them and completed after them. There is no
// test between them whether a packet was dropped, as it would add stages: a packet
// for no VIP has VIP number 0, which no rule has.
apply {
  FIRST
  if (PARSER_FAILED || m.malformed == 1) {
    drop();
  } else if (h.ipv4.isValid()) {
    vip_v4.apply();
  } else if (h.ipv6.isValid()) {
    vip_v6.apply();
  } else {
    drop();
  }
  if (h.vxlan.isValid()) {
    if (m.is_v6 == 0) {
      inner_v4();
    } else {
      inner_v6();
    }
  } else if (h.ipv4.isValid()) {
    plain_v4();
  } else {
    plain_v6();
  }
  fold();
  if (m.is_v6 == 0) {
    gray_flow_v4.apply();
    gray_vm_src_v4.apply();
    gray_vm_dst_v4.apply();
  } else {
    gray_flow_v6.apply();
    gray_vm_src_v6.apply();
    gray_vm_dst_v6.apply();
  }
  gray_vpc.apply();
  hash_profile.apply();
  hash_fields();
  resolve.apply();
  pool.apply();
  bucket.apply();
  if (m.dropped == 0) {
    backend.apply();
  }
}
