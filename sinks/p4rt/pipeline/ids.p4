// P4Runtime ids, the same for both architectures. ids.go has them for Go; a test
// compares the two.
#ifndef GRAY_IDS
#define GRAY_IDS

#define ID_VIP_V4        0x02000001
#define ID_VIP_V6        0x02000002
#define ID_GRAY_FLOW_V4  0x02000003
#define ID_GRAY_FLOW_V6  0x02000004
#define ID_GRAY_VM_SRC_V4 0x02000005
#define ID_GRAY_VM_DST_V4 0x02000006
#define ID_GRAY_VM_SRC_V6 0x02000007
#define ID_GRAY_VM_DST_V6 0x02000008
#define ID_GRAY_VPC      0x02000009
#define ID_HASH_PROFILE  0x0200000a
#define ID_RESOLVE       0x0200000b
#define ID_POOL          0x0200000c
#define ID_BUCKET        0x0200000d
#define ID_BACKEND       0x0200000e

#define ID_SET_VIP        0x01000001
#define ID_FLOW_POOL_V4   0x01000002
#define ID_SRC_POOL_V4    0x01000003
#define ID_DST_POOL_V4    0x01000004
#define ID_VPC_POOL       0x01000005
#define ID_SET_MASKS      0x01000006
#define ID_SET_GENERATION 0x01000007
#define ID_SET_BACKEND    0x01000008
#define ID_FORWARD_MAC    0x01000009
#define ID_FORWARD_IP_V4  0x0100000a
#define ID_FORWARD_IP_V6  0x0100000b
#define ID_DROP           0x0100000c
#define ID_TAKE_FLOW      0x0100000d
#define ID_TAKE_SRC       0x0100000e
#define ID_TAKE_DST       0x0100000f
#define ID_TAKE_VPC       0x01000010
#define ID_TAKE_DEFAULT   0x01000011
#define ID_FLOW_POOL_V6   0x01000012
#define ID_SRC_POOL_V6    0x01000013
#define ID_DST_POOL_V6    0x01000014

#endif
