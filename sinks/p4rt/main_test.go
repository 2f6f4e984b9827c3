package p4rt

import (
	"os"
	"testing"

	"github.com/gray-release/gray/tools/testnet"
)

// TestMain keeps the machine's network if TARGET names a switch.
func TestMain(m *testing.M) {
	if os.Getenv("TARGET") == "" {
		testnet.Enter()
	}
	os.Exit(m.Run())
}
