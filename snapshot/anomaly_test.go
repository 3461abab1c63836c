package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/repo"
)

func prose(n int, seed uint64) string {
	words := []string{"the", "tale", "of", "a", "night", "in", "which", "nothing", "much", "happened", "again", fmt.Sprint(seed)}
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		b.WriteString(words[(i*7+int(seed)*i)%len(words)])
		b.WriteByte(' ')
	}
	return b.String()[:n]
}

// household is a vault with files, and nights of which each changes a few.
type household struct {
	*vault
	files int
	night int
}

func newHousehold(t *testing.T, files, nights int) *household {
	h := &household{vault: newVault(t), files: files}
	h.opts.Time = time.Date(2026, 5, 1, 3, 0, 0, 0, time.UTC)
	for i := range files {
		h.write(h.name(i), prose(700+i, uint64(i)))
	}
	for i := range nights + 1 {
		if _, err := h.sleep(); err != nil {
			t.Fatalf("an ordinary night %d: %v", i, err)
		}
	}
	return h
}

func (h *household) name(i int) string { return fmt.Sprintf("u%d/file%03d.txt", i%5, i) }

// sleep plays an ordinary night and saves.
func (h *household) sleep() (*BackupReport, error) {
	h.night++
	for i := range h.files / 50 {
		h.write(h.name((h.night*31+i*7)%h.files), prose(900+h.night, uint64(h.night)))
	}
	h.write(fmt.Sprintf("new/night%d.txt", h.night), prose(1000, uint64(1000+h.night)))
	return h.save()
}

func (h *household) save() (*BackupReport, error) {
	h.opts.Time = h.opts.Time.Add(24 * time.Hour)
	return h.try(context.Background())
}

// each calls f for every file of the source.
func (h *household) each(f func(i int, path string)) {
	h.t.Helper()
	i := 0
	must(h.t, filepath.WalkDir(h.src, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			f(i, path)
			i++
		}
		return err
	}))
	if i == 0 {
		h.t.Fatal("no files")
	}
}

func (h *household) encrypt(path string, i int) {
	info, err := os.Stat(path)
	must(h.t, err)
	must(h.t, os.WriteFile(path, noise(int(info.Size()), uint64(i)), 0o644))
}

func TestAnomalies(t *testing.T) {
	for _, c := range []struct {
		name          string
		files, nights int
		do            func(h *household)
		calm          bool
		want          string // kinds
	}{
		{"an ordinary night", 300, 8, func(*household) {}, false, ""},
		{"everything is encrypted in place", 300, 8, func(h *household) { h.each(func(i int, p string) { h.encrypt(p, i) }) }, false, "rewritten"},
		{"a third is encrypted in place", 300, 8, func(h *household) {
			h.each(func(i int, p string) {
				if i%3 == 0 {
					h.encrypt(p, i)
				}
			})
		}, false, "rewritten"},
		{"everything is encrypted under other names", 300, 8, func(h *household) {
			h.opts.AllowShrink = false
			h.each(func(i int, p string) { h.encrypt(p, i); must(t, os.Rename(p, p+".locked")) })
		}, false, "deleted"},
		{"a ransom note in the place of each file", 300, 8, func(h *household) {
			h.each(func(_ int, p string) { must(t, os.WriteFile(p, []byte("pay"), 0o644)) })
		}, false, "rewritten"},
		{"two fifths are deleted", 300, 8, func(h *household) {
			h.each(func(i int, p string) {
				if i%5 < 2 {
					must(t, os.Remove(p))
				}
			})
		}, false, "deleted"},
		{"everything is moved", 300, 8, func(h *household) {
			must(t, os.Rename(h.src+"/u1", h.src+"/v1"))
			must(t, os.Rename(h.src+"/u2", h.src+"/v2"))
		}, false, ""},
		{"everything gets another mode and time", 300, 8, func(h *household) {
			h.each(func(_ int, p string) {
				must(t, os.Chmod(p, 0o600))
				must(t, os.Chtimes(p, time.Unix(1e9, 0), time.Unix(1e9, 0)))
			})
		}, false, ""},
		{"a large new set of data that does not compress", 300, 8, func(h *household) {
			for i := range 300 {
				h.write(fmt.Sprintf("photos/%d.jpg", i), string(noise(20_000, uint64(i))))
			}
		}, false, ""},
		{"encrypted in one of the first nights", 300, 3, func(h *household) { h.each(func(i int, p string) { h.encrypt(p, i) }) }, false, ""},
		{"a small source", 40, 8, func(h *household) { h.each(func(i int, p string) { h.encrypt(p, i) }) }, false, ""},
		{"a source without alarm", 300, 8, func(h *household) { h.each(func(i int, p string) { h.encrypt(p, i) }) }, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHousehold(t, c.files, c.nights)
			c.do(h)
			if c.calm {
				h.opts.Sources = []SourceSpec{{Label: "homes", Kind: SourceFolder, Path: h.src, Guard: Guard{Calm: true}}}
			}
			rep, err := h.save()
			var got []string
			if rep != nil && rep.Snapshot != nil {
				for _, a := range rep.Snapshot.Anomalies {
					got = append(got, string(a.Kind))
					t.Log(a.String())
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Fatalf("anomalies %q, want %q (%v), %+v", got, c.want, err, rep)
			}
			if c.want == "" {
				must(t, err)
				return
			}
			if e := wantError[*AnomalyError](t, err); e.Snapshot != rep.Snapshot.Ref.ID || !rep.Snapshot.Complete {
				t.Errorf("%v, %+v", e, rep.Snapshot)
			}
			h.same(rep) // it is saved as any other
		})
	}
}

