package snapshot

import (
	"errors"
	"strings"
	"testing"
)

func fakeAccounts() accounts {
	users := map[string]uint32{"alice": 2001, "bob": 2002, "root": 0}
	groups := map[string]uint32{"staff": 3001, "users": 100}
	find := func(m map[string]uint32) func(string) (uint32, bool) {
		return func(name string) (uint32, bool) { id, ok := m[name]; return id, ok }
	}
	return accounts{user: find(users), group: find(groups)}
}

func TestOwnerMap(t *testing.T) {
	m, err := parseOwnerMap(strings.NewReader(`
# moved to the new machine
user:carol=bob
user:1004 = 20004
user:1005=alice
group:wheel=staff
group:7=70
`), fakeAccounts())
	if err != nil {
		t.Fatal(err)
	}
	uids := map[uint32]string{1000: "alice", 1003: "carol", 1004: "dave", 1005: "erin", 1006: "nobodyhere"}
	gids := map[uint32]string{50: "staff", 10: "wheel", 7: "lp"}
	for _, c := range []struct {
		name               string
		m                  *OwnerMap
		numeric            bool
		uid, gid           uint32
		wantUser, wantGrup uint32
	}{
		{"by name", m, false, 1000, 50, 2001, 3001},
		{"rule for a name", m, false, 1003, 10, 2002, 3001},
		{"rule for a number", m, false, 1004, 7, 20004, 70},
		{"rule to a name", m, false, 1005, 999, 2001, 999},
		{"no such name here", m, false, 1006, 50, 1006, 3001},
		{"no name known", m, false, 77, 78, 77, 78},
		{"numbers", m, true, 1000, 50, 1000, 50},
		{"numbers with rules", m, true, 1003, 10, 2002, 3001},
		{"no rules", nil, false, 1003, 10, 1003, 10},
	} {
		o := newOwners(c.m, uids, gids, c.numeric, fakeAccounts())
		for range 2 { // the second answer comes from the cache
			if u, g := o.resolve(c.uid, c.gid); u != c.wantUser || g != c.wantGrup {
				t.Errorf("%s: %d:%d became %d:%d, want %d:%d", c.name, c.uid, c.gid, u, g, c.wantUser, c.wantGrup)
			}
		}
	}
}

func TestOwnerMapErrors(t *testing.T) {
	for _, text := range []string{
		"alice=bob", "host:a=b", "user:alice", "user:=bob", "user:alice=", "user:a=b=c",
		"user:alice=nosuchuser", "group:alice=alice", "user:a=alice\nuser:a=bob", "user:a=4294967295",
	} {
		var bad *OwnerMapError
		if _, err := parseOwnerMap(strings.NewReader(text), fakeAccounts()); !errors.As(err, &bad) {
			t.Errorf("%q: got %v, want an OwnerMapError", text, err)
		} else if want := strings.Count(text, "\n") + 1; bad.Line != want {
			t.Errorf("%q: line %d, want %d", text, bad.Line, want)
		}
	}
}

func TestUnknownOwners(t *testing.T) {
	s := &Snapshot{Manifest: &Manifest{Owners: Owners{Users: map[uint32]string{1: "nobody-here", 2: "mapped", 1003: "by-number"},
		Groups: map[uint32]string{7: "no-such-group"}}}}
	m := &OwnerMap{users: map[string]uint32{"mapped": 1, "1003": 2}}
	users, groups := unknownOwners(s, m, fakeAccounts())
	if len(users) != 1 || users[0] != "nobody-here" || len(groups) != 1 || groups[0] != "no-such-group" {
		t.Errorf("%q, %q", users, groups)
	}
	for name := range map[string]bool{"nobody-here": true} {
		known := accounts{user: func(n string) (uint32, bool) { return 5, n == name }, group: func(string) (uint32, bool) { return 5, true }}
		if users, groups := unknownOwners(s, m, known); len(users) != 0 || len(groups) != 0 {
			t.Errorf("known here: %q, %q", users, groups)
		}
	}
}
