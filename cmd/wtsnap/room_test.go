package main

import (
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/repo/storage"
)

func TestRoomWarning(t *testing.T) {
	const g = 1 << 30
	for _, c := range []struct {
		what                        string
		free, uploaded, done, total int64
		want                        string
	}{
		{"plenty", 100 * g, 0, 0, 50 * g, ""},
		{"next to nothing", 10 << 20, 0, 0, 0, "room for 10 MiB only"},
		{"nothing is known of the sources", g, 500 << 20, 0, 0, ""},
		{"too early to tell", g, 1 << 20, 1 << 20, 100 * g, ""},
		{"half of what is read is uploaded, and that is too much", 10 * g, g, 2 * g, 30 * g, "about 14 GiB more are to be uploaded, and the storage has room for 9.0 GiB"},
		{"it will do", 15 * g, g, 2 * g, 30 * g, ""},
		{"hardly anything is new", 2 * g, 100 << 20, 100 * g, 110 * g, ""},
		{"more than was thought", g, g, 2 * g, g, ""},
	} {
		got := roomWarning(c.free, c.uploaded, c.done, c.total)
		if got == "" != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	if got := roomForRepack(g, 2*g); !strings.Contains(got, "about 2.0 GiB are to be written anew") || !strings.Contains(got, "--max-repack-size 512MiB") {
		t.Error(got)
	}
	for _, free := range []int64{storage.Unknown, 3 * g} {
		if got := roomForRepack(free, 2*g); got != "" {
			t.Error(got)
		}
	}
}
