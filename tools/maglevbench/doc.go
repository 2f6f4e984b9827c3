// Package maglevbench compares gray's bucket tables with those of Cilium. It is a module
// of its own, so that gray does not depend on Cilium:
//
//	cd tools/maglevbench && go test -bench .
package maglevbench
