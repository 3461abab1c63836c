package mongo

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/snapshot"
)

// guard refuses to change collections of another instance. A collection's UUID says whose it is: it is made by chance
// when the collection is, is the same on all members, and is in each dump's metadata. So a target collection belongs to the
// instance whose newest dump has its UUID. Where that is so of several, as of a server that is a copy of another's disk, the
// replica set and the member decide, and else the user. Where no dump knows any of them, the replica set and the member that dumps
// were read from decide, and where these say nothing either, whose machine this is.
func (rs *restore) guard(ctx context.Context) error {
	uuids := map[string]string{} // of collections that would be changed, and their names
	changed := 0
	byDB := map[string]map[string]*existing{}
	for _, j := range rs.jobs {
		if !j.there || j.done || j.resumed || j.count == 0 {
			continue
		}
		changed++
		if byDB[j.db] == nil {
			there, err := rs.listTarget(ctx, j.db)
			if err != nil {
				return fmt.Errorf("restore: listing the collections of %s: %w", j.db, err)
			}
			byDB[j.db] = there
		}
		name, _ := rs.data(j)
		for _, n := range []string{j.name, name} {
			if e := byDB[j.db][n]; e != nil && len(e.Info.UUID.Data) > 0 {
				uuids[hex.EncodeToString(e.Info.UUID.Data)] = j.ns()
			}
		}
	}
	if changed == 0 {
		return nil
	}
	owners, by, err := rs.owners(ctx, uuids)
	if err != nil {
		return err
	}
	from, own := rs.o.Snapshot.Instance, rs.o.OwnInstance
	switch {
	case rs.o.Into != "" && slices.Contains(owners, rs.o.Into), len(owners) == 1 && owners[0] == from:
		return nil
	case len(owners) > 1 && slices.Contains(owners, from):
		return &snapshot.TargetGuardError{Target: rs.rep.Target,
			Reason: fmt.Sprintf("this database may belong to any of the instances %s: %s (is one a copy of another's disk?)", strings.Join(owners, ", "), by),
			Hint:   fmt.Sprintf("look at the address again, and say whose it is: --into %s", from)}
	case len(owners) > 0:
		return &snapshot.TargetGuardError{Target: rs.rep.Target,
			Reason: fmt.Sprintf("the snapshot is of instance %q, and this database belongs to %q: %s", from, owners[0], by),
			Hint:   fmt.Sprintf("look at the address again, or say --into %s if this database is meant", owners[0])}
	case own == "" || own == from || rs.o.Into == own:
		return nil
	}
	return &snapshot.TargetGuardError{Target: rs.rep.Target,
		Reason: fmt.Sprintf("the snapshot is of instance %q, this machine is %q, and the database has documents", from, own),
		Hint:   fmt.Sprintf("restore into an empty database, or say --into %s if this one is meant", own)}
}

// owners returns the instances that the collections of some UUIDs belong to, and how that is known.
func (rs *restore) owners(ctx context.Context, uuids map[string]string) (owners []string, by string, err error) {
	all, err := snapshot.List(ctx, rs.r, snapshot.Filter{})
	if err != nil && len(all) == 0 {
		return nil, "", fmt.Errorf("restore: asking whose database this is: %w", err)
	}
	first, newest := map[string]*snapshot.Snapshot{}, map[string]*snapshot.Snapshot{} // with a dump, by instance
	var members []string
	for _, s := range all { // oldest first
		for _, src := range s.Sources {
			if src.Mongo == nil || src.Mongo.Role != snapshot.MongoDump || !s.Complete {
				continue
			}
			newest[s.Instance] = s
			if first[s.Instance] == nil {
				first[s.Instance] = s
			}
			if src.Mongo.Set != "" && src.Mongo.Set == rs.s.Set && src.Mongo.Member != "" && src.Mongo.Member == rs.s.Member {
				members = append(members, s.Instance)
			}
		}
	}
	for instance, s := range newest {
		for _, src := range s.Sources {
			if src.Mongo == nil || src.Mongo.Role != snapshot.MongoDump {
				continue
			}
			d, err := OpenDump(ctx, rs.r, s, src.Label)
			if err != nil {
				continue // a damaged dump says nothing of its owner
			}
			for _, c := range d.Collections() {
				if ns := uuids[c.Metadata.UUID]; c.Metadata.UUID != "" && ns != "" && !slices.Contains(owners, instance) {
					owners = append(owners, instance)
					by = fmt.Sprintf("its last dump has the very collection %s", ns)
				}
			}
		}
	}
	slices.Sort(members)
	members = slices.Compact(members)
	if from := rs.o.Snapshot.Instance; slices.Contains(owners, from) {
		// One that ended before this one began is the same under an older name.
		owners = slices.DeleteFunc(owners, func(o string) bool { return o != from && newest[o].Time.Before(first[from].Time) })
	}
	if len(owners) > 1 { // the copy of a disk has the UUIDs of what it is a copy of
		here := slices.DeleteFunc(slices.Clone(owners), func(o string) bool { return !slices.Contains(members, o) })
		if len(here) == 1 {
			return here, fmt.Sprintf("%s, and its dumps were read from %s of %s", by, rs.s.Member, rs.s.Set), nil
		}
	}
	if len(owners) > 0 {
		slices.Sort(owners)
		return owners, by, nil
	}
	return members, fmt.Sprintf("its dumps were read from %s of %s", rs.s.Member, rs.s.Set), nil
}
