package uml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Package is the name of Debian's package that ships the kernel.
const Package = "user-mode-linux"

// Kernel is a user-mode Linux kernel on disk.
type Kernel struct {
	Binary  string // the linux.uml program
	Modules string // folder with one folder of modules a release
	Release string // such as 6.1.176; the only release below Modules
}

// ErrNoKernel says that no user-mode Linux kernel was found.
var ErrNoKernel = errors.New("no user-mode Linux kernel found")

// UnpackDir is where [Fetch] puts the kernel when the caller has no wish: below the user's cache folder.
func UnpackDir() string {
	if d := os.Getenv("DROVER_UML"); d != "" {
		return d
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), fmt.Sprintf("drover-%d", os.Getuid()))
	}
	return filepath.Join(cache, "drover", "uml")
}

// Find returns the kernel installed on this system or unpacked below one of dirs, first match first:
// each of dirs, then [UnpackDir], then the system's own.
func Find(dirs ...string) (Kernel, error) {
	roots := append(append([]string{}, dirs...), UnpackDir(), "/")
	for _, root := range roots {
		k, err := at(root)
		if err == nil {
			return k, nil
		}
	}
	return Kernel{}, fmt.Errorf("%w: run `drover lab kernel` to unpack Debian's package %s into %s (needs no root), or install it: apt-get install %s",
		ErrNoKernel, Package, UnpackDir(), Package)
}

func at(root string) (Kernel, error) {
	k := Kernel{Binary: filepath.Join(root, "usr/bin/linux.uml"), Modules: filepath.Join(root, "usr/lib/uml/modules")}
	st, err := os.Stat(k.Binary)
	if err != nil {
		return k, err
	}
	if st.Mode()&0o111 == 0 {
		return k, fmt.Errorf("%s is not executable", k.Binary)
	}
	releases, err := filepath.Glob(filepath.Join(k.Modules, "*", "modules.dep"))
	if err != nil || len(releases) != 1 {
		return k, fmt.Errorf("expected the modules of one kernel release below %s, found %d", k.Modules, len(releases))
	}
	k.Release = filepath.Base(filepath.Dir(releases[0]))
	return k, nil
}

// Fetch downloads Debian's package with apt-get and unpacks it below dir, without root. It may take
// as long as ctx allows. Once it is there, nothing is downloaded again.
func Fetch(ctx context.Context, dir string) (Kernel, error) {
	if k, err := at(dir); err == nil {
		return k, nil
	}
	for _, tool := range []string{"apt-get", "dpkg"} {
		if _, err := exec.LookPath(tool); err != nil {
			return Kernel{}, fmt.Errorf("cannot unpack %s here: %s is not available (it comes with Debian and Ubuntu); "+
				"unpack the package by other means into %s, so that %s exists", Package, tool, dir, filepath.Join(dir, "usr/bin/linux.uml"))
		}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return Kernel{}, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-")
	if err != nil {
		return Kernel{}, err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return Kernel{}, err
	}
	if err := command(ctx, tmp, "apt-get", "download", Package); err != nil {
		// Package lists that are missing or old make apt-get fail: read them anew, into a folder of our own.
		lists := filepath.Join(tmp, "apt")
		for _, d := range []string{"lists/partial", "cache/archives/partial"} {
			if err := os.MkdirAll(filepath.Join(lists, d), 0o755); err != nil {
				return Kernel{}, err
			}
		}
		opts := []string{"-o", "Dir::State::Lists=" + filepath.Join(lists, "lists"), "-o", "Dir::Cache=" + filepath.Join(lists, "cache"), "-o", "Debug::NoLocking=1"}
		if uerr := command(ctx, tmp, "apt-get", append(opts, "update")...); uerr != nil {
			return Kernel{}, errors.Join(err, uerr)
		}
		if err := command(ctx, tmp, "apt-get", append(opts, "download", Package)...); err != nil {
			return Kernel{}, err
		}
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, Package+"_*.deb"))
	if len(debs) != 1 {
		return Kernel{}, fmt.Errorf("apt-get download %s left %d packages", Package, len(debs))
	}
	root := filepath.Join(tmp, "root")
	if err := command(ctx, tmp, "dpkg", "-x", debs[0], root); err != nil {
		return Kernel{}, err
	}
	if _, err := at(root); err != nil {
		return Kernel{}, fmt.Errorf("package %s is not as expected: %w", filepath.Base(debs[0]), err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return Kernel{}, err
	}
	if err := os.Rename(root, dir); err != nil {
		return Kernel{}, err
	}
	return at(dir)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
