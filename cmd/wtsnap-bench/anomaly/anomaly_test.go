// Package anomaly plays nights of the benchmark's corpora, and disasters, and looks at which of them the alarm of package
// snapshot is raised. Its figures are in docs/decisions/0016-anomalies.md.
package anomaly

import (
	"crypto/rc4"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/corpus"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/snapshot"
)

// place is a corpus and a repository of its nights.
type place struct {
	t   *testing.T
	st  *mem.Storage
	r   *repo.Repository
	key []byte
	dir string
	now time.Time
}

// save saves a night.
func (p *place) save() (*snapshot.Changes, []snapshot.Anomaly) {
	p.t.Helper()
	p.now = p.now.Add(24 * time.Hour)
	rep, err := snapshot.Backup(p.t.Context(), p.r, snapshot.BackupOptions{Instance: "i", Time: p.now, SampleNights: -1, Delta: repo.DeltaOff,
		Sources: []snapshot.SourceSpec{{Label: "homes", Kind: snapshot.SourceFolder, Path: p.dir}}})
	var alarm *snapshot.AnomalyError
	if err != nil && !errors.As(err, &alarm) {
		p.t.Fatal(err)
	}
	return rep.Snapshot.Source("homes").Change, rep.Snapshot.Anomalies
}

// copy is the place, to do something to.
func (p *place) copy() *place {
	p.t.Helper()
	c := *p
	c.st = p.st.Clone()
	c.dir = filepath.Join(p.t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", p.dir, c.dir).CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	var err error
	if c.r, err = repo.Open(p.t.Context(), c.st, repo.OpenOptions{Password: p.key}); err != nil {
		p.t.Fatal(err)
	}
	// In a copy every inode is another one: a night in which nothing but that happens.
	if _, a := c.save(); a != nil {
		p.t.Fatalf("a copy alarms: %v", a)
	}
	return &c
}

// each calls f for the files of the place, the i-th of them.
func (p *place) each(f func(i int, path string) error) {
	p.t.Helper()
	i := 0
	err := filepath.WalkDir(p.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		i++
		return f(i, path)
	})
	if err != nil || i == 0 {
		p.t.Fatalf("%d files: %v", i, err)
	}
}

// encrypt does to a file what a program that wants money does.
func encrypt(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c, err := rc4.NewCipher([]byte(filepath.Base(path) + "0123456789"))
	if err != nil {
		return err
	}
	c.XORKeyStream(data, data)
	return os.WriteFile(path, data, 0o600)
}

func percent(part, whole int64) string {
	return fmt.Sprintf("%5.1f%%", 100*float64(part)/float64(max(whole, 1)))
}

func (p *place) show(name string, c *snapshot.Changes, alarms []snapshot.Anomaly) {
	var kinds []string
	for _, a := range alarms {
		kinds = append(kinds, string(a.Kind))
	}
	p.t.Logf("%-42s rewritten %s  removed %s  new %s  noise in old files %s  alarm: %s", name, percent(c.Rewritten, c.BeforeFiles),
		percent(c.Removed, c.BeforeFiles), percent(c.New, c.BeforeFiles), percent(c.DenseRewritten, c.BeforeBytes), strings.Join(kinds, ", "))
}

func TestNightsAndDisasters(t *testing.T) {
	name, nights := "tiny", 16
	if s := os.Getenv("WTSNAP_ANOMALY_SIZE"); s != "" {
		name, nights = s, 40
	}
	size, err := corpus.ParseSize(name)
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	homes := corpus.NewHomes(p.dir, 1, size, nil)
	if err := homes.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.save()
	var most snapshot.Changes
	for n := range nights {
		if _, err := homes.Night(t.Context(), n+1, ""); err != nil {
			t.Fatal(err)
		}
		c, alarms := p.save()
		if alarms != nil {
			t.Errorf("night %d: %v", n+1, alarms)
		}
		most.BeforeFiles, most.BeforeBytes = c.BeforeFiles, c.BeforeBytes
		most.Rewritten, most.Removed, most.New = max(most.Rewritten, c.Rewritten), max(most.Removed, c.Removed), max(most.New, c.New)
		most.DenseRewritten = max(most.DenseRewritten, c.DenseRewritten)
	}
	p.show(fmt.Sprintf("the most of %d nights", nights), &most, nil)
	for _, d := range []struct {
		name   string
		do     func(p *place)
		alarms bool
	}{
		{"all is encrypted in place", func(p *place) { p.each(func(_ int, path string) error { return encrypt(path) }) }, true},
		{"all is encrypted, and renamed", func(p *place) {
			p.each(func(_ int, path string) error { return errors.Join(encrypt(path), os.Rename(path, path+".locked")) })
		}, true},
		{"three of ten are encrypted in place", func(p *place) {
			p.each(func(i int, path string) error {
				if i%10 >= 3 {
					return nil
				}
				return encrypt(path)
			})
		}, true},
		{"two of five are deleted", func(p *place) {
			p.each(func(i int, path string) error {
				if i%5 >= 2 {
					return nil
				}
				return os.Remove(path)
			})
		}, true},
		{"all homes are renamed", func(p *place) {
			list, err := os.ReadDir(p.dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				if err := os.Rename(filepath.Join(p.dir, e.Name()), filepath.Join(p.dir, "renamed-"+e.Name())); err != nil {
					t.Fatal(err)
				}
			}
		}, false},
		{"all files get another owner's mode", func(p *place) {
			p.each(func(_ int, path string) error { return os.Chmod(path, 0o604) })
		}, false},
		{"as much again arrives, half of it noise", func(p *place) {
			if err := corpus.NewHomes(filepath.Join(p.dir, "dataset"), 2, size, nil).Make(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		q := p.copy()
		d.do(q)
		c, alarms := q.save()
		p.show(d.name, c, alarms)
		if d.alarms != (len(alarms) > 0) {
			t.Errorf("%s: %v", d.name, alarms)
		}
	}
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, st: mem.New(), dir: filepath.Join(t.TempDir(), "homes"), now: time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC)}
	var err error
	if p.key, err = repo.NewKeyFile(); err == nil {
		p.r, err = repo.Init(t.Context(), p.st, repo.InitOptions{Password: p.key})
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A database that is dumped each night, and written anew as a whole, never alarms.
func TestNightsOfADump(t *testing.T) {
	size, err := corpus.ParseSize("tiny")
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	dump := corpus.NewDump(p.dir, 1, size)
	if err := dump.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.save()
	for n := range 12 {
		if _, err := dump.Night(t.Context(), n+1, ""); err != nil {
			t.Fatal(err)
		}
		if c, alarms := p.save(); alarms != nil {
			t.Errorf("night %d: %v, %+v", n+1, alarms, c)
		}
	}
}
