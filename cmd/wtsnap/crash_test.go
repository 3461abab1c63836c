package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/local"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/rclone/rclonetest"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest/faulty"
)

// TestCrashes kills the program with SIGKILL in the midst of one operation after the other. After each kill check finds
// nothing, and every snapshot that was committed and not forgotten is restored and compared. On a folder it is killed at
// a random time; on S3 at a random request, before it is done, in its midst or after it. WTSNAP_CRASHES says how often;
// WTSNAP_CRASH_OPS names operations, or parts of their names, with commas between them: only these are killed.
func TestCrashes(t *testing.T) {
	kills := 8
	if os.Getenv("WTSNAP_SLOW") != "" {
		kills = 400
	}
	if s := os.Getenv("WTSNAP_CRASHES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	seed, only := rand.Uint64(), strings.Split(os.Getenv("WTSNAP_CRASH_OPS"), ",")
	if s := os.Getenv("WTSNAP_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	clearEnvironment(t)
	t.Setenv("RCLONE_CONFIG", filepath.Join(t.TempDir(), "rclone.conf"))
	t.Run("folder", func(t *testing.T) {
		place := filepath.Join(t.TempDir(), "repo")
		r := newRemote(t, place)
		r.run(0, "init", "--new-key-file", "key")
		st, err := local.Open(place)
		if err != nil {
			t.Fatal(err)
		}
		copySt, err := local.Open(place + "-copy")
		if err != nil {
			t.Fatal(err)
		}
		(&crashes{remote: r, place: place, st: st, copySt: copySt, rng: rand.New(rand.NewPCG(seed, 1))}).run(kills, only)
	})
	t.Run("S3", func(t *testing.T) {
		r, p, _ := serveFaulty(t, rclonetest.S3)
		place := rclonetest.Spec(rclonetest.S3, strings.TrimPrefix(p.URL, "http://"))
		st, err := rclone.Open(t.Context(), place, rclone.Options{})
		if err != nil {
			t.Fatal(err)
		}
		copySt, err := rclone.Open(t.Context(), place+"-copy", rclone.Options{})
		if err != nil {
			t.Fatal(err)
		}
		(&crashes{remote: r, place: place, st: st, copySt: copySt, proxy: p, rng: rand.New(rand.NewPCG(seed, 2))}).run(kills, only)
	})
}

// crashes is a repository whose users die, and another one that holds copies of its snapshots.
type crashes struct {
	*remote
	place      string // the copy's is place-copy
	st, copySt storage.Storage
	proxy      *faulty.Proxy // nil: a folder
	rng        *rand.Rand
	turn       int

	sums  map[string]string // what each snapshot holds, by id
	there map[string]bool   // snapshots that must be there

	partial map[string]bool // of which something was left out
	flipped bool            // bytes of packs were changed: check must read them all
	tally   map[string]*crashTally
}

// crashTally counts what became of an operation's runs.
type crashTally struct {
	killed, ended int
	working       int           // of those killed, had a lease
	all, last     time.Duration // of a run that was not killed: from its start, and from its lease
	requests      int           // of such a run
}

func (c *crashes) run(kills int, only []string) {
	c.sums, c.tally = map[string]string{}, map[string]*crashTally{}
	c.whole("before all")
	c.must("backup", c.path("src"))
	c.whole("before all")
	c.remote.run(0, "-r", c.place+"-copy", "init", "--new-key-file", "copy.key")
	all := c.crashOps()
	ops := slices.DeleteFunc(slices.Clone(all), func(op crashOp) bool {
		return !slices.ContainsFunc(only, func(part string) bool { return strings.Contains(op.name, part) })
	})
	if len(ops) == 0 {
		c.t.Fatalf("WTSNAP_CRASH_OPS names no operation")
	}
	done := 0
	defer func() {
		for _, name := range slices.Sorted(maps.Keys(c.tally)) {
			n := c.tally[name]
			c.t.Logf("%5d killed, %d of them with a lease, %d had ended: %s", n.killed, n.working, n.ended, name)
		}
		c.t.Logf("%5d killed in all", done)
	}()
	for c.turn = 1; done < kills && !c.t.Failed(); c.turn++ {
		op := ops[0]
		if c.turn <= 2*len(ops) {
			op = ops[(c.turn-1)/2] // so that each is met, and once not killed, however small the budget
		} else if len(ops) < len(all) || c.rng.IntN(2) == 0 {
			op = ops[c.rng.IntN(len(ops))]
		}
		c.tidy()
		if op.prepare != nil && !op.prepare() {
			continue
		}
		n := c.tally[op.name]
		if n == nil {
			n = &crashTally{}
			c.tally[op.name] = n
		}
		when := c.kill(op, n)
		leases := c.died()
		if strings.HasPrefix(when, "killed") {
			done++
			n.killed++
			if leases > 0 {
				n.working++
			}
		} else {
			n.ended++
		}
		when = fmt.Sprintf("turn %d, %s %s", c.turn, op.name, when)
		if op.mended != nil {
			op.mended()
		}
		if op.forgets {
			c.there = nil
		}
		c.whole(when)
		if op.after != nil {
			op.after(when)
		}
		if done%100 == 0 && strings.HasPrefix(when, fmt.Sprintf("turn %d, %s killed", c.turn, op.name)) {
			c.t.Logf("%d kills", done)
		}
	}
	c.must("backup", c.path("src"))
	c.must("prune", "--max-unused", "0", "--grace", "0")
	c.whole("at the end")
}

// died stands for the day after which others take the leases of the dead for abandoned: a prune would wait for it.
// It returns how many objects of leases there were.
func (c *crashes) died() int {
	n := 0
	for _, st := range []storage.Storage{c.st, c.copySt} {
		for _, name := range c.namesIn(st, "leases/") {
			if err := st.Delete(context.Background(), name); err != nil {
				c.t.Fatal(err)
			}
			n++
		}
	}
	return n
}

// kill runs the operation and kills it, unless it has not run yet, or ends before.
func (c *crashes) kill(op crashOp, n *crashTally) (when string) {
	cmd := exec.Command("wtsnap", append([]string{"-q"}, op.args...)...)
	var out bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, c.env, &out, &out
	first := n.all == 0
	at, how := 0, ""
	if c.proxy != nil && !first {
		at = 1 + c.rng.IntN(n.requests)
		how = []string{"before", "in the midst of", "after"}[c.rng.IntN(3)]
		left := at
		c.proxy.Next(1, func(*http.Request) bool { left--; return left == 0 }, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			c.killAt(cmd, how, w, r, next)
		})
		defer c.proxy.Next(0, nil, nil)
	}
	seen := c.seen()
	start := time.Now()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	var delay time.Duration
	begun := make(chan time.Time, 1)
	done := make(chan struct{})
	var watch sync.WaitGroup
	if c.proxy == nil {
		// Starting takes as long as the rest, so that the time is counted from the lease, if there is one.
		blind := !first && (n.last == 0 || op.forgets && c.rng.IntN(2) == 0)
		if blind {
			delay = time.Duration(1.2 * c.rng.Float64() * float64(n.all))
		} else if !first {
			delay = time.Duration(1.2 * c.rng.Float64() * float64(n.last))
		}
		watch.Go(func() { c.watch(cmd, !first, blind, delay, begun, done) })
	}
	err := cmd.Wait()
	close(done)
	watch.Wait()
	exit, _ := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		n.all, n.requests = time.Since(start), c.seen()-seen
		select {
		case lease := <-begun:
			n.last = time.Since(lease)
		default:
		}
		return "had ended"
	case exit != nil && exit.ExitCode() == -1 && c.proxy != nil:
		return fmt.Sprintf("killed %s request %d of %d", how, at, n.requests)
	case exit != nil && exit.ExitCode() == -1:
		return fmt.Sprintf("killed after %v", delay)
	}
	c.t.Fatalf("%s: %v\n%s", op.name, err, &out)
	return ""
}

