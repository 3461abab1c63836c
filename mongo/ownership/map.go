// Package ownership says which documents of a database belong to a user. A Map is data, a TOML file: rules of equality on
// the fields of a collection's documents, with constants and with what documents found before have in a field. Girder's
// and Whole Tale's are built in (maps/).
//
// It does no I/O: documents come from iterators (Source), as raw BSON that is never decoded as a whole. Memory: the values
// that rules refer to, for one user: some 80 bytes for each folder, item and file.
//
// # Maps
//
//	name = "shop"                         # for people
//	extends = "girder"                    # a built-in map whose rules come first
//	database = "shop"                     # of all collections that do not say another
//	owner = "creatorId"                   # the field that says whose a document is
//	never = ["token"]                     # collections that no rule may name
//
//	[user]
//	collection = "user"
//	names = ["login", "email"]            # fields that a user can be named by
//
//	[[own]]                               # a document is the user's if one of the lists of conditions holds
//	collection = "order"
//	database = "*"                        # any database
//	optional = true                       # only if asked for
//	any = [{ customer = "@user._id", "state.open" = true }]
//
//	[[repair]]                            # a field that loses the user when the user is deleted
//	collections = ["product"]
//	field = "creatorId"
//	value = "@user._id"
//
//	[[repair]]                            # a list that does
//	collections = ["product"]
//	array = "access.users"
//	element = { id = "@user._id" }        # or value = "@user._id", of a list of plain values
//
//	[[files]]                             # files of the snapshot that belong to each of the user's documents of a collection
//	name = "home"
//	of = "user"
//	paths = ["{login[0]}/{login}"]        # the first that is there; {login[0]} is the first letter
//
// "@order._id" stands for the values that the user's documents of the collection order have in the field _id; "@hex(...)"
// for ObjectIDs written as text. A text that begins with @ is written "@@". As in MongoDB's queries, a field a.b means the
// field b of each document in a list a, and a list equals what one of its elements equals.
package ownership

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

//go:embed maps/*.toml
var builtin embed.FS

// A Map says which documents belong to a user. It is made by Parse or Builtin, and not changed any more.
type Map struct {
	Name     string
	Database string
	Owner    string // the field that says whose a document is; "" = none does
	User     User
	Own      []*Rule
	Repairs  []*Repair
	Files    []*Files
	Never    []string // collections whose documents are nobody's to restore

	refs []*ref
}

// User says which documents are users.
type User struct {
	Collection string
	Names      []string
}

// A Rule makes documents of a collection the user's.
type Rule struct {
	Database   string // "*" = any
	Collection string
	Optional   bool
	any        [][]condition
}

// A Repair is a field, or a list, that says nothing of the user any more when the user was deleted and documents stayed.
type Repair struct {
	Collections []string
	Field       string // that has the user's value, else Array
	Array       string // that has an element with the user's value, or that value itself
	any         []condition
}

// Files are files that belong to documents.
type Files struct {
	Name  string
	Of    string
	Paths []string
}

// A condition is that a field has a value, or one of the values that were gathered.
type condition struct {
	path []string
	want any // string, int64, float64 or bool
	ref  *ref
}

// A ref is what rules refer to: the values of a field in all documents of a collection that are the user's.
type ref struct {
	collection string
	path       []string
	hex        bool // ObjectIDs as text
	index      int
}

func (r *ref) String() string {
	s := r.collection + "." + strings.Join(r.path, ".")
	if r.hex {
		return "@hex(" + s + ")"
	}
	return "@" + s
}

// A MapError says what is wrong with a map. It is a usage error.
type MapError struct{ Err error }

func (e *MapError) Error() string { return "the ownership map: " + e.Err.Error() }
func (e *MapError) Unwrap() error { return e.Err }

