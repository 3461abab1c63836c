package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/mount"
)

func (a *app) mountCommand() *cli.Command {
	return &cli.Command{
		Name: "mount", Usage: "show snapshots as a read-only file system", ArgsUsage: "[SNAPSHOT[:PATH]] FOLDER",
		Description: `Shows all snapshots, or one, or a part of one, at FOLDER, which must exist, until Ctrl-C, SIGTERM or umount ends it. Needs FUSE.

Examples:

  wtsnap mount /mnt/backup                              then: ls /mnt/backup/production/latest/homes
  wtsnap mount latest:homes/alice /mnt/alice
  wtsnap mount --at yesterday latest /mnt/yesterday
  sudo -E wtsnap mount --allow-other /mnt/backup        all users may look; owners and modes are heeded`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "allow-other", Usage: "let other users in, too; owners and modes in the snapshots say who may read what"},
			atFlag(), incompleteFlag(),
		},
		Action: a.action(a.mount),
	}
}

type mountDoc struct {
	Folder   string `json:"folder"`
	Snapshot string `json:"snapshot,omitempty"`
	Path     string `json:"path,omitempty"`
	Errors   int    `json:"errors"`
}

func (a *app) mount(c *cli.Context) error {
	args, err := a.arguments(1, 2, "the FOLDER to mount at")
	if err != nil {
		return err
	}
	dir := args[len(args)-1]
	if _, err := os.Lstat(dir); len(args) == 1 && errors.Is(err, fs.ErrNotExist) && namesSnapshot(dir) {
		return usagef("wtsnap mount "+shown(dir)+" FOLDER", "the FOLDER to mount at is missing")
	}
	doc := &mountDoc{Folder: dir}
	o := mount.Options{AllowOther: c.Bool("allow-other"), Filter: snapshot.Filter{Instance: a.g.instance}}
	var r *repo.Repository
	if one := len(args) == 2 || c.IsSet("at") || c.IsSet("incomplete"); one {
		spec := "latest"
		if len(args) == 2 {
			spec = args[0]
		}
		if _, err := snapshot.ParseSpec(spec); err != nil {
			return err
		}
		if r, err = a.openRepo(); err != nil {
			return err
		}
		if o.Snapshot, doc.Path, err = a.resolve(r, spec, a.g.selector(c)); err != nil {
			return err
		}
		doc.Snapshot = o.Snapshot.Ref.ID.String()
	} else if r, err = a.openRepo(); err != nil {
		return err
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	if o.Snapshot != nil {
		if o.Top, err = snapshot.Lookup(a.ctx, r, o.Snapshot, doc.Path); err != nil {
			return fmt.Errorf("mounting: %w", err)
		}
		if !o.Top.IsDir() {
			return usagef("wtsnap dump writes one file", "%s is a %v, not a folder", shown(doc.Path), o.Top.Type)
		}
	}
	o.Name = shownRepo(a.g.repo)
	o.Mounted = func() { a.note(fmt.Sprintf("mounted at %s; Ctrl-C, or umount, ends it", shown(dir))) }
	o.Trouble = func(err error) {
		a.mu.Lock()
		doc.Errors++
		a.mu.Unlock()
		a.warn(message(err))
	}
	if err := mount.Mount(a.ctx, r, dir, o); err != nil {
		return err
	}
	a.done(doc, func(io.Writer) {})
	return nil
}

// namesSnapshot reports whether a word looks like a snapshot's name, or a part of one, rather than a folder's.
func namesSnapshot(word string) bool {
	spec, err := snapshot.ParseSpec(word)
	return err == nil && (spec.HasPath || spec.ID == "" || len(spec.ID) >= 8)
}

// mountHint is what can be done where the file system could not be mounted, or "".
func mountHint(err error) string {
	e, ok := errors.AsType[*mount.Error](err)
	if !ok {
		return ""
	}
	_, missing := exec.LookPath("fusermount3")
	if _, err := exec.LookPath("fusermount"); err == nil {
		missing = nil
	}
	switch {
	case errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, syscall.ENOTDIR):
		return "make the folder first: mkdir " + shown(e.Dir)
	case runtime.GOOS == "darwin":
		return "install macFUSE"
	case missing == nil && notEmpty(e.Dir):
		return "mount at an empty folder: this one has entries, which not every version of FUSE covers"
	case missing != nil:
		return "install FUSE (the package fuse3); in a container, pass /dev/fuse in"
	}
	return "look whether something is mounted there already; as another user than root, --allow-other needs user_allow_other in /etc/fuse.conf"
}

func notEmpty(dir string) bool {
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	return err == nil
}
