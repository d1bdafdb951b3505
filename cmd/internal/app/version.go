package app

import (
	"runtime/debug"

	"github.com/drover-lb/drover/internal/version"
)

// Version says what was built: the release, or the module's version or commit.
func Version() string {
	if version.Version != "unknown" {
		return version.Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
