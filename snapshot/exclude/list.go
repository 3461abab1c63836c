package exclude

import (
	"maps"
	"slices"
	"strings"
)

// A List names what of a source is saved: entries, each with all that is below it. The folders above them are saved without what
// else is in them. A nil List names everything. Once it is made it may be used concurrently.
type List struct {
	origin string
	top    listed
}

// listed is an entry that a list names, or that is above one.
type listed struct {
	whole bool // it is named itself
	below map[string]*listed
}

// NewList makes a list without entries, which names nothing; origin is the flag or file that gives them.
func NewList(origin string) *List { return &List{origin: origin} }

// Add names an entry by its path, relative to the source's root, slash-separated and clean; "" is the root itself.
func (l *List) Add(path string) {
	at := &l.top
	for path != "" && !at.whole {
		var name string
		name, path, _ = strings.Cut(path, "/")
		next := at.below[name]
		if next == nil {
			if at.below == nil {
				at.below = map[string]*listed{}
			}
			next = &listed{}
			at.below[name] = next
		}
		at = next
	}
	at.whole, at.below = true, nil
}

// find returns what the list has at a path: an entry above or below which something is named, or nil.
func (l *List) find(path string) *listed {
	at := &l.top
	for path != "" && at != nil && !at.whole {
		var name string
		name, path, _ = strings.Cut(path, "/")
		at = at.below[name]
	}
	return at
}

// Match decides on an entry by its path.
func (l *List) Match(path string, isDir bool) Decision {
	if l == nil {
		return Decision{}
	}
	if at := l.find(path); at != nil && (at.whole || isDir && len(at.below) > 0) {
		return Decision{}
	}
	return Decision{Excluded: true, Rule: &Rule{Text: "not listed", Origin: l.origin}}
}

// Empty reports whether the list names nothing.
func (l *List) Empty() bool { return l != nil && !l.top.whole && len(l.top.below) == 0 }

// Len is how many entries are named, but for those below others.
func (l *List) Len() int {
	n := 0
	l.top.each("", func(string) { n++ })
	return n
}

// Absent returns, in order, what is named in a folder or below it and cannot be there, as the folder does not have it. kind says
// what it has under a name.
func (l *List) Absent(folder string, kind func(name string) (there, isDir bool)) []string {
	if l == nil {
		return nil
	}
	at := l.find(folder)
	if at == nil || at.whole {
		return nil
	}
	var absent []string
	for name, e := range at.below {
		if there, isDir := kind(name); !there || !e.whole && !isDir {
			e.each(strings.TrimPrefix(folder+"/"+name, "/"), func(path string) { absent = append(absent, path) })
		}
	}
	slices.Sort(absent)
	return absent
}

// each calls fn with the path of each entry that is named, this one's own being path.
func (e *listed) each(path string, fn func(path string)) {
	if e.whole {
		fn(path)
	}
	for _, name := range slices.Sorted(maps.Keys(e.below)) {
		e.below[name].each(strings.TrimPrefix(path+"/"+name, "/"), fn)
	}
}
