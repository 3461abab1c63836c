package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// nodeDoc is an entry of a snapshot.
type nodeDoc struct {
	jsonName
	Type   string `json:"type"`
	Size   int64  `json:"size"`
	Mode   string `json:"mode"` // octal, such as 0644
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	User   string `json:"user,omitempty"`
	Group  string `json:"group,omitempty"`
	MTime  string `json:"mtime"`
	Target string `json:"target,omitempty"` // of symbolic links
	Links  uint32 `json:"links,omitempty"`  // names of a file, if there are several
	Torn   bool   `json:"torn,omitempty"`   // it changed while it was read
	// Partial: of a file, only the beginning was saved; of a folder, not all entries.
	Partial bool `json:"partial,omitempty"`
}

func newNodeDoc(s *snapshot.Snapshot, path string, n *snapshot.Node) nodeDoc {
	d := nodeDoc{jsonName: nameOf(path), Type: typeName(n.Type), Size: n.Size, Mode: fmt.Sprintf("%04o", n.Mode), UID: n.UID, GID: n.GID,
		User: s.Owners.Users[n.UID], Group: s.Owners.Groups[n.GID], MTime: utc(time.Unix(0, n.MTime)), Target: nameOf(n.Target).Path,
		Torn: n.Flags&snapshot.FlagTorn != 0, Partial: n.Flags&snapshot.FlagPartial != 0}
	if n.IsFile() && n.Nlink > 1 {
		d.Links = n.Nlink
	}
	return d
}

// typeName is a type's name in JSON and in find --type.
func typeName(t localfs.Type) string {
	switch t {
	case localfs.TypeFile:
		return "file"
	case localfs.TypeDir:
		return "folder"
	case localfs.TypeSymlink:
		return "symlink"
	case localfs.TypeBlockDevice:
		return "block_device"
	case localfs.TypeCharDevice:
		return "char_device"
	case localfs.TypeFIFO:
		return "fifo"
	case localfs.TypeSocket:
		return "socket"
	}
	return "unknown"
}

// modeLetters is a mode as ls -l shows it.
func modeLetters(n *snapshot.Node) string {
	letters := []byte("-rwxrwxrwx")
	letters[0] = "?-dlbcps"[min(n.Type, 7)]
	for i := range 9 {
		if n.Mode&(1<<(8-i)) == 0 {
			letters[i+1] = '-'
		}
	}
	special := func(bit uint32, at int, with, without byte) {
		if n.Mode&bit != 0 {
			if letters[at] == 'x' {
				letters[at] = with
			} else {
				letters[at] = without
			}
		}
	}
	special(0o4000, 3, 's', 'S')
	special(0o2000, 6, 's', 'S')
	special(0o1000, 9, 't', 'T')
	return string(letters)
}

func owner(names map[uint32]string, id uint32) string {
	if name := names[id]; name != "" {
		return shown(name)
	}
	return strconv.FormatUint(uint64(id), 10)
}

// longLine is an entry as ls -l shows it.
func longLine(s *snapshot.Snapshot, path string, n *snapshot.Node) string {
	name := shown(path)
	if n.IsDir() {
		name += "/"
	}
	if n.Type == localfs.TypeSymlink {
		name += " -> " + shown(n.Target)
	}
	return fmt.Sprintf("%s  %-8s %-8s %10s  %s  %s", modeLetters(n), owner(s.Owners.Users, n.UID), owner(s.Owners.Groups, n.GID),
		size(n.Size), time.Unix(0, n.MTime).Format("2006-01-02 15:04:05"), name)
}

func (a *app) lsCommand() *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "list what is in a snapshot", ArgsUsage: "[SNAPSHOT[:PATH]]",
		Description: `Lists a folder of a snapshot, by default the labels of the latest one.

Examples:

  wtsnap ls
  wtsnap ls -l latest:homes/alice
  wtsnap ls -R 3f12ab34:system
  wtsnap ls --at yesterday latest:homes`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "show mode, owner, size and time"},
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "list everything below"},
			nullFlag(), atFlag(), incompleteFlag(),
		},
		Action: a.action(func(c *cli.Context) error {
			r, s, path, err := a.openSnapshot(c)
			if err != nil {
				return err
			}
			if err := r.LoadIndex(a.ctx); err != nil {
				return fmt.Errorf("loading the index: %w", err)
			}
			list := &lister{a: a, r: r, s: s, long: c.Bool("long"), null: c.Bool("null"), recursive: c.Bool("recursive"), out: bufio.NewWriter(a.std.out)}
			if err := list.run(path); err != nil {
				return fmt.Errorf("listing snapshot %s: %w", s.Ref.ID.Short(), err)
			}
			return nil
		}),
	}
}

