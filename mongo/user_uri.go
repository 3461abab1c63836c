package mongo

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/whole-tale/wtsnap/mongo/ownership"
	"github.com/whole-tale/wtsnap/snapshot"
)

// UserTarget says how a user's documents go into a running MongoDB.
type UserTarget struct {
	Options ConnectOptions
	// Shares puts the user back into lists of documents that others own by now.
	Shares bool
	// Overwrite puts back the user's documents that are there and differ.
	Overwrite bool
}

// A FixCount says what became of the documents of a collection that a deletion of the user took something from.
type FixCount struct {
	Namespace string `json:"namespace"`
	Field     string `json:"field"`
	Fixed     int64  `json:"fixed"`  // the field, or the list's element, was put back
	Fine      int64  `json:"fine"`   // nothing was missing
	Others    int64  `json:"others"` // others own the document by now, and it stays as it is
	Gone      int64  `json:"gone"`   // the document is not there any more
	Failed    int64  `json:"failed"`
}

// RestoreURI brings a user's documents back into the MongoDB that o.Target names: those that are missing are inserted;
// those that are there stay, but for the fields that a deletion of the user empties; others' documents are not touched,
// and never those that the map excludes. Indexes, options and accounts of the server stay as they are.
func (u *UserData) RestoreURI(ctx context.Context, o snapshot.RestoreOptions, t UserTarget) (*UserReport, error) {
	rep := &UserReport{}
	s, err := Connect(ctx, o.Target.Path, t.Options)
	if err != nil {
		return rep, err
	}
	defer s.Close(ctx)
	if s.Database != "" {
		return rep, &snapshot.TargetSpecError{Target: snapshot.RedactURI(o.Target.Path), Reason: "a user's documents are in several databases: " +
			"name none in the address (one that is named only for the login is written ?authSource=" + s.Database + ")"}
	}
	if err := u.nobodyElse(ctx, s, snapshot.RedactURI(o.Target.Path)); err != nil {
		return rep, err
	}
	o.Snapshot, o.Path = u.Dump.Snapshot, u.Dump.Root
	r := Restorer{Mode: InsertMissing, NoUsers: true, NoIndexes: true, Options: t.Options, chosen: u.owned()}
	if t.Overwrite {
		r.Mode = Overwrite
	}
	rep.Mongo, err = r.RestoreTo(ctx, u.r, o, nil)
	if rep.Mongo != nil {
		rep.Problems, rep.Damaged, rep.Errors = rep.Mongo.Problems, rep.Mongo.Damaged, rep.Mongo.Errors
	}
	if err != nil {
		return rep, err
	}
	f := &fixer{u: u, s: s, dry: o.DryRun, shares: t.Shares, rep: rep, monitor: o.Monitor}
	return rep, f.run(ctx)
}

// nobodyElse refuses a server where another user has the name of the one that is restored.
func (u *UserData) nobodyElse(ctx context.Context, s *Server, target string) error {
	m := u.Owned.Map
	var names bson.A
	for _, field := range m.User.Names {
		v := u.Owned.User.Lookup(strings.Split(field, ".")...)
		if name, _ := v.StringValueOK(); v.Type == bson.TypeString && name != "" {
			names = append(names, bson.D{{Key: field, Value: v}})
		}
	}
	filter := bson.D{{Key: "$or", Value: names}, {Key: "_id", Value: bson.D{{Key: "$ne", Value: u.Owned.ID}}}}
	n, err := s.Client.Database(m.Database).Collection(m.User.Collection).CountDocuments(ctx, filter)
	if err != nil {
		return fmt.Errorf("looking for the user on %s: %w", target, err)
	}
	if n > 0 {
		return &snapshot.TargetGuardError{Target: target, Reason: fmt.Sprintf("another user there has the name or the address of %s (a new account?)", u.Owned.Name),
			Hint: "rename or remove the other one first; or restore to a folder, and look at the documents"}
	}
	return nil
}

// A fixer puts back what a deletion took from documents that stayed.
type fixer struct {
	u       *UserData
	s       *Server
	dry     bool
	shares  bool
	rep     *UserReport
	monitor snapshot.Monitor
	counts  map[string]*FixCount
}

