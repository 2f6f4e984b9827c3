package health_test

import (
	"testing"

	"github.com/gray-release/gray/tools/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }
