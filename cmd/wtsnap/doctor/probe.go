package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// probeBytes is how large the probe is: enough for a range of it to differ from the whole.
const probeBytes = 4 << 10

// probeAge is when a probe's maker is dead.
const probeAge = 24 * time.Hour

// A Probed is what a probe found out about the storage besides what is wrong with it.
type Probed struct {
	Findings
	Reached bool                     // an answer came
	Latency map[string]time.Duration // of each kind of call that worked
	Stored  time.Time                // when the probe was stored by the storage's own account; zero: it does not tell
	At      time.Time                // by this machine's clock
}

// Probe stores an object beside the repository, finds it in a listing, reads it, whole and in part, and removes it. A probe
// that was left behind by a machine that died is removed by the next one; nothing else ever looks at it.
func Probe(ctx context.Context, st storage.Storage) *Probed {
	p := &Probed{Latency: map[string]time.Duration{}}
	id, data := make([]byte, 8), make([]byte, probeBytes)
	_, _ = rand.Read(id) // it never fails
	_, _ = rand.Read(data)
	name := repo.ProbesDir + hex.EncodeToString(id)
	step := func(kind, doing string, do func() error) bool {
		began := time.Now()
		err := do()
		if err != nil {
			p.fail(doing, err)
			return false
		}
		p.Latency[kind] = time.Since(began)
		p.Reached = true
		return true
	}
	p.At = time.Now()
	if !step("put", "storing an object", func() error {
		info, err := st.Put(ctx, name, data)
		if err == nil {
			p.Stored = info.ModTime
		}
		return err
	}) {
		if !p.unreachable() { // it may have been stored all the same
			_ = st.Delete(ctx, name)
		}
		return p
	}
	deleted := false
	defer func() {
		if !deleted {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			_ = st.Delete(ctx, name)
		}
	}()
	ok := step("list", "listing", func() error { return p.list(ctx, st, name) })
	ok = step("get", "reading what was stored", func() error {
		return errors.Join(compare(ctx, st, name, 0, -1, data), compare(ctx, st, name, 100, 1000, data[100:1100]))
	}) && ok
	deleted = step("delete", "deleting", func() error {
		if err := st.Delete(ctx, name); err != nil {
			return err
		}
		if _, err := st.Stat(ctx, name); !errors.Is(err, storage.ErrNotExist) {
			return fmt.Errorf("the object is still there: %w", cmpError(err))
		}
		return nil
	})
	if ok && deleted {
		p.Add(Remote, OK, fmt.Sprintf("can be written, listed, read and deleted (an object takes %s to store, %s to read)",
			rounded(p.Latency["put"]), rounded(p.Latency["get"]/2)), "")
	}
	if p.Latency["get"]/2 > slow {
		p.Add(Remote, Warning, "an answer takes "+rounded(p.Latency["get"]/2), "a first backup will take long; --connections 16 sends more requests at a time")
	}
	return p
}

// slow is when an answer takes too long for thousands of them.
const slow = 5 * time.Second

func cmpError(err error) error {
	if err == nil {
		return errors.New("it was deleted without an error")
	}
	return err
}

func rounded(d time.Duration) string {
	if d < time.Millisecond {
		return "less than 1ms"
	}
	return d.Round(time.Millisecond).String()
}

// list looks for the probe, and removes those of the dead.
func (p *Probed) list(ctx context.Context, st storage.Storage, name string) error {
	found := false
	var stale []string
	err := st.List(ctx, repo.ProbesDir, func(i storage.Info) error {
		found = found || i.Name == name
		if i.Name != name && !i.ModTime.IsZero() && time.Since(i.ModTime) > probeAge {
			stale = append(stale, i.Name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, old := range stale {
		if err := st.Delete(ctx, old); err != nil {
			return err
		}
	}
	if !found {
		return errors.New("an object that was just stored is not listed")
	}
	return nil
}

func compare(ctx context.Context, st storage.Storage, name string, offset, length int64, want []byte) error {
	got, err := st.Get(ctx, name, offset, length, nil)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s: other bytes come back than were stored", path.Base(name))
	}
	return err
}

// unreachable reports whether no answer came at all, so that nothing else needs to be asked.
func (p *Probed) unreachable() bool {
	return len(p.Findings) > 0 && p.Findings[len(p.Findings)-1].Exit == ExitCredentials
}

// fail makes a finding of an error.
func (p *Probed) fail(doing string, err error) {
	p.Findings = append(p.Findings, Failure(Remote, doing, err))
}

// Failure is the finding that an error of a storage makes.
func Failure(area, doing string, err error) Finding {
	f := Finding{Area: area, Severity: Problem, Text: doing + ": " + err.Error(), Hint: storage.Hint(err), Exit: ExitFailed}
	hint := ""
	switch {
	case errors.Is(err, storage.ErrConfig):
		f.Exit = ExitUsage
	case errors.Is(err, storage.ErrAuth):
		f.Exit, hint = ExitCredentials, "make the credentials new"
	case errors.Is(err, storage.ErrQuota):
		hint = "make room there; wtsnap forget and wtsnap prune free what is no longer needed"
	case errors.Is(err, storage.ErrReadOnly), errors.Is(err, storage.ErrDenied):
		hint = "backups need to write, list, read and delete there; with --read-only only reading is tried"
	default:
		hint = "can this machine reach it: the network, the name, a proxy, a firewall? wtsnap -v shows more"
	}
	if f.Hint == "" {
		f.Hint = hint
	}
	return f
}

// Look only reads: it is Probe for whoever may not write.
func Look(ctx context.Context, st storage.Storage) *Probed {
	p := &Probed{Latency: map[string]time.Duration{}}
	began := time.Now()
	n := 0
	err := st.List(ctx, "keys/", func(storage.Info) error { n++; return nil })
	if err != nil {
		p.fail("listing", err)
		return p
	}
	p.Reached, p.Latency["list"] = true, time.Since(began)
	p.Add(Remote, OK, "can be listed (which took "+rounded(p.Latency["list"])+"); whether it can be written was not tried", "")
	return p
}
