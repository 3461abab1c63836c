package mongo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/mongo/oplog"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// follow captures once.
func (v *vault) follow(s *mongotest.Server, more ...func(*FollowOptions)) (*FollowReport, *recorder, error) {
	v.t.Helper()
	mon := &recorder{}
	o := FollowOptions{Address: s.URI(), Instance: "test", Once: true, Monitor: mon}
	for _, f := range more {
		f(&o)
	}
	rep, err := Follow(v.t.Context(), v.r, o)
	return rep, mon, err
}

// oplogs lists the captures that there are.
func (v *vault) oplogs() (out []*snapshot.Snapshot) {
	v.t.Helper()
	snaps, err := snapshot.List(v.t.Context(), v.r, snapshot.Filter{})
	must(v.t, err)
	for _, s := range snaps {
		if s.HoldsOplog() {
			out = append(out, s)
		}
	}
	return out
}

// captured reads all slices of the newest capture, checks that each begins as the one before ended, and returns the
// entries that are no noops.
func (v *vault) captured() (entries []bson.Raw) {
	v.t.Helper()
	must(v.t, v.r.LoadIndex(v.t.Context()))
	all := v.oplogs()
	if len(all) != 1 {
		v.t.Fatalf("%d captures are there", len(all))
	}
	list, err := storedSlices(v.t.Context(), v.r, all[0], OplogLabel)
	must(v.t, err)
	var last bson.Raw
	for i, s := range oneEach(list) {
		d := &Documents{}
		file := snapshot.OpenFile(v.t.Context(), v.r, s.node, s.Name(), 0)
		data := new(bytes.Buffer)
		_, err := data.ReadFrom(file)
		must(v.t, err)
		must(v.t, errors.Join(file.Close(), d.Close()))
		for n := 0; data.Len() > 0; n++ {
			raw := bson.Raw(data.Next(int(data.Bytes()[0]) | int(data.Bytes()[1])<<8 | int(data.Bytes()[2])<<16))
			ts, _ := oplog.TimestampOf(raw)
			if n == 0 && ts != s.From || data.Len() == 0 && ts != s.To {
				v.t.Errorf("%s: its ends are not %s", s.Name(), oplog.Text(ts))
			}
			switch {
			case n == 0 && i > 0 && bytes.Equal(raw, last): // the joint
			case !oplog.IsNoop(raw):
				entries = append(entries, raw)
			}
			last = raw
		}
	}
	return entries
}

// logged returns the server's entries from a time on that are no noops.
func logged(s *mongotest.Server, from bson.Timestamp) []bson.Raw {
	return slices.DeleteFunc(s.Oplog(), func(raw bson.Raw) bool {
		ts, _ := oplog.TimestampOf(raw)
		return ts.Before(from) || oplog.IsNoop(raw)
	})
}

func sameEntries(t *testing.T, got, want []bson.Raw) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(a, b bson.Raw) bool { return bytes.Equal(a, b) }) {
		t.Errorf("captured %d entries, want %d", len(got), len(want))
	}
}

func person(i int) bson.D { return bson.D{{Key: "_id", Value: i}, {Key: "n", Value: i}} }

func TestFollowOnce(t *testing.T) {
	v, s := newVault(t), mongotest.Start(t, mongotest.Options{})
	s.Insert("girder.user", person(0))
	from := s.Now()
	rep, _, err := v.follow(s)
	must(t, err)
	if rep.Slices != 1 || len(rep.Spans) != 1 || bson.Timestamp(rep.Spans[0].From) != from {
		t.Errorf("the first run: %+v", rep)
	}
	for round := range 3 {
		for i := range 150 {
			s.Insert("girder.user", person(1+200*round+i))
			if i%20 == 0 {
				s.Advance(1)
				s.AppendOplog(bson.D{{Key: "op", Value: "n"}, {Key: "ns", Value: ""}, {Key: "o", Value: bson.D{}}})
			}
		}
		if rep, _, err = v.follow(s, func(o *FollowOptions) { o.Slice = 4 << 10 }); err != nil || rep.Slices < 2 {
			t.Fatalf("%+v, %v", rep, err)
		}
		sameEntries(t, v.captured(), logged(s, from))
	}
	if end := rep.Spans[0].To; len(rep.Spans) != 1 || bson.Timestamp(end) != s.Now() {
		t.Errorf("captured up to %s of %s", end, oplog.Text(s.Now()))
	}
	if rep, _, err = v.follow(s); err != nil || rep.Slices != 0 || rep.Snapshot != nil {
		t.Errorf("with nothing new: %+v, %v", rep, err)
	}
	m := v.oplogs()[0]
	if m.Sources[0].Mongo.Set != "rs0" || len(m.Sources[0].Mongo.Spans) != 1 || m.Errors != 0 {
		t.Errorf("the manifest says %+v", m.Sources[0].Mongo)
	}
}

