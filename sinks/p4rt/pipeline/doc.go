// Package pipeline is the gray gateway's P4 program and what Go has to know of
// it: the compiled P4Info and BMv2 configuration, the P4Runtime ids, an index
// over a P4Info and the canonical byte strings that P4Runtime wants. The client
// in sinks/p4rt and the software gateway in softswitch both stand on it.
//
// gray_v1model.p4 is the program for BMv2. It includes headers.p4, parser.p4,
// tables.p4 and ids.p4, which are written so that a program for Tofino can share
// them. `make p4` compiles it where p4c is installed; the compiled files are
// committed beside it.
package pipeline
