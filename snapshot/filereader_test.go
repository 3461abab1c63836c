package snapshot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
)

func TestFileReader(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	src := t.TempDir()
	long := bytesOf(1, 11<<20)
	write(t, src+"/long", long)
	write(t, src+"/short", []byte("short"))
	write(t, src+"/empty", nil)
	holes := append(append(bytesOf(2, 300_000), make([]byte, 1<<20)...), 7)
	f, err := os.Create(src + "/holes")
	must(t, err)
	_, err = f.Write(holes[:300_000])
	must(t, err)
	_, err = f.WriteAt([]byte{7}, int64(len(holes)-1))
	must(t, err)
	must(t, f.Close())
	d := newDepot(t).checked()
	s := d.save(map[string]string{"l": src})
	for name, want := range map[string][]byte{"long": long, "short": []byte("short"), "empty": nil, "holes": holes} {
		n, err := Lookup(t.Context(), d.r, s, "l/"+name)
		must(t, err)
		for _, from := range []int{0, 1, len(want) / 2, len(want) - 1, len(want)} {
			if from < 0 || from > len(want) {
				continue
			}
			r := OpenFile(t.Context(), d.r, n, name, int64(from))
			got, err := io.ReadAll(r)
			must(t, err)
			must(t, r.Close())
			if !bytes.Equal(got, want[from:]) {
				t.Errorf("%s from %d: %d bytes differ from the %d that should be", name, from, len(got), len(want)-from)
			}
			if _, err := r.Read(make([]byte, 1)); err == nil {
				t.Error("it can be read after its end")
			}
		}
		r := OpenFile(t.Context(), d.r, n, name, 0)
		must(t, iotest.TestReader(io.LimitReader(r, 2000), want[:min(len(want), 2000)]))
		must(t, r.Close()) // early
	}
	n, err := Lookup(t.Context(), d.r, s, "l")
	must(t, err)
	r := OpenFile(t.Context(), d.r, n, "l", 0)
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a folder is read as a file")
	}
	must(t, r.Close())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err = Lookup(t.Context(), d.r, s, "l/long"); err != nil {
		t.Fatal(err)
	}
	r = OpenFile(ctx, d.r, n, "long", 0)
	if _, err := io.ReadAll(r); err == nil {
		t.Error("it is read to its end although the context has ended")
	}
	must(t, r.Close())
}

// TestFileReaderDamage reads what comes before the damage, and then what is damaged.
func TestFileReaderDamage(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/f", bytesOf(1, 3<<20))
	d := newDepot(t)
	d.save(map[string]string{"l": src})
	first := d.packs(index.Data)
	whole := append(bytesOf(1, 3<<20), bytesOf(2, 9<<20)...)
	write(t, src+"/f", whole)
	s := d.save(map[string]string{"l": src})
	lost := 0
	for pack := range d.packs(index.Data) {
		if !first[pack] {
			must(t, d.st.Delete(t.Context(), pack))
			lost++
		}
	}
	if lost == 0 {
		t.Fatal("nothing to damage")
	}
	d.reopen()
	n, err := Lookup(t.Context(), d.r, s, "l/f")
	must(t, err)
	r := OpenFile(t.Context(), d.r, n, "l/f", 0)
	got, err := io.ReadAll(r)
	must(t, r.Close())
	var damage *repo.DamageError
	if !errors.As(err, &damage) {
		t.Fatalf("read %d bytes and %v", len(got), err)
	}
	if len(got) < 2<<20 || !bytes.HasPrefix(whole, got) {
		t.Errorf("%d bytes came before the damage", len(got))
	}
}
