package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/ipvs"
)

// Syncer is what the loop needs of the kernel's connection synchronisation. [ipvs.Client] has the daemons.
type Syncer interface {
	// Daemons lists those that run, at most one of each role.
	Daemons(ctx context.Context) ([]ipvs.Daemon, error)
	StartDaemon(ctx context.Context, d ipvs.Daemon) error
	StopDaemon(ctx context.Context, r ipvs.DaemonRole) error
	// BackupOnly reads net.ipv4.vs.backup_only; fs.ErrNotExist if the kernel has no such setting.
	BackupOnly() (bool, error)
	// SetBackupOnly sets it: while a backup daemon runs, IPVS forwards nothing.
	SetBackupOnly(on bool) error
}

// SyncMode says which daemons run.
type SyncMode string

const (
	// SyncFollow: the master runs where a group is active, the backup where one is standby. With one
	// group that is master or backup, and both for a few seconds after each change.
	SyncFollow SyncMode = ""
	// SyncBoth: both run always.
	SyncBoth SyncMode = "both"
)

// Defaults of Sync, those of the kernel but for the length.
const (
	DefaultSyncPort = 8848 // IP_VS_SYNC_PORT in net/netfilter/ipvs/ip_vs_sync.c
	DefaultSyncTTL  = 1

	// DefaultSyncMaxLen has room for one IPv4 connection (8 bytes of struct ip_vs_sync_mesg and 36 of struct
	// ip_vs_sync_v4) and not for two. A message leaves when the next connection does not fit any more, and
	// otherwise only after IPVS_SYNC_FLUSH_TIME, 2 s, and up to 1 s more until the daemon looks. What waits
	// in it is lost with the host, and also if the daemon is stopped. So with this length all but the
	// newest connection are at the standby within 20 ms (IPVS_SYNC_SEND_DELAY); with the kernel's 1,472
	// bytes it would be all but the newest 40.
	//
	// The cost is one datagram of 72 bytes for each new or changed connection, four or so in the life of a
	// short one, where the kernel's length takes a fortieth of that many. It is the thing to raise where
	// more than some 10,000 connections begin in a second.
	DefaultSyncMaxLen = 64

	// syncLinger is how long both daemons run after a change of role. The newest connection waits in the kernel of
	// the last active director for IPVS_SYNC_FLUSH_TIME (2 s) at the least, and the thread looks once in
	// IPVS_SYNC_CHECK_PERIOD (1 s); stopping the master daemon drops it, and a new active director without a backup
	// daemon would not hear of it.
	syncLinger = 3500 * time.Millisecond

	// backupMaxLen is up to which length a backup is left to the kernel, which takes what the interface's MTU
	// holds, and never less than 1,500 bytes with headers.
	backupMaxLen = 1400
)

// defaultSyncGroup is IP_VS_SYNC_GROUP of net/netfilter/ipvs/ip_vs_sync.c.
var defaultSyncGroup = netip.AddrFrom4([4]byte{224, 0, 0, 81})

// Sync is how the kernel's connection synchronisation runs. It is the same on all directors, but for the
// interface.
type Sync struct {
	Interface string     // "": the default interface of the director's file, or else that of its first VIP
	ID        uint8      // messages of another id are ignored; a backup with 0 takes all
	Group     netip.Addr // multicast; default 224.0.0.81
	Port      uint16     // default DefaultSyncPort
	TTL       uint8      // default DefaultSyncTTL
	MaxLen    uint16     // bytes of a message; default DefaultSyncMaxLen
	Mode      SyncMode
}

// SyncStatus is what the kernel's connection synchronisation does.
type SyncStatus struct {
	Role    string         `json:"role"` // master, backup, "master and backup" or none, as last seen
	Want    string         `json:"want"` // the same, as it should be
	Daemons []DaemonStatus `json:"daemons"`
	Error   string         `json:"error,omitempty"`
}

// DaemonStatus is a sync daemon of the kernel.
type DaemonStatus struct {
	Role      string     `json:"role"`
	Interface string     `json:"interface"`
	ID        uint8      `json:"id"`
	Group     netip.Addr `json:"group"`
	Port      uint16     `json:"port"`
	TTL       uint8      `json:"ttl"`
	MaxLen    uint16     `json:"max_len"`
}

// ConnectionStatus counts the connections of the services in the table, as the kernel had them at a time.
// On a backup they are those that it was told of, so that two directors can be compared.
type ConnectionStatus struct {
	Active   uint64    `json:"active"`
	Inactive uint64    `json:"inactive"`
	At       time.Time `json:"at"`
}