// file is a map as it is written.
type file struct {
	Name     string   `toml:"name"`
	Extends  string   `toml:"extends"`
	Database string   `toml:"database"`
	Owner    string   `toml:"owner"`
	Never    []string `toml:"never"`
	User     struct {
		Collection string   `toml:"collection"`
		Names      []string `toml:"names"`
	} `toml:"user"`
	Own []struct {
		Database   string           `toml:"database"`
		Collection string           `toml:"collection"`
		Optional   bool             `toml:"optional"`
		Any        []map[string]any `toml:"any"`
	} `toml:"own"`
	Repair []struct {
		Collections []string       `toml:"collections"`
		Field       string         `toml:"field"`
		Array       string         `toml:"array"`
		Value       any            `toml:"value"`
		Element     map[string]any `toml:"element"`
	} `toml:"repair"`
	Files []struct {
		Name  string   `toml:"name"`
		Of    string   `toml:"of"`
		Paths []string `toml:"paths"`
	} `toml:"files"`
}

// Builtins are the names of the maps that are built in.
func Builtins() (names []string) {
	entries, err := builtin.ReadDir("maps")
	if err != nil {
		panic(err) // it is in the program
	}
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".toml"))
	}
	return names
}

// Builtin returns a map that is built in, or nil.
func Builtin(name string) *Map {
	if !slices.Contains(Builtins(), name) {
		return nil
	}
	text, err := builtin.ReadFile("maps/" + name + ".toml")
	if err != nil {
		panic(err)
	}
	m, err := Parse(text)
	if err != nil {
		panic(err) // its test
	}
	return m
}

// Parse reads a map.
func Parse(text []byte) (*Map, error) {
	m, err := parse(text, 0)
	if err != nil {
		return nil, &MapError{err}
	}
	if err := m.check(); err != nil {
		return nil, &MapError{err}
	}
	return m, nil
}

func parse(text []byte, depth int) (*Map, error) {
	var f file
	d := toml.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) && len(strict.Errors) > 0 {
			return nil, fmt.Errorf("unknown key %s", strings.Join(strict.Errors[0].Key(), "."))
		}
		return nil, err
	}
	m := &Map{}
	if f.Extends != "" {
		base, err := builtin.ReadFile("maps/" + f.Extends + ".toml")
		if err != nil || depth > 3 || !slices.Contains(Builtins(), f.Extends) {
			return nil, fmt.Errorf("extends %q: there are %s", f.Extends, strings.Join(Builtins(), " and "))
		}
		if m, err = parse(base, depth+1); err != nil {
			return nil, err
		}
	}
	m.Name, m.Database, m.Owner = cmp.Or(f.Name, m.Name), cmp.Or(f.Database, m.Database), cmp.Or(f.Owner, m.Owner)
	m.User.Collection = cmp.Or(f.User.Collection, m.User.Collection)
	if len(f.User.Names) > 0 {
		m.User.Names = f.User.Names
	}
	m.Never = append(m.Never, f.Never...)
	for _, o := range f.Own {
		r := &Rule{Database: cmp.Or(o.Database, m.Database), Collection: o.Collection, Optional: o.Optional}
		for _, fields := range o.Any {
			list, err := m.conditions(fields)
			if err != nil {
				return nil, fmt.Errorf("own %s: %w", o.Collection, err)
			}
			r.any = append(r.any, list)
		}
		m.Own = append(m.Own, r)
	}
	for _, p := range f.Repair {
		r := &Repair{Collections: p.Collections, Field: p.Field, Array: p.Array}
		fields := p.Element
		if p.Value != nil {
			fields = map[string]any{cmp.Or(p.Field, p.Array): p.Value}
		}
		var err error
		if r.any, err = m.conditions(fields); err != nil {
			return nil, fmt.Errorf("repair %s: %w", cmp.Or(p.Field, p.Array), err)
		}
		if (p.Field == "") == (p.Array == "") || len(p.Collections) == 0 || (p.Value == nil) == (p.Element == nil) || p.Field != "" && p.Element != nil {
			return nil, fmt.Errorf("repair %s: it needs collections, a field or an array, and a value, or of an array an element", cmp.Or(p.Field, p.Array))
		}
		if p.Element != nil {
			for i := range r.any {
				r.any[i].path = append(strings.Split(p.Array, "."), r.any[i].path...)
			}
		}
		m.Repairs = append(m.Repairs, r)
	}
	for _, p := range f.Files {
		m.Files = append(m.Files, &Files{p.Name, p.Of, p.Paths})
	}
	return m, nil
}

