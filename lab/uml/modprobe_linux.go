package uml

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modulesFile names the folder of modules to the guest's modprobe.
const modulesFile = "/run/drover-lab/modules"

// Modprobe is modprobe(8) for the guest: it loads modules by name or alias with what they depend on.
// It takes the options that the kernel and common programs give (-q, -a, --, -v, -d DIR, -S) and
// ignores them. It returns the exit status.
func Modprobe(args []string) int {
	b, err := os.ReadFile(modulesFile)
	if err != nil {
		fmt.Fprintf(os.Stderr, "modprobe: %v\n", err)
		return 1
	}
	dir, quiet, status := string(b), false, 0
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-q":
			quiet = true
		case a == "-d", a == "-S", a == "-C":
			i++
		case strings.HasPrefix(a, "-"):
		case strings.Contains(a, "="): // a module parameter: none is needed in the lab
		default:
			if err := insertModule(dir, a); err != nil {
				if !quiet {
					fmt.Fprintf(os.Stderr, "modprobe: %v\n", err)
				}
				status = 1
			}
		}
	}
	return status
}

// insertModule loads the module called name, or every module for which name is an alias, after those
// that it depends on. A module that is loaded already is fine.
func insertModule(dir, name string) error {
	deps, err := readDeps(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return err
	}
	files := []string{}
	if f, ok := deps[canonical(name)]; ok {
		files = append(files, f...)
	} else {
		names, err := aliases(filepath.Join(dir, "modules.alias"), name)
		if err != nil {
			return err
		}
		for _, n := range names {
			files = append(files, deps[canonical(n)]...)
		}
	}
	if len(files) == 0 {
		return fmt.Errorf("module %s not found in %s", name, dir)
	}
	for _, f := range files {
		fd, err := os.Open(filepath.Join(dir, f))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(fd.Fd()), "", 0)
		fd.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("failed to load %s: %w", f, err)
		}
	}
	return nil
}

// canonical: the kernel takes - and _ in module names for the same.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// readDeps reads modules.dep ("a/b.ko: c/d.ko e/f.ko"): for each module the files to load, in order,
// itself last.
func readDeps(file string) (map[string][]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string][]string{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		mod, rest, ok := strings.Cut(sc.Text(), ":")
		if !ok {
			continue
		}
		needs := strings.Fields(rest)
		load := make([]string, 0, len(needs)+1)
		for i := len(needs) - 1; i >= 0; i-- { // depmod writes what is needed last first
			load = append(load, needs[i])
		}
		base := strings.TrimSuffix(path.Base(mod), ".ko")
		out[canonical(base)] = append(load, mod)
	}
	return out, sc.Err()
}

// aliases reads modules.alias ("alias PATTERN MODULE") for the modules that stand behind name.
func aliases(file, name string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		w := strings.Fields(sc.Text())
		if len(w) != 3 || w[0] != "alias" {
			continue
		}
		if ok, _ := path.Match(canonical(w[1]), canonical(name)); ok {
			out = append(out, w[2])
		}
	}
	return out, sc.Err()
}
