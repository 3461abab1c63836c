package pages

import (
	"slices"
	"strings"
	"testing"
)

const smaps = `00400000-02b3a000 r-xp 00000000 fe:00 247026                             /usr/local/bin/a program
Size:              40168 kB
Rss:               30000 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
02b3a000-02b3b000 r--p 0273a000 fe:00 247026                             /usr/local/bin/a program
Anonymous:             4 kB
Swap:                  0 kB
02b3b000-02b3c000 r--p 0273b000 fe:00 247026                             /usr/local/bin/a program
Anonymous:             0 kB
Swap:                  4 kB
02b3c000-05622000 r--p 0273c000 fe:00 247026                             /usr/local/bin/a program
Anonymous:             0 kB
SwapPss:               0 kB
Swap:                  0 kB
05622000-05925000 rw-p 05222000 fe:00 247026                             /usr/local/bin/a program
Anonymous:             0 kB
Swap:                  0 kB
05925000-07bbf000 rw-p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7f0000000000-7f0000001000 r-xp 00000000 fe:00 4711                       /usr/lib/libc.so
Anonymous:             0 kB
Swap:                  0 kB
7fff00000000-7fff00021000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
Swap:                  0 kB
`

// What was written, or may be, is not unmapped, nor what is another file's.
func TestUnwritten(t *testing.T) {
	got, err := unwritten(strings.NewReader(smaps), "/usr/local/bin/a program")
	if want := []span{{0x400000, 0x2b3a000}, {0x2b3c000, 0x5622000}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%x, %v; want %x", got, err, want)
	}
	if got, err := unwritten(strings.NewReader(smaps), "/usr/local/bin/b"); len(got) != 0 || err != nil {
		t.Errorf("of a file that is not mapped: %x, %v", got, err)
	}
	// Kernels that do not tell, or tell something else.
	for _, old := range []string{strings.ReplaceAll(smaps, "Anonymous:", "Other:"), "", "Anonymous:\nSwap: 0 kB\n"} {
		if got, err := unwritten(strings.NewReader(old), "/usr/local/bin/a program"); len(got) != 0 || err != nil {
			t.Errorf("%x, %v of\n%s", got, err, old)
		}
	}
	if _, err := unwritten(strings.NewReader("xyz-0 r-xp 0 0 0 /a\n"), "/a"); err == nil {
		t.Error("an address that is none was taken")
	}
}
