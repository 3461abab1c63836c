package mongo

import (
	"context"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/whole-tale/wtsnap/mongo/transform"
	"github.com/whole-tale/wtsnap/snapshot"
)

// An update is a change that is made after the documents, and what became of it.
type update struct {
	transform.Statement
	snapshot.RestoredUpdate
	job *job // of its collection
	// foreseen is by how many documents more than the target has now the filter would mean. restore.mu guards it.
	foreseen int64
}

// planUpdates finds the collections of the updates. Others than those that are restored are not for a restore to change.
func (rs *restore) planUpdates() error {
	for _, s := range rs.Updates {
		u := &update{Statement: s, RestoredUpdate: snapshot.RestoredUpdate{Name: s.Name, Namespace: s.Namespace(), Filter: s.Filter,
			Update: s.Update.Update, Expected: s.Expected.String()}}
		var names []string
		for _, j := range rs.jobs {
			if j.isView() {
				continue
			}
			names = append(names, j.ns())
			if j.ns() == s.Namespace() {
				u.job = j
			}
		}
		if u.job == nil {
			return &transform.Error{Err: fmt.Errorf("an update is for %s, which is not among what is restored: %s", s.Namespace(), few(names))}
		}
		rs.updates = append(rs.updates, u)
	}
	return nil
}

// foresee notes in a dry run that a document would come into a collection, in the place of another one or of none.
func (rs *restore) foresee(j *job, before, after bson.Raw) {
	if !rs.o.DryRun {
		return
	}
	for _, u := range rs.updates {
		if u.job != j {
			continue
		}
		n := int64(0)
		if ok, err := u.Query.Match(after); ok && err == nil {
			n++
		}
		if before != nil {
			if ok, err := u.Query.Match(before); ok && err == nil {
				n--
			}
		}
		rs.mu.Lock()
		u.foreseen += n
		rs.mu.Unlock()
	}
}

// update makes the updates, or says how many documents they would change. One whose filter does not mean as many documents
// as it should is not made, and the others are.
func (rs *restore) update(ctx context.Context) error {
	if len(rs.updates) == 0 {
		return nil
	}
	if rs.journal != nil && !rs.o.DryRun {
		rs.journal.entry.Updating = true
		if err := rs.saveJournal(ctx); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	for _, u := range rs.updates {
		rs.o.Progress.SetPath(u.job.ns())
		if err := rs.updateOne(ctx, u); err != nil {
			return fmt.Errorf("updating %s: %w", u.job.ns(), err)
		}
	}
	if rs.journal == nil || rs.o.DryRun {
		return nil
	}
	rs.journal.entry.Updating = false
	for _, u := range rs.updates {
		if u.Inserted > 0 && u.job.abandoned == nil && u.job.failed == 0 {
			if err := rs.noteDone(ctx, u.job); err != nil {
				return fmt.Errorf("noting what is done: %w", err)
			}
		}
	}
	return rs.saveJournal(ctx)
}

// what names an update for people.
func (u *update) what() string {
	if u.Statement.Name != "" {
		return fmt.Sprintf("the update %q", u.Statement.Name)
	}
	return "the update of " + u.Statement.Filter
}

func (rs *restore) updateOne(ctx context.Context, u *update) error {
	n, err := rs.meant(ctx, u)
	if err != nil && abandonable(err) {
		rs.refused(u, fmt.Errorf("the server refuses its filter (%s)", codeOf(err)))
		return nil
	}
	if err != nil {
		return fmt.Errorf("counting what %s means: %w", u.what(), err)
	}
	u.Matched = n
	expected := n
	if n == 0 && u.Upsert {
		expected = 1
	}
	if !u.Statement.Expected.Has(expected) {
		verb := "it was not made"
		if rs.o.DryRun {
			verb = "it would not be made"
		}
		rs.refused(u, fmt.Errorf("its filter means %d documents, and %s expected; %s", n, are(u.Statement.Expected), verb))
		return nil
	}
	if rs.o.DryRun {
		return nil
	}
	statement := bson.D{{Key: "q", Value: u.Query.Raw()}, {Key: "u", Value: u.Document}, {Key: "multi", Value: true}}
	if u.Upsert {
		statement = append(statement, bson.E{Key: "upsert", Value: true})
	}
	reply, err := rs.command(ctx, u.job.db, bson.D{{Key: "update", Value: u.job.name}, {Key: "updates", Value: bson.A{statement}},
		{Key: "writeConcern", Value: rs.writeConcern()}})
	// The words of a server's error may have what was filled in: its number says enough.
	if err != nil && abandonable(err) {
		rs.refused(u, fmt.Errorf("the server refuses it (%s)", codeOf(err)))
		return nil
	}
	if err != nil {
		return fmt.Errorf("making %s: %w", u.what(), err)
	}
	if code, bad := reply.Lookup("writeErrors", "0", "code").AsInt64OK(); bad {
		rs.refused(u, fmt.Errorf("the server refuses it (error %d)", code))
		return nil
	}
	if list, ok := reply.Lookup("upserted").ArrayOK(); ok {
		values, err := list.Values()
		if err != nil {
			return err
		}
		u.Inserted = int64(len(values))
	}
	u.Matched = number(reply, "n") - u.Inserted
	u.Changed = number(reply, "nModified")
	u.Done = true
	if !u.Statement.Expected.Has(u.Matched + u.Inserted) {
		rs.refused(u, fmt.Errorf("it changed %d documents, and %s expected: somebody writes to it", u.Matched+u.Inserted, are(u.Statement.Expected)))
	}
	return nil
}

// refused reports an update that is not as it should be.
func (rs *restore) refused(u *update, err error) {
	u.Failed = true
	rs.problem(u.job, fmt.Errorf("%s: %w", u.what(), err))
}

func are(r transform.Range) string {
	if r == (transform.Range{Min: 1, Max: 1}) {
		return "1 is"
	}
	return r.String() + " are"
}

// codeOf says of a server's error no more than its number.
func codeOf(err error) string {
	if e, ok := errors.AsType[driver.CommandError](err); ok {
		return fmt.Sprintf("error %d", e.Code)
	}
	return "an error without a number"
}

// meant is how many documents an update's filter means; in a dry run, would mean.
func (rs *restore) meant(ctx context.Context, u *update) (n int64, err error) {
	if !rs.o.DryRun || u.job.there && !u.job.drop {
		for attempt := 0; ; attempt++ {
			n, err = rs.s.Client.Database(u.job.db).Collection(u.job.name).CountDocuments(ctx, u.Query.Raw())
			if err == nil || !rs.again(ctx, err, attempt) {
				break
			}
		}
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return n + u.foreseen, err
}
