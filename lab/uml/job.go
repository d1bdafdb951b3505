package uml

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// envJob hands the path of the share folder to the guest: words of the kernel command line that the
// kernel does not know become the environment of PID 1 (Documentation/admin-guide/kernel-parameters).
const envJob = "DROVER_UML_SHARE"

// job is what the host asks of the guest.
type job struct {
	Argv        []string
	Env         []string
	Dir         string
	Modules     string // folder of the modules of the kernel's release
	Interactive bool
	LoadModules []string
}

// result is what the guest answers.
type result struct {
	Exit  int
	Error string // why the command could not be run; Exit is then meaningless
}

func writeJSON(share, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(share, name), b, 0o644)
}

func readJSON(share, name string, v any) error {
	b, err := os.ReadFile(filepath.Join(share, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("failed to read %q: %w", name, err)
	}
	return nil
}
