package schema

// APIVersion is the only apiVersion that gray reads.
const APIVersion = "gray.dev/v1alpha1"

// The kinds of documents.
const (
	KindPolicy  = "GrayPolicy"
	KindService = "Service"
	KindGateway = "Gateway"
	KindSwitch  = "Switch"
	KindNetwork = "Network"
	KindNode    = "Node"
)
