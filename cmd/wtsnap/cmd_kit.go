package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/kit"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/snapshot"
)

func (a *app) kitCommand() *cli.Command {
	return &cli.Command{
		Name: "kit", Usage: "print the page with which a bare machine is restored",
		Description: `Makes one page of text, or of HTML for a printer, that says where the repository is, holds the key, and lists the commands that
restore everything on a machine that has nothing but wtsnap. Whoever has the page can read the backup: keep it where the
machine's misfortunes do not reach it.

Examples:

  wtsnap kit --to kit.html                     the page, for a printer; only you can read the file
  wtsnap kit --to kit.html --with-secrets      with the passwords and tokens of the remote
  wtsnap kit --to kit.txt --split 2/3          the page without the key, and three shares of which any two give it
  wtsnap kit join share-1 share-2 > wtsnap.key`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "write to `FILE`, which must not exist, in HTML if its name ends with .html (default: text, on standard output)"},
			&cli.BoolFlag{Name: "with-secrets", Usage: "write down the secrets of the remote, too, such as passwords and tokens"},
			&cli.BoolFlag{Name: "no-key", Usage: "leave the key out: it is kept elsewhere"},
			&cli.GenericFlag{Name: "split", Value: newValue(parseSplit), Usage: "put the key into shares, a file each: of `K/N`, such as 2/3, any K give it back"},
		},
		Action: a.action(a.kit),
		Subcommands: []*cli.Command{{
			Name: "join", Usage: "make the key of its shares", ArgsUsage: "FILE...",
			Description: "Reads the shares in files (or - for standard input), whole pages or the lines alone, and prints the key.",
			Flags:       []cli.Flag{&cli.StringFlag{Name: "to", Usage: "write the key to `FILE`, which must not exist (default: standard output)"}},
			Action:      a.action(a.kitJoin),
		}},
	}
}

// A split is how many shares give the key, of how many.
type split struct{ needed, of int }

func parseSplit(s string) (split, error) {
	k, n, _ := strings.Cut(s, "/")
	needed, err1 := strconv.Atoi(k)
	of, err2 := strconv.Atoi(n)
	if err1 != nil || err2 != nil || kit.CheckSplit(needed, of) != nil {
		return split{}, fmt.Errorf("%q is no split: write 2/3 for three shares of which any two give the key; 64 are the most", s)
	}
	return split{needed, of}, nil
}

type kitDoc struct {
	Repository string   `json:"repository"`
	ID         string   `json:"id"`
	Instances  []string `json:"instances"`
	Key        bool     `json:"key"`     // is on the page
	Secrets    bool     `json:"secrets"` // of the remote are on the page
	Missing    []string `json:"missing"` // secrets that are not
	Needed     int      `json:"shares_needed,omitempty"`
	Files      []string `json:"files"`
}

func (a *app) kit(c *cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	to := c.String("to")
	shares, isSplit := get[split](c, "split")
	switch {
	case c.IsSet("to") && to == "":
		return usagef("", "the name of the kit's file is empty")
	case to == "" && a.g.json:
		return usagef("--to FILE", "standard output is for the page, not for JSON")
	case to == "" && isSplit:
		return usagef("--to FILE", "--split writes a file for each share")
	case isSplit && c.Bool("no-key"):
		return usagef("leave one of them out", "--split and --no-key exclude each other")
	}
	r, err := a.openRepo() // which proves the key
	if err != nil {
		return err
	}
	page, err := a.kitPage(c, r)
	if err != nil {
		return fmt.Errorf("making the kit: %w", err)
	}
	key := ""
	if !c.Bool("no-key") {
		password, err := a.password(a.ctx)
		if err != nil {
			return err
		}
		key = string(password)
	}
	doc := kitDoc{Repository: shownRepo(page.Repository), ID: page.ID, Instances: []string{}, Key: key != "" && !isSplit, Secrets: page.Secrets,
		Missing: append([]string{}, page.Missing()...), Needed: shares.needed, Files: []string{}}
	for _, i := range page.Instances {
		doc.Instances = append(doc.Instances, i.Name)
	}
	files := kitFiles{to: to}
	if isSplit {
		page.Needed, page.Of = shares.needed, shares.of
		lines, err := kit.Split(key, shares.needed, shares.of)
		if err != nil {
			return usagef("--no-key, and keep the key elsewhere", "splitting the key: %v", err)
		}
		for i, line := range lines {
			s := &kit.Share{Page: page, Number: i + 1, Line: line}
			files.add(fmt.Sprintf("share-%d", i+1), s.Text, s.HTML)
		}
	} else {
		page.Key = key
	}
	files.add("", page.Text, page.HTML)
	if to == "" {
		return files.print(a.std.out)
	}
	if doc.Files, err = files.write(); err != nil {
		return err
	}
	a.done(doc, func(w io.Writer) { printKit(w, doc, shares) })
	return nil
}

func printKit(w io.Writer, doc kitDoc, s split) {
	fmt.Fprintf(w, "wrote %s, which only you can read\n", strings.Join(doc.Files, ", "))
	switch {
	case s.of > 0:
		fmt.Fprintf(w, "  give each share to somebody else; any %d of the %d make the key: wtsnap kit join\n", s.needed, s.of)
	case doc.Key:
		fmt.Fprintln(w, "  whoever has the page can read the backup: print it, keep it elsewhere, and remove the file")
	}
	if len(doc.Missing) > 0 {
		fmt.Fprintf(w, "  it does not have the remote's secrets (%s): --with-secrets writes them down\n", strings.Join(doc.Missing, ", "))
	}
}