// wantDaemons lists the daemons that are to run, the master first.
func (c *Controller) wantDaemons() []ipvs.Daemon {
	s := c.opts.Sync
	d := ipvs.Daemon{
		Interface: cmp.Or(s.Interface, c.file.Director.Interface),
		SyncID:    s.ID,
		Group:     s.Group,
		Port:      cmp.Or(s.Port, DefaultSyncPort),
		TTL:       cmp.Or(s.TTL, DefaultSyncTTL),
		MaxLen:    cmp.Or(s.MaxLen, DefaultSyncMaxLen),
	}
	if !d.Group.IsValid() {
		d.Group = defaultSyncGroup
	}
	if d.Interface == "" && len(c.vipKeys) > 0 {
		d.Interface = c.vipKeys[0].Interface
	}
	all := len(c.groups) > 0
	for _, g := range c.groups {
		all = all && c.active(g)
	}
	var out []ipvs.Daemon
	both := s.Mode == SyncBoth || time.Now().Before(c.lingerUntil)
	if c.anyActive() || both {
		d.Role = ipvs.Master
		out = append(out, d)
	}
	if !all || both {
		d.Role = ipvs.Backup
		if d.MaxLen <= backupMaxLen {
			d.MaxLen = 0
		}
		out = append(out, d)
	}
	return out
}

// sameDaemon reports whether a daemon that runs is the one that is wanted.
func sameDaemon(want, have ipvs.Daemon) bool {
	if want.MaxLen == 0 {
		have.MaxLen = 0
	}
	return want == have
}

// overlap lets both daemons run for a while, as a group has changed hands, and keeps the resets back with which this
// host's own stack would answer: that of the new holder to connections of which its kernel has yet to hear, and that
// of the old one, if it is a real server too and so keeps the VIP, to packets of clients that do not know of the new
// holder yet. The client sends again meanwhile.
func (c *Controller) overlap(group string) {
	if c.opts.Sync == nil {
		return
	}
	c.lingerUntil = time.Now().Add(syncLinger)
	c.linger.Reset(syncLinger)
	c.hush(group)
}

func (c *Controller) hush(group string) {
	if c.opts.Fence == nil || c.opts.Sync == nil {
		return
	}
	if err := c.opts.Fence.Hush(group, syncLinger); err != nil {
		c.log.Warn("connections may be reset as the group changes hands", "group", group, "error", err)
	}
}

// outlast waits on the way out until the kernel has told the new active director of the newest connection.
func (c *Controller) outlast(ctx context.Context) {
	if c.opts.Sync == nil || !slices.ContainsFunc(c.daemons, func(d ipvs.Daemon) bool { return d.Role == ipvs.Master }) {
		return
	}
	select {
	case <-time.After(time.Until(c.lingerUntil)):
	case <-ctx.Done():
	}
}

// backupOnly keeps IPVS from forwarding while this director is standby for everything. Otherwise, on a host
// that is director and real server, what the active director sends to the real server would be forwarded
// once more, back to the active one, and so on. It has an effect while a backup daemon runs, and so must be
// gone before the first packet comes to a VIP.
func (c *Controller) backupOnly() {
	if c.opts.Sync == nil || c.stopping {
		return
	}
	active := c.anyActive()
	if !active {
		c.opts.Health.SetPath(false)
	}
	c.backupOnlyErr = c.kernel.SetBackupOnly(!active)
	if active && c.backupOnlyErr == nil {
		c.opts.Health.SetPath(true)
	}
}

// forward undoes what a predecessor that synchronised connections has left, if this director does not:
// with net.ipv4.vs.backup_only=1 and the predecessor's backup daemon IPVS would forward nothing, and nobody
// would change that. The setting is put back whoever made it; the daemons may be a stranger's, and do no
// harm without it, so they stay. What fails is tried again with each pass.
func (c *Controller) forward() {
	if c.opts.Sync != nil || c.forwards {
		return
	}
	on, err := c.kernel.BackupOnly()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("it is not known whether IPVS forwards while a backup sync daemon runs", "error", err)
	}
	if err != nil || !on {
		c.forwards, c.backupOnlyErr = true, nil
		return
	}
	err = c.kernel.SetBackupOnly(false)
	switch {
	case err == nil:
		c.forwards = true
		c.log.Warn("net.ipv4.vs.backup_only was 1 and is set to 0: with a backup sync daemon, as an earlier director of a cluster may have left, IPVS would forward nothing, and this director does not synchronise connections")
	case fmt.Sprint(err) != fmt.Sprint(c.backupOnlyErr):
		c.log.Error("net.ipv4.vs.backup_only is 1: while a backup sync daemon runs, as an earlier director of a cluster may have left, IPVS forwards nothing", "error", err)
	}
	c.backupOnlyErr = err
}

// syncNow makes the sync daemons those that are wanted, again if a role changes meanwhile. What fails is tried
// again with each pass, and keeps nothing else back.
func (c *Controller) syncNow(ctx context.Context) {
	if c.syncing {
		return
	}
	c.syncing, c.syncDue = true, true
	defer func() { c.syncing = false }()
	for c.syncDue {
		c.syncDue = false
		if c.opts.Sync == nil || c.stopping || ctx.Err() != nil {
			return
		}
		c.syncOnce(ctx)
	}
}

