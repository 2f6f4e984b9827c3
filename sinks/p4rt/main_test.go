package p4rt

import (
	"os"
	"testing"

	"github.com/gray-release/gray/tools/testnet"
)

// TestMain leaves a switch of somebody else's within reach.
func TestMain(m *testing.M) {
	if os.Getenv("TARGET") == "" {
		testnet.Enter()
	}
	os.Exit(m.Run())
}