// watch waits until the program has a lease, unless it is blind, and then kills it after the delay.
func (c *crashes) watch(cmd *exec.Cmd, kill, blind bool, delay time.Duration, begun chan<- time.Time, done <-chan struct{}) {
	for !blind {
		select {
		case <-done:
			return
		case <-time.After(200 * time.Microsecond):
		}
		here, _ := filepath.Glob(filepath.Join(c.place, "leases", "[0-9a-f]*"))
		there, _ := filepath.Glob(filepath.Join(c.place+"-copy", "leases", "[0-9a-f]*"))
		if len(here)+len(there) > 0 {
			begun <- time.Now()
			break
		}
	}
	if !kill {
		return
	}
	select {
	case <-done:
	case <-time.After(delay):
		_ = cmd.Process.Kill() // it may have ended
	}
}

func (c *crashes) seen() int {
	if c.proxy == nil {
		return 0
	}
	return c.proxy.Seen()
}

// killAt kills the program before the server has done what it asks for, when it has half of an upload, or before it has
// the answer.
func (c *crashes) killAt(cmd *exec.Cmd, how string, w http.ResponseWriter, r *http.Request, next http.Handler) {
	switch how {
	case "after":
		next.ServeHTTP(w, r)
	case "in the midst of":
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	}
	_ = cmd.Process.Kill() // it may have ended
	panic(http.ErrAbortHandler)
}

