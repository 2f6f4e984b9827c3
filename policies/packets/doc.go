// Package packets is sets of packets and what a switch does with them: the rules of a
// gateway with the fewest entries, the conflicts of policies, hash buckets and blends,
// and the flow model that follows a packet through the tables.
//
// It is pure, and does not import the compiler, which makes its Policies from the
// documents.
package packets
