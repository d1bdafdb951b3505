package topology

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// message is a netlink message about an address on interface 7.
func message(kind uint16, family byte, attrs ...[]byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr)
	b = append(b, family, 32, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, 7)
	for _, a := range attrs {
		b = append(b, a...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	return b
}

func attr(kind uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	return append(binary.NativeEndian.AppendUint16(b, kind), value...)
}

func TestParseAddresses(t *testing.T) {
	local, far := attr(unix.IFA_LOCAL, 10, 0, 0, 100), attr(unix.IFA_ADDRESS, 10, 0, 0, 200)
	v6 := netip.MustParseAddr("fd00::100")
	six := v6.As16()
	has := AddressChange{Link: 7, Addr: netip.MustParseAddr("10.0.0.100"), Has: true}
	lost := has
	lost.Has = false
	for _, tc := range []struct {
		name string
		b    []byte
		want []AddressChange
	}{
		{"nothing", nil, nil},
		{"new", message(unix.RTM_NEWADDR, unix.AF_INET, local), []AddressChange{has}},
		{"deleted", message(unix.RTM_DELADDR, unix.AF_INET, local), []AddressChange{lost}},
		{"the far end is not ours, first", message(unix.RTM_NEWADDR, unix.AF_INET, far, local), []AddressChange{has}},
		{"the far end is not ours, last", message(unix.RTM_NEWADDR, unix.AF_INET, local, far), []AddressChange{has}},
		{"IPv6 has no local", message(unix.RTM_NEWADDR, unix.AF_INET6, attr(unix.IFA_ADDRESS, six[:]...)), []AddressChange{{Link: 7, Addr: v6, Has: true}}},
		{"two in order", append(message(unix.RTM_NEWADDR, unix.AF_INET, local), message(unix.RTM_DELADDR, unix.AF_INET, local)...), []AddressChange{has, lost}},
		{"a route", message(unix.RTM_NEWROUTE, unix.AF_INET, local), nil},
		{"no address", message(unix.RTM_NEWADDR, unix.AF_INET), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseAddresses(tc.b)
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, tc.want)
			}
		})
	}
	if _, err := parseAddresses(message(unix.RTM_NEWADDR, unix.AF_INET)[:20]); err == nil {
		t.Error("half a message was taken for a whole one")
	}
}

func TestNamespaceOf(t *testing.T) {
	oob := make([]byte, unix.CmsgSpace(4))
	binary.NativeEndian.PutUint64(oob, uint64(unix.CmsgLen(4)))
	binary.NativeEndian.PutUint32(oob[8:], unix.SOL_NETLINK)
	binary.NativeEndian.PutUint32(oob[12:], unix.NETLINK_LISTEN_ALL_NSID)
	binary.NativeEndian.PutUint32(oob[16:], 3)
	if got := namespaceOf(oob); got != 3 {
		t.Errorf("got %d, want 3", got)
	}
	if got := namespaceOf(nil); got != -1 {
		t.Errorf("without a number: got %d, want -1", got)
	}
}

func FuzzParseAddresses(f *testing.F) {
	f.Add(message(unix.RTM_NEWADDR, unix.AF_INET, attr(unix.IFA_LOCAL, 10, 0, 0, 100)))
	f.Add(message(unix.RTM_DELADDR, unix.AF_INET6, attr(unix.IFA_ADDRESS, 1, 2)))
	f.Fuzz(func(t *testing.T, b []byte) {
		changes, _ := parseAddresses(b)
		for _, c := range changes {
			if !c.Addr.IsValid() {
				t.Errorf("a change without an address: %+v", c)
			}
		}
	})
}
