// Command fabricsim serves P4Runtime for one device of onosproject/fabric-sim, as an
// independent server to test package p4rt against. It is a module of its own, so that
// gray does not depend on fabric-sim.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/onosproject/fabric-sim/pkg/northbound/device/p4runtime/v1"
	"github.com/onosproject/fabric-sim/pkg/simulator"
	"github.com/onosproject/onos-api/go/onos/fabricsim"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
)

// agent replaces the servers that fabric-sim starts for a device; run starts the only
// one here.
type agent struct{}

func (agent) Start(*simulator.Simulation, *simulator.DeviceSimulator) error { return nil }
func (agent) Stop(fabricsim.StopMode) error                                 { return nil }

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "the loopback address to serve on; it is printed to stderr")
	flag.Parse()
	if err := run(*listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(listen string) error {
	simulation := simulator.NewSimulation()
	device := &fabricsim.Device{ID: "gray", Type: fabricsim.DeviceType_SWITCH, ChassisID: 1}
	if _, err := simulation.AddDeviceSimulator(device, agent{}); err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	const most = 64 << 20
	server := grpc.NewServer(grpc.MaxRecvMsgSize(most), grpc.MaxSendMsgSize(most))
	p4v1.RegisterP4RuntimeServer(server, p4runtime.NewServer("gray", simulation))
	fmt.Fprintln(os.Stderr, l.Addr()) // fabric-sim logs to stdout
	return server.Serve(l)
}
