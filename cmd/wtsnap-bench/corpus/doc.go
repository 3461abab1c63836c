// Package corpus makes the trees that the benchmark and the demonstration back up: homes of twelve users, and
// mongodump folders of a database like Girder's, each with nights of changes.
//
// Everything is drawn from one seed: the same seed, size and real files give the same names, bytes, modes, times and
// links, on every run and at every night. Homes take part of their files from the machine (the Go tree, the module
// cache, /usr/share), because generated files alone are too regular; where those are missing or too few, generated
// source code takes their place. A dump is a pure function of seed and night.
//
// A night changes about one percent of the bytes of the homes (parts overwritten in place, inserted, appended, moved
// within the file, and new files), renames and removes a few files and adds one hard-linked version folder. In a dump it
// updates one percent of the documents where they lie, inserts half a percent at the end and deletes a fifth of a
// percent.
package corpus

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// Size says how large the corpora get. Files and Bytes are aims for the homes, met within a few percent.
type Size struct {
	Name  string
	Files int
	Bytes int64 // of the homes
	Dump  int64 // of the mongodump folder, in bytes
}

// ParseSize takes tiny (tests, the demonstration), small or full.
func ParseSize(name string) (Size, error) {
	switch name {
	case "tiny":
		return Size{Name: name, Files: 600, Bytes: 12e6, Dump: 2e6}, nil
	case "small":
		return Size{Name: name, Files: 6000, Bytes: 300e6, Dump: 90e6}, nil
	case "full":
		return Size{Name: name, Files: 40000, Bytes: 2000e6, Dump: 620e6}, nil
	}
	return Size{}, fmt.Errorf("size %q: want tiny, small or full", name)
}

// Change is one file that a night changed. Renamed, removed and newly linked files have no bytes of their own and are
// not among them.
type Change struct {
	Path string // relative to the corpus
	Old  string // where the version of the night before was kept, "" for a new file
}

// stream returns the random numbers of one purpose. Purposes do not share numbers, so that adding a file to one user
// leaves the others as they were.
func stream(seed uint64, format string, args ...any) *rand.Rand {
	h := sha256.New()
	binary.Write(h, binary.LittleEndian, seed)
	fmt.Fprintf(h, format, args...)
	sum := h.Sum(nil)
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum), binary.LittleEndian.Uint64(sum[8:])))
}

// epoch is when the oldest file of a corpus was written.
func epoch() time.Time { return time.Date(2024, 3, 1, 8, 0, 0, 0, time.UTC) }

// nightTime is when the night's changes were made. It lies in the past of every run: programs treat files that seem to
// come from the future, or from this very second, in ways of their own.
func nightTime(night int) time.Time { return epoch().AddDate(1, 0, night) }