// conditions reads a table of fields and what they have to be.
func (m *Map) conditions(fields map[string]any) (list []condition, err error) {
	if len(fields) == 0 {
		return nil, errors.New("a list of conditions is empty")
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		c := condition{path: strings.Split(name, ".")}
		if slices.Contains(c.path, "") {
			return nil, fmt.Errorf("%q is no field", name)
		}
		switch v := fields[name].(type) {
		case string:
			text, isRef := strings.CutPrefix(v, "@")
			if isRef && !strings.HasPrefix(text, "@") {
				if c.ref, err = m.reference(text); err != nil {
					return nil, err
				}
				break
			}
			c.want = text
		case int64, float64, bool:
			c.want = v
		default:
			return nil, fmt.Errorf("%s: a value is a text, a number, a boolean or @COLLECTION.FIELD", name)
		}
		list = append(list, c)
	}
	return list, nil
}

var refForm = regexp.MustCompile(`^(?:([\w.-]+)|hex\(([\w.-]+)\))$`)

// reference reads COLLECTION.FIELD or hex(COLLECTION.FIELD).
func (m *Map) reference(text string) (*ref, error) {
	found := refForm.FindStringSubmatch(text)
	if found == nil {
		return nil, fmt.Errorf("@%s is neither @COLLECTION.FIELD nor @hex(COLLECTION.FIELD)", text)
	}
	collection, field, ok := strings.Cut(found[1]+found[2], ".")
	r := &ref{collection: collection, path: strings.Split(field, "."), hex: found[2] != "", index: len(m.refs)}
	if !ok || collection == "" || slices.Contains(r.path, "") {
		return nil, fmt.Errorf("@%s names no field", text)
	}
	for _, known := range m.refs {
		if known.String() == r.String() {
			return known, nil
		}
	}
	m.refs = append(m.refs, r)
	return r, nil
}

// check refuses a map that can do nothing, or too much.
func (m *Map) check() error {
	switch {
	case m.Database == "" || m.Database == "*":
		return errors.New("it names no database")
	case m.User.Collection == "" || len(m.User.Names) == 0:
		return errors.New("[user] needs a collection and names")
	}
	known := map[string]bool{m.User.Collection: true}
	for _, r := range m.Own {
		switch {
		case r.Collection == "" || len(r.any) == 0:
			return errors.New("[[own]] needs a collection and any = [...]")
		case slices.Contains(m.Never, r.Collection):
			return fmt.Errorf("own %s: this collection is never restored", r.Collection)
		case r.Collection == m.User.Collection && r.Database == m.Database:
			return fmt.Errorf("own %s: of users, only the one that is named is restored", r.Collection)
		}
		for _, list := range r.any {
			if !slices.ContainsFunc(list, func(c condition) bool { return c.ref != nil }) {
				return fmt.Errorf("own %s: a list of conditions has nothing of the user: it would take others' documents", r.Collection)
			}
		}
		known[r.Collection] = true
	}
	for _, r := range m.refs {
		if !known[r.collection] {
			return fmt.Errorf("%v: no rule is about that collection", r)
		}
	}
	for _, p := range m.Repairs {
		if !slices.ContainsFunc(p.any, func(c condition) bool { return c.ref != nil && c.ref.collection == m.User.Collection }) {
			return fmt.Errorf("repair %s: it has nothing of the user", cmp.Or(p.Field, p.Array))
		}
		for _, c := range p.Collections {
			if slices.Contains(m.Never, c) {
				return fmt.Errorf("repair %s: the collection %s is never restored", cmp.Or(p.Field, p.Array), c)
			}
		}
	}
	for _, f := range m.Files {
		if f.Name == "" || len(f.Paths) == 0 || !known[f.Of] {
			return errors.New("[[files]] needs a name, paths, and as of a collection that rules are about")
		}
		for _, p := range f.Paths {
			if _, err := expand(p, func(string) (string, bool) { return "x", true }); err != nil {
				return err
			}
		}
	}
	return nil
}

// rules returns those about a collection.
func (m *Map) rules(db, collection string) (out []*Rule) {
	for _, r := range m.Own {
		if r.Collection == collection && (r.Database == "*" || r.Database == db) {
			out = append(out, r)
		}
	}
	return out
}