const fixBatch = 500 // documents

func (f *fixer) run(ctx context.Context) error {
	for _, n := range f.u.src.Namespaces() {
		fixes := f.u.Owned.Fixes(n)
		if fixes == nil {
			continue
		}
		f.counts = map[string]*FixCount{}
		var batch []ownership.Fix
		for doc, err := range f.u.src.Documents(ctx, n) {
			if err != nil {
				return err
			}
			list, err := fixes(doc)
			if err != nil {
				return fmt.Errorf("%v: %w", n, err)
			}
			for _, x := range list {
				x.ID, x.Value = cloneValue(x.ID), cloneValue(x.Value)
				batch = append(batch, x)
			}
			if len(batch) >= fixBatch {
				if err := f.batch(ctx, n, batch); err != nil {
					return err
				}
				batch = batch[:0]
			}
		}
		if err := f.batch(ctx, n, batch); err != nil {
			return err
		}
		for _, c := range f.counts {
			f.rep.Fixes = append(f.rep.Fixes, *c)
		}
	}
	slices.SortFunc(f.rep.Fixes, func(a, b FixCount) int { return strings.Compare(a.Namespace+" "+a.Field, b.Namespace+" "+b.Field) })
	return ctx.Err()
}

func cloneValue(v bson.RawValue) bson.RawValue {
	return bson.RawValue{Type: v.Type, Value: slices.Clone(v.Value)}
}

func (f *fixer) count(n ownership.Namespace, x *ownership.Fix) *FixCount {
	field := x.Repair.Field + x.Repair.Array
	c := f.counts[field]
	if c == nil {
		c = &FixCount{Namespace: n.String(), Field: field}
		f.counts[field] = c
	}
	return c
}

// batch looks at the server's documents, and puts back what is missing in them.
func (f *fixer) batch(ctx context.Context, n ownership.Namespace, batch []ownership.Fix) error {
	if len(batch) == 0 {
		return nil
	}
	there, err := f.there(ctx, n, batch)
	if err != nil {
		return err
	}
	var updates bson.A
	var of []*FixCount
	for i := range batch {
		x := &batch[i]
		c := f.count(n, x)
		doc := there[string(byte(x.ID.Type))+string(x.ID.Value)]
		switch f.state(doc, x) {
		case fixGone:
			c.Gone++
		case fixFine:
			c.Fine++
		case fixOthers:
			c.Others++
		default:
			c.Fixed++
			updates, of = append(updates, f.update(x)), append(of, c)
		}
	}
	if f.dry || len(updates) == 0 {
		return nil
	}
	command := bson.D{{Key: "update", Value: n.Collection}, {Key: "updates", Value: updates}, {Key: "ordered", Value: false},
		{Key: "writeConcern", Value: bson.D{{Key: "w", Value: "majority"}}}}
	reply, err := f.s.Client.Database(n.DB).RunCommand(ctx, command).Raw()
	if reply == nil {
		return fmt.Errorf("repairing documents of %v: %w", n, err)
	}
	if list, ok := reply.Lookup("writeErrors").ArrayOK(); ok {
		values, verr := list.Values()
		if verr != nil {
			return verr
		}
		for _, v := range values {
			e, _ := v.DocumentOK()
			if i, ok := e.Lookup("index").AsInt64OK(); ok && i >= 0 && i < int64(len(of)) {
				of[i].Fixed--
				of[i].Failed++
			}
			code, _ := e.Lookup("code").AsInt64OK()
			f.problem(n, fmt.Errorf("a document could not be repaired: error %d of the server", code))
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("repairing documents of %v: %w", n, err)
	}
	return nil
}

func (f *fixer) problem(n ownership.Namespace, err error) {
	f.rep.Problems++
	if len(f.rep.Errors) < maxRestoreErrors {
		f.rep.Errors = append(f.rep.Errors, snapshot.PathError{Path: n.String(), Error: err.Error()})
	}
	if f.monitor != nil {
		f.monitor.Problem(n.String(), err)
	}
}

// there reads what matters of the server's documents, by type and bytes of the _id.
func (f *fixer) there(ctx context.Context, n ownership.Namespace, batch []ownership.Fix) (map[string]bson.Raw, error) {
	ids := bson.A{}
	fields := map[string]bool{}
	for i := range batch {
		ids = append(ids, batch[i].ID)
		fields[topField(batch[i].Repair.Field+batch[i].Repair.Array)] = true
	}
	if owner := f.u.Owned.Map.Owner; owner != "" {
		fields[topField(owner)] = true
	}
	projection := bson.D{}
	for _, name := range sortedKeys(fields) {
		projection = append(projection, bson.E{Key: name, Value: 1})
	}
	cur, err := f.s.Client.Database(n.DB).Collection(n.Collection).Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}},
		options.Find().SetProjection(projection))
	if err != nil {
		return nil, fmt.Errorf("looking at documents of %v: %w", n, err)
	}
	defer cur.Close(ctx)
	out := map[string]bson.Raw{}
	for cur.Next(ctx) {
		doc := slices.Clone(cur.Current)
		id := doc.Lookup("_id")
		out[string(byte(id.Type))+string(id.Value)] = doc
	}
	if err := cur.Err(); err != nil {
		return nil, fmt.Errorf("looking at documents of %v: %w", n, err)
	}
	return out, nil
}

