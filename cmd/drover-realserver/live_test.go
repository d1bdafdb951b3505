package main

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// A drain waits for connections, and not for clients that have gone.
func TestLive(t *testing.T) {
	for _, tc := range []struct {
		state           uint8
		retransmissions uint8
		want            bool
	}{
		{netlink.TCP_SYN_RECV, 0, true},
		{netlink.TCP_ESTABLISHED, 0, true},
		{netlink.TCP_ESTABLISHED, 9, true}, // the application has not closed it: it may be a network that comes back
		{netlink.TCP_CLOSE_WAIT, 9, true},
		{netlink.TCP_FIN_WAIT1, 0, true},
		{netlink.TCP_FIN_WAIT1, 4, true},
		{netlink.TCP_FIN_WAIT1, 5, false},
		{netlink.TCP_CLOSING, 5, false},
		{netlink.TCP_LAST_ACK, 4, true},
		{netlink.TCP_LAST_ACK, 5, false},
		{netlink.TCP_FIN_WAIT2, 0, false},
		{netlink.TCP_TIME_WAIT, 0, false},
		{netlink.TCP_LISTEN, 0, false},
	} {
		if got := live(tc.state, tc.retransmissions); got != tc.want {
			t.Errorf("%s, %d retransmissions: %v", stateWord(tc.state), tc.retransmissions, got)
		}
	}
}
