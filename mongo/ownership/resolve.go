package ownership

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A Namespace is a collection of a database.
type Namespace struct{ DB, Collection string }

func (n Namespace) String() string { return n.DB + "." + n.Collection }

// A Source has the documents that are searched.
type Source interface {
	// Namespaces lists the collections, always in the same order.
	Namespaces() []Namespace
	// Documents yields a collection's documents, each valid until the next, and ends with the first error. It is called
	// several times.
	Documents(ctx context.Context, n Namespace) iter.Seq2[bson.Raw, error]
}

// A NoUserError says that no document is of a user.
type NoUserError struct {
	Name  string
	Count int // how many are; 0 or more than 1
}

func (e *NoUserError) Error() string {
	if e.Count > 1 {
		return fmt.Sprintf("%d users are named %q: name one by its _id", e.Count, e.Name)
	}
	return fmt.Sprintf("there is no user %q in the snapshot's documents", e.Name)
}

// For returns the map with its database replaced by the one of the source that it fits, where its own is not there: a
// restored copy has another name.
func (m *Map) For(src Source) (*Map, error) {
	has := map[string]int{}
	for _, n := range src.Namespaces() {
		if n.DB == m.Database && n.Collection == m.User.Collection {
			return m, nil
		}
		if n.Collection == m.User.Collection {
			has[n.DB] += 1
		}
		if len(m.rules(m.Database, n.Collection)) > 0 {
			has[n.DB] += 1
		}
	}
	var fits []string
	for db := range has {
		if slices.Contains(src.Namespaces(), Namespace{db, m.User.Collection}) && has[db] > 2 {
			fits = append(fits, db)
		}
	}
	if len(fits) != 1 {
		return nil, fmt.Errorf("the map %s is about the database %s, which the snapshot does not have: a map with database = \"...\" "+
			"and extends = \"%s\" says which it is", m.Name, m.Database, m.Name)
	}
	c := *m
	c.Database, c.Own = fits[0], nil
	for _, r := range m.Own {
		o := *r
		if o.Database == m.Database {
			o.Database = c.Database
		}
		c.Own = append(c.Own, &o)
	}
	return &c, nil
}

// Fits reports how well a map fits a source: how many of its collections are there, or 0 where its users are not.
func (m *Map) Fits(src Source) (n int) {
	there := map[string]bool{}
	for _, ns := range src.Namespaces() {
		if ns.DB == m.Database {
			there[ns.Collection] = true
		}
	}
	if !there[m.User.Collection] {
		return 0
	}
	seen := map[string]bool{}
	for _, r := range m.Own {
		if there[r.Collection] && !seen[r.Collection] {
			seen[r.Collection] = true
			n++
		}
	}
	return n + 1
}

// Users yields the names of all users, each with its _id.
func (m *Map) Users(ctx context.Context, src Source) iter.Seq2[[2]string, error] {
	return func(yield func([2]string, error) bool) {
		for doc, err := range src.Documents(ctx, Namespace{m.Database, m.User.Collection}) {
			if err != nil {
				yield([2]string{}, err)
				return
			}
			id, _ := text(doc, "_id")
			name := ""
			for _, field := range m.User.Names {
				if name, _ = text(doc, field); name != "" {
					break
				}
			}
			if !yield([2]string{name, id}, nil) {
				return
			}
		}
	}
}

// text returns a field as a user would write it: a string, or an ObjectID's digits.
func text(doc bson.Raw, field string) (string, bool) {
	v, err := doc.LookupErr(strings.Split(field, ".")...)
	if err != nil {
		return "", false
	}
	if s, ok := v.StringValueOK(); ok {
		return s, true
	}
	if id, ok := v.ObjectIDOK(); ok {
		return id.Hex(), true
	}
	return "", false
}

// Owned are the documents of one user.
type Owned struct {
	Map    *Map
	User   bson.Raw // the user's own document; it has credentials
	Name   string   // the first of the user's names
	ID     bson.RawValue
	Counts []Count // by namespace: of the user alone, until Count has counted
	Places []Place // where files belong, for each document of the user's that says so

	with []string // optional collections that were asked for
	sets []set

	searched []Namespace // in the order in which they are read
	read     []int       // of each, how large the sets were when it was read last; 0 = never
	found    []Count
}

// IDText is the user's _id as a user would write it, or "".
func (o *Owned) IDText() string {
	id, _ := text(o.User, "_id")
	return id
}

// A Count is how many documents of a collection are the user's.
type Count struct {
	Namespace
	Documents, Bytes int64
}

// A Place is where files of a document's may lie.
type Place struct {
	Name  string // of Files
	ID    string // of the document
	User  bool   // it is the user's own document
	Paths []string
}