// A few large files that compress become noise: only their bytes tell.
func TestAnomalyOfLargeFiles(t *testing.T) {
	h := newHousehold(t, 150, 0)
	for i := range 3 {
		h.write(fmt.Sprintf("vm/disk%d.img", i), strings.Repeat(prose(997, uint64(i)), 13<<20/997))
	}
	for range anomalyNights + 1 {
		_, err := h.sleep()
		must(t, err)
	}
	for i := range 3 {
		h.encrypt(filepath.Join(h.src, fmt.Sprintf("vm/disk%d.img", i)), i)
	}
	rep, err := h.save()
	e := wantError[*AnomalyError](t, err)
	if len(e.Anomalies) != 1 || e.Anomalies[0].Kind != AnomalyDense || e.Anomalies[0].Share < 0.9 || rep.Snapshot == nil {
		t.Errorf("%v", err)
	}
}

// A source that is written anew each night is like itself when it is.
func TestAnomalyOfWhatChangesAnyway(t *testing.T) {
	h := newHousehold(t, 200, 0)
	for n := range anomalyNights + 3 {
		h.each(func(i int, p string) { must(t, os.WriteFile(p, noise(600, uint64(1000*n+i)), 0o644)) })
		_, err := h.save()
		must(t, err)
	}
	if c := h.list()[0]; c == nil {
		t.Fatal("no snapshot")
	}
}

func (h *household) list() []*Snapshot {
	h.t.Helper()
	snaps, err := List(h.t.Context(), h.r, Filter{})
	must(h.t, err)
	return snaps
}

// Retention is held until the snapshot is released, whatever nights come after it; the history outlives what is forgotten.
func TestAnomalyHoldsRetention(t *testing.T) {
	h := newHousehold(t, 300, 10)
	// Nothing is left of the first nights but what the later ones remember.
	var old []repo.SnapshotRef
	snaps := h.list()
	for _, s := range snaps[:len(snaps)-1] {
		old = append(old, s.Ref)
	}
	must(t, h.r.Forget(t.Context(), old))
	h.each(func(i int, p string) { h.encrypt(p, i) })
	rep, err := h.save()
	wantError[*AnomalyError](t, err)
	for range 3 {
		_, err := h.sleep()
		must(t, err)
	}
	p := Policy{Last: 1}
	forgets := func() (n int) {
		for _, d := range ApplyPolicy(h.list(), p, h.opts.Time) {
			if !d.Keep {
				n++
			} else if len(d.Reasons) == 0 {
				t.Error("no reason")
			}
		}
		return n
	}
	if n := forgets(); n != 0 {
		t.Errorf("%d would be forgotten", n)
	}
	snaps = h.list()
	if held := HeldBy(snaps, "inst"); len(held) != 1 || held[0].Ref.ID != rep.Snapshot.Ref.ID {
		t.Errorf("held by %v", held)
	}
	if st := Status(snaps, nil, nil, h.opts.Time)[0]; len(st.Held) != 1 {
		t.Errorf("status: %+v", st)
	}
	if HeldBy(snaps, "another") != nil {
		t.Error("another instance is held")
	}
	must(t, ReleaseAnomaly(t.Context(), h.r, rep.Snapshot.Ref.ID, "meant"))
	if n := forgets(); n != len(h.list())-1 {
		t.Errorf("after the release %d would be forgotten", n)
	}
}

