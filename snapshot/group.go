package snapshot

import (
	"fmt"
	"slices"
	"strings"
)

// A GroupKey is what the snapshots of a group have in common.
type GroupKey string

// The keys that snapshots can be grouped by.
const (
	ByInstance GroupKey = "instance"
	ByHost     GroupKey = "host"
	ByLabels   GroupKey = "labels" // of their sources
	ByTags     GroupKey = "tags"
	ByDay      GroupKey = "day" // in local time, as the others
	ByMonth    GroupKey = "month"
	ByYear     GroupKey = "year"
)

var groupKeys = []GroupKey{ByInstance, ByHost, ByLabels, ByTags, ByDay, ByMonth, ByYear}

// ParseGroupKeys reads keys that commas separate.
func ParseGroupKeys(text string) ([]GroupKey, error) {
	var keys []GroupKey
	for _, name := range strings.Split(text, ",") {
		key := GroupKey(strings.TrimSpace(name))
		if !slices.Contains(groupKeys, key) {
			return nil, fmt.Errorf("nothing is grouped by %q: instance, host, labels, tags, day, month and year are possible, several with commas between", name)
		}
		if slices.Contains(keys, key) {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// of is a snapshot's value of the key.
func (k GroupKey) of(s *Snapshot) string {
	switch k {
	case ByInstance:
		return s.Instance
	case ByHost:
		return s.Host
	case ByTags:
		return strings.Join(slices.Sorted(slices.Values(s.CurrentTags())), ", ")
	case ByDay:
		return s.Time.Local().Format("2006-01-02")
	case ByMonth:
		return s.Time.Local().Format("2006-01")
	case ByYear:
		return s.Time.Local().Format("2006")
	}
	var labels []string
	for _, src := range s.Sources {
		labels = append(labels, src.Label)
	}
	return strings.Join(labels, ", ")
}

// A Group is of snapshots that have the same value of each key.
type Group struct {
	Values    []string // in the order of the keys
	Snapshots []*Snapshot
}

// GroupBy groups snapshots. Groups are in the order of their values, the snapshots of each as they were.
func GroupBy(snaps []*Snapshot, keys []GroupKey) []Group {
	var groups []Group
	for _, s := range snaps {
		var values []string
		for _, k := range keys {
			values = append(values, k.of(s))
		}
		i, found := slices.BinarySearchFunc(groups, values, func(g Group, v []string) int { return slices.Compare(g.Values, v) })
		if !found {
			groups = slices.Insert(groups, i, Group{Values: values})
		}
		groups[i].Snapshots = append(groups[i].Snapshots, s)
	}
	return groups
}
