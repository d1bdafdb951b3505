package replica

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/google/renameio/v2"
)

const (
	changePrefix = "change-" // then the version, "-" and the first bytes of the ID
	ackedName    = "acknowledged"
	lockName     = "lock"
	roomName     = "room" // written and removed to see whether there is room again
	leastRoom    = 4096   // bytes of it
	badInfix     = ".bad-"

	// maxBad bounds how many damaged files are kept aside. The oldest one gives way.
	maxBad = 8
)

var (
	// ErrDamaged says that every stored change was damaged, so that nothing is known of the specification.
	ErrDamaged = errors.New("every stored specification is damaged")

	// ErrStorage says that a change could not be stored. What was in force stays in force.
	ErrStorage = errors.New("not stored")
)

// disk is a directory of small files.
type disk interface {
	list() ([]string, error)
	read(name string, limit int) ([]byte, error) // limit+1 bytes if there are more
	write(name string, b []byte) error           // all or nothing, and on the medium when it returns
	remove(name string) error
	rename(from, to string) error
	sync() error // removals and renames
	path(name string) string
}

// Store keeps a log on disk. Reading it never waits for the disk.
type Store struct {
	disk disk
	lock *os.File
	log  atomic.Pointer[Log]

	lost    atomic.Bool           // every change was damaged and none has come since
	trouble atomic.Pointer[error] // nil: the last write went well

	mu        sync.Mutex // held while writing; guards what follows
	damaged   []error
	leftovers []string // written by a failed update, and not yet removed
	tooBig    int      // bytes of the change that could not be written last, 0 if one could be since
	acked     Version  // on disk
}

// Open reads the log in dir, which is made if it does not exist, and used by one process at a time. Damaged
// files are not an error, see [Store.Damaged]; files that cannot be read, or come from a later version of
// this program, are.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("failed to make the directory of the specification: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("failed to lock the directory of the specification: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("directory %q of the specification is in use by another process", dir)
		}
		return nil, fmt.Errorf("failed to lock the directory %q of the specification: %w", dir, err)
	}
	s, err := open(dirDisk(dir))
	if err != nil {
		lock.Close()
		return nil, err
	}
	s.lock = lock
	return s, nil
}

// Close lets another process use the directory.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

func open(d disk) (*Store, error) {
	s := &Store{disk: d}
	names, err := d.list()
	if err != nil {
		return nil, fmt.Errorf("failed to list the stored specifications: %w", err)
	}
	var log Log
	var items []item
	bad := false // there are changes that were damaged
	for _, name := range names {
		switch {
		case strings.Contains(name, badInfix):
			bad = bad || strings.HasPrefix(name, changePrefix)
		case strings.HasPrefix(name, "."+changePrefix), strings.HasPrefix(name, "."+ackedName), name == roomName, strings.HasPrefix(name, "."+roomName):
			_ = d.remove(name) // of a write that a crash cut short
		case name == ackedName:
			v, err := readAcked(d)
			if err != nil {
				if err := s.setAside(name, err); err != nil {
					return nil, err
				}
			}
			s.acked = v
			log = log.Acknowledge(v)
		case strings.HasPrefix(name, changePrefix):
			e, err := readChange(d, name)
			if err != nil {
				if err := s.setAside(name, err); err != nil {
					return nil, err
				}
				bad = true
				continue
			}
			items = append(items, item{e.Ref(), e})
		}
	}
	log = log.with(items...)
	for _, name := range names {
		if strings.HasPrefix(name, changePrefix) && !strings.Contains(name, badInfix) && !slices.ContainsFunc(log.items, func(it item) bool { return changeName(it.ref) == name }) {
			_ = d.remove(name) // superseded; kept if it cannot be removed
		}
	}
	s.lost.Store(bad && log.Len() == 0)
	s.log.Store(&log)
	return s, nil
}

// errUnread says that a file could not be read, which tells nothing of its content.
var errUnread = errors.New("failed to read")

