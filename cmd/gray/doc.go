// Command gray is the whole system in one binary: it validates and compares
// repositories, runs the daemon, and is a software gateway. Each file holds a verb, or
// some that are alike, and wires the packages together for it; package daemon runs the
// daemon, and package demo the demo. Nothing is decided here.
package main
