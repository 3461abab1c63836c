package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/local"
)

// damageCase is a command that is tried on damaged repositories.
type damageCase struct {
	name string
	args []string
}

func damageCases(bed *damageBed) []damageCase {
	id := bed.ids[1]
	return []damageCase{
		{"backup", []string{"backup", bed.src}},
		{"restore", []string{"restore", id, "--to", "tar:-"}},
		{"snapshots", []string{"snapshots"}},
		{"ls", []string{"ls", id, "-R"}},
		{"find", []string{"find", "*.bin"}},
		{"diff", []string{"diff", bed.ids[0], id}},
		{"dump", []string{"dump", id + ":src/big.bin"}},
		{"check", []string{"check"}},
		{"check --read-data", []string{"check", "--read-data"}},
		{"forget", []string{"forget", "--keep-last", "1"}},
		{"forget an id", []string{"forget", bed.ids[0]}},
		{"undelete", []string{"undelete", "--all"}},
		{"prune", []string{"prune", "--max-unused", "0"}},
		{"prune --grace 0", []string{"prune", "--max-unused", "0", "--grace", "0"}},
		{"repair index", []string{"repair", "index", "--yes"}},
		{"repair packs", []string{"repair", "packs", "--yes"}},
		{"stats", []string{"stats"}},
		{"tag", []string{"tag", "add", id, "new"}},
		{"hold", []string{"hold", id, "--reason", "new"}},
		{"key list", []string{"key", "list"}},
		{"key add", []string{"key", "add", "--new-key-file", filepath.Join(bed.dir, "third.key")}},
		{"status", []string{"status", "--max-age", "30d"}},
		{"drill", []string{"drill"}},
		{"doctor", []string{"doctor"}},
		{"history", []string{"history", "src/big.bin"}},
		{"repair snapshots", []string{"repair", "snapshots"}},
		{"repair config", []string{"repair", "config"}},
		{"copy", []string{"copy", "--to-repo", filepath.Join(bed.dir, "other"), "--to-password-file", filepath.Join(bed.dir, "other.key")}},
	}
}

// damageKinds are the kinds of objects, and damageHows what becomes of one.
var (
	damageKinds = []string{"config", "key", "other key", "data pack", "tree pack", "index", "manifest", "forgotten", "annotation", "condemned", "lease", "ledger"}
	damageHows  = []string{"truncate", "delete", "flip", "swap", "roll back", "zero"}
)

// mayFail says which commands may end with which codes where an object of a kind is damaged; "*" is any command. All else
// must end with 0. A damaged object stops nothing that does not need it: above all, no backup and no restore.
var mayFail = map[string]map[string][]int{
	"config": {"*": {exitNoRepository, exitDamage, exitPassword}},
	"key":    {"*": {exitDamage, exitPassword}},
	"other key": {
		"check": {exitDamage}, "check --read-data": {exitDamage}, "key list": {exitDamage}, "*": {exitDamage, exitPassword},
	},
	"data pack": {
		"restore": {exitDamage}, "dump": {exitDamage}, "copy": {exitDamage}, "check": {exitDamage}, "check --read-data": {exitDamage}, "drill": {exitDamage},
		"prune": {exitDamage}, "prune --grace 0": {exitDamage},
	},
	"tree pack": {
		"history": {exitDamage},
		"restore": {exitDamage}, "dump": {exitDamage}, "copy": {exitDamage}, "check": {exitDamage}, "check --read-data": {exitDamage}, "drill": {exitDamage},
		"ls": {exitDamage}, "find": {exitDamage}, "diff": {exitDamage}, "stats": {exitDamage},
		"prune": {exitDamage}, "prune --grace 0": {exitDamage},
	},
	"index": {
		"history": {exitDamage}, "repair snapshots": {exitDamage},
		"restore": {exitDamage}, "dump": {exitDamage}, "copy": {exitDamage}, "check": {exitDamage}, "check --read-data": {exitDamage}, "drill": {exitDamage},
		"ls": {exitDamage}, "find": {exitDamage}, "diff": {exitDamage}, "stats": {exitDamage}, "backup": {exitDamage},
		"prune": {exitDamage}, "prune --grace 0": {exitDamage}, "repair packs": {exitDamage},
	},
	"manifest": {
		"history": {exitDamage}, "doctor": {exitDamage},
		"copy": {exitDamage}, "restore": {exitDamage, exitFailed, exitUsage}, "dump": {exitDamage, exitFailed, exitUsage}, "check": {exitDamage}, "check --read-data": {exitDamage},
		"ls": {exitDamage, exitFailed, exitUsage}, "find": {exitDamage}, "diff": {exitDamage, exitFailed, exitUsage}, "stats": {exitDamage}, "drill": {exitDamage},
		"snapshots": {exitDamage}, "status": {exitDamage, exitLate}, "forget": {exitDamage}, "forget an id": {exitDamage, exitFailed, exitUsage},
		"prune": {exitDamage}, "prune --grace 0": {exitDamage}, "tag": {exitDamage, exitFailed, exitUsage}, "hold": {exitDamage, exitFailed, exitUsage},
	},
	"forgotten": {"undelete": {exitDamage}, "check": {exitDamage}, "check --read-data": {exitDamage}},
	"annotation": {
		"check": {exitDamage}, "check --read-data": {exitDamage}, "snapshots": {exitDamage}, "forget": {exitDamage},
		"forget an id": {exitDamage, exitUsage /* held */}, "copy": {exitDamage},
	},
	"condemned": {"check": {exitDamage}, "check --read-data": {exitDamage}},
	"lease": {
		"check": {exitDamage}, "check --read-data": {exitDamage}, "prune": {exitBusy, exitDamage}, "prune --grace 0": {exitBusy, exitDamage},
		"undelete": {exitBusy, exitDamage}, "repair index": {exitBusy, exitDamage}, "repair packs": {exitBusy, exitDamage},
	},
	"ledger": {"check": {exitDamage}, "check --read-data": {exitDamage}, "drill": {exitDamage}},
}

