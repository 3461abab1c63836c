package spelling

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"backup", "restore", "snapshots", "check", "r", "keep-last"}
	for word, want := range map[string]string{"bakcup": "backup", "restor": "restore", "snap": "snapshots", "chekc": "check", "keeplast": "keep-last",
		"xyz": "", "rm": "", "zzzzzzzz": ""} {
		if got := Nearest(word, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