// TestFollowApart: a capture is neither the newest snapshot nor one for a policy, and what is in it is kept.
func TestFollowApart(t *testing.T) {
	v, s := newVault(t), mongotest.Start(t, mongotest.Options{})
	s.Insert("girder.user", person(0))
	dir := t.TempDir()
	home := v.backup(folder("homes", dir))
	v.now = time.Now()
	_, _, err := v.follow(s)
	must(t, err)
	latest, _, err := snapshot.Resolve(t.Context(), v.r, "latest", snapshot.Selector{Instance: "test"})
	if err != nil || latest.Ref.ID != home.Ref.ID {
		t.Errorf("latest is %v, %v", latest, err)
	}
	snaps, err := snapshot.List(t.Context(), v.r, snapshot.Filter{})
	must(t, err)
	for _, d := range snapshot.ApplyPolicy(snaps, snapshot.Policy{Last: 1}, time.Now()) {
		if !d.Keep {
			t.Errorf("%v goes: %v", d.Snapshot.Sources, d.Reasons)
		}
	}
	status := snapshot.Status(snaps, nil, nil, time.Now())
	if len(status) != 1 || status[0].Newest.Ref.ID != home.Ref.ID || status[0].Snapshots != 1 || len(status[0].Oplog) != 1 {
		t.Errorf("status: %+v", status)
	}
}

// TestFollowGap: entries that the server drops are named, and the capture goes on behind them.
func TestFollowGap(t *testing.T) {
	v, s := newVault(t), mongotest.Start(t, mongotest.Options{})
	s.Insert("girder.user", person(0), person(1))
	_, _, err := v.follow(s)
	must(t, err)
	last := s.Now()
	s.Advance(10)
	s.Insert("girder.user", person(2))
	s.Advance(10)
	s.Insert("girder.user", person(3))
	kept := s.Now()
	s.TrimOplog(kept)
	s.Insert("girder.user", person(4))
	rep, mon, err := v.follow(s)
	must(t, err)
	want := snapshot.MongoSpan{From: snapshot.Timestamp(last), To: snapshot.Timestamp(kept)}
	if len(rep.Gaps) != 1 || rep.Gaps[0] != want || len(rep.Spans) != 2 {
		t.Errorf("%+v", rep)
	}
	if text := fmt.Sprint(mon.problems); !strings.Contains(text, oplog.Text(last)) || !strings.Contains(text, oplog.Text(kept)) {
		t.Errorf("the problem does not name both ends: %s", text)
	}
	m := v.oplogs()[0]
	if !m.Complete || m.Errors != 1 || len(m.Sources[0].Mongo.Spans) != 2 {
		t.Errorf("the manifest: %+v", m.Sources)
	}
	if rep, mon, err = v.follow(s); err != nil || len(rep.Gaps) != 0 || len(mon.problems) != 0 {
		t.Errorf("the gap is reported again: %+v, %v, %v", rep, mon, err)
	}
}

