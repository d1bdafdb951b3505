package kernel

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/drover-lb/drover/ipvs"
)

// Kernel is the kernel of one network namespace: that of the thread which called [Open]. Its methods
// may be called from any goroutine and thread.
type Kernel struct {
	*ipvs.Client
	rt    *rtnetlink
	watch *watcher

	// The file belongs to the namespace in which it was opened, whatever thread writes to it.
	backupOnly    *os.File // nil: there is no such setting
	backupOnlyErr error    // of opening it for writing
}

// Open connects to IPVS, loading its module if need be, and to rtnetlink, and begins to watch addresses and
// interfaces. The error wraps [*ipvs.ErrModule] if the kernel has no IPVS. A nil logger is silent.
func Open(ctx context.Context, log *slog.Logger) (*Kernel, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	client, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		return nil, err
	}
	rt, err := openRTNetlink()
	if err != nil {
		client.Close()
		return nil, err
	}
	w, err := openWatcher(log)
	if err != nil {
		client.Close()
		rt.close()
		return nil, err
	}
	k := &Kernel{Client: client, rt: rt, watch: w}
	k.openBackupOnly()
	return k, nil
}

// Close ends the watching and closes all sockets.
func (k *Kernel) Close() error {
	k.watch.close()
	k.rt.close()
	if k.backupOnly != nil {
		k.backupOnly.Close()
	}
	return k.Client.Close()
}

// backupOnlyPath is the setting net.ipv4.vs.backup_only (Linux 3.12).
const backupOnlyPath = "/proc/sys/net/ipv4/vs/backup_only"

// openBackupOnly opens the setting, for reading alone where it must not be written.
func (k *Kernel) openBackupOnly() {
	if k.backupOnly, k.backupOnlyErr = os.OpenFile(backupOnlyPath, os.O_RDWR, 0); k.backupOnlyErr != nil {
		k.backupOnly, _ = os.Open(backupOnlyPath)
	}
}

// BackupOnly reads net.ipv4.vs.backup_only; the error is fs.ErrNotExist where the kernel has no such setting.
func (k *Kernel) BackupOnly() (bool, error) {
	if k.backupOnly == nil {
		return false, fmt.Errorf("failed to open net.ipv4.vs.backup_only: %w", k.backupOnlyErr)
	}
	b := make([]byte, 16) // an int and a newline
	n, err := k.backupOnly.ReadAt(b, 0)
	if err != nil && (err != io.EOF || n == 0) {
		return false, fmt.Errorf("failed to read net.ipv4.vs.backup_only: %w", err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return false, fmt.Errorf("failed to read net.ipv4.vs.backup_only: %w", err)
	}
	return v != 0, nil
}

// SetBackupOnly sets net.ipv4.vs.backup_only: whether IPVS forwards nothing while a backup sync daemon runs
// (sysctl_backup_only() in include/net/ip_vs.h).
func (k *Kernel) SetBackupOnly(on bool) error {
	if k.backupOnlyErr != nil {
		return fmt.Errorf("failed to open net.ipv4.vs.backup_only: %w", k.backupOnlyErr)
	}
	value := "0\n"
	if on {
		value = "1\n"
	}
	if _, err := k.backupOnly.WriteAt([]byte(value), 0); err != nil {
		return fmt.Errorf("failed to write net.ipv4.vs.backup_only: %w", err)
	}
	return nil
}

// LoadScheduler loads the module of a scheduler; see [ipvs.LoadScheduler].
func (k *Kernel) LoadScheduler(ctx context.Context, name string) error {
	return ipvs.LoadScheduler(ctx, name)
}

// LoadPE loads the module of a persistence engine; see [ipvs.LoadPE].
func (k *Kernel) LoadPE(ctx context.Context, name string) error { return ipvs.LoadPE(ctx, name) }

// Link returns the interface of that name; the error is fs.ErrNotExist when there is none.
func (k *Kernel) Link(ctx context.Context, name string) (Link, error) { return k.rt.link(ctx, name) }

// Addresses lists the addresses of all interfaces.
func (k *Kernel) Addresses(ctx context.Context) ([]Address, error) { return k.rt.addresses(ctx) }

// SetAddress puts an address onto an interface, or renews the lifetime of one that is there. The
// lifetime is in whole seconds, at least [MinLifetime], or [Forever].
//
// The address is marked deprecated (preferred lifetime 0): it serves, and yet no IPv6 connection that
// starts on this host takes it for its source (RFC 6724, section 5, rule 3; IPv4 does not look at it).
// Duplicate address detection is off, because it would keep an IPv6 address from serving for the better
// part of a second. With its full prefix length an address brings no route along.
func (k *Kernel) SetAddress(ctx context.Context, index int, p netip.Prefix, lifetime time.Duration) error {
	return k.rt.setAddress(ctx, index, p, lifetime)
}

// Renew is SetAddress for many addresses that are there, with one exchange with the kernel. The errors are in the
// order of the addresses.
func (k *Kernel) Renew(ctx context.Context, addresses []Held, lifetime time.Duration) []error {
	return k.rt.renewAll(ctx, addresses, lifetime)
}

// DeleteAddress takes an address off an interface. For one that is not there, or whose interface is
// gone, the error is fs.ErrNotExist.
func (k *Kernel) DeleteAddress(ctx context.Context, index int, p netip.Prefix) error {
	return k.rt.deleteAddress(ctx, index, p)
}

// Changed has a value when Changes has something new.
func (k *Kernel) Changed() <-chan struct{} { return k.watch.wake }

// Changes returns what happened since the last call.
func (k *Kernel) Changes() Changes { return k.watch.take() }
