package pipeline

// The ids of the tables.
const (
	TableVIPv4       uint32 = 0x02000001
	TableVIPv6       uint32 = 0x02000002
	TableFlowV4      uint32 = 0x02000003
	TableFlowV6      uint32 = 0x02000004
	TableVMSrcV4     uint32 = 0x02000005
	TableVMDstV4     uint32 = 0x02000006
	TableVMSrcV6     uint32 = 0x02000007
	TableVMDstV6     uint32 = 0x02000008
	TableVPC         uint32 = 0x02000009
	TableHashProfile uint32 = 0x0200000a
	TableResolve     uint32 = 0x0200000b
	TablePool        uint32 = 0x0200000c
	TableBucket      uint32 = 0x0200000d
	TableBackend     uint32 = 0x0200000e
)

// The ids of the actions that entries may have. Each rule table has its own: on
// Tofino an action that counts belongs to one table.
const (
	ActionSetVIP        uint32 = 0x01000001
	ActionFlowPoolV4    uint32 = 0x01000002
	ActionSrcPoolV4     uint32 = 0x01000003
	ActionDstPoolV4     uint32 = 0x01000004
	ActionVPCPool       uint32 = 0x01000005
	ActionSetMasks      uint32 = 0x01000006
	ActionSetGeneration uint32 = 0x01000007
	ActionSetBackend    uint32 = 0x01000008
	ActionForwardMAC    uint32 = 0x01000009
	ActionForwardIPv4   uint32 = 0x0100000a
	ActionForwardIPv6   uint32 = 0x0100000b
	ActionFlowPoolV6    uint32 = 0x01000012
	ActionSrcPoolV6     uint32 = 0x01000013
	ActionDstPoolV6     uint32 = 0x01000014
)
