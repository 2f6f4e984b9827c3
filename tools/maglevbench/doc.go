// Package maglevbench builds gray's bucket tables side by side with those of
// Cilium. It is a module of its own, so that gray does not depend on Cilium:
//
//	cd tools/maglevbench && go test -bench .
package maglevbench