func (c *Controller) syncOnce(ctx context.Context) {
	c.backupOnly()
	want := c.wantDaemons()
	var have []ipvs.Daemon
	var err error
	c.await(ctx, func() { have, err = syncDaemons(ctx, c.kernel, want) })
	if ctx.Err() != nil {
		return
	}
	c.daemons = have
	err = errors.Join(c.backupOnlyErr, err)
	if fmt.Sprint(err) != fmt.Sprint(c.syncErr) {
		if err != nil {
			c.log.Error("connections are not synchronised as they should be", "error", err)
		} else {
			c.log.Info("connections are synchronised", "role", daemonWords(have))
		}
	} else if words := daemonWords(have); words != c.syncWords {
		c.log.Info("connections are synchronised", "role", words)
	}
	c.syncErr, c.syncWords = err, daemonWords(have)
}

// syncDaemons starts what is wanted and then stops what is not: a new role begins before the old one ends.
// It returns what runs then.
func syncDaemons(ctx context.Context, k Syncer, want []ipvs.Daemon) ([]ipvs.Daemon, error) {
	have, err := k.Daemons(ctx)
	if err != nil {
		return nil, err
	}
	runs := func(r ipvs.DaemonRole) *ipvs.Daemon {
		if i := slices.IndexFunc(have, func(d ipvs.Daemon) bool { return d.Role == r }); i >= 0 {
			return &have[i]
		}
		return nil
	}
	var errs []error
	changed := false
	stop := func(r ipvs.DaemonRole) bool {
		changed = true
		if err := k.StopDaemon(ctx, r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
			return false
		}
		return true
	}
	for _, w := range want {
		if h := runs(w.Role); h != nil && (sameDaemon(w, *h) || !stop(w.Role)) {
			continue
		}
		changed = true
		if err := k.StartDaemon(ctx, w); err != nil {
			errs = append(errs, err)
		}
	}
	for _, h := range have {
		if !slices.ContainsFunc(want, func(w ipvs.Daemon) bool { return w.Role == h.Role }) {
			stop(h.Role)
		}
	}
	if changed {
		if have, err = k.Daemons(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return have, errors.Join(errs...)
}

// endSync stops the daemons on the way out.
func (c *Controller) endSync(ctx context.Context) (err error) {
	if c.opts.Sync == nil {
		return nil
	}
	c.await(ctx, func() { _, err = syncDaemons(ctx, c.kernel, nil) })
	return errors.Join(err, c.kernel.SetBackupOnly(false))
}

// keepSync leaves the daemons to a successor on the way out, who then misses no connection, and makes IPVS
// forward what arrives by what is kept. Not so on a host that has a VIP on another interface too, as a real
// server has it on its loopback: there a standby's table would forward once more what the active director
// sends to the real server.
func (c *Controller) keepSync(ctx context.Context) error {
	if c.opts.Sync == nil {
		return nil
	}
	vip, err := c.elsewhere(ctx)
	if err != nil {
		return err
	}
	if vip.IsValid() {
		c.log.Info("net.ipv4.vs.backup_only stays as it is: this host is a real server", "vip", vip)
		return nil
	}
	return c.kernel.SetBackupOnly(false)
}

func daemonWords(list []ipvs.Daemon) string {
	var words []string
	for _, d := range list {
		words = append(words, d.Role.String())
	}
	slices.Sort(words)
	slices.Reverse(words)
	return cmp.Or(strings.Join(words, " and "), "none")
}

// syncStatus is nil where nothing is synchronised.
func (c *Controller) syncStatus() *SyncStatus {
	if c.opts.Sync == nil {
		return nil
	}
	s := &SyncStatus{Role: daemonWords(c.daemons), Want: daemonWords(c.wantDaemons()), Daemons: []DaemonStatus{}}
	if c.syncErr != nil {
		s.Error = c.syncErr.Error()
	}
	for _, d := range c.daemons {
		s.Daemons = append(s.Daemons, DaemonStatus{Role: d.Role.String(), Interface: d.Interface, ID: d.SyncID, Group: d.Group, Port: d.Port, TTL: d.TTL, MaxLen: d.MaxLen})
	}
	return s
}

// count adds up the connections of a table, without those of private services.
func count(entries []ipvs.ServiceEntry, private uint32) *ConnectionStatus {
	n := &ConnectionStatus{At: time.Now()}
	for i := range entries {
		if plan.Private(entries[i].Key, private) {
			continue
		}
		for j := range entries[i].Destinations {
			n.Active += uint64(entries[i].Destinations[j].Counts.Active)
			n.Inactive += uint64(entries[i].Destinations[j].Counts.Inactive)
		}
	}
	return n
}