// TestFollowRetention: what no dump needs is dropped, and what one needs is kept, from where the first capture began.
func TestFollowRetention(t *testing.T) {
	v, s := newVault(t), mongotest.Start(t, mongotest.Options{})
	s.Insert("girder.user", person(0), person(1))
	dump := func(start bson.Timestamp) *snapshot.Snapshot {
		return v.backup(snapshot.SourceSpec{Label: "mongo", Kind: snapshot.SourceMongo, Stream: fixedDump{snapshot.MongoInfo{
			Role: snapshot.MongoDump, Set: "rs0", Consistency: snapshot.MongoSnapshot, Start: snapshot.Timestamp(start), End: snapshot.Timestamp(start)}}})
	}
	old := s.Now()
	first := dump(old)
	s.Advance(1)
	s.Insert("girder.user", person(2))
	rep, _, err := v.follow(s)
	must(t, err)
	if len(rep.Spans) != 1 || bson.Timestamp(rep.Spans[0].From) != old {
		t.Errorf("the first capture does not begin where the dump does: %+v", rep.Spans)
	}
	s.Advance(1)
	s.Insert("girder.user", person(3))
	dump(s.Now())
	newer := s.Now()
	s.Insert("girder.user", person(4))
	if rep, _, err = v.follow(s); err != nil || rep.Dropped != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	must(t, v.r.Forget(t.Context(), []repo.SnapshotRef{first.Ref}))
	s.Insert("girder.user", person(5))
	if rep, _, err = v.follow(s); err != nil || rep.Dropped != 1 || bson.Timestamp(rep.Spans[0].From).After(newer) {
		t.Errorf("%+v, %v", rep, err)
	}
}

// A fixedDump is a source that says it is a MongoDB.
type fixedDump struct{ info snapshot.MongoInfo }

func (d fixedDump) Save(ctx context.Context, sink *snapshot.Sink) error {
	sink.SetMongo(&d.info)
	return sink.Add(ctx, "girder/user.bson", snapshot.Node{Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o600}}, strings.NewReader("x"))
}

// TestFollowService runs until it is stopped, over lost connections and an election.
func TestFollowService(t *testing.T) {
	v, s := newVault(t), mongotest.Start(t, mongotest.Options{Members: 3})
	s.Insert("girder.user", person(0))
	from := s.Now()
	_, _, err := v.follow(s)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var rounds atomic.Int32
	var id atomic.Int32
	write := func() {
		for range 40 {
			s.Insert("girder.user", person(int(id.Add(1))))
		}
	}
	write()
	mon := &recorder{}
	rep, err := Follow(ctx, v.r, FollowOptions{Address: s.URI(), Instance: "test", Slice: 2 << 10, Monitor: mon, OnSlice: func(*FollowReport) {
		switch rounds.Add(1) {
		case 1:
			s.DropConnections()
			write()
		case 4:
			s.StepDown(1)
			s.Stop(0)
			write()
		case 7:
			s.ExpireCursors()
			write()
		case 11:
			stop()
		}
	}})
	must(t, err)
	if len(mon.notices) < 2 {
		t.Errorf("nothing went wrong: %v", mon.notices)
	}
	if rep.Slices < 11 || len(rep.Spans) != 1 {
		t.Errorf("%+v, %v", rep, mon)
	}
	_, _, err = v.follow(s)
	must(t, err)
	sameEntries(t, v.captured(), logged(s, from))
	for _, call := range s.Calls("find") {
		if call.Namespace() == "local.oplog.rs" && !strings.Contains(call.Body.String(), `"majority"`) {
			t.Errorf("a read of what may be rolled back: %s", call.Body)
		}
	}
}

// TestFollowRefused: what is no set, or another one, is said at once.
func TestFollowRefused(t *testing.T) {
	v := newVault(t)
	alone := mongotest.Start(t, mongotest.Options{Role: mongotest.Standalone})
	if _, _, err := v.follow(alone); err == nil || !strings.Contains(err.Error(), "replica set") {
		t.Errorf("a standalone server: %v", err)
	}
	s, other := mongotest.Start(t, mongotest.Options{}), mongotest.Start(t, mongotest.Options{Set: "rs9"})
	s.Insert("girder.user", person(0))
	other.Insert("girder.user", person(0))
	_, _, err := v.follow(s)
	must(t, err)
	if _, _, err := v.follow(other); err == nil || !strings.Contains(err.Error(), "rs9") {
		t.Errorf("another set: %v", err)
	}
	v.backup(folder("homes", t.TempDir()))
	if _, _, err := v.follow(s, func(o *FollowOptions) { o.Label = "homes" }); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("a label that is taken: %v", err)
	}
}
