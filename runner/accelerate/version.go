package accelerate

import "runtime/debug"

const (
	modulePath = "github.com/qwenrt/qwenrt"
	devel      = "devel"
)

// Version is the version of this module in the running program, such as "v1.2.0" or, between
// releases, one that names the commit, with "+dirty" behind it where files had been changed; "devel"
// where it was built without.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return devel
	}
	version := ""
	if info.Main.Path == modulePath {
		version = info.Main.Version
	}
	for _, d := range info.Deps {
		if d.Path == modulePath {
			version = d.Version
		}
	}
	if version == "" || version == "(devel)" {
		return devel
	}
	return version
}