// kitPage finds out what the page has to say, but for the key.
func (a *app) kitPage(c *cli.Context, r *repo.Repository) (*kit.Page, error) {
	p := &kit.Page{Made: time.Now(), Version: programVersion(), Format: repo.FormatVersion, Repository: a.g.repo, ID: r.ID(), Secrets: c.Bool("with-secrets")}
	var err error
	if isFolder(p.Repository) {
		if p.Repository, err = filepath.Abs(p.Repository); err != nil {
			return nil, err
		}
	} else {
		if p.Remotes, err = rclone.Sections(p.Repository, rclone.Options{ConfigPath: a.g.rcloneConfig}); err != nil {
			return nil, err
		}
		if !p.Secrets && rclone.HasSecret(p.Repository) {
			p.Hidden, p.Repository = true, shownRepo(p.Repository)
		}
	}
	snaps, err := snapshot.List(a.ctx, r, snapshot.Filter{Instance: a.g.instance})
	if err != nil && len(snaps) == 0 {
		return nil, err
	}
	at := map[string]int{}
	labels := map[string]bool{}
	for i := len(snaps) - 1; i >= 0; i-- { // newest first
		s := snaps[i]
		if s.HoldsOplog() || !s.Complete {
			continue
		}
		n, known := at[s.Instance]
		if !known {
			n = len(p.Instances)
			at[s.Instance] = n
			p.Instances = append(p.Instances, kit.Instance{Name: s.Instance, Newest: s.Time})
		}
		for _, src := range s.Sources {
			if key := s.Instance + "\x00" + src.Label; !labels[key] && (src.Mongo == nil || src.Mongo.Role == snapshot.MongoDump) {
				labels[key] = true
				l := kit.Label{Name: src.Label, Kind: src.Kind}
				if (src.Kind == snapshot.SourceFolder || src.Kind == snapshot.SourceFile) && filepath.IsAbs(src.Path) {
					l.From = filepath.Clean(src.Path)
				}
				p.Instances[n].Labels = append(p.Instances[n].Labels, l)
			}
		}
	}
	return p, nil
}

// kitFiles are the pages.
type kitFiles struct {
	to    string
	pages []kitFile
}

type kitFile struct {
	name string
	text func(io.Writer) error
}

func (f *kitFiles) add(part string, text, html func(io.Writer) error) {
	ext := filepath.Ext(f.to)
	name := f.to
	if part != "" {
		name = strings.TrimSuffix(f.to, ext) + "." + part + ext
	}
	if ext == ".html" || ext == ".htm" {
		text = html
	}
	f.pages = append(f.pages, kitFile{name, text})
}

func (f *kitFiles) print(w io.Writer) error {
	for _, p := range f.pages {
		if err := p.text(w); err != nil {
			return fmt.Errorf("printing the kit: %w", err)
		}
	}
	return nil
}

// write writes all files, or none.
func (f *kitFiles) write() (names []string, err error) {
	defer func() {
		if err != nil {
			for _, name := range names {
				_ = os.Remove(name)
			}
		}
	}()
	for _, p := range f.pages {
		var b bytes.Buffer
		if err := p.text(&b); err != nil {
			return names, fmt.Errorf("making the kit: %w", err)
		}
		if err := writeSecret(p.name, b.Bytes()); err != nil {
			return names, err
		}
		names = append(names, p.name)
	}
	return names, nil
}

// writeSecret writes a file that must not exist, for its owner's eyes only.
func writeSecret(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return usagef("name a file that does not exist", "%s is there already and is not overwritten", shown(path))
	}
	if err != nil {
		return usagef("", "writing a file: %v", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("writing %s: %w", shown(path), err)
	}
	return nil
}

func (a *app) kitJoin(c *cli.Context) error {
	files, err := a.arguments(1, -1, "the file of a share")
	if err != nil {
		return err
	}
	if a.g.json && c.String("to") == "" {
		return usagef("--to FILE", "standard output is for the key, not for JSON")
	}
	var lines []string
	for _, file := range files {
		in := a.std.in
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return usagef("", "the share: %v", err)
			}
			defer f.Close()
			in = f
		}
		data, err := io.ReadAll(io.LimitReader(in, 4<<20))
		if err != nil {
			return fmt.Errorf("reading the share %s: %w", shown(file), err)
		}
		found := kit.FindShares(string(data))
		if len(found) == 0 {
			return usagef("its line begins with wtsnap-share-1:", "%s holds no share", shown(file))
		}
		lines = append(lines, found...)
	}
	key, err := kit.Join(lines)
	if err != nil {
		return usagef("", "making the key of its shares: %v", err)
	}
	if to := c.String("to"); to != "" {
		if err := writeSecret(to, []byte(key+"\n")); err != nil {
			return err
		}
		a.done(map[string]string{"key_file": to}, func(w io.Writer) { fmt.Fprintf(w, "wrote %s, which only you can read\n", shown(to)) })
		return nil
	}
	_, err = fmt.Fprintln(a.std.out, key)
	return err
}