// Resolve finds the user that name names, by a name or by the digits of the _id, and all documents of that user. with
// names optional collections to be looked at, too.
//
// Collections are read in the order of what their rules refer to, and again as long as that grows.
func (m *Map) Resolve(ctx context.Context, src Source, name string, with []string) (*Owned, error) {
	for _, w := range with {
		if !slices.ContainsFunc(m.Own, func(r *Rule) bool { return r.Optional && r.Collection == w }) {
			return nil, &MapError{fmt.Errorf("it has no optional collection %q", w)}
		}
	}
	o := &Owned{Map: m, with: with, sets: make([]set, len(m.refs))}
	for i := range o.sets {
		o.sets[i] = set{}
	}
	if err := o.find(ctx, src, name); err != nil {
		return nil, err
	}
	if err := o.close(ctx, src); err != nil {
		return nil, err
	}
	return o, nil
}

// find reads the users.
func (o *Owned) find(ctx context.Context, src Source, name string) error {
	ns := Namespace{o.Map.Database, o.Map.User.Collection}
	found := 0
	byID := false
	for doc, err := range src.Documents(ctx, ns) {
		if err != nil {
			return err
		}
		id, _ := text(doc, "_id")
		isID := id == name
		if !isID && !slices.ContainsFunc(o.Map.User.Names, func(field string) bool { s, ok := text(doc, field); return ok && s == name }) {
			continue
		}
		if byID && !isID {
			continue
		}
		if found++; isID && !byID {
			byID, found = true, 1
		}
		o.User = bytes.Clone(doc)
	}
	if found != 1 {
		return &NoUserError{name, found}
	}
	if err := o.User.Validate(); err != nil {
		return fmt.Errorf("the user's document cannot be understood: %w", err)
	}
	o.ID = o.User.Lookup("_id")
	for _, field := range o.Map.User.Names {
		if o.Name, _ = text(o.User, field); o.Name != "" {
			break
		}
	}
	o.Counts = append(o.Counts, Count{ns, 1, int64(len(o.User))})
	return o.take(ns.Collection, o.User)
}

// take notes what others refer to in a document of the user's.
func (o *Owned) take(collection string, doc bson.Raw) error {
	for _, r := range o.Map.refs {
		if r.collection == collection {
			if err := o.sets[r.index].gather(r, doc); err != nil {
				return err
			}
		}
	}
	return nil
}

// rules returns those about a collection that count.
func (o *Owned) rules(n Namespace) (out []*Rule) {
	for _, r := range o.Map.rules(n.DB, n.Collection) {
		if !r.Optional || slices.Contains(o.with, r.Collection) {
			out = append(out, r)
		}
	}
	return out
}

// sizes returns how large the sets are that rules refer to.
func (o *Owned) sizes(rules []*Rule) (n int, any bool) {
	for _, r := range rules {
		for _, list := range r.any {
			all := true
			for _, c := range list {
				if c.ref != nil {
					n += len(o.sets[c.ref.index])
					all = all && len(o.sets[c.ref.index]) > 0
				}
			}
			any = any || all
		}
	}
	return n, any
}

// order lists the namespaces that rules are about: those that others refer to come before these.
func (o *Owned) order(src Source) (out []Namespace) {
	ranks := map[string]int{o.Map.User.Collection: 0}
	for range o.Map.Own { // no chain is longer; cycles end here, too
		for _, r := range o.Map.Own {
			for _, list := range r.any {
				for _, c := range list {
					if c.ref != nil && c.ref.collection != r.Collection {
						ranks[r.Collection] = min(max(ranks[r.Collection], ranks[c.ref.collection]+1), len(o.Map.Own)+1)
					}
				}
			}
		}
	}
	for _, n := range src.Namespaces() {
		if len(o.rules(n)) > 0 {
			out = append(out, n)
		}
	}
	slices.SortStableFunc(out, func(a, b Namespace) int { return cmp.Compare(ranks[a.Collection], ranks[b.Collection]) })
	return out
}

// referred reports whether rules or files need what a collection's documents have.
func (o *Owned) referred(collection string) bool {
	return slices.ContainsFunc(o.Map.refs, func(r *ref) bool { return r.collection == collection })
}

// close reads collections until nothing more is found: always the first of the order of which more may be found, so that
// what many depend on is settled before they are read. Those that nothing depends on are left to Count.
func (o *Owned) close(ctx context.Context, src Source) error {
	o.searched = o.order(src)
	o.read = make([]int, len(o.searched))
	o.found = make([]Count, len(o.searched))
	for i := 0; i < len(o.searched); i++ {
		if !o.referred(o.searched[i].Collection) {
			continue
		}
		again, err := o.pass(ctx, src, i)
		if err != nil {
			return err
		}
		if again {
			i = -1
		}
	}
	return o.places(ctx, src)
}

// Count reads what Resolve had no need to, and fills in Counts.
func (o *Owned) Count(ctx context.Context, src Source) error {
	for i := range o.searched {
		if _, err := o.pass(ctx, src, i); err != nil {
			return err
		}
	}
	o.Counts = o.Counts[:1]
	for _, c := range o.found {
		if c.Documents > 0 {
			o.Counts = append(o.Counts, c)
		}
	}
	return nil
}

