package mongo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"golang.org/x/sync/errgroup"

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
// there: collections, options, indexes, and each document by its _id and a hash of its content. It writes nothing. Users and
// roles are not compared. Of o matter Snapshot, Path, Target, Memory, Progress and Monitor.
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
	err = c.run(ctx)
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
		c.o.Progress.SetPath(j.ns())
		known[j.ns()] = true
		if name, _ := c.data(j); name != j.name {
			known[j.db+"."+name] = true
		}
		if c.there[j.db] == nil {
			there, err := c.listTarget(ctx, j.db)
			if err != nil {
				return fmt.Errorf("listing the collections of %s: %w", j.db, err)
			}
			c.there[j.db] = there
		}
		one := ComparedCollection{From: j.Namespace(), Namespace: j.ns(), Options: []string{}, Indexes: []string{}, Examples: []Example{}}
		if err := c.collection(ctx, j, &one); err != nil {
			var damage *repo.DamageError
			if ctx.Err() != nil || !errors.As(err, &damage) && !abandonable(err) {
				return fmt.Errorf("comparing %s: %w", j.ns(), err)
			}
			one.Error = err.Error()
			c.o.Monitor.Problem(j.ns(), err)
		}
		c.add(one)
		c.o.Progress.Files.Add(1)
	}
	return c.extra(ctx, known)
}

func (c *comparer) add(one ComparedCollection) {
	c.rep.Equal = c.rep.Equal && one.Equal()
	d, sum := one.Documents, &c.rep.Documents
	sum.Equal, sum.Differ, sum.Missing, sum.Extra = sum.Equal+d.Equal, sum.Differ+d.Differ, sum.Missing+d.Missing, sum.Extra+d.Extra
	c.rep.Collections = append(c.rep.Collections, one)
}

