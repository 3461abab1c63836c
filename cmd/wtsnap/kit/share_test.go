package kit

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const testKey = keyPrefix + "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// Any of the shares, as many as are needed, in any order, give the password back; one fewer gives an error.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		password := rapid.OneOf(rapid.Just(testKey), rapid.StringN(1, 14, maxText)).Draw(t, "password")
		of := rapid.IntRange(2, 6).Draw(t, "of")
		needed := rapid.IntRange(2, of).Draw(t, "needed")
		shares, err := Split(password, needed, of)
		if err != nil || len(shares) != of {
			t.Fatalf("splitting: %v", err)
		}
		some := rapid.Permutation(shares).Draw(t, "order")
		got, err := Join(some[:needed])
		if err != nil || got != password {
			t.Fatalf("%d of %d: %q, %v", needed, of, got, err)
		}
		if _, err := Join(append(some[:needed-1:needed-1], some[0])); err == nil {
			t.Fatal("too few gave something")
		}
	})
}

func TestJoinRefuses(t *testing.T) {
	a, err := Split(testKey, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := Split(testKey, 2, 3)
	flip := []byte(a[1])
	flip[60] ^= 1
	for name, lines := range map[string][]string{"mixed": {a[0], b[1]}, "nothing": nil, "no share": {"x"}, "one": {a[0]}} {
		if got, err := Join(lines); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, err := Join([]string{a[0], string(flip)}); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a mistyped share: %v", err)
	}
	if got := FindShares("Share 1:\n\n    " + strings.ToUpper(a[0]) + "\nand\n" + a[1]); len(got) != 2 || got[0] != a[0] || got[1] != a[1] {
		t.Errorf("found %q", got)
	}
	for _, n := range [][2]int{{1, 3}, {0, 0}, {3, 2}, {2, maxShares + 1}} {
		if _, err := Split(testKey, n[0], n[1]); err == nil {
			t.Errorf("%d of %d was not refused", n[0], n[1])
		}
	}
	if _, err := Split(strings.Repeat("x", maxText+1), 2, 3); err == nil {
		t.Error("a long password was not refused")
	}
}

// Shares that were made once are joined by every later version.
func TestOldShares(t *testing.T) {
	lines := strings.Fields(oldShares)
	for _, pair := range [][]string{{lines[0], lines[1]}, {lines[2], lines[0]}, {lines[1], lines[2]}} {
		if got, err := Join(pair); err != nil || got != testKey {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// What somebody has typed in neither panics nor gives back something that was not split.
func FuzzJoin(f *testing.F) {
	shares, err := Split(testKey, 2, 3)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range shares {
		share, err := parseShare(s)
		if err != nil {
			f.Fatal(err)
		}
		value, err := share.share.Value.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add("a page:\n"+strings.Join(shares, "\n"), 2, 3, share.number, uint32(7), value)
	}
	f.Add("", 0, 0, 0, uint32(0), []byte{})
	f.Fuzz(func(t *testing.T, text string, needed, of, number int, set uint32, value []byte) {
		lines := FindShares(text)
		for i := range 2 { // the sums are as they must be, so that the rest is looked at
			line := fmt.Sprintf("%s:%d:%d:%d:%08x:%x", sharePrefix, needed, of, number+i, set, value)
			lines = append(lines, line+":"+shareSum(line))
		}
		for _, some := range [][]string{lines, lines[:len(lines)-2], lines[len(lines)-2:]} {
			password, err := Join(some)
			if err != nil {
				continue
			}
			again, err := Split(password, 2, 2)
			if err != nil {
				t.Fatalf("%q: %v", password, err)
			}
			if back, err := Join(again); err != nil || back != password {
				t.Fatalf("%q came back as %q: %v", password, back, err)
			}
		}
	})
}
