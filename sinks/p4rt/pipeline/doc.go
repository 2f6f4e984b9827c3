// Package pipeline is the gray gateway's P4 program and what Go has to know of
// it: the compiled P4Info and BMv2 configuration, the P4Runtime ids, an index
// over a P4Info and the canonical byte strings that P4Runtime wants. The client
// in sinks/p4rt and the software gateway in softswitch both stand on it.
//
// The program has two faces, gray_v1model.p4 for BMv2 and gray_tna.p4 for Tofino.
// They share headers.p4, parser.p4, tables.p4 and ids.p4, and so their P4Info, which
// is committed once.
// `make p4` compiles them where p4c is installed; what comes of it is committed
// beside them, but for Tofino's binary, which depends on the switch's SDE.
package pipeline
