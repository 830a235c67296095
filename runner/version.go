package runner

import "runtime/debug"

const modulePath = "github.com/qwenrt/qwenrt"

// Devel is the Version of programs that were built without one.
const Devel = "devel"

// Version is the version of this module in the running program, such as "v1.2.0" or, between
// releases, one that names the commit, with "+dirty" behind it where files had been changed.
func Version() string {
	version, _ := build()
	return version
}

// Commit is the commit of this module that the running program was built from; empty where that was not
// a clone of it.
func Commit() string {
	_, commit := build()
	return commit
}

func build() (version, commit string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Devel, ""
	}
	for _, d := range info.Deps {
		if d.Path == modulePath {
			version = d.Version
		}
	}
	if info.Main.Path == modulePath {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	if version == "" || version == "(devel)" {
		version = Devel
	}
	return version, commit
}
