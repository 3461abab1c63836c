package mongo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/mongo/oplog"
	"github.com/whole-tale/wtsnap/snapshot"
)

// dumpLog is the oplog.bson of a dump, as what a fold reads.
type dumpLog struct{ d *Dump }

func (l dumpLog) Entries(ctx context.Context, from bson.Timestamp) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) {
		for doc, err := range all(l.d.Oplog(ctx)) {
			if ts, _ := oplog.TimestampOf(doc); err == nil && ts.Before(from) {
				continue
			}
			if !yield(doc, err) {
				return
			}
		}
	}
}

func all(docs *Documents) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) {
		defer docs.Close()
		for {
			doc, err := docs.Next()
			if err == io.EOF || !yield(doc, err) || err != nil {
				return
			}
		}
	}
}

// folded returns what a dump is at the end of its window: the documents of each collection, in the order of their bytes.
func folded(t *testing.T, d *Dump) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	o := oplog.Options{Start: bson.Timestamp(d.Info.Start), End: bson.Timestamp(d.Info.End), At: bson.Timestamp(d.Info.End)}
	for _, c := range d.Collections() {
		o.Collections = append(o.Collections, oplog.Collection{DB: c.DB, Name: c.Name, Metadata: c.Metadata})
	}
	f, err := oplog.New(t.Context(), dumpLog{d}, o)
	must(t, err)
	for _, r := range f.Collections() {
		base := func() iter.Seq2[bson.Raw, error] { return func(func(bson.Raw, error) bool) {} }
		if r.Base >= 0 {
			base = func() iter.Seq2[bson.Raw, error] { return all(d.Documents(t.Context(), &d.Collections()[r.Base])) }
		}
		docs := []string{}
		for doc, err := range f.Documents(t.Context(), r, base) {
			must(t, err)
			docs = append(docs, string(doc))
		}
		slices.Sort(docs)
		out[r.DB+"."+r.Name] = docs
	}
	return out
}

// Whatever is written while collections are read, the dump and its oplog give exactly what the server had at the end of
// the window.
func TestWindowFolds(t *testing.T) {
	for _, c := range []struct {
		version string
		how     snapshot.MongoConsistency
	}{
		{"4.4.29", snapshot.MongoWindow},
		{"7.0.14", snapshot.MongoWindow},
		{"7.0.14", ""}, // a snapshot that does not last, and a collection that it cannot have
	} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(c.version, " ", c.how, " ", seed), func(t *testing.T) {
				s := mongotest.Start(t, mongotest.Options{Version: c.version})
				commands := []string{"find", "getMore", "listCollections", "listIndexes"}
				if c.how == "" {
					commands = commands[:2] // else there is no moment at which the catalog is known
					s.Fail("getMore", "girder.user", 1, mongotest.Outcome{Error: mongotest.SnapshotTooOld})
					s.Fail("find", "girder.user", 4, mongotest.Outcome{Error: mongotest.SnapshotTooOld})
				}
				fill(s, 1200)
				s.Create("girder.log", bson.D{{Key: "capped", Value: true}, {Key: "size", Value: 1 << 20}})
				s.Insert("girder.log", doc(1))
				writes := disturb(s, seed, commands)
				v := newVault(t)
				o := SourceOptions{Address: s.URI(), Consistency: c.how, Parallel: 2}
				if seed%2 == 1 {
					o.Order, o.ranges = snapshot.MongoByID, 1
				}
				rep, mon, err := v.try(nil, native(t, o))
				must(t, err)
				if !rep.Snapshot.Complete || rep.Problems > 0 {
					t.Fatalf("problems %q", mon.problems)
				}
				d := v.dump(rep.Snapshot, "")
				if writes() < 3 || d.Info.End.Compare(d.Info.Start) <= 0 {
					t.Fatalf("%d writes in %v to %v", writes(), d.Info.Start, d.Info.End)
				}
				got := folded(t, d)
				for ns, docs := range got {
					var want []string
					for _, doc := range s.DocumentsAt(ns, bson.Timestamp(d.Info.End)) {
						want = append(want, string(doc))
					}
					slices.Sort(want)
					if !bytes.Equal([]byte(strings.Join(docs, "")), []byte(strings.Join(want, ""))) {
						t.Errorf("%s has %d documents, the server had %d, or others", ns, len(docs), len(want))
					}
				}
				for _, ns := range []string{"girder.user", "girder.item", "girder.log", "other.thing"} {
					if len(s.DocumentsAt(ns, bson.Timestamp(d.Info.End))) > 0 && len(got[ns]) == 0 {
						t.Errorf("%s is missing", ns)
					}
				}
			})
		}
	}
}

// disturb writes something before each of the commands. The result counts the writes.
func disturb(s *mongotest.Server, seed uint64, commands []string) func() int {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	n := 0
	s.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
		if limit, _ := c.Body.Lookup("limit").AsInt64OK(); limit == 1 { // what is asked for before documents are read
			return nil
		}
		if !slices.Contains(commands, c.Name) || c.DB == "local" && c.Count > 50 {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		for range 3 {
			n++
			id := int32(n % 1200)
			switch k := rnd.IntN(12); k {
			case 0, 1:
				s.Insert("girder.user", doc(10_000+n))
			case 2, 3:
				s.Insert("girder.item", doc(10_000+n))
			case 4, 5:
				if len(s.Documents("girder.user")) > 100 {
					s.Update("girder.user", id, bson.D{{Key: "$set", Value: bson.D{{Key: "login", Value: fmt.Sprint("changed", n)}, {Key: "n", Value: int32(n)}}}})
				}
			case 6:
				s.Update("girder.item", id, bson.D{{Key: "name", Value: fmt.Sprint("replaced", n)}})
			case 7:
				s.Insert("girder.log", doc(10_000+n))
			case 8:
				s.Insert(fmt.Sprint("new.c", n), doc(n))
			case 9:
				s.Insert("girder.tmp", doc(n))
				s.Rename("girder.tmp", "girder.out", true)
			case 10:
				s.Transaction(mongotest.TxOptions{}, func(tx *mongotest.Tx) {
					tx.Insert("girder.user", doc(50_000+n))
					tx.Insert("girder.item", doc(50_000+n))
				})
			case 11:
				if rnd.IntN(4) == 0 {
					s.Drop("other.thing")
				}
				s.Insert("other.thing", doc(10_000+n))
			}
		}
		return nil
	})
	return func() int { mu.Lock(); defer mu.Unlock(); return n }
}
