package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"syscall"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// listener is a slog.Handler for GoBGP's own log. Only there GoBGP says why a
// connection fails, so those records go to the board. Warnings go on to the daemon's
// log, everything else is dropped.
type listener struct {
	board    *board
	log      slog.Handler
	neighbor netip.Addr // whose log it is; zero: the speaker's
}

// Enabled implements slog.Handler.
func (l *listener) Enabled(context.Context, slog.Level) bool { return true }

// WithGroup implements slog.Handler; GoBGP makes no groups.
func (l *listener) WithGroup(string) slog.Handler { return l }

// WithAttrs implements slog.Handler.
func (l *listener) WithAttrs(attrs []slog.Attr) slog.Handler {
	inner := &listener{board: l.board, log: l.log.WithAttrs(attrs), neighbor: l.neighbor}
	for _, a := range attrs {
		if a.Key == "Key" {
			inner.neighbor, _ = netip.ParseAddr(a.Value.String())
		}
	}
	return inner
}

// Handle implements slog.Handler.
func (l *listener) Handle(ctx context.Context, r slog.Record) error {
	attrs := map[string]slog.Value{}
	if r.Message == "failed to connect" || r.Message == "sent notification" || r.Message == "outgoing connection IO error" {
		r.Attrs(func(a slog.Attr) bool {
			attrs[a.Key] = a.Value
			return true
		})
	}
	switch r.Message {
	case "failed to connect":
		l.board.fail(l.neighbor, dialReason(l.neighbor, attrs["Error"].String()))
	case "sent notification":
		l.board.fail(l.neighbor, refusal(attrs["Code"].Int64(), attrs["Subcode"].Int64()))
	case "outgoing connection IO error":
		l.board.fail(l.neighbor, "the neighbor closed the connection at once; does it know this host's address as a neighbor?")
	case "failed to stop BGP server": // Stop after StopBgp, which has
	default:
		if r.Level >= slog.LevelWarn && l.log.Enabled(ctx, r.Level) {
			return l.log.Handle(ctx, r)
		}
	}
	return nil
}

// dialReason says what a failed connection means. A wrong MD5 password looks like no
// answer at all: the kernel drops segments that are signed with another one.
func dialReason(neighbor netip.Addr, text string) string {
	switch {
	case strings.Contains(text, "i/o timeout"), strings.Contains(text, syscall.ETIMEDOUT.Error()):
		return fmt.Sprintf("no answer from %s port 179; is it reachable, and do both sides have the same MD5 password or none?", neighbor)
	case strings.Contains(text, syscall.ECONNREFUSED.Error()):
		return fmt.Sprintf("%s refuses connections to port 179; is BGP running there?", neighbor)
	case strings.Contains(text, syscall.EADDRNOTAVAIL.Error()):
		return "localAddress is not an address of the daemon's host"
	}
	return text
}

// refusal says why this side ended a session before it was up.
func refusal(code, subcode int64) string {
	switch {
	case code == packet.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == packet.BGP_ERROR_SUB_BAD_PEER_AS:
		return "the neighbor has another AS number than the document gives it"
	case code == packet.BGP_ERROR_FSM_ERROR:
		return refused
	}
	return "this side ended the session: " + packet.NewNotificationErrorCode(uint8(code), uint8(subcode)).String()
}

const refused = "the neighbor refused the session; does it expect this AS number and address?"

// downReason says in words why GoBGP ended a session; "" where it gives no reason.
func downReason(message string) string {
	sent, isSent := strings.CutPrefix(message, "notification-sent ")
	received, isReceived := strings.CutPrefix(message, "notification-received ")
	switch {
	case isSent:
		return "this side ended the session: " + sent
	case isReceived:
		return "the neighbor ended the session: " + received
	}
	switch message {
	case "read-failed", "write-failed", "graceful-restart":
		return "the connection was lost"
	case "hold-timer-expired":
		return "nothing was heard from the neighbor for the hold time"
	case "bad-peer-as":
		return refusal(packet.BGP_ERROR_OPEN_MESSAGE_ERROR, packet.BGP_ERROR_SUB_BAD_PEER_AS)
	case "invalid-msg":
		return refused
	case "idle-hold-timer-expired", "new-connection", "open-msg-received", "open-msg-negotiated", "dying", "":
		return "" // steps on the way, no reasons
	}
	return message
}
