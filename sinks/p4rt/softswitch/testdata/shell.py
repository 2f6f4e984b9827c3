"""Programs and reads a switch by p4runtime-shell: shell.py ADDRESS P4INFO CONFIG.

Prints one JSON object: what was read back, and the refusals by name.
"""
import json
import sys

import p4runtime_sh.shell as sh
from google.rpc import code_pb2
from p4runtime_sh.p4runtime import P4RuntimeWriteException

address, p4info, config = sys.argv[1:4]
sh.setup(device_id=1, grpc_addr=address, election_id=(0, 7),
         config=sh.FwdPipeConfig(p4info, config))


def entry(table, action, match, priority=0, **params):
    e = sh.TableEntry(table)(action=action)
    for k, v in match.items():
        e.match[k] = v
    for k, v in params.items():
        e.action[k] = v
    if priority:
        e.priority = priority
    return e


def refusal(do):
    try:
        do()
        return "none"
    except P4RuntimeWriteException as e:
        return [code_pb2.Code.Name(err.canonical_code) for _, err in e.errors]


entries = [
    entry("backend", "forward_mac", {"backend": "9"}, dst_mac="02:00:00:00:00:19", src_mac="02:00:00:00:00:01", port="9"),
    entry("bucket", "set_backend", {"pool": "2", "generation": "0", "hash": "5"}, backend="9"),
    entry("pool", "set_generation", {"pool": "2"}, generation="0", mask="255"),
    entry("hash_profile", "set_masks", {"profile": "1"}, vni="0xffffff", src="0xffffffff", dst="0xffffffff", protocol="0xff", src_port="0xffff", dst_port="0xffff"),
    entry("vip_v4", "set_vip", {"dst": "203.0.113.10"}, vip="1", pool="2", profile="1"),
    entry("vip_v6", "set_vip", {"dst": "2001:db8::10"}, vip="1", pool="2", profile="1"),
    entry("gray_vpc", "vpc_pool", {"vip": "1", "vni": "1001"}, pool="2"),
    entry("gray_vm_src_v4", "src_pool_v4", {"vip": "1", "vni": "1002", "src": "10.0.0.5"}, pool="2"),
    entry("gray_vm_dst_v6", "dst_pool_v6", {"vip": "1", "vni": "1002", "dst": "fd00::5"}, pool="2"),
    entry("gray_flow_v4", "flow_pool_v4", {"vip": "1", "vni": "1002&&&0xffffff", "src": "10.0.0.0&&&255.255.255.0",
                                           "protocol": "6&&&0xff", "src_port": "40000..40999"}, priority=10, pool="2"),
]
for e in entries:
    e.insert()

refusals = {"insert twice": refusal(entries[0].insert)}
entries[0].action["port"] = "10"
entries[0].modify()
absent = entry("gray_vpc", "vpc_pool", {"vip": "1", "vni": "4"}, pool="2")
refusals["modify what is not there"] = refusal(absent.modify)
refusals["delete what is not there"] = refusal(absent.delete)
refusals["no priority"] = refusal(entry("gray_flow_v4", "flow_pool_v4", {"vip": "1"}, pool="2").insert)
refusals["a constant table"] = refusal(entry("resolve", "take_flow", {"flow": "1&&&0xff"}, priority=1).insert)

names = ["backend", "bucket", "pool", "hash_profile", "vip_v4", "vip_v6", "gray_vpc", "gray_vm_src_v4", "gray_vm_dst_v6", "gray_flow_v4"]
read = {n: [str(e.msg()) for e in sh.TableEntry(n).read()] for n in names}
for e in reversed(entries):
    e.delete()
left = sum(len(list(sh.TableEntry(n).read())) for n in names)
sh.teardown()
json.dump({"read": {n: len(v) for n, v in read.items()}, "backend": read["backend"][0], "refusals": refusals, "left": left}, sys.stdout)
