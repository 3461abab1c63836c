package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
)

// version is set by the linker; a build by go install has the module's.
var version = ""

func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

type versionDoc struct {
	Version string `json:"version"`
	Format  int    `json:"format"` // of repositories: the newest that this program reads and writes
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func (a *app) versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "say which version this is",
		Action: a.action(func(*cli.Context) error {
			if _, err := a.arguments(0, 0, ""); err != nil {
				return err
			}
			doc := versionDoc{programVersion(), repo.FormatVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			a.result(doc, func(w io.Writer) {
				fmt.Fprintf(w, "wtsnap %s, repository format %d, %s %s/%s\n", doc.Version, doc.Format, doc.Go, doc.OS, doc.Arch)
			})
			return nil
		}),
	}
}
