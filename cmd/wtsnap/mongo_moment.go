package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// momentOf returns the moment that --at means for a MongoDB of which the oplog was captured. It is nil where --at chooses a
// snapshot, and no more: where an id does, for files, and without a capture.
func (a *app) momentOf(c *cli.Context, r *repo.Repository, s *snapshot.Snapshot, label string) (*mongo.Moment, error) {
	t, ok := get[time.Time](c, "at")
	if !ok {
		return nil, nil
	}
	if len(a.line.args) > 0 {
		if spec, err := snapshot.ParseSpec(a.line.args[0]); err != nil || spec.ID != "" || spec.Back > 0 {
			return nil, err
		}
	}
	at := mongo.EndOfSecond(t.Unix())
	if exact, ok := parseOpTime(c.Generic("at").(*value[time.Time]).text); ok {
		at = exact
	}
	m, err := mongo.FindMoment(a.ctx, r, s.Instance, label, at)
	if errors.Is(err, mongo.ErrNoOplog) {
		return nil, nil
	}
	if e, ok := errors.AsType[*mongo.UnreachableError](err); ok {
		tip := "name the dump by its id to have it as it is: wtsnap snapshots"
		if near := e.Nearest(); near != "" {
			tip = near + "; or " + tip
		}
		verb := "restoring: "
		if a.line.command.Name == "verify" {
			verb = "comparing: "
		}
		return nil, &statusError{exitFailed, verb + e.Error(), tip, nil}
	}
	if err != nil {
		return nil, err
	}
	m.Memory = a.g.memory / 2
	a.note(fmt.Sprintf("%s as of %s: the dump %s of %s, and the oplog since", m.Label, momentText(m.At), m.Dump.Ref.ID.Short(),
		when(m.Dump.Source(m.Label).Mongo.End.Time())))
	return m, nil
}

// momentText is a moment for people: a whole second means its end.
func momentText(t snapshot.Timestamp) string {
	if t == mongo.EndOfSecond(int64(t.T)) {
		return "the end of " + t.Time().Local().Format("2006-01-02 15:04:05 MST")
	}
	return fmt.Sprintf("%s (%s)", t.Time().Local().Format("2006-01-02 15:04:05 MST"), t)
}

// useMoment makes a restore one of a moment, if --at means one.
func (a *app) useMoment(c *cli.Context, r *repo.Repository, o *snapshot.RestoreOptions) (*mongo.Moment, error) {
	label, _, _ := strings.Cut(o.Path, "/")
	documents := o.Target.Kind == snapshot.TargetMongoDB || o.Target.Kind == snapshot.TargetMongodump
	if label == "" && !documents {
		return nil, nil // everything, as a snapshot has it
	}
	m, err := a.momentOf(c, r, o.Snapshot, label)
	if m == nil || err != nil {
		return nil, err
	}
	if !documents && o.Target.Kind != snapshot.TargetFolder {
		return nil, usagef("--to FOLDER, --to mongodump:FILE or --to mongodb://...", "a MongoDB's moment cannot be restored to %s", shown(o.Target.String()))
	}
	o.Snapshot = m.Dump
	path := o.Path
	if path == "" {
		path = m.Label
	}
	if _, err := snapshot.Lookup(a.ctx, r, m.Dump, path); errors.Is(err, fs.ErrNotExist) {
		o.Path = m.Label // it came into being after the dump
	} else if err != nil {
		return nil, err
	}
	open := func(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, _ string) (*mongo.Dump, error) {
		return m.Open(ctx, r, s, path)
	}
	switch t := o.Foreign.(type) {
	case mongo.DumpTarget:
		t.Open = open
		o.Foreign = t
	case *mongo.Restorer:
		t.Open = open
	default:
		o.Path = path
	}
	return m, nil
}

// newest resolves the snapshot of the command line as if --at were not there.
func (a *app) newest(c *cli.Context, r *repo.Repository) (*snapshot.Snapshot, string, error) {
	spec := "latest"
	if len(a.line.args) > 0 {
		spec = a.line.args[0]
	}
	sel := a.g.selector(c)
	sel.At = time.Time{}
	return a.resolve(r, spec, sel)
}