// What a run did that was interrupted counts in the one that goes on.
func TestAnomalyOverAnInterruption(t *testing.T) {
	h := newHousehold(t, 300, 8)
	h.each(func(i int, p string) { must(t, os.WriteFile(p, noise(40_000, uint64(i)), 0o644)) })
	h.opts.Time = h.opts.Time.Add(24 * time.Hour)
	h.opts.UploadBudget = 4 << 20 // of 12
	rep, err := h.try(t.Context())
	wantError[*StoppedError](t, err)
	if rep.Snapshot == nil || !rep.Snapshot.Checkpoint || rep.Snapshot.Files == 0 || rep.Snapshot.Files >= 300 {
		t.Fatalf("it was not ended in the middle: %+v", rep.Snapshot)
	}
	h.opts.UploadBudget = 0
	rep, err = h.save()
	e := wantError[*AnomalyError](t, err)
	if c := rep.Snapshot.Source("homes").Change; c.Rewritten < 290 || c.Rewritten > 320 || e.Anomalies[0].Kind != AnomalyRewritten {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestDense(t *testing.T) {
	for _, n := range []int{denseLeast, 700, 2000, 8192, 100_000, 1 << 20} {
		for seed := range uint64(20) {
			if !dense(noise(n, seed)) {
				t.Errorf("%d bytes of noise are not dense", n)
			}
		}
		for name, data := range map[string]string{"prose": prose(n, 3), "zeros": strings.Repeat("\x00", n),
			"hex": fmt.Sprintf("%x", noise(n, 1))[:n], "floats": string(bytes.Repeat([]byte{0x3f, 0xf0, 1, 2, 3, 4, 5, 6}, n/8+1)[:n])} {
			if dense([]byte(data)) {
				t.Errorf("%d bytes of %s are dense", n, name)
			}
		}
	}
	if dense(noise(denseLeast-1, 1)) {
		t.Error("too few bytes tell nothing")
	}
}

func sampleChangeManifest() *Manifest {
	m := sampleManifest()
	m.Sources[0].Change = &Changes{New: 1, Changed: 2, Rewritten: 1, Removed: 3, NewBytes: 4, BlobBytes: 5, DenseBytes: 6, DenseRewritten: 2,
		BeforeFiles: 100, BeforeBytes: 1000, History: []ChangeShares{{1, 2, 3}, {0, 0, 0}}}
	m.Anomalies = []Anomaly{{m.Sources[0].Label, AnomalyDeleted, 0.5, 0.01, 50, 100}}
	return m
}

func TestGoldenChangeManifest(t *testing.T) {
	data, err := EncodeManifest(sampleChangeManifest())
	must(t, err)
	golden(t, "manifest_v3.hex", data)
	m, err := DecodeManifest(data)
	must(t, err)
	if diff := cmp.Diff(sampleChangeManifest(), m); diff != "" {
		t.Errorf("manifest differs (-want +got):\n%s", diff)
	}
	for _, version := range []string{"1", "2"} {
		if _, err := DecodeManifest(bytes.Replace(data, []byte(`"version":3`), []byte(`"version":`+version), 1)); err == nil {
			t.Errorf("changes in a manifest of version %s were taken", version)
		}
	}
}

// The limit is robust: one wild night in the history does not make it useless, growth and weekly peaks do not alarm.
func TestAnomalyLimits(t *testing.T) {
	history := func(shares ...float64) (h []ChangeShares) {
		for _, s := range shares {
			h = append(h, ChangeShares{Rewritten: int64(s * millionth)})
		}
		return h
	}
	weekly := []float64{.01, .02, .01, .01, .3, .01, .02, .01, .01, .02, .01, .3, .01}
	for _, c := range []struct {
		name    string
		history []ChangeShares
		share   float64
		want    bool
	}{
		{"six nights", history(0, 0, 0, 0, 0, 0), 1, false},
		{"seven nights", history(0, 0, 0, 0, 0, 0, 0), 1, true},
		{"below the floor", history(0, 0, 0, 0, 0, 0, 0), 0.25, false},
		{"a weekly peak", history(weekly...), 0.35, false},
		{"beyond a weekly peak", history(weekly...), 0.6, true},
		{"wild history", history(.1, .5, .9, .3, .7, .2, .6, .8), 1, false},
		{"busy history", history(.2, .22, .18, .2, .21, .19, .2), 0.28, false},
	} {
		ch := &Changes{BeforeFiles: 10_000, Rewritten: int64(c.share * 10_000), History: c.history}
		if got := len(ch.anomalies("x")) > 0; got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if a := (&Changes{BeforeFiles: 120, Rewritten: 99, History: history(0, 0, 0, 0, 0, 0, 0, 0)}).anomalies("x"); a != nil {
		t.Error("99 files alarm")
	}
	var none *Changes
	if none.anomalies("x") != nil {
		t.Error("no figures alarm")
	}
	err := error(&AnomalyError{Anomalies: []Anomaly{{"homes", AnomalyDense, .5, .001, 1, 2}}})
	if !strings.Contains(err.Error(), "homes: 50% of its bytes were replaced by what looks encrypted, 0.1% at most in the nights before") {
		t.Error(err)
	}
	if errors.Is(err, repo.ErrBusy) {
		t.Error("kinds are mixed up")
	}
}