// damageBed is a small repository with two objects of every kind, and what it was before its last day.
type damageBed struct {
	t              *testing.T
	dir, src       string
	now, before    map[string][]byte // objects, by name
	other          map[string][]byte // an empty repository
	ids            []string          // of the snapshots
	sums           map[string]map[string]string
	objects        map[string][2]string // two of each kind; the first is damaged
	prefixes       map[string]string    // folders
	tried, noticed int
}

func (b *damageBed) run(repo string, args ...string) (code int, out, errs string) {
	b.t.Helper()
	var o, e bytes.Buffer
	defer func() {
		if r := recover(); r != nil {
			b.t.Errorf("%q panics: %v\n%s", args, r, debug.Stack())
		}
	}()
	key := filepath.Join(b.dir, "key")
	global := []string{"wtsnap", "-r", repo, "-p", key, "--instance", "web", "--cache-dir", filepath.Join(b.dir, "cache"), "--json"}
	switch args[0] {
	case "init": // makes the key
		global = []string{"wtsnap", "-r", repo}
	case "restore", "dump": // write what was stored to standard output
		global = global[:len(global)-1]
	}
	code = run(b.t.Context(), std{strings.NewReader(""), &o, &e}, append(global, args...))
	return code, o.String(), e.String()
}

func (b *damageBed) must(args ...string) string {
	b.t.Helper()
	code, out, errs := b.run(filepath.Join(b.dir, "repo"), args...)
	if code != 0 {
		b.t.Fatalf("%q: exit code %d\n%s%s", args, code, errs, out)
	}
	return out
}

func (b *damageBed) write(name string, n int, seed byte) {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed, byte(n)}).Read(data)
	if err := errors.Join(os.MkdirAll(b.src+"/sub", 0o755), os.WriteFile(filepath.Join(b.src, name), data, 0o644)); err != nil {
		b.t.Fatal(err)
	}
}