func readChange(d disk, name string) (Entry, error) {
	var e Entry
	b, err := d.read(name, MaxEntry)
	if err != nil {
		return e, fmt.Errorf("%w: %w", errUnread, err)
	}
	if err := e.UnmarshalBinary(b); err != nil {
		return e, err
	}
	if want := changeName(e.Ref()); want != name {
		return e, fmt.Errorf("its content belongs into %q", want)
	}
	return e, nil
}

func changeName(r Ref) string { return fmt.Sprintf("%s%v-%x", changePrefix, r.Version, r.ID[:4]) }

const ackedFormat = "drover acknowledged 1 "

func readAcked(d disk) (Version, error) {
	b, err := d.read(ackedName, 128)
	if err != nil {
		return Version{}, fmt.Errorf("%w: %w", errUnread, err)
	}
	text, ok := strings.CutPrefix(string(b), ackedFormat)
	version, _, _ := strings.Cut(text, " ")
	v, err := ParseVersion(version)
	if !ok || err != nil || string(ackedBytes(v)) != string(b) {
		return Version{}, errors.New("these bytes are no acknowledged version")
	}
	return v, nil
}

func ackedBytes(v Version) []byte {
	head := ackedFormat + v.String() + " "
	return fmt.Appendf(nil, "%s%08x\n", head, crc32.Checksum([]byte(head), castagnoli))
}

// setAside renames a damaged file and notes why. It fails if the file may be good.
func (s *Store) setAside(name string, why error) error {
	if errors.Is(why, errUnread) || errors.Is(why, errFormat) {
		return fmt.Errorf("stored specification %q: %w", s.disk.path(name), why)
	}
	names, err := s.disk.list()
	if err != nil {
		return fmt.Errorf("failed to list the stored specifications: %w", err)
	}
	var numbers []int
	old := make(map[int]string)
	for _, other := range names {
		if _, text, ok := strings.Cut(other, badInfix); ok {
			if n, err := strconv.Atoi(text); err == nil && n > 0 {
				numbers = append(numbers, n)
				old[n] = other
			}
		}
	}
	slices.Sort(numbers)
	for len(numbers) >= maxBad {
		if err := s.disk.remove(old[numbers[0]]); err != nil {
			return fmt.Errorf("failed to remove a damaged specification: %w", err)
		}
		numbers = numbers[1:]
	}
	next := 1
	if len(numbers) > 0 {
		next = numbers[len(numbers)-1] + 1
	}
	aside := name + badInfix + strconv.Itoa(next)
	if err := s.disk.rename(name, aside); err != nil {
		return fmt.Errorf("stored specification %q is damaged (%w), and cannot be set aside: %w", s.disk.path(name), why, err)
	}
	s.damaged = append(s.damaged, fmt.Errorf("stored specification %q is damaged, it is kept as %q: %w", s.disk.path(name), aside, why))
	return nil
}

// Log returns what is stored.
func (s *Store) Log() Log { return *s.log.Load() }

// Damaged returns an error for each file that Open found damaged, to be logged and shown.
func (s *Store) Damaged() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.damaged)
}

// Lost returns an error that wraps ErrDamaged if every stored change was damaged and none has come since.
func (s *Store) Lost() error {
	if !s.lost.Load() {
		return nil
	}
	return fmt.Errorf("%w: wait for another director to bring it, or, to begin with none, stop this one and remove %q", ErrDamaged, s.disk.path("*"+badInfix+"*"))
}

