// Package health is the source that checks the servers behind gateways: what it
// finds is a fact beside the documents, from which policies compiles the hash
// buckets. It takes what is to be checked from the loop's board and reports to it.
package health
