package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
)

type keyDoc struct {
	ID      string `json:"id"`
	Label   string `json:"label,omitempty"`
	Host    string `json:"host,omitempty"`
	User    string `json:"user,omitempty"`
	Created string `json:"created"`
	Current bool   `json:"current"`
}

func newKeyDoc(k repo.KeyInfo) keyDoc {
	return keyDoc{k.ID, k.Label, k.Host, k.User, utc(k.Created), k.Current}
}

func (a *app) keyCommand() *cli.Command {
	newFlags := func() []cli.Flag {
		return []cli.Flag{
			&cli.StringFlag{Name: "new-password-file", Usage: "read the new password from `FILE`"},
			&cli.StringFlag{Name: "new-key-file", Usage: "write a random key to `FILE`, which must not exist, and use it as the new password"},
		}
	}
	return &cli.Command{
		Name: "key", Usage: "add, list, remove and change passwords",
		Description: `A repository may have several passwords; each opens all of it. Examples:

  wtsnap key add --new-key-file /root/second.key --label "off-site copy"
  wtsnap key list
  wtsnap key remove 3f12ab34
  wtsnap key change                         asks for the new password; the old one stops working

Whoever had a password may have kept the key behind it: removing a password keeps out only those who had not.`,
		Subcommands: []*cli.Command{
			{Name: "add", Usage: "add a password", Action: a.action(a.keyAdd),
				Flags: append(newFlags(), &cli.StringFlag{Name: "label", Usage: "`TEXT` that says what the password is for"})},
			{Name: "list", Usage: "list the passwords", Action: a.action(a.keyList)},
			{Name: "remove", Usage: "remove a password", ArgsUsage: "ID", Action: a.action(a.keyRemove)},
			{Name: "change", Usage: "replace the password that is used now", Action: a.action(a.keyChange), Flags: newFlags()},
		},
	}
}

// secondPassword returns the new password of key add and key change.
func (a *app) secondPassword(c *cli.Context) ([]byte, error) {
	file, key := c.String("new-password-file"), c.String("new-key-file")
	switch {
	case file != "" && key != "":
		return nil, usagef("leave one of them out", "--new-password-file and --new-key-file exclude each other")
	case file != "":
		return readPasswordFile(file)
	case key != "":
		return writeKeyFile(key)
	case a.interactive():
		return a.newPassword(a.ctx, shownRepo(a.g.repo))
	}
	return nil, usagef("--new-password-file FILE or --new-key-file FILE", "no new password was given")
}

func (a *app) keyAdd(c *cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	password, err := a.secondPassword(c)
	if err != nil {
		return err
	}
	info, err := r.AddKey(a.ctx, password, repo.KDFParams{}, c.String("label"))
	if err != nil {
		return fmt.Errorf("adding a password: %w", err)
	}
	a.done(map[string]keyDoc{"key": newKeyDoc(info)}, func(w io.Writer) {
		fmt.Fprintf(w, "added password %s; the others still work\n", info.ID[:8])
	})
	return nil
}

func (a *app) keyList(*cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	keys, err := r.Keys(a.ctx)
	if err != nil {
		return fmt.Errorf("listing the passwords: %w", err)
	}
	docs := make([]keyDoc, 0, len(keys))
	t := newTable("ID", "CREATED", "LABEL", "MADE BY", "")
	for _, k := range keys {
		docs = append(docs, newKeyDoc(k))
		if !k.Current {
			t.add(k.ID[:8], when(k.Created), "(sealed by its password)", "", "")
			continue
		}
		t.add(k.ID[:8], when(k.Created), shown(k.Label), shown(strings.Trim(k.User+"@"+k.Host, "@")), "used now")
	}
	a.result(map[string][]keyDoc{"keys": docs}, t.write)
	return nil
}

func (a *app) keyRemove(*cli.Context) error {
	args, err := a.arguments(1, 1, "the id of the password")
	if err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	keys, err := r.Keys(a.ctx)
	if err != nil {
		return fmt.Errorf("listing the passwords: %w", err)
	}
	var matches []repo.KeyInfo
	for _, k := range keys {
		if strings.HasPrefix(k.ID, strings.ToLower(args[0])) && args[0] != "" {
			matches = append(matches, k)
		}
	}
	if len(matches) != 1 {
		text := "there is no password with the id %s"
		if len(matches) > 1 {
			text = "several passwords have an id that begins with %s"
		}
		return usagef("wtsnap key list", text, shown(args[0]))
	}
	if err := r.RemoveKey(a.ctx, matches[0].ID); err != nil {
		return fmt.Errorf("removing password %s: %w", matches[0].ID[:8], err)
	}
	a.done(map[string]keyDoc{"key": newKeyDoc(matches[0])}, func(w io.Writer) {
		fmt.Fprintf(w, "removed password %s\n", matches[0].ID[:8])
	})
	return nil
}

func (a *app) keyChange(c *cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	password, err := a.secondPassword(c)
	if err != nil {
		return err
	}
	info, err := r.ChangeKey(a.ctx, password, repo.KDFParams{})
	if err != nil {
		return fmt.Errorf("changing the password: %w", err)
	}
	a.done(map[string]keyDoc{"key": newKeyDoc(info)}, func(w io.Writer) {
		fmt.Fprintf(w, "the new password is %s; the old one opens nothing any more\n", info.ID[:8])
	})
	return nil
}
