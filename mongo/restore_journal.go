package mongo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
)

// journalAge is how long an interrupted restore can be continued. What is older is another one that looks the same.
const journalAge = 24 * time.Hour

// A journal says what a restore has done. It is a document in the target, so that a restore can be continued from any
// machine.
type journal struct {
	mu    sync.Mutex
	entry journalEntry
}

type journalEntry struct {
	ID          string         `bson:"_id"` // of snapshot, path, renames and mode
	Snapshot    string         `bson:"snapshot"`
	Started     time.Time      `bson:"started"`
	Collections []journalState `bson:"collections"`
	// Updating says that all documents are there: what differs from the dump since is what updates changed.
	Updating bool `bson:"updating,omitempty"`
}

// journalState is a collection that was begun.
type journalState struct {
	Namespace string `bson:"namespace"`
	Done      bool   `bson:"done"`
	Documents int64  `bson:"documents"`
}

func (rs *restore) journalID() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%d\x00%q\x00%q", rs.o.Snapshot.Ref.ID, rs.o.Path, rs.Mode, rs.From, rs.To)
	if rs.d.Folded && rs.d.Info != nil {
		fmt.Fprintf(h, "\x00%s", rs.d.Info.End) // of the same dump other moments have other documents
	}
	if rs.d.Filter != "" {
		fmt.Fprintf(h, "\x00%s", rs.d.Filter)
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// loadJournal finds out what an earlier run of this restore has done.
func (rs *restore) loadJournal(ctx context.Context) error {
	if rs.Mode == InsertMissing || rs.Mode == Overwrite {
		return nil
	}
	var e journalEntry
	err := rs.s.Client.Database(journalDB).Collection(journalName).FindOne(ctx, bson.D{{Key: "_id", Value: rs.journalID()}}).Decode(&e)
	if errors.Is(err, driver.ErrNoDocuments) || isCode(err, errUnauthorized, 8000) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restore: asking the target for an interrupted restore: %w", err)
	}
	if time.Since(e.Started) > journalAge {
		return nil
	}
	states := map[string]*journalState{}
	for i := range e.Collections {
		states[e.Collections[i].Namespace] = &e.Collections[i]
	}
	done := 0
	for _, j := range rs.jobs {
		s := states[j.ns()]
		if s == nil || !j.there {
			continue
		}
		if s.Done && !j.isView() && (s.Documents == j.count || e.Updating) {
			done++
			j.done, j.equal = true, s.Documents
			continue
		}
		j.resumed = true
	}
	rs.o.Monitor.Notice(rs.rep.Target, fmt.Sprintf("continuing the restore that began at %s: %d of %d collections are done",
		e.Started.Local().Format("2006-01-02 15:04"), done, len(rs.jobs)))
	rs.journal = &journal{entry: e}
	return nil
}

// beginJournal makes one before anything is changed.
func (rs *restore) beginJournal(ctx context.Context) error {
	if rs.o.DryRun || rs.Mode == InsertMissing || rs.Mode == Overwrite { // these two find out for themselves
		rs.journal = nil
		return nil
	}
	if rs.journal == nil {
		rs.journal = &journal{entry: journalEntry{ID: rs.journalID(), Snapshot: rs.o.Snapshot.Ref.ID.String(), Started: time.Now().UTC(),
			Collections: []journalState{}}}
	}
	return rs.saveJournal(ctx)
}

func (rs *restore) saveJournal(ctx context.Context) error {
	if rs.journal == nil {
		return nil
	}
	_, err := rs.command(ctx, journalDB, bson.D{{Key: "update", Value: journalName},
		{Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: bson.D{{Key: "_id", Value: rs.journal.entry.ID}}}, {Key: "u", Value: rs.journal.entry}, {Key: "upsert", Value: true}}}}})
	if isCode(err, errUnauthorized, 8000) {
		rs.o.Monitor.Notice(rs.rep.Target, fmt.Sprintf("this user may not write to %s.%s: a restore that is interrupted begins anew", journalDB, journalName))
		rs.journal = nil
		return nil
	}
	if err != nil {
		return fmt.Errorf("noting what is done: %w", err)
	}
	return nil
}

func (rs *restore) noteBegun(ctx context.Context, j *job) error {
	return rs.note(ctx, journalState{Namespace: j.ns()})
}

func (rs *restore) noteDone(ctx context.Context, j *job) error {
	n, err := rs.count(ctx, j)
	if err != nil {
		return err
	}
	return rs.note(ctx, journalState{Namespace: j.ns(), Done: true, Documents: n})
}

func (rs *restore) note(ctx context.Context, s journalState) error {
	rs.mu.Lock()
	jr := rs.journal
	rs.mu.Unlock()
	if jr == nil {
		return nil
	}
	jr.mu.Lock()
	defer jr.mu.Unlock()
	found := false
	for i := range jr.entry.Collections {
		if jr.entry.Collections[i].Namespace == s.Namespace {
			jr.entry.Collections[i], found = s, true
		}
	}
	if !found {
		jr.entry.Collections = append(jr.entry.Collections, s)
	}
	return rs.saveJournal(ctx)
}

// endJournal removes the journal of a restore that came to its end, and the collection with it if it has no other.
func (rs *restore) endJournal(ctx context.Context) {
	if rs.journal == nil {
		return
	}
	coll := rs.s.Client.Database(journalDB).Collection(journalName)
	_, err := coll.DeleteOne(ctx, bson.D{{Key: "_id", Value: rs.journal.entry.ID}})
	if err == nil {
		var n int64
		if n, err = coll.CountDocuments(ctx, bson.D{}); err == nil && n == 0 {
			err = coll.Drop(ctx)
		}
	}
	if err != nil { // what it says is true, and it is looked at no more than a day
		rs.o.Monitor.Notice(rs.rep.Target, fmt.Sprintf("the collection %s.%s stays there: %v", journalDB, journalName, err))
	}
}
