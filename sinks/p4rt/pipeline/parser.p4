// The parser's states, for both architectures. The program of each includes this in
// its parser, whose parameters are packet, h and m and whose start goes to ethernet.
// It defines
//   KEEP_IPV4, KEEP_IPV6  what it keeps of the outer IP header
//   KEEP_SUM(checksum)    what it keeps of a checksum over the outer addresses
//
// The lookup fields of VXLAN packets are set here. Those of plain packets are the
// outer addresses. The control copies them, as the parser does not know yet that no
// VXLAN header follows.
state ethernet {
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
state malformed {
  m.malformed = 1;
  transition accept;
}

state ipv4 {
  packet.extract(h.ipv4);
  KEEP_IPV4
  transition select(h.ipv4.version, h.ipv4.ihl) {
    (4, 5): ipv4_next;
    (4, 6): options1;
    (4, 7): options2;
    (4, 8): options3;
    (4, 9): options4;
    (4, 10): options1;
    (4, 11): options2;
    (4, 12): options3;
    (4, 13): options1;
    (4, 14): options2;
    (4, 15): options1;
    default: malformed;
  }
}
state options1 {
  packet.extract(h.options1);
  transition select(h.ipv4.ihl) {
    6: ipv4_next;
    10: options4;
    13: options3;
    default: options2;
  }
}
state options2 {
  packet.extract(h.options2);
  transition select(h.ipv4.ihl) {
    7: ipv4_next;
    11: options4;
    default: options3;
  }
}
state options3 {
  packet.extract(h.options3);
  transition select(h.ipv4.ihl) {
    8: ipv4_next;
    default: options4;
  }
}
state options4 {
  packet.extract(h.options4);
  transition ipv4_next;
}
state ipv4_next {
  transition select(h.ipv4.offset, h.ipv4.protocol) {
    (0, PROTO_TCP): tcp;
    (0, PROTO_UDP): udp;
    default: accept;
  }
}
state ipv6 {
  packet.extract(h.ipv6);
  KEEP_IPV6
  transition select(h.ipv6.version, h.ipv6.next) {
    (6, PROTO_TCP): tcp;
    (6, PROTO_UDP): udp;
    (6, PROTO_ICMPV6): icmpv6;
    (6, _): accept;
    default: malformed;
  }
}

state tcp {
  packet.extract(h.tcp);
  m.src_port = h.tcp.src_port;
  m.dst_port = h.tcp.dst_port;
  KEEP_SUM(h.tcp.checksum)
  transition accept;
}
state icmpv6 {
  packet.extract(h.icmpv6);
  KEEP_SUM(h.icmpv6.checksum)
  transition accept;
}
state udp {
  transition select(packet.lookahead<udp_h>().checksum) {
    0: udp_port;
    default: udp_sum;
  }
}
state udp_sum {
  m.has_udp_sum = true;
  transition udp_port;
}
state udp_port {
  transition select(packet.lookahead<udp_h>().dst_port) {
    PORT_VXLAN: vxlan;
    default: plain_udp;
  }
}
state plain_udp {
  packet.extract(h.udp);
  m.src_port = h.udp.src_port;
  m.dst_port = h.udp.dst_port;
  KEEP_SUM(h.udp.checksum)
  transition accept;
}

state vxlan {
  packet.extract(h.udp);
  KEEP_SUM(h.udp.checksum)
  packet.extract(h.vxlan);
  packet.extract(h.inner_ethernet);
  m.vni = h.vxlan.vni;
  transition select(h.inner_ethernet.type) {
    TYPE_IPV4: inner_ipv4;
    TYPE_IPV6: inner_ipv6;
    default: accept;
  }
}
state inner_ipv4 {
  packet.extract(h.inner_ipv4);
  m.src4 = h.inner_ipv4.src;
  m.dst4 = h.inner_ipv4.dst;
  m.protocol = h.inner_ipv4.protocol;
  transition select(h.inner_ipv4.version, h.inner_ipv4.ihl) {
    (4, 5): inner_ipv4_next;
    (4, 6): inner_options1;
    (4, 7): inner_options2;
    (4, 8): inner_options3;
    (4, 9): inner_options4;
    (4, 10): inner_options1;
    (4, 11): inner_options2;
    (4, 12): inner_options3;
    (4, 13): inner_options1;
    (4, 14): inner_options2;
    (4, 15): inner_options1;
    default: malformed;
  }
}
state inner_options1 {
  packet.extract(h.inner_options1);
  transition select(h.inner_ipv4.ihl) {
    6: inner_ipv4_next;
    10: inner_options4;
    13: inner_options3;
    default: inner_options2;
  }
}
state inner_options2 {
  packet.extract(h.inner_options2);
  transition select(h.inner_ipv4.ihl) {
    7: inner_ipv4_next;
    11: inner_options4;
    default: inner_options3;
  }
}
state inner_options3 {
  packet.extract(h.inner_options3);
  transition select(h.inner_ipv4.ihl) {
    8: inner_ipv4_next;
    default: inner_options4;
  }
}
state inner_options4 {
  packet.extract(h.inner_options4);
  transition inner_ipv4_next;
}
state inner_ipv4_next {
  transition select(h.inner_ipv4.offset, h.inner_ipv4.protocol) {
    (0, PROTO_TCP): inner_l4;
    (0, PROTO_UDP): inner_l4;
    default: accept;
  }
}
state inner_ipv6 {
  packet.extract(h.inner_ipv6);
  m.is_v6 = 1;
  m.src6 = h.inner_ipv6.src;
  m.dst6 = h.inner_ipv6.dst;
  m.protocol = h.inner_ipv6.next;
  transition select(h.inner_ipv6.version, h.inner_ipv6.next) {
    (6, PROTO_TCP): inner_l4;
    (6, PROTO_UDP): inner_l4;
    (6, _): accept;
    default: malformed;
  }
}
state inner_l4 {
  packet.extract(h.inner_l4);
  m.src_port = h.inner_l4.src_port;
  m.dst_port = h.inner_l4.dst_port;
  transition accept;
}
