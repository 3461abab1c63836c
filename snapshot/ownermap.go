package snapshot

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// OwnerMap says who on this machine owns what somebody else owned where the snapshot was made. Its file has one rule a
// line, names or numbers on either side:
//
//	user:alice=alice2
//	user:1004=20004
//	group:staff=users
//
// Empty lines and lines that begin with # are skipped. A rule for a name wins over a rule for the number behind it.
// A nil OwnerMap has no rules.
type OwnerMap struct {
	users, groups map[string]uint32
}

// OwnerMapError points at a line of an owner map that cannot be understood or followed.
type OwnerMapError struct {
	Line   int
	Text   string
	Reason string
}

func (e *OwnerMapError) Error() string {
	return fmt.Sprintf("owner map, line %d, %q: %s", e.Line, e.Text, e.Reason)
}

// accounts looks names up on this machine; replaced in tests.
type accounts struct {
	user, group func(name string) (uint32, bool)
}

func systemAccounts() accounts {
	var o localfs.Owners
	return accounts{o.UserID, o.GroupID}
}

// ParseOwnerMap reads an owner map and looks its right-hand names up on this machine: a name that does not exist here
// is an error now rather than files with a wrong owner later.
func ParseOwnerMap(r io.Reader) (*OwnerMap, error) { return parseOwnerMap(r, systemAccounts()) }

func parseOwnerMap(r io.Reader, local accounts) (*OwnerMap, error) {
	m := &OwnerMap{users: map[string]uint32{}, groups: map[string]uint32{}}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		fail := func(reason string) (*OwnerMap, error) { return nil, &OwnerMapError{n, text, reason} }
		kind, rule, ok := strings.Cut(text, ":")
		if !ok {
			return fail("want user:OLD=NEW or group:OLD=NEW")
		}
		var rules map[string]uint32
		var lookup func(string) (uint32, bool)
		switch strings.TrimSpace(kind) {
		case "user":
			rules, lookup = m.users, local.user
		case "group":
			rules, lookup = m.groups, local.group
		default:
			return fail("want user:OLD=NEW or group:OLD=NEW")
		}
		old, to, ok := strings.Cut(rule, "=")
		old, to = strings.TrimSpace(old), strings.TrimSpace(to)
		if !ok || old == "" || to == "" || strings.Contains(to, "=") {
			return fail("want one = with a name or a number on both sides")
		}
		if _, twice := rules[old]; twice {
			return fail("a second rule for " + old)
		}
		id, ok := parseID(to)
		if !ok {
			if id, ok = lookup(to); !ok {
				return fail("there is no " + strings.TrimSpace(kind) + " " + to + " on this machine")
			}
		}
		rules[old] = id
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read owner map: %w", err)
	}
	return m, nil
}

// parseID takes a decimal uid or gid; the largest value is refused, since chown(2) reads it as "leave alone".
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}

// owners turns the uid and gid of a node into those of this machine: by the owner map, else by the name the manifest
// remembers for it (as tar does), else by the number. Concurrent use is fine.
type owners struct {
	m       *OwnerMap
	uids    map[uint32]string // manifest: number to name
	gids    map[uint32]string
	numeric bool
	local   accounts

	mu            sync.RWMutex
	users, groups map[uint32]uint32 // answers so far
}

func newOwners(m *OwnerMap, uids, gids map[uint32]string, numeric bool, local accounts) *owners {
	if m == nil {
		m = &OwnerMap{}
	}
	return &owners{m: m, uids: uids, gids: gids, numeric: numeric, local: local,
		users: map[uint32]uint32{}, groups: map[uint32]uint32{}}
}

func (o *owners) resolve(uid, gid uint32) (uint32, uint32) {
	o.mu.RLock()
	u, knowUser := o.users[uid]
	g, knowGroup := o.groups[gid]
	o.mu.RUnlock()
	if knowUser && knowGroup {
		return u, g
	}
	u = translate(uid, o.uids[uid], o.m.users, o.numeric, o.local.user)
	g = translate(gid, o.gids[gid], o.m.groups, o.numeric, o.local.group)
	o.mu.Lock()
	o.users[uid], o.groups[gid] = u, g
	o.mu.Unlock()
	return u, g
}

func translate(id uint32, name string, rules map[string]uint32, numeric bool, lookup func(string) (uint32, bool)) uint32 {
	if name != "" {
		if to, ok := rules[name]; ok {
			return to
		}
	}
	if to, ok := rules[strconv.FormatUint(uint64(id), 10)]; ok {
		return to
	}
	if numeric || name == "" {
		return id
	}
	if to, ok := lookup(name); ok {
		return to
	}
	return id
}

// UnknownOwners returns the names of users and groups that own something in a snapshot, that this machine does not know,
// and that the map, which may be nil, has no rule for: what they own would go to whoever has their numbers here.
func UnknownOwners(s *Snapshot, m *OwnerMap) (users, groups []string) {
	return unknownOwners(s, m, systemAccounts())
}

func unknownOwners(s *Snapshot, m *OwnerMap, local accounts) (users, groups []string) {
	if m == nil {
		m = &OwnerMap{}
	}
	find := func(owners map[uint32]string, rules map[string]uint32, known func(string) (uint32, bool)) (names []string) {
		for id, name := range owners {
			_, byName := rules[name]
			_, byNumber := rules[strconv.FormatUint(uint64(id), 10)]
			if _, here := known(name); !here && !byName && !byNumber {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	return find(s.Owners.Users, m.users, local.user), find(s.Owners.Groups, m.groups, local.group)
}
