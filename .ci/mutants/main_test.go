package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTable sees that every mutant's text is in its file, once: who moves or rewrites it notices at once, and not when
// somebody runs the mutants.
func TestTable(t *testing.T) {
	for _, m := range mutants {
		source, err := os.ReadFile(filepath.Join("..", "..", m.file))
		if err != nil {
			t.Error(err)
			continue
		}
		if n := strings.Count(string(source), m.old); n != 1 || m.old == m.new {
			t.Errorf("%s: %s has its text %d times: bring table.go up to date", m.name, m.file, n)
		}
	}
}
