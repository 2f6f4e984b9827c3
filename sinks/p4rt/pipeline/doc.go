// Package pipeline has the gray gateway's P4 program and what Go needs to know about it:
// the compiled P4Info and BMv2 configuration, the P4Runtime ids, an index of a P4Info,
// and the canonical byte strings of P4Runtime. Both the client in sinks/p4rt and the
// software gateway in softswitch use it.
//
// The program is for two architectures: gray_v1model.p4 for BMv2 and gray_tna.p4 for
// Tofino. They share headers.p4, parser.p4, tables.p4 and ids.p4, and so they have the
// same P4Info. `make p4` compiles them if p4c is installed. The output is committed,
// except Tofino's binary, which depends on the switch's SDE.
package pipeline