// edit changes the source as a day does.
func (c *crashes) edit() {
	for range 1 + c.rng.IntN(4) {
		c.write(fmt.Sprint("day/", c.rng.IntN(40)), 1000+c.rng.IntN(200_000))
	}
	for range c.rng.IntN(3) {
		if err := os.RemoveAll(c.path(fmt.Sprint("src/day/", c.rng.IntN(40)))); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *crashes) names(dir string) []string { return c.namesIn(c.st, dir) }

func (c *crashes) namesIn(st storage.Storage, dir string) []string {
	var names []string
	if err := st.List(context.Background(), dir, func(i storage.Info) error {
		names = append(names, i.Name)
		return nil
	}); err != nil {
		c.t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// damage flips a byte of an object, or removes it.
func (c *crashes) damage(name string, flip bool) {
	ctx := context.Background()
	data, err := c.st.Get(ctx, name, 0, -1, nil)
	if err == nil {
		err = c.st.Delete(ctx, name)
	}
	if err == nil && flip {
		data[len(data)/2] ^= 1
		_, err = c.st.Put(ctx, name, data)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// must runs the program to its end, in this process: that is faster.
func (c *crashes) must(args ...string) string {
	c.t.Helper()
	return c.mustOn(c.place, "key", args...)
}

// mustCopy is must for the copy.
func (c *crashes) mustCopy(args ...string) string {
	c.t.Helper()
	return c.mustOn(c.place+"-copy", "copy.key", args...)
}

func (c *crashes) mustOn(place, key string, args ...string) string {
	c.t.Helper()
	code, out, errs := runArgs(c.t, append([]string{"-r", place, "-p", c.path(key), "--instance", "web", "--json", "--cache-dir", c.path("cache2")}, args...)...)
	if code != 0 {
		c.t.Fatalf("turn %d: %q: exit code %d\n%s%s", c.turn, args, code, errs, out)
	}
	return out
}

// whole fails the test unless check finds nothing, and every snapshot is there and what it was made of.
func (c *crashes) whole(when string) {
	c.t.Helper()
	args := []string{"check"}
	if c.flipped || c.rng.IntN(8) == 0 {
		args = append(args, "--read-data")
	}
	c.flipped = false
	if code, out, errs := runArgs(c.t, append([]string{"-r", c.place, "-p", c.path("key"), "--cache-dir", "none", "--json"}, args...)...); code != 0 {
		c.t.Errorf("%s: check: exit code %d\n%s%s", when, code, errs, out)
	}
	var doc struct {
		Snapshots []struct {
			ID       string
			Complete bool
		}
	}
	if err := json.Unmarshal([]byte(c.must("snapshots")), &doc); err != nil {
		c.t.Fatal(err)
	}
	if len(doc.Snapshots) == 0 && c.turn > 0 {
		c.t.Errorf("%s: no snapshot is left", when)
	}
	left := maps.Clone(c.there)
	c.there, c.partial = map[string]bool{}, map[string]bool{}
	source := ""
	for _, s := range doc.Snapshots {
		delete(left, s.ID)
		c.there[s.ID] = true
		sum, err := c.restored(s.ID)
		if err != nil {
			c.t.Errorf("%s: restoring snapshot %s: %v", when, s.ID, err)
			continue
		}
		want, known := c.sums[s.ID]
		if !known { // it was just made
			if source == "" {
				source = c.source()
			}
			want, c.sums[s.ID] = source, sum
			if c.turn == 0 {
				want = sum // what was there before
			}
		}
		if !s.Complete {
			c.partial[s.ID] = true
			c.repaired(when, s.ID, sum)
		} else if sum != want {
			c.t.Errorf("%s: snapshot %s has come back as something else:\n%s\nwant:\n%s", when, s.ID, sum, want)
		}
	}
	for id := range left {
		c.t.Errorf("%s: snapshot %s is gone", when, id)
	}
}

// repaired fails the test if a snapshot of which something was left out holds what no other one held.
func (c *crashes) repaired(when, id, sum string) {
	known := map[string]bool{"": true}
	for other, lines := range c.sums {
		for line := range strings.SplitSeq(lines, "\n") {
			known[line] = known[line] || other != id
		}
	}
	for line := range strings.SplitSeq(sum, "\n") {
		if !known[line] {
			c.t.Errorf("%s: repaired snapshot %s: %q was never backed up", when, id, line)
		}
	}
}

// copied fails the test unless check finds nothing in the copy, and its snapshots are what they were made of.
func (c *crashes) copied(when string) {
	c.t.Helper()
	args := []string{"check"}
	if c.rng.IntN(8) == 0 {
		args = append(args, "--read-data")
	}
	c.mustCopy(args...)
	for id := range c.ids(c.mustCopy) {
		sum, err := c.restoredFrom(c.place+"-copy", c.path("copy.key"), id)
		if err != nil || sum != c.sums[id] {
			c.t.Errorf("%s: the copy of snapshot %s has come back as something else: %v", when, id, err)
		}
	}
}

// backup makes a snapshot, and knows what it holds.
func (c *crashes) backup() {
	c.t.Helper()
	var doc struct{ Snapshot string }
	if err := json.Unmarshal([]byte(c.must("backup", c.path("src"))), &doc); err != nil {
		c.t.Fatal(err)
	}
	c.there[doc.Snapshot], c.sums[doc.Snapshot] = true, c.source()
}

// ids returns a repository's snapshots, which must or mustCopy ask for.
func (c *crashes) ids(must func(args ...string) string) map[string]bool {
	c.t.Helper()
	var doc struct{ Snapshots []struct{ ID string } }
	if err := json.Unmarshal([]byte(must("snapshots")), &doc); err != nil {
		c.t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, s := range doc.Snapshots {
		ids[s.ID] = true
	}
	return ids
}

// restored restores a snapshot and returns what it holds.
func (c *crashes) restored(id string) (string, error) {
	return c.restoredFrom(c.place, c.path("key"), id)
}

func (c *crashes) restoredFrom(place, key, id string) (string, error) {
	var out, errs bytes.Buffer
	code := run(c.t.Context(), std{nil, &out, &errs}, []string{"wtsnap", "-r", place, "-p", key, "--instance", "web", "-q",
		"--cache-dir", c.path("cache2"), "restore", id, "--to", "tar:-"})
	if code != 0 {
		return "", fmt.Errorf("exit code %d: %s", code, &errs)
	}
	var lines []string
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return "", err
		}
		lines = append(lines, fmt.Sprintf("%s %d %x", h.Name, h.Size, sum.Sum(nil)[:8]))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// source returns what a snapshot of the source holds.
func (c *crashes) source() string {
	var lines []string
	for line := range strings.Lines(c.files("src")) {
		part := strings.Fields(line)
		lines = append(lines, fmt.Sprintf("src/%s %s %s", part[0], part[1], part[2][:16]))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
