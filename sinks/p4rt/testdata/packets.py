"""Makes random packets by scapy: packets.py SEED COUNT.

Prints one JSON object a packet: the frame in hexadecimal, and what a gateway has
to see in it, or why it has to drop it.
"""
import json
import random
import sys

from scapy.all import (ARP, Dot1Q, Ether, ICMP, ICMPv6EchoRequest, IP, IPOption_NOP, IPv6,
                       IPv6ExtHdrHopByHop, Raw, TCP, UDP, raw)
from scapy.layers.vxlan import VXLAN

VIP4, VIP6 = "203.0.113.10", "2001:db8::10"
VNIS = [0, 1001, 1002, 1003, 77, 0xFFFFFF]
V4 = ["10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.1.5", "10.1.0.7", "192.0.2.77", "0.0.0.0"]
V6 = ["fd00::5", "fd00::6", "fd00:1::7", "2001:db8::77"]
PORTS = [0, 22, 53, 443, 8080, 40000, 40001, 40500, 41000, 65535]

seed, count = int(sys.argv[1]), int(sys.argv[2])
rnd = random.Random(seed)


def l4(fragment, v6):
    """A transport header, or something else: (layer, protocol, ports, bytes needed)."""
    kind = rnd.choice(["tcp", "tcp", "tcp", "udp", "udp", "icmp", "other"])
    sport, dport = rnd.choice(PORTS), rnd.choice(PORTS)
    data = Raw(bytes(rnd.randrange(256) for _ in range(rnd.randrange(32))))
    if kind == "tcp":
        return TCP(sport=sport, dport=dport) / data, 6, (sport, dport), 4
    if kind == "udp":
        return UDP(sport=sport, dport=dport) / data, 17, (sport, dport), 8
    if kind == "icmp":
        return (ICMPv6EchoRequest() if v6 else ICMP()) / data, 58 if v6 else 1, (0, 0), 0
    return Raw(b"\x11" * 24) / data, 47, (0, 0), 0


def ip(src, dst, payload, proto, fragment):
    """An IP header before a payload: (layer, protocol seen, header bytes)."""
    if ":" in dst:
        if proto not in (6, 17) and rnd.random() < 0.3:
            return IPv6(src=src, dst=dst) / IPv6ExtHdrHopByHop(nh=proto) / payload, 0, 40
        return IPv6(src=src, dst=dst, nh=proto) / payload, proto, 40
    options = [IPOption_NOP()] * rnd.choice([0, 0, 0, 4, 8])
    frag, flags = (rnd.choice([1, 185, 8191]), "") if fragment else (0, rnd.choice(["", "DF", "MF"]))
    return IP(src=src, dst=dst, proto=proto, frag=frag, flags=flags, options=options, ttl=rnd.randrange(1, 256)) / payload, \
        proto, 20 + len(options)


def inner():
    """What a VXLAN header carries: (frame, fields, bytes needed)."""
    if rnd.random() < 0.05:
        return Ether(src="02:00:00:00:00:55", dst="ff:ff:ff:ff:ff:ff") / ARP(), dict(src="", dst="", proto=0, sport=0, dport=0), 14
    v6 = rnd.random() < 0.35
    src, dst = (rnd.choice(V6), rnd.choice(V6)) if v6 else (rnd.choice(V4), rnd.choice(V4))
    fragment = not v6 and rnd.random() < 0.1
    payload, proto, ports, need = l4(fragment, v6)
    layer, seen, size = ip(src, dst, payload, proto, fragment)
    if fragment or proto not in (6, 17):
        ports, need = (0, 0), 0
    return Ether(src="02:00:00:00:00:55", dst="02:00:00:00:00:56") / layer, \
        dict(src=src, dst=dst, proto=seen, sport=ports[0], dport=ports[1]), 14 + size + min(need, 4)


def packet():
    v6 = rnd.random() < 0.35
    vip = VIP6 if v6 else VIP4
    host = "2001:db8::ffff" if v6 else "192.0.2.101"
    eth = Ether(src="02:00:00:00:00:aa", dst="02:00:00:00:00:01")
    head = 14
    if rnd.random() < 0.25:
        eth, head = eth / Dot1Q(vlan=rnd.randrange(1, 4095), prio=rnd.randrange(8)), 18
    if rnd.random() < 0.75:
        carried, fields, need = inner()
        vni = rnd.choice(VNIS)
        body = UDP(sport=rnd.randrange(49152, 65536), dport=4789, chksum=0) / VXLAN(vni=vni, flags="Instance") / carried
        fragment = not v6 and rnd.random() < 0.05
        layer, _, size = ip(host, vip, body, 17, fragment)
        if fragment:  # its VXLAN header is in another packet
            fields, vni, need = dict(src=host, dst=vip, proto=17, sport=0, dport=0), 0, 0
            needed = head + size
        else:
            needed = head + size + 8 + 8 + need
        seen = dict(vip=vip, vni=vni, **fields)
    else:
        fragment = not v6 and rnd.random() < 0.1
        payload, proto, ports, need = l4(fragment, v6)
        layer, got, size = ip(host, vip, payload, proto, fragment)
        if fragment or proto not in (6, 17):
            ports, need = (0, 0), 0
        needed = head + size + need
        seen = dict(vip=vip, vni=0, src=host, dst=vip, proto=got, sport=ports[0], dport=ports[1])
    frame = bytearray(raw(eth / layer))
    seen["drop"] = ""
    kind = rnd.random()
    if kind < 0.05:
        frame = frame[:rnd.randrange(needed)]
        seen["drop"] = "truncated"
    elif kind < 0.08:
        frame[head] = (frame[head] & 0x0F) | rnd.choice([0x00, 0x10, 0x70, 0xF0])
        seen["drop"] = "malformed"
    elif kind < 0.10 and not v6:
        frame[head] = 0x40 | rnd.randrange(5)
        seen["drop"] = "malformed"
    elif kind < 0.12:
        frame[head - 2:head] = rnd.choice([b"\x08\x06", b"\x88\xcc", b"\x81\x00"])
        seen["drop"] = "no VIP"
    elif kind < 0.15:
        at = head + (24 if v6 else 16)
        frame[at] ^= 0x40
        seen["drop"] = "no VIP"
    return dict(frame=bytes(frame).hex(), **seen)


for _ in range(count):
    json.dump(packet(), sys.stdout)
    print()