// pass reads a collection, unless nothing can be in it that was not found. It reports whether it did.
func (o *Owned) pass(ctx context.Context, src Source, i int) (bool, error) {
	n := o.searched[i]
	rules := o.rules(n)
	size, any := o.sizes(rules)
	if !any || size == o.read[i] {
		return false, nil
	}
	o.read[i] = size
	c := Count{Namespace: n}
	for doc, err := range src.Documents(ctx, n) {
		if err != nil {
			return false, err
		}
		ok, err := o.owned(doc, rules)
		if err == nil && ok {
			c.Documents++
			c.Bytes += int64(len(doc))
			err = o.take(n.Collection, doc)
		}
		if err != nil {
			return false, fmt.Errorf("%v: %w", n, err)
		}
	}
	o.found[i] = c
	return true, ctx.Err()
}

func (o *Owned) owned(doc bson.Raw, rules []*Rule) (bool, error) {
	for _, r := range rules {
		for _, list := range r.any {
			if ok, err := matches(doc, list, o.sets); ok || err != nil {
				return ok, err
			}
		}
	}
	return false, nil
}

// Match returns what decides whether a document of a collection is the user's, or nil where none of it is.
func (o *Owned) Match(n Namespace) func(doc bson.Raw) (bool, error) {
	if n.DB == o.Map.Database && n.Collection == o.Map.User.Collection {
		return func(doc bson.Raw) (bool, error) { return doc.Lookup("_id").Equal(o.ID), nil }
	}
	rules := o.rules(n)
	if _, any := o.sizes(rules); !any {
		return nil
	}
	return func(doc bson.Raw) (bool, error) { return o.owned(doc, rules) }
}

// places finds where files lie.
func (o *Owned) places(ctx context.Context, src Source) error {
	for _, f := range o.Map.Files {
		add := func(doc bson.Raw) {
			p := Place{Name: f.Name, User: f.Of == o.Map.User.Collection}
			p.ID, _ = text(doc, "_id")
			for _, pattern := range f.Paths {
				if path, err := expand(pattern, func(field string) (string, bool) { return text(doc, field) }); err == nil {
					p.Paths = append(p.Paths, path)
				}
			}
			if len(p.Paths) > 0 {
				o.Places = append(o.Places, p)
			}
		}
		if f.Of == o.Map.User.Collection {
			add(o.User)
			continue
		}
		n := Namespace{o.Map.Database, f.Of}
		match := o.Match(n)
		if match == nil {
			continue
		}
		for doc, err := range src.Documents(ctx, n) {
			if err != nil {
				return err
			}
			ok, err := match(doc)
			if err != nil {
				return err
			}
			if ok {
				add(doc)
			}
		}
	}
	return ctx.Err()
}

// A Fix brings back what a document lost when the user was deleted.
type Fix struct {
	Repair *Repair
	ID     bson.RawValue // of the document
	Value  bson.RawValue // of the field, or of the list's element
	// Match is what an element of the list has to differ in for Value to be missing: a field of it, or "" where the
	// elements are plain values.
	Match string
}

// Fixes returns what a document of the snapshot says that the user's deletion took from the one of the server. Nil
// function: nothing of the collection.
func (o *Owned) Fixes(n Namespace) func(doc bson.Raw) ([]Fix, error) {
	var list []*Repair
	for _, r := range o.Map.Repairs {
		if n.DB == o.Map.Database && slices.Contains(r.Collections, n.Collection) {
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return func(doc bson.Raw) (fixes []Fix, err error) {
		for _, r := range list {
			ok, err := matches(doc, r.any, o.sets)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			f := Fix{Repair: r, ID: doc.Lookup("_id")}
			if r.Field != "" {
				f.Value = doc.Lookup(strings.Split(r.Field, ".")...)
			} else if f.Value, f.Match, ok = o.element(doc, r); !ok {
				continue
			}
			fixes = append(fixes, f)
		}
		return fixes, nil
	}
}

// element finds the list's element that is about the user.
func (o *Owned) element(doc bson.Raw, r *Repair) (bson.RawValue, string, bool) {
	list, ok := doc.Lookup(strings.Split(r.Array, ".")...).ArrayOK()
	if !ok {
		return bson.RawValue{}, "", false
	}
	values, err := list.Values()
	if err != nil {
		return bson.RawValue{}, "", false
	}
	prefix := strings.Split(r.Array, ".")
	for _, v := range values {
		all, field := true, ""
		for i := range r.any {
			c := &r.any[i]
			rest := c.path[len(prefix):]
			none, err := eachOf(v, rest, func(v bson.RawValue) bool { return !c.holds(v, o.sets) }, false)
			all = all && !none && err == nil
			if c.ref != nil {
				field = strings.Join(rest, ".")
			}
		}
		if all {
			return v, field, true
		}
	}
	return bson.RawValue{}, "", false
}