// newDamageBed makes the repository.
func newDamageBed(t *testing.T) *damageBed {
	b := &damageBed{t: t, dir: t.TempDir(), sums: map[string]map[string]string{}, objects: map[string][2]string{}, prefixes: map[string]string{}}
	b.src = filepath.Join(b.dir, "src")
	place := filepath.Join(b.dir, "repo")
	b.must("init", "--new-key-file", filepath.Join(b.dir, "key"))
	b.must("key", "add", "--new-key-file", filepath.Join(b.dir, "second.key"))
	if code, _, errs := b.run(filepath.Join(b.dir, "other"), "init", "--new-key-file", filepath.Join(b.dir, "other.key")); code != 0 {
		t.Fatal(errs)
	}
	b.other = b.objectsIn(filepath.Join(b.dir, "other"))
	b.write("big.bin", 700_000, 1)
	b.write("sub/small.bin", 3000, 2)
	b.backup()
	b.must("drill")
	b.must("tag", "add", "latest", "first")
	b.write("more.bin", 400_000, 3)
	b.backup()
	b.before = b.objectsIn(place)
	b.must("hold", "latest", "--reason", "why")
	b.must("hold", "--release", "latest")
	for i := range 2 { // to be forgotten
		b.write("gone.bin", 300_000+i, byte(4+i))
		b.backup()
		b.must("forget", b.ids[2])
		b.ids = b.ids[:2]
	}
	b.must("prune", "--max-unused", "0")
	b.write("gone.bin", 1000, 9)
	b.backup()
	b.must("forget", b.ids[2])
	b.ids = b.ids[:2]
	b.must("prune", "--max-unused", "0")
	if err := os.Remove(filepath.Join(b.src, "gone.bin")); err != nil {
		t.Fatal(err)
	}
	b.must("drill", "--every", "1h")
	b.leases(place)
	b.now = b.objectsIn(place)
	for _, id := range b.ids {
		_, out, _ := b.run(place, "restore", id, "--to", "tar:-", "-q")
		b.sums[id] = tarSums(out)
		if len(b.sums[id]) < 2 {
			t.Fatalf("snapshot %s has %d files", id, len(b.sums[id]))
		}
	}
	b.choose(place)
	return b
}

func (b *damageBed) backup() {
	var doc struct{ Snapshot string }
	if err := json.Unmarshal([]byte(b.must("backup", b.src)), &doc); err != nil || doc.Snapshot == "" {
		b.t.Fatal(err, doc)
	}
	b.ids = append(b.ids, doc.Snapshot)
}

