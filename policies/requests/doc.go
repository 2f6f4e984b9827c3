// Package requests is sets of requests and what an Envoy does with them: the rules of a
// service, shares of accounts, and the model that follows a request through the routes.
//
// It is pure, and does not import the compiler, which makes its rules from the
// documents.
package requests
