package oplog

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A Slice is a part of an oplog that was saved: the entries from From to To, both included, but for noops between them.
// The slice after it begins with the entry at To. Its file's name is FROM-TO.bson, each timestamp as seconds and counter
// of ten digits, 1700000000.0000000001.
type Slice struct{ From, To bson.Timestamp }

const sliceSuffix = ".bson"

// Name returns the name of the slice's file.
func (s Slice) Name() string {
	return fmt.Sprintf("%010d.%010d-%010d.%010d%s", s.From.T, s.From.I, s.To.T, s.To.I, sliceSuffix)
}

// ParseSlice is the inverse of Name.
func ParseSlice(name string) (Slice, error) {
	var s Slice
	bare, ok := strings.CutSuffix(name, sliceSuffix)
	from, to, ok2 := strings.Cut(bare, "-")
	bad := fmt.Errorf("%q is not the name of a slice of an oplog", name)
	if !ok || !ok2 {
		return s, bad
	}
	for _, p := range []struct {
		text string
		to   *bson.Timestamp
	}{{from, &s.From}, {to, &s.To}} {
		t, i, ok := strings.Cut(p.text, ".")
		tn, err := strconv.ParseUint(t, 10, 32)
		in, err2 := strconv.ParseUint(i, 10, 32)
		if !ok || err != nil || err2 != nil {
			return s, bad
		}
		*p.to = bson.Timestamp{T: uint32(tn), I: uint32(in)}
	}
	if s.Name() != name || s.To.Before(s.From) {
		return s, bad
	}
	return s, nil
}

// Sort orders slices by time.
func Sort(list []Slice) {
	slices.SortFunc(list, func(a, b Slice) int { return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To)) })
}

// A Span is a stretch of time of which every entry was saved.
type Span struct{ From, To bson.Timestamp }

// Contains reports whether a span has all entries of a stretch of time.
func (s Span) Contains(from, to bson.Timestamp) bool { return !from.Before(s.From) && !to.After(s.To) }

// Spans joins sorted slices to spans. Where there are several, the ends of each and of the next are the ends of a gap.
func Spans(sorted []Slice) (spans []Span) {
	for _, s := range sorted {
		if n := len(spans); n > 0 && !s.From.After(spans[n-1].To) {
			if s.To.After(spans[n-1].To) {
				spans[n-1].To = s.To
			}
			continue
		}
		spans = append(spans, Span(s))
	}
	return spans
}
