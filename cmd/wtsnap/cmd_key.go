package main

import (
	"fmt"
	"io"
	"math"
	"slices"
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
	// KDF is argon2id with its parameters, or key-file. Weak: a new password would be derived with greater ones.
	KDF    string `json:"kdf,omitempty"`
	Memory int64  `json:"kdf_memory,omitempty"`
	Passes uint32 `json:"kdf_passes,omitempty"`
	Weak   bool   `json:"kdf_weak,omitempty"`
}

func newKeyDoc(k repo.KeyInfo) keyDoc {
	d := keyDoc{ID: k.ID, Label: k.Label, Host: k.Host, User: k.User, Created: utc(k.Created), Current: k.Current, KDF: "key-file"}
	if !k.KeyFile {
		d.KDF, d.Memory, d.Passes, d.Weak = "argon2id", int64(k.KDF.Memory)<<10, k.KDF.Time, k.Weak()
	}
	return d
}

// derivation says for people how a password is derived.
func derivation(k *repo.KeyInfo) string {
	if k.KeyFile {
		return "key file"
	}
	text := fmt.Sprintf("argon2id, %s, %s", size(int64(k.KDF.Memory)<<10), plural(int64(k.KDF.Time), "pass", "passes"))
	if k.Weak() {
		text += " (WEAK)"
	}
	return text
}

func (a *app) keyCommand() *cli.Command {
	newFlags := func() []cli.Flag {
		return []cli.Flag{
			&cli.StringFlag{Name: "new-password-file", Usage: "read the new password from `FILE`"},
			&cli.StringFlag{Name: "new-key-file", Usage: "write a random key to `FILE`, which must not exist, and use it as the new password"},
		}
	}
	kdfFlags := func() []cli.Flag {
		return []cli.Flag{
			sizeFlag("kdf-memory", "derive the password with `SIZE` of memory (default: as a new repository's, and no less than now)"),
			countFlag("kdf-passes", "derive the password with `N` passes over that memory"),
		}
	}
	return &cli.Command{
		Name: "key", Usage: "add, list, remove, change and upgrade passwords",
		Description: `A repository may have several passwords; each opens all of it. Examples:

  wtsnap key add --new-key-file /root/second.key --label "off-site copy"
  wtsnap key list
  wtsnap key remove 3f12ab34
  wtsnap key change                         asks for the new password; the old one stops working
  wtsnap key upgrade                        the same password, derived as slowly as today's are

Whoever had a password may have kept the key behind it: removing a password keeps out only those who had not.`,
		Subcommands: []*cli.Command{
			{Name: "add", Usage: "add a password", Action: a.action(a.keyAdd),
				Flags: append(append(newFlags(), &cli.StringFlag{Name: "label", Usage: "`TEXT` that says what the password is for"}), kdfFlags()...)},
			{Name: "list", Usage: "list the passwords", Action: a.action(a.keyList)},
			{Name: "remove", Usage: "remove a password", ArgsUsage: "ID", Action: a.action(a.keyRemove)},
			{Name: "change", Usage: "replace the password that is used now", Action: a.action(a.keyChange), Flags: append(newFlags(), kdfFlags()...)},
			{Name: "upgrade", Usage: "derive the password that is used now as slowly as today's are", Action: a.action(a.keyUpgrade), Flags: kdfFlags()},
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

// kdfParams reads --kdf-memory and --kdf-passes; the zero value where neither is given.
func kdfParams(c *cli.Context) (p repo.KDFParams, err error) {
	memory, hasMemory := get[int64](c, "kdf-memory")
	passes, hasPasses := get[int](c, "kdf-passes")
	if !hasMemory && !hasPasses {
		return p, nil
	}
	p = repo.DefaultKDF()
	if hasMemory {
		p.Memory = uint32(min(memory>>10, math.MaxUint32))
	}
	if hasPasses {
		p.Time = uint32(max(passes, 0))
	}
	if err := p.Check(); err != nil {
		return p, &usageError{text: err.Error()}
	}
	return p, nil
}

// openForKDF reads the parameters of a derivation, and opens the repository: there are no arguments.
func (a *app) openForKDF(c *cli.Context) (p repo.KDFParams, r *repo.Repository, err error) {
	if _, err = a.arguments(0, 0, ""); err == nil {
		p, err = kdfParams(c)
	}
	if err == nil {
		r, err = a.openRepo()
	}
	return p, r, err
}

func (a *app) keyUpgrade(c *cli.Context) error {
	p, r, err := a.openForKDF(c)
	if err != nil {
		return err
	}
	keys, err := r.Keys(a.ctx)
	if err != nil {
		return fmt.Errorf("listing the passwords: %w", err)
	}
	now := keys[slices.IndexFunc(keys, func(k repo.KeyInfo) bool { return k.Current })]
	if now.KeyFile || p == (repo.KDFParams{}) && !now.Weak() || p == now.KDF {
		a.done(map[string]keyDoc{"key": newKeyDoc(now)}, func(w io.Writer) {
			fmt.Fprintf(w, "password %s is derived as well as it can be: %s\n", now.ID[:8], derivation(&now))
		})
		return nil
	}
	password, err := a.password(a.ctx)
	if err != nil {
		return err
	}
	info, err := r.UpgradeKey(a.ctx, password, p)
	if err != nil {
		return fmt.Errorf("upgrading the password: %w", err)
	}
	a.done(map[string]keyDoc{"key": newKeyDoc(info)}, func(w io.Writer) {
		fmt.Fprintf(w, "the password is the same; its key is %s now, derived with %s\n", info.ID[:8], derivation(&info))
	})
	return nil
}

func (a *app) keyAdd(c *cli.Context) error {
	p, r, err := a.openForKDF(c)
	if err != nil {
		return err
	}
	password, err := a.secondPassword(c)
	if err != nil {
		return err
	}
	info, err := r.AddKey(a.ctx, password, p, c.String("label"))
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
	t := newTable("ID", "CREATED", "DERIVED WITH", "LABEL", "MADE BY", "")
	weak := 0
	for _, k := range keys {
		docs = append(docs, newKeyDoc(k))
		if k.Weak() {
			weak++
		}
		if !k.Current {
			t.add(k.ID[:8], when(k.Created), derivation(&k), "(sealed by its password)", "", "")
			continue
		}
		t.add(k.ID[:8], when(k.Created), derivation(&k), shown(k.Label), shown(strings.Trim(k.User+"@"+k.Host, "@")), "used now")
	}
	a.result(map[string][]keyDoc{"keys": docs}, func(w io.Writer) {
		t.write(w)
		if weak > 0 {
			fmt.Fprintln(w, "what is weak is derived less slowly than a new password would be: wtsnap key upgrade, with that password")
		}
	})
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
	p, r, err := a.openForKDF(c)
	if err != nil {
		return err
	}
	password, err := a.secondPassword(c)
	if err != nil {
		return err
	}
	info, err := r.ChangeKey(a.ctx, password, p)
	if err != nil {
		return fmt.Errorf("changing the password: %w", err)
	}
	a.done(map[string]keyDoc{"key": newKeyDoc(info)}, func(w io.Writer) {
		fmt.Fprintf(w, "the new password is %s; the old one opens nothing any more\n", info.ID[:8])
	})
	return nil
}
