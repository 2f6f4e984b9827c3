// Package softswitch is `gray switch`, the software gateway: a strict
// P4Runtime server and a packet path in Go that runs the gray pipeline. It is
// what a laptop and the tests have in place of a Tofino: sinks/p4rt programs it
// as it programs any other switch.
//
// The server refuses what the P4Runtime specification refuses, with the code
// that the specification names, and besides byte strings that are not in their
// shortest form, which break the symmetry of reads and writes: a client that
// passes here meets no surprise elsewhere. A Personality makes it differ as other
// servers do. Its tables come from whatever P4Info
// is pushed, with exact, ternary and range fields; packets are forwarded only by
// the gray pipeline. Default actions are constant, and constant entries, which
// are not in a P4Info, cannot be read. All state is in memory: a restarted
// switch is empty.
package softswitch