// extra adds the collections that the target has besides, in databases that are compared as a whole.
func (c *comparer) extra(ctx context.Context, known map[string]bool) error {
	below := strings.Trim(strings.TrimPrefix(c.o.Path, c.d.Root), "/")
	if strings.Contains(below, "/") || len(c.From) > 0 {
		return nil
	}
	for _, db := range sortedKeys(c.there) {
		for _, name := range sortedKeys(c.there[db]) {
			like := Collection{DB: db, Name: name}
			if e := c.there[db][name]; known[db+"."+name] || e.Type == layout.TypeView || !c.selects(&like) || db == journalDB && name == journalName {
				continue
			}
			n, err := c.count(ctx, &job{feed: feed{Collection: like}, db: db, name: name})
			if err != nil {
				return fmt.Errorf("counting %s.%s: %w", db, name, err)
			}
			c.add(ComparedCollection{Namespace: db + "." + name, Documents: ComparedDocuments{Extra: n}, Options: []string{}, Indexes: []string{}, Examples: []Example{}})
		}
	}
	return nil
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

// errTooFar says that more documents wait for their counterpart than may.
var errTooFar = errors.New("both sides are in different orders")

// A fingerprint is what is compared of a document.
type fingerprint struct {
	id, content [16]byte
	name        string // the type and the bytes of its _id, of the first ones that wait
}

// A matcher meets the documents of both sides, those of one part of the _ids.
type matcher struct {
	part, parts uint32
	most        int // 0 = comparedAtOnce
	waiting     [2]map[[16]byte]fingerprint
	sum         ComparedDocuments
	rep         *ComparedCollection // gets examples
}

func fingerprintOf(doc bson.Raw) fingerprint {
	id, content := sha256.Sum256([]byte(idKey(doc))), sha256.Sum256(doc)
	return fingerprint{id: [16]byte(id[:16]), content: [16]byte(content[:16])}
}

func (m *matcher) takes(f *fingerprint) bool {
	return m.parts < 2 || binary.LittleEndian.Uint32(f.id[:])%m.parts == m.part
}

func (m *matcher) example(state, id string) {
	if id != "" && len(m.rep.Examples) < maxExamples {
		m.rep.Examples = append(m.rep.Examples, Example{state, shortText(bson.RawValue{Type: bson.Type(id[0]), Value: []byte(id[1:])})})
	}
}

// meet takes a document of a side: 0 is the dump's, 1 the target's.
func (m *matcher) meet(side int, f fingerprint) error {
	other := m.waiting[1-side]
	if there, ok := other[f.id]; ok {
		delete(other, f.id)
		if there.content == f.content {
			m.sum.Equal++
			return nil
		}
		m.sum.Differ++
		name := f.name
		if name == "" {
			name = there.name
		}
		m.example("differs", name)
		return nil
	}
	if m.waiting[side] == nil {
		m.waiting[side] = map[[16]byte]fingerprint{}
	}
	if len(m.waiting[side]) >= namedDocuments {
		f.name = ""
	}
	m.waiting[side][f.id] = f
	most := m.most
	if most == 0 {
		most = comparedAtOnce
	}
	if len(m.waiting[0])+len(m.waiting[1]) > most {
		return errTooFar
	}
	return nil
}

// end counts what is left over.
func (m *matcher) end() {
	m.sum.Missing, m.sum.Extra = int64(len(m.waiting[0])), int64(len(m.waiting[1]))
	for side, state := range []string{"missing", "extra"} {
		var names []string
		for _, f := range m.waiting[side] {
			if f.name != "" {
				names = append(names, f.name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			m.example(state, name)
		}
	}
}

// most is how many documents may wait for their counterpart.
func (c *comparer) most() int {
	if c.waiting > 0 {
		return c.waiting
	}
	return comparedAtOnce
}

// documents compares those of one part of the _ids: both sides are read at the same pace.
func (c *comparer) documents(ctx context.Context, j *job, m *matcher) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sides [2]chan []fingerprint
	g, gctx := errgroup.WithContext(ctx)
	for side, read := range []func(ctx context.Context, fn func(doc bson.Raw) error) error{
		func(ctx context.Context, fn func(doc bson.Raw) error) error { return c.readDump(ctx, j, fn) },
		func(ctx context.Context, fn func(doc bson.Raw) error) error { return c.readTarget(ctx, j, fn) },
	} {
		out := make(chan []fingerprint, 2)
		sides[side] = out
		g.Go(func() error {
			defer close(out)
			return fingerprints(gctx, m, read, out)
		})
	}
	err := m.run(sides)
	if err != nil {
		cancel() // nobody takes what they read
	}
	if gerr := g.Wait(); err == nil {
		err = gerr
	}
	return err
}

// run meets what comes from both sides, in turn while there is something of both.
func (m *matcher) run(sides [2]chan []fingerprint) error {
	open := 2
	for open > 0 {
		for side := range sides {
			if sides[side] == nil {
				continue
			}
			batch, ok := <-sides[side]
			if !ok {
				sides[side] = nil
				open--
				continue
			}
			for _, f := range batch {
				if err := m.meet(side, f); err != nil {
					return err
				}
			}
		}
	}
	m.end()
	return nil
}

// fingerprints sends what is to be compared of each document of a side.
func fingerprints(ctx context.Context, m *matcher, read func(ctx context.Context, fn func(doc bson.Raw) error) error, out chan<- []fingerprint) error {
	const some = 256
	var batch []fingerprint
	send := func() error {
		select {
		case out <- batch:
			batch = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := read(ctx, func(doc bson.Raw) error {
		f := fingerprintOf(doc)
		if !m.takes(&f) {
			return ctx.Err()
		}
		if id, err := doc.LookupErr("_id"); err == nil {
			f.name = string(byte(id.Type)) + string(id.Value)
		}
		if batch = append(batch, f); len(batch) < some {
			return nil
		}
		return send()
	})
	if err == nil && len(batch) > 0 {
		err = send()
	}
	return err
}

func (c *comparer) readDump(ctx context.Context, j *job, fn func(doc bson.Raw) error) error {
	for doc, err := range j.documents(ctx) {
		if err != nil {
			return err
		}
		if err := fn(asStored(doc)); err != nil {
			return err
		}
		c.o.Progress.Bytes.Add(int64(len(doc)))
	}
	return ctx.Err()
}

func (c *comparer) readTarget(ctx context.Context, j *job, fn func(doc bson.Raw) error) error {
	name, raw := c.data(j)
	command := bson.D{{Key: "find", Value: name}}
	if raw {
		command = append(command, bson.E{Key: "rawData", Value: true})
	}
	cursor, err := c.s.Client.Database(j.db).RunCommandCursor(ctx, command)
	if err != nil {
		return fmt.Errorf("reading its documents: %w", err)
	}
	defer cursor.Close(context.WithoutCancel(ctx))
	for cursor.Next(ctx) {
		if err := fn(cursor.Current); err != nil {
			return err
		}
	}
	if err := cursor.Err(); err != nil && err != io.EOF {
		return fmt.Errorf("reading its documents: %w", err)
	}
	return ctx.Err()
}