// Update replaces the log by what change makes of it, on disk first. Updates come one after the other. An
// error of change, or one that wraps ErrStorage, leaves everything as it was; if the disk cannot even remove
// what it failed to store, no other change is stored before it can, and a restart may find the failed one. An acknowledged version that
// cannot be stored is no error: it is in the log, and the next update tries again.
func (s *Store) Update(change func(Log) (Log, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.log.Load()
	log, err := change(old)
	if err != nil {
		return err
	}
	had := make(map[Ref]bool, len(old.items))
	for _, it := range old.items {
		had[it.ref] = true
	}
	var fresh []item
	for _, it := range log.items {
		if !had[it.ref] {
			fresh = append(fresh, it)
		}
		delete(had, it.ref)
	}
	if len(fresh) > 0 {
		if err := s.removeLeftovers(); err != nil {
			return err
		}
	}
	for i, it := range fresh {
		b, err := it.entry.MarshalBinary()
		if err == nil {
			err = s.disk.write(changeName(it.ref), b)
		}
		if err != nil {
			// The file may be there nevertheless, for instance if its directory could not be synced.
			// Another change must not be ordered with the same version beside it.
			for _, it := range fresh[:i+1] {
				s.leftovers = append(s.leftovers, changeName(it.ref))
			}
			_ = s.removeLeftovers()
			s.trouble.Store(&err)
			s.tooBig = len(b)
			return fmt.Errorf("version %v is %w: %w", it.ref.Version, ErrStorage, err)
		}
	}
	if len(fresh) > 0 {
		s.trouble.Store(nil)
		s.tooBig = 0
	}
	s.storeAcked(log.acked)
	s.log.Store(&log)
	if len(log.items) > 0 {
		s.lost.Store(false)
	}
	for r := range had {
		_ = s.disk.remove(changeName(r)) // left over until the next start if it fails
	}
	return nil
}

func (s *Store) storeAcked(v Version) {
	if v == s.acked {
		return
	}
	if err := s.disk.write(ackedName, ackedBytes(v)); err != nil {
		s.trouble.Store(&err)
		return
	}
	s.acked = v
}

// Recheck returns why the disk does not take changes, nil if it does. After a write that failed it tries to write as
// much as that, or as the newest change has, and at least leastRoom, so that it finds out by itself that there is room again.
func (s *Store) Recheck() error {
	if s.trouble.Load() == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log.Load()
	size := max(leastRoom, s.tooBig)
	if head, ok := log.Head(); ok {
		size = max(size, len(head.Content))
	}
	err := s.removeLeftovers()
	if err == nil {
		err = s.disk.write(roomName, make([]byte, size))
		_ = s.disk.remove(roomName)
	}
	if err != nil {
		s.trouble.Store(&err)
		return err
	}
	s.trouble.Store(nil)
	s.storeAcked(log.acked)
	if t := s.trouble.Load(); t != nil {
		return *t
	}
	return nil
}

func (s *Store) removeLeftovers() error {
	if len(s.leftovers) == 0 {
		return nil
	}
	for _, name := range s.leftovers {
		if err := s.disk.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: a change that failed earlier is in the way: %w", ErrStorage, err)
		}
	}
	if err := s.disk.sync(); err != nil {
		return fmt.Errorf("%w: a change that failed earlier is in the way: %w", ErrStorage, err)
	}
	s.leftovers = nil
	return nil
}

// dirDisk is a directory.
type dirDisk string

var _ disk = dirDisk("")

func (d dirDisk) path(name string) string { return filepath.Join(string(d), name) }

func (d dirDisk) list() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (d dirDisk) read(name string, limit int) ([]byte, error) {
	// O_NONBLOCK: a named pipe must not keep a director from starting.
	f, err := os.OpenFile(d.path(name), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%q is no regular file", d.path(name))
	case st.Mode().Perm()&0o077 != 0:
		if err := f.Chmod(0o600); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, int64(limit)+1))
}

// write replaces a file whole. Its errors do not name the temporary file, which is another one each time: the same
// trouble has the same text.
func (d dirDisk) write(name string, b []byte) error {
	err := d.replace(name, b)
	if err == nil {
		return nil
	}
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		err = path.Err
	case errors.As(err, &link):
		err = link.Err
	}
	return fmt.Errorf("failed to write %q: %w", d.path(name), err)
}

func (d dirDisk) replace(name string, b []byte) error {
	f, err := renameio.NewPendingFile(d.path(name), renameio.WithTempDir(string(d)), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return d.sync() // renameio leaves the directory to its caller
}

func (d dirDisk) remove(name string) error { return os.Remove(d.path(name)) }

func (d dirDisk) rename(from, to string) error {
	if err := os.Rename(d.path(from), d.path(to)); err != nil {
		return err
	}
	return d.sync()
}

func (d dirDisk) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