// openSnapshot opens the repository and finds the snapshot that the only argument, which may be missing, names.
func (a *app) openSnapshot(c *cli.Context) (*repo.Repository, *snapshot.Snapshot, string, error) {
	if args := a.line.args; len(args) == 2 { // as other tools have it
		if spec, err := snapshot.ParseSpec(args[0]); err == nil && !spec.HasPath {
			return nil, nil, "", usagef(a.line.name+" "+shown(args[0]+":"+args[1]), "there is nothing to do with %s", shown(args[1]))
		}
	}
	args, err := a.arguments(0, 1, "")
	if err != nil {
		return nil, nil, "", err
	}
	spec := "latest"
	if len(args) > 0 {
		spec = args[0]
	}
	if _, err := snapshot.ParseSpec(spec); err != nil {
		return nil, nil, "", err
	}
	r, err := a.openRepo()
	if err != nil {
		return nil, nil, "", err
	}
	s, path, err := a.resolve(r, spec, a.g.selector(c))
	return r, s, path, err
}

// resolve finds a snapshot; several that an id may mean are listed.
func (a *app) resolve(r *repo.Repository, spec string, sel snapshot.Selector) (*snapshot.Snapshot, string, error) {
	s, path, err := snapshot.Resolve(a.ctx, r, spec, sel)
	if err != nil {
		return nil, "", fmt.Errorf("looking for the snapshot: %w", err)
	}
	if a.second == nil { // else it may be that one's
		a.learn(s)
	}
	if name, given, _ := strings.Cut(spec, ":"); strings.HasPrefix(given, "/") {
		if inside := insideOf(s, given); inside != "" && inside != path {
			return nil, "", &statusError{exitFailed, fmt.Sprintf("looking for %s: a path in a snapshot begins with its label", shown(given)),
				"what was saved from there is " + shown(cmpOr(name, "latest")+":"+inside), nil}
		}
	}
	return s, path, nil
}

// insideOf is where in a snapshot that lies which was saved from a path of the machine; "" where nothing was, or where the path
// begins with a label.
func insideOf(s *snapshot.Snapshot, path string) (inside string) {
	label, _, _ := strings.Cut(strings.TrimLeft(path, "/"), "/")
	longest := 0
	for i := range s.Sources {
		src := &s.Sources[i]
		from := strings.TrimRight(src.Path, "/")
		rest, below := strings.CutPrefix(path, from)
		switch {
		case src.Label == label:
			return ""
		case src.Kind != snapshot.SourceFolder || from == "" || !below || rest != "" && rest[0] != '/' || len(from) < longest:
		default:
			longest, inside = len(from), src.Label+strings.TrimRight(rest, "/")
		}
	}
	return inside
}

// lister prints the entries of a folder.
type lister struct {
	a                     *app
	r                     *repo.Repository
	s                     *snapshot.Snapshot
	long, null, recursive bool
	out                   *bufio.Writer
}

type lsHead struct {
	Snapshot string `json:"snapshot"`
	Instance string `json:"instance"`
	Time     string `json:"time"`
	Root     string `json:"root"` // the path that was asked for
}

func (l *lister) run(path string) error {
	top, err := snapshot.Lookup(l.a.ctx, l.r, l.s, path)
	if err != nil {
		return err
	}
	if l.a.g.json {
		if l.a.stream, err = startStream(l.a.std.out, lsHead{l.s.Ref.ID.String(), l.s.Instance, utc(l.s.Time), nameOf(path).Path}, "entries"); err != nil {
			return err
		}
	}
	defer l.out.Flush()
	if !top.IsDir() {
		return l.entry(path, path, top)
	}
	var bad error
	cut := len(path)
	if cut > 0 {
		cut++
	}
	bound := l.s.Bound()
	err = snapshot.Walk(l.a.ctx, snapshot.TreeLoader(l.r), top, path, func(at string, n *snapshot.Node, err error) error {
		if err != nil {
			bad = err
			l.a.say(fmt.Sprintf("wtsnap: %s: %s", shown(at), message(err)))
			return nil
		}
		if err := bound.Count(n); err != nil {
			return err
		}
		if err := l.entry(at, at[cut:], n); err != nil {
			return err
		}
		if !l.recursive && n.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err == nil {
		err = bad
	}
	return err
}

// entry prints one entry; rel is its path below the folder that was asked for.
func (l *lister) entry(path, rel string, n *snapshot.Node) error {
	var err error
	switch {
	case l.a.g.json:
		return l.a.stream.add(newNodeDoc(l.s, path, n))
	case l.null:
		_, err = io.WriteString(l.out, path+"\x00")
	case l.long:
		_, err = io.WriteString(l.out, longLine(l.s, rel, n)+"\n")
	default:
		name := shown(rel)
		if n.IsDir() {
			name += "/"
		}
		_, err = io.WriteString(l.out, name+"\n")
	}
	return err
}
