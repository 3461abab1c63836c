package mongo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/mongo/query"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// A Comparison says how a dump and a running MongoDB differ.
type Comparison struct {
	Target      string               `json:"target"`
	Equal       bool                 `json:"equal"`
	Documents   ComparedDocuments    `json:"documents"` // of all collections
	Collections []ComparedCollection `json:"collections"`
	Seconds     float64              `json:"seconds"`
}

// ComparedDocuments are numbers of documents.
type ComparedDocuments struct {
	Equal   int64 `json:"equal"`
	Differ  int64 `json:"differ"`  // have one _id and another content
	Missing int64 `json:"missing"` // are in the dump alone
	Extra   int64 `json:"extra"`   // are in the target alone
}

// A ComparedCollection says how a collection differs.
type ComparedCollection struct {
	From      string            `json:"from"`      // in the dump; "" = it is in the target alone
	Namespace string            `json:"namespace"` // in the target
	Missing   bool              `json:"missing"`   // it is not in the target
	Documents ComparedDocuments `json:"documents"`
	Options   []string          `json:"options"`  // the names of options that differ
	Indexes   []string          `json:"indexes"`  // what is to say of its indexes: "a_1 is missing"
	Examples  []Example         `json:"examples"` // of documents that are not equal
	Error     string            `json:"error,omitempty"`
}

// An Example is a document that differs.
type Example struct {
	State string `json:"state"` // differs, missing or extra
	ID    string `json:"id"`
}

// Equal reports whether nothing differs.
func (c *ComparedCollection) Equal() bool {
	d := c.Documents
	return c.From != "" && !c.Missing && c.Error == "" && d.Differ+d.Missing+d.Extra == 0 && len(c.Options)+len(c.Indexes) == 0
}

const (
	comparedAtOnce = 1 << 20 // documents whose counterpart was not met yet; some 100 bytes each
	maxExamples    = 5       // of a collection
	namedDocuments = 1000    // whose _id is remembered while they wait for their counterpart
)

// Compare compares what o.Path leads to with the MongoDB that o.Target names, as a restore with the same options would put it
// there: collections, options, indexes, and each document by its _id and a hash of its content, users and roles among them. It
// writes nothing. What only the target has is reported where the dump would have it: see extra. Of o matter Snapshot, Path,
// Target, Memory, Progress and Monitor.
//
// Memory: both sides are read once, at the same pace, and a document is forgotten when its counterpart has come. Where they
// come in such different orders that more than a million wait, some 100 MB, both are read again, several times, a part of the
// _ids at a time.
func (t *Restorer) Compare(ctx context.Context, r *repo.Repository, o snapshot.RestoreOptions) (*Comparison, error) {
	renames, err := ParseRenames(t.From, t.To)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	d, err := t.Open.orOpenDump()(ctx, r, o.Snapshot, o.Path)
	if err != nil {
		return nil, err
	}
	s, err := Connect(ctx, o.Target.Path, t.Options)
	if err != nil {
		return nil, err
	}
	defer s.Close(ctx)
	rs := &restore{Restorer: t, r: r, o: o, d: d, s: s, renames: renames}
	rs.rep.Target = snapshot.RedactURI(o.Target.Path)
	if err := rs.plan(ctx); err != nil {
		return nil, err
	}
	c := &comparer{restore: rs, there: map[string]map[string]*existing{}, rep: Comparison{Target: rs.rep.Target, Equal: true, Collections: []ComparedCollection{}}}
	err = interrupted(ctx, c.run(ctx))
	c.rep.Seconds = time.Since(start).Seconds()
	return &c.rep, err
}

// A comparer is one call of Compare.
type comparer struct {
	*restore
	there map[string]map[string]*existing // by database
	rep   Comparison
}

func (c *comparer) run(ctx context.Context) error {
	slices.SortFunc(c.jobs, func(a, b *job) int { return strings.Compare(a.ns(), b.ns()) })
	known := map[string]bool{}
	for _, j := range c.jobs {
		known[j.ns()] = true
		if name, _ := c.data(j); name != j.name {
			known[j.db+"."+name] = true
		}
		if err := c.listDatabase(ctx, j.db); err != nil {
			return err
		}
		if err := c.one(ctx, j, c.collection); err != nil {
			return err
		}
	}
	if err := c.users(ctx); err != nil {
		return err
	}
	return c.extra(ctx, known)
}

// listDatabase makes c.there have a database's collections.
func (c *comparer) listDatabase(ctx context.Context, db string) error {
	if c.there[db] != nil {
		return nil
	}
	there, err := c.listTarget(ctx, db)
	if err != nil {
		return fmt.Errorf("listing the collections of %s: %w", db, err)
	}
	c.there[db] = there
	return nil
}

