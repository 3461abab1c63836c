package mongo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/snapshot"
)

// journalDB and journalName are where a restore notes what is done.
const (
	journalDB   = "wtsnap"
	journalName = "restores"
)

func (j *job) isView() bool { return j.Type == layout.TypeView }

// eachDocument yields documents to their end, or to the first error.
func eachDocument(docs *Documents) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) {
		defer docs.Close()
		for {
			doc, err := docs.Next()
			if err == io.EOF {
				return
			}
			if !yield(doc, err) || err != nil {
				return
			}
		}
	}
}

// plan decides which collections go where.
func (rs *restore) plan(ctx context.Context) error {
	for _, p := range rs.d.Problems {
		rs.problemAt(p.Path, fmt.Errorf("the options and indexes are not known: %s", p.Error))
	}
	databases := map[string]bool{}
	feeds, err := rs.feeds(ctx)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	for _, f := range feeds {
		databases[f.DB] = true
	}
	only := rs.s.Database
	into := ""
	if only != "" && len(databases) == 1 && !databases[only] {
		only, into = "", only
	}
	targets := map[string]*job{}
	total := int64(0)
	for _, f := range feeds {
		if f.Special() {
			rs.auth = append(rs.auth, f)
			continue
		}
		if only != "" && f.DB != only || !rs.selects(&f.Collection) {
			continue
		}
		j := &job{feed: f, db: f.DB, name: f.Name}
		if into != "" {
			j.db = into
		}
		for i := range rs.renames {
			if ns, ok := rs.renames[i].apply(j.db + "." + j.name); ok {
				if j.db, j.name, ok = strings.Cut(ns, "."); !ok || j.db == "" || j.name == "" {
					return fmt.Errorf("restore: %s would be renamed to %q, which is no DB.COLLECTION", f.Namespace(), ns)
				}
				break
			}
		}
		if other := targets[j.ns()]; other != nil {
			return fmt.Errorf("restore: both %s and %s would become %s", other.Namespace(), f.Namespace(), j.ns())
		}
		targets[j.ns()] = j
		rs.jobs = append(rs.jobs, j)
		total += f.Bytes
	}
	if len(rs.jobs) == 0 && len(rs.authCollections()) == 0 {
		if len(databases) > 0 && only != "" && !databases[only] {
			return fmt.Errorf("restore: the snapshot has no database %s, which the target's address names; it has %s "+
				"(a database that is named only for the login is written ?authSource=%s)", only, strings.Join(sortedKeys(databases), ", "), only)
		}
		return errors.New("restore: nothing is chosen: the snapshot has no such collection")
	}
	rs.o.Progress.TotalBytes.Store(total)
	rs.o.Progress.TotalFiles.Store(int64(len(rs.jobs)))
	return ctx.Err()
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// selects reports whether a collection is restored like any other.
func (rs *restore) selects(c *Collection) bool {
	if c.Special() || c.DB == "local" || c.DB == journalDB && c.Name == journalName {
		return false
	}
	for _, p := range rs.Exclude {
		if p.Match(c.DB, c.Name) {
			return false
		}
	}
	chosen := len(rs.Include) == 0
	for _, p := range rs.Include {
		chosen = chosen || p.Match(c.DB, c.Name)
	}
	if !chosen {
		return false
	}
	// What a cluster says of itself belongs to that cluster; system collections are made by servers.
	if whole := rs.o.Path == "" || rs.o.Path == rs.d.Root; c.DB == "config" && whole && len(rs.Include) == 0 {
		return false
	}
	return !strings.HasPrefix(c.Name, "system.") || c.Name == "system.js"
}

// existing is a collection of the target.
type existing struct {
	Name    string   `bson:"name"`
	Type    string   `bson:"type"`
	Options bson.Raw `bson:"options"`
	Info    struct {
		UUID bson.Binary `bson:"uuid"`
	} `bson:"info"`
}

// lookAtTarget finds out what is there.
func (rs *restore) lookAtTarget(ctx context.Context) error {
	byDB := map[string]map[string]*existing{}
	for _, j := range rs.jobs {
		there, ok := byDB[j.db]
		if !ok {
			var err error
			if there, err = rs.listTarget(ctx, j.db); err != nil {
				return fmt.Errorf("restore: listing the collections of %s: %w", j.db, err)
			}
			byDB[j.db] = there
		}
		e := there[j.name]
		if e == nil {
			continue
		}
		j.there = true
		if (e.Type == layout.TypeView) != j.isView() || (e.Type == layout.TypeTimeseries) != (j.Type == layout.TypeTimeseries) {
			if rs.Mode != DropExisting {
				return &snapshot.TargetGuardError{Target: rs.rep.Target, Reason: fmt.Sprintf("%s is a %s there, and a %s in the snapshot", j.ns(), e.Type, j.Type),
					Hint: "--drop replaces it"}
			}
		}
		if e.Type == layout.TypeView {
			continue
		}
		var err error
		if j.count, err = rs.count(ctx, j); err != nil {
			return fmt.Errorf("restore: counting %s: %w", j.ns(), err)
		}
	}
	return nil
}

func (rs *restore) listTarget(ctx context.Context, db string) (map[string]*existing, error) {
	cur, err := rs.s.Client.Database(db).ListCollections(ctx, bson.D{}, options.ListCollections())
	if err != nil {
		return nil, err
	}
	var list []existing
	if err := cur.All(ctx, &list); err != nil {
		return nil, err
	}
	out := map[string]*existing{}
	for i := range list {
		out[list[i].Name] = &list[i]
	}
	return out, nil
}

// data is the collection of the target that holds a job's documents, and whether they must be asked for as they are
// stored: the buckets of a time series are a collection of their own below 8.3.
func (rs *restore) data(j *job) (name string, raw bool) {
	if j.Type != layout.TypeTimeseries {
		return j.name, false
	}
	if rs.s.AtLeast(8, 3) {
		return j.name, true
	}
	return layout.BucketsPrefix + j.name, false
}

// count is how many documents a collection of the target has: by its statistics first.
func (rs *restore) count(ctx context.Context, j *job) (int64, error) {
	name, raw := rs.data(j)
	command := bson.D{{Key: "count", Value: name}}
	if raw {
		command = append(command, bson.E{Key: "rawData", Value: true})
	}
	reply, err := rs.command(ctx, j.db, command)
	n, _ := reply.Lookup("n").AsInt64OK()
	return n, err
}

// decide settles what happens to each collection, and refuses what nobody asked for.
func (rs *restore) decide() error {
	var refused []string
	for _, j := range rs.jobs {
		if !j.there || j.done {
			continue
		}
		switch {
		case rs.Mode == DropExisting:
			j.drop = !j.resumed
		case rs.Mode == RefuseExisting && !j.resumed && (j.count > 0 || j.isView()):
			refused = append(refused, j.ns())
		}
	}
	if len(refused) == 0 {
		return nil
	}
	text := strings.Join(refused[:min(len(refused), 5)], ", ")
	if n := len(refused) - 5; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	verb := "is"
	if len(refused) > 1 {
		verb = "are"
	}
	return &snapshot.TargetGuardError{Target: rs.rep.Target, Reason: fmt.Sprintf("%s %s there already", text, verb),
		Hint: "--drop replaces such collections, --insert-missing adds the documents that they lack, --overwrite also puts back those that differ"}
}