func (b *damageBed) open(place string) *repo.Repository {
	st, err := local.Open(place)
	if err != nil {
		b.t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(b.dir, "key"))
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := repo.Open(b.t.Context(), st, repo.OpenOptions{Password: bytes.TrimSpace(key)})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// leases leaves two leases there, as writers that were killed do.
func (b *damageBed) leases(place string) {
	left := map[string][]byte{}
	for range 2 {
		s, err := b.open(place).Begin(b.t.Context(), repo.SessionOptions{})
		if err != nil {
			b.t.Fatal(err)
		}
		for name, data := range b.objectsIn(place) {
			if strings.HasPrefix(name, "leases/") {
				left[name] = data
			}
		}
		if err := s.Close(b.t.Context()); err != nil {
			b.t.Fatal(err)
		}
	}
	b.put(place, left)
}

// choose finds two objects of each kind.
func (b *damageBed) choose(place string) {
	r := b.open(place)
	if err := r.LoadIndex(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	condemned := map[string]bool{}
	kinds := map[string]index.Kind{}
	for _, info := range r.Index().Packs() {
		condemned[info.ID.String()], kinds[info.ID.String()] = info.Condemned, info.Kind
	}
	found := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(b.now)) {
		dir, _, _ := strings.Cut(name, "/")
		kind := map[string]string{"config": "config", "keys": "key", "index": "index", "snapshots": "manifest", "forgotten": "forgotten",
			"annotations": "annotation", "condemned": "condemned", "leases": "lease", "ledger": "ledger"}[dir]
		if dir == "packs" {
			id := filepath.Base(name)
			switch {
			case condemned[id]:
			case kinds[id] == index.Tree:
				kind = "tree pack"
			default:
				kind = "data pack"
			}
		}
		if kind != "" {
			found[kind] = append(found[kind], name)
			b.prefixes[kind] = dir
		}
	}
	if keys := found["key"]; len(keys) == 2 { // ours is the one that b.before's first key list was opened with
		var doc struct {
			Keys []struct {
				ID      string
				Current bool
			}
		}
		if err := json.Unmarshal([]byte(b.must("key", "list")), &doc); err != nil {
			b.t.Fatal(err)
		}
		for _, k := range doc.Keys {
			if k.Current && !strings.Contains(keys[0], k.ID) {
				keys[0], keys[1] = keys[1], keys[0]
			}
		}
		found["other key"] = []string{keys[1], keys[0]}
		b.prefixes["other key"] = "keys"
	}
	for _, id := range b.ids[1:] { // the newest is damaged, which the commands ask for
		for i, name := range found["manifest"] {
			if strings.HasSuffix(name, id) {
				found["manifest"][0], found["manifest"][i] = found["manifest"][i], found["manifest"][0]
			}
		}
	}
	for _, kind := range damageKinds {
		if len(found[kind]) < 2 && kind != "config" {
			b.t.Fatalf("%s: there are only %q", kind, found[kind])
		}
		b.objects[kind] = [2]string{found[kind][0], found[kind][min(1, len(found[kind])-1)]}
	}
}

func (b *damageBed) objectsIn(place string) map[string][]byte {
	objects := map[string][]byte{}
	err := filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(place, path)
		objects[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return objects
}

func (b *damageBed) put(place string, objects map[string][]byte) {
	for name, data := range objects {
		path := filepath.Join(place, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// damaged returns the objects with one of a kind damaged, and the names that an error may give. False: there is no such damage.
func (b *damageBed) damaged(kind, how string) (objects map[string][]byte, names []string, ok bool) {
	objects = maps.Clone(b.now)
	name, other := b.objects[kind][0], b.objects[kind][1]
	data := bytes.Clone(objects[name])
	names = []string{name}
	switch how {
	case "truncate":
		objects[name] = data[:len(data)/2]
	case "delete":
		delete(objects, name)
	case "flip":
		data[len(data)/2] ^= 1
		objects[name] = data
	case "zero":
		objects[name] = make([]byte, len(data))
	case "swap":
		if name == other {
			return nil, nil, false
		}
		objects[name], objects[other] = objects[other], objects[name]
		names = append(names, other)
	case "roll back": // the folder is as it was
		folder := b.prefixes[kind] + "/"
		for n := range objects {
			if strings.HasPrefix(n, folder) && b.before[n] == nil {
				delete(objects, n)
				names = append(names, n)
			}
		}
		for n, data := range b.before {
			if strings.HasPrefix(n, folder) {
				objects[n] = data
			}
		}
	}
	return objects, names, true
}

// TestDamageOfEveryKind damages an object of every kind in every way and runs every command on the repository. With
// WTSNAP_SLOW it is the whole product, else each command meets each kind with one damage.
func TestDamageOfEveryKind(t *testing.T) {
	slow := os.Getenv("WTSNAP_SLOW") != ""
	clearEnvironment(t)
	bed := newDamageBed(t)
	for k, kind := range damageKinds {
		for i, c := range damageCases(bed) {
			for j, how := range damageHows {
				if slow || j == (k+i)%len(damageHows) {
					bed.try(kind, how, c)
				}
			}
		}
	}
	if bed.noticed < bed.tried/5 {
		t.Errorf("only %d of %d damages were noticed: the damages are none", bed.noticed, bed.tried)
	}
	t.Logf("%d combinations of object, damage and command, %d of them noticed by the command", bed.tried, bed.noticed)
}

func (b *damageBed) try(kind, how string, c damageCase) {
	objects, names, ok := b.damaged(kind, how)
	if !ok {
		return
	}
	b.tried++
	place := filepath.Join(b.dir, "damaged")
	if err := errors.Join(os.RemoveAll(place), os.RemoveAll(filepath.Join(b.dir, "third.key")), os.RemoveAll(filepath.Join(b.dir, "cache")),
		os.RemoveAll(os.Getenv("XDG_STATE_HOME"))); err != nil {
		b.t.Fatal(err)
	}
	b.put(place, objects)
	if c.name == "copy" {
		if err := os.RemoveAll(filepath.Join(b.dir, "other")); err != nil {
			b.t.Fatal(err)
		}
		b.put(filepath.Join(b.dir, "other"), b.other)
	}
	when := fmt.Sprintf("%s, %s: %s", kind, how, c.name)
	start := time.Now()
	code, out, errs := b.run(place, c.args...)
	allowed := mayFail[kind][c.name]
	if allowed == nil {
		allowed = mayFail[kind]["*"]
	}
	switch {
	case code == 0:
	case !slices.Contains(allowed, code):
		b.t.Errorf("%s: exit code %d\n%s%s", when, code, errs, out)
	case !strings.Contains(errs, "wtsnap: "):
		b.t.Errorf("%s: exit code %d, and it says: %q", when, code, errs)
	case code == exitDamage && c.name != "copy" /* names paths */ && how != "delete" && how != "roll back" && kind != "config" && kind != "key" &&
		!slices.ContainsFunc(names, func(name string) bool { return strings.Contains(errs+out, filepath.Base(name)[:8]) }):
		b.t.Errorf("%s: the damaged %q is not named:\n%s%s", when, names, errs, out)
	}
	if code != 0 {
		b.noticed++
	}
	if strings.Contains(errs, "goroutine ") || strings.Contains(errs, "runtime error") {
		b.t.Errorf("%s: a stack trace:\n%s", when, errs)
	}
	if d := time.Since(start); d > time.Minute {
		b.t.Errorf("%s: took %v", when, d)
	}
	b.right(when, c, code, out)
	b.unharmed(when, c, kind, place)
}

// right compares what the command has given back.
func (b *damageBed) right(when string, c damageCase, code int, out string) {
	want := b.sums[b.ids[1]]
	switch c.name {
	case "restore":
		got := tarSums(out)
		for name, sum := range got {
			if want[name] != sum {
				b.t.Errorf("%s: %s has come back as something else", when, name)
			}
		}
		if code == 0 && len(got) != len(want) {
			b.t.Errorf("%s: exit code 0, and %d of %d files", when, len(got), len(want))
		}
	case "copy": // what is there is whole
		b.copied(when)
	case "dump":
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(out))); code == 0 && sum != want["src/big.bin"] {
			b.t.Errorf("%s: exit code 0, and other bytes", when)
		}
	}
}

// copied fails unless every snapshot that was copied is whole in the other repository.
func (b *damageBed) copied(when string) {
	global := []string{"wtsnap", "-r", filepath.Join(b.dir, "other"), "-p", filepath.Join(b.dir, "other.key"), "--cache-dir", "none"}
	var out, errs bytes.Buffer
	if code := run(b.t.Context(), std{nil, &out, &errs}, append(global, "check", "--read-data")); code != 0 {
		b.t.Errorf("%s: the other repository: check: exit code %d\n%s%s", when, code, &errs, &out)
	}
}

// unharmed puts back what was damaged, and fails unless the snapshots that the command was not told to forget are whole.
func (b *damageBed) unharmed(when string, c damageCase, kind, place string) {
	left := map[string][]byte{}
	after := b.objectsIn(place)
	for name, data := range b.now {
		dir, _, _ := strings.Cut(name, "/")
		if dir == "leases" || dir == "condemned" || dir == "forgotten" { // these do not come back, and forgotten is forgotten
			continue
		}
		now, there := after[name]
		switch {
		case bytes.Equal(now, data):
		case there || name == b.objects[kind][0] || name == b.objects[kind][1] || b.prefixes[kind] == dir && b.before[name] == nil:
			left[name] = data // what this test damaged
		case dir == "packs" || dir == "index" || dir == "annotations" || dir == "ledger": // a prune may have replaced it
		case dir == "snapshots" && strings.HasPrefix(c.name, "forget"):
		default:
			b.t.Errorf("%s: it removed %s", when, name)
		}
	}
	b.put(place, left)
	for _, id := range b.ids {
		if c.name == "prune --grace 0" && kind == "manifest" { // of a manifest that is gone nobody knows, and nothing is kept for it
			continue
		}
		if strings.HasPrefix(c.name, "forget") && !strings.HasSuffix(b.objects["manifest"][0], id) {
			continue
		}
		code, out, errs := b.run(place, "restore", id, "--to", "tar:-", "-q")
		if got := tarSums(out); code != 0 || !maps.Equal(got, b.sums[id]) {
			b.t.Errorf("%s made it worse: with the object as it was, snapshot %s: exit code %d, %d of %d files\n%s", when, id, code, len(got), len(b.sums[id]), errs)
		}
	}
}

// tarSums returns the hashes of an archive's files.
func tarSums(archive string) map[string]string {
	sums := map[string]string{}
	r := tar.NewReader(strings.NewReader(archive))
	for {
		h, err := r.Next()
		if err != nil {
			return sums
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return sums
		}
		sums[h.Name] = fmt.Sprintf("%x", sum.Sum(nil))
	}
}