// one compares a collection. What ends the comparison of this one alone is reported.
func (c *comparer) one(ctx context.Context, j *job, compare func(ctx context.Context, j *job, one *ComparedCollection) error) error {
	c.o.Progress.SetPath(j.ns())
	one := newCompared(j.Namespace(), j.ns())
	if err := compare(ctx, j, &one); err != nil {
		var damage *repo.DamageError
		if ctx.Err() != nil || !errors.As(err, &damage) && !abandonable(err) {
			return fmt.Errorf("comparing %s: %w", j.ns(), err)
		}
		one.Error = err.Error()
		c.o.Monitor.Problem(j.ns(), err)
	}
	c.add(one)
	c.o.Progress.Files.Add(1)
	return nil
}

func newCompared(from, ns string) ComparedCollection {
	return ComparedCollection{From: from, Namespace: ns, Options: []string{}, Indexes: []string{}, Examples: []Example{}}
}

func (c *comparer) add(one ComparedCollection) {
	c.rep.Equal = c.rep.Equal && one.Equal()
	d, sum := one.Documents, &c.rep.Documents
	sum.Equal, sum.Differ, sum.Missing, sum.Extra = sum.Equal+d.Equal, sum.Differ+d.Differ, sum.Missing+d.Missing, sum.Extra+d.Extra
	c.rep.Collections = append(c.rep.Collections, one)
}

// collection compares one.
func (c *comparer) collection(ctx context.Context, j *job, one *ComparedCollection) error {
	e := c.there[j.db][j.name]
	if e == nil {
		one.Missing = true
		for doc, err := range j.documents(ctx) {
			if err != nil {
				return err
			}
			one.Documents.Missing++
			c.o.Progress.Bytes.Add(int64(len(doc)))
		}
		return nil
	}
	one.Options = append(one.Options, differentFields(j.Metadata.Options, e.Options, oldOptions)...)
	if (e.Type == layout.TypeView) != j.isView() {
		one.Options = append(one.Options, "type")
	}
	if j.isView() || e.Type == layout.TypeView {
		return nil
	}
	if !c.NoIndexes {
		if err := c.indexes(ctx, j, one); err != nil {
			return err
		}
	}
	return c.meet(ctx, j, one)
}

// meet compares a collection's documents: all at once, or where too many would wait, a part of the _ids after the other.
func (c *comparer) meet(ctx context.Context, j *job, one *ComparedCollection) error {
	for parts := 1; ; {
		var sum ComparedDocuments
		one.Examples = []Example{}
		err := errTooFar
		for part := range parts {
			m := &matcher{part: uint32(part), parts: uint32(parts), rep: one, most: c.waiting}
			if err = c.documents(ctx, j, m); err != nil {
				break
			}
			sum.Equal, sum.Differ, sum.Missing, sum.Extra = sum.Equal+m.sum.Equal, sum.Differ+m.sum.Differ, sum.Missing+m.sum.Missing, sum.Extra+m.sum.Extra
		}
		if err == nil {
			one.Documents = sum
			return nil
		}
		if err != errTooFar {
			return err
		}
		n, err := c.count(ctx, j)
		if err != nil {
			return err
		}
		parts = max(2*parts, int(2*n/int64(c.most()))+1)
	}
}

// indexes compares a collection's indexes by their names.
func (c *comparer) indexes(ctx context.Context, j *job, one *ComparedCollection) error {
	cursor, err := c.s.Client.Database(j.db).Collection(j.name).Indexes().List(ctx)
	if err != nil {
		return fmt.Errorf("listing its indexes: %w", err)
	}
	var list []bson.Raw
	if err := cursor.All(ctx, &list); err != nil {
		return fmt.Errorf("listing its indexes: %w", err)
	}
	there := map[string]bson.Raw{}
	for _, ix := range list {
		name, _ := ix.Lookup("name").StringValueOK()
		there[name] = ix
	}
	for _, ix := range j.Metadata.Indexes {
		name, _ := ix.Lookup("name").StringValueOK()
		other := there[name]
		delete(there, name)
		if other == nil && name == "_id_" {
			continue // a time series has none, whatever the tool wrote
		}
		if other == nil {
			one.Indexes = append(one.Indexes, name+" is missing")
		} else if fields := differentFields(ix, other, oldIndexOptions); len(fields) > 0 {
			one.Indexes = append(one.Indexes, name+" differs: "+strings.Join(fields, ", "))
		}
	}
	for _, name := range sortedKeys(there) {
		if name != "_id_" { // a dump may know nothing of it
			one.Indexes = append(one.Indexes, name+" is extra")
		}
	}
	return nil
}

// differentFields names the fields of two documents that differ, but for some. Numbers are equal whatever their type.
func differentFields(a, b bson.Raw, but []string) (out []string) {
	values := map[string][2]bson.RawValue{}
	for i, doc := range []bson.Raw{a, b} {
		for _, e := range fields(doc) {
			v := values[e.Key]
			v[i] = e.Value.(bson.RawValue)
			values[e.Key] = v
		}
	}
	for _, name := range sortedKeys(values) {
		if v := values[name]; !slices.Contains(but, name) && (v[0].Type == 0 || v[1].Type == 0 || query.Compare(v[0], v[1]) != 0) {
			out = append(out, name)
		}
	}
	return out
}
