package localfs

import (
	"os/user"
	"strconv"
	"sync"
)

// Owners translates between ids and names of users and groups, and asks the system once for each. The zero value is
// ready. It may be used concurrently.
//
// Without cgo, only /etc/passwd and /etc/group are read; with it, also what the system's name service knows (LDAP).
type Owners struct {
	mu               sync.Mutex
	users, groups    map[uint32]string // "" = none
	userIDs, grpIDs  map[string]uint32
	noUsers, noGroup map[string]bool
}

// UserName returns the name of a user, or "" where the id has none.
func (o *Owners) UserName(uid uint32) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return nameOf(&o.users, uid, func(id string) (string, error) {
		u, err := user.LookupId(id)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

// GroupName returns the name of a group, or "" where the id has none.
func (o *Owners) GroupName(gid uint32) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return nameOf(&o.groups, gid, func(id string) (string, error) {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

// UserID returns the id of a user, and false where this machine has none of that name.
func (o *Owners) UserID(name string) (uint32, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return idOf(&o.userIDs, &o.noUsers, name, func() (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

// GroupID returns the id of a group, and false where this machine has none of that name.
func (o *Owners) GroupID(name string) (uint32, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return idOf(&o.grpIDs, &o.noGroup, name, func() (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

func nameOf(known *map[uint32]string, id uint32, ask func(string) (string, error)) string {
	name, ok := (*known)[id]
	if !ok {
		name, _ = ask(strconv.FormatUint(uint64(id), 10)) // no such id: no name
		if *known == nil {
			*known = map[uint32]string{}
		}
		(*known)[id] = name
	}
	return name
}

func idOf(known *map[string]uint32, none *map[string]bool, name string, ask func() (string, error)) (uint32, bool) {
	if id, ok := (*known)[name]; ok {
		return id, true
	}
	if name == "" || (*none)[name] {
		return 0, false
	}
	text, err := ask()
	if err == nil {
		var id uint64
		if id, err = strconv.ParseUint(text, 10, 32); err == nil {
			if *known == nil {
				*known = map[string]uint32{}
			}
			(*known)[name] = uint32(id)
			return uint32(id), true
		}
	}
	if *none == nil {
		*none = map[string]bool{}
	}
	(*none)[name] = true
	return 0, false
}
