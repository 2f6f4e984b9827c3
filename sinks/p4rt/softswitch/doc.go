// Package softswitch is `gray switch`, the software gateway: a strict P4Runtime server
// and a packet path in Go that runs the gray pipeline. Laptops and tests use it in place
// of a Tofino, and sinks/p4rt programs it like any other switch.
//
// The server refuses what the P4Runtime specification refuses, with the code that the
// specification names. It also refuses byte strings that are not in their shortest form,
// which would read back in another form than they were written. So a client that works
// here works elsewhere. A Personality makes it differ as other servers do. It has the
// tables of any P4Info, with exact, ternary and range fields, but forwards packets only
// with the gray pipeline. Default actions are constant. Constant entries are not in a
// P4Info and cannot be read. All state is in memory: a restarted switch is empty.
package softswitch