func topField(path string) string {
	first, _, _ := strings.Cut(path, ".")
	return first
}

type fixState uint8

const (
	fixNeeded fixState = iota
	fixFine
	fixOthers
	fixGone
)

// isNull reports whether a field is empty, or not there.
func isNull(v bson.RawValue) bool {
	return v.IsZero() || v.Type == bson.TypeNull || v.Type == bson.TypeUndefined
}

// state says whether a document of the server needs a fix.
func (f *fixer) state(doc bson.Raw, x *ownership.Fix) fixState {
	if doc == nil {
		return fixGone
	}
	owner := f.u.Owned.Map.Owner
	foreign := false
	if owner != "" {
		v := doc.Lookup(strings.Split(owner, ".")...)
		foreign = !isNull(v) && !v.Equal(f.u.Owned.ID)
	}
	if x.Repair.Field != "" {
		v := doc.Lookup(strings.Split(x.Repair.Field, ".")...)
		switch {
		case isNull(v):
			return fixNeeded
		case v.Equal(x.Value):
			return fixFine
		}
		return fixOthers
	}
	if list, ok := doc.Lookup(strings.Split(x.Repair.Array, ".")...).ArrayOK(); ok {
		values, err := list.Values()
		if err != nil {
			return fixOthers
		}
		for _, v := range values {
			if elementKey(v, x.Match).Equal(elementKey(x.Value, x.Match)) {
				return fixFine
			}
		}
	}
	if foreign && !f.shares {
		return fixOthers
	}
	return fixNeeded
}

// elementKey is what tells a list's elements apart.
func elementKey(v bson.RawValue, field string) bson.RawValue {
	if field == "" {
		return v
	}
	doc, ok := v.DocumentOK()
	if !ok {
		return bson.RawValue{}
	}
	return doc.Lookup(strings.Split(field, ".")...)
}

// update is the statement that puts something back, if it is still missing when the server comes to it.
func (f *fixer) update(x *ownership.Fix) bson.D {
	q := bson.D{{Key: "_id", Value: x.ID}}
	if x.Repair.Field != "" {
		q = append(q, bson.E{Key: x.Repair.Field, Value: nil})
		return bson.D{{Key: "q", Value: q}, {Key: "u", Value: bson.D{{Key: "$set", Value: bson.D{{Key: x.Repair.Field, Value: x.Value}}}}}}
	}
	if owner := f.u.Owned.Map.Owner; owner != "" && !f.shares {
		q = append(q, bson.E{Key: owner, Value: bson.D{{Key: "$in", Value: bson.A{nil, f.u.Owned.ID}}}})
	}
	key := x.Repair.Array
	if x.Match != "" {
		key += "." + x.Match
	}
	q = append(q, bson.E{Key: key, Value: bson.D{{Key: "$ne", Value: elementKey(x.Value, x.Match)}}})
	return bson.D{{Key: "q", Value: q}, {Key: "u", Value: bson.D{{Key: "$push", Value: bson.D{{Key: x.Repair.Array, Value: x.Value}}}}}}
}
