// Command gray is the whole system in one binary: it checks and compares
// repositories, runs the reconciler daemon, and is the software gateway. Each
// file holds one verb, and wires the packages together for it; folders hold what
// runs the daemon and the demo. Nothing is decided here.
package main
