package mongo

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// users compares users and roles: all of the server's, or those of one database where the dump has no others. Those of a
// database that only the server has are extra, where the dump is of a whole server.
func (c *comparer) users(ctx context.Context) error {
	if c.NoUsers {
		return nil
	}
	list := c.authCollections()
	slices.SortFunc(list, func(a, b feed) int { return strings.Compare(a.Namespace(), b.Namespace()) })
	there := map[string]bool{}
	for _, f := range list {
		j := &job{feed: f, db: "admin", name: authName(f.Name)}
		if strings.HasPrefix(f.Name, "$") {
			j.usersOf = f.DB
		}
		there[j.name] = true
		if err := c.one(ctx, j, c.auth); err != nil {
			return err
		}
	}
	_, everything := c.scope()
	if !everything || len(c.Include) > 0 {
		return nil
	}
	for _, name := range []string{usersName, rolesName} {
		if there[name] || slices.ContainsFunc(c.Exclude, func(p Pattern) bool { return p.Match("admin", name) }) {
			continue
		}
		n, err := c.count(ctx, &job{feed: feed{Collection: Collection{DB: "admin", Name: name}}, db: "admin", name: name})
		switch {
		case isCode(err, errUnauthorized): // as it was when the dump was made, which has none of them
		case err != nil:
			return fmt.Errorf("counting admin.%s: %w", name, err)
		case n > 0:
			one := newCompared("", "admin."+name)
			one.Documents.Extra = n
			c.add(one)
		}
	}
	return nil
}

// Where a server keeps users and roles, in its database admin.
const (
	usersName = "system.users"
	rolesName = "system.roles"
)

// authName returns the collection of admin that a collection of users or roles of a dump is of.
func authName(name string) string {
	if strings.HasSuffix(name, rolesName) {
		return rolesName
	}
	return usersName
}

// auth compares one collection of users or roles.
func (c *comparer) auth(ctx context.Context, j *job, one *ComparedCollection) error {
	err := c.meet(ctx, j, one)
	if isCode(err, errUnauthorized) {
		return &abandonedError{fmt.Errorf("%w (the role backup may read users and roles; --no-users leaves them out)", err)}
	}
	return err
}

// scope says what the dump would have of a server: the rules that chose its collections, and whether all databases were
// asked for. Of mongodump's dumps nothing says so but what is always in a whole one, the version of the form of users.
func (c *comparer) scope() (sel selection, everything bool) {
	address := ""
	if info := c.d.Info; info != nil {
		var err error
		if sel.include, err = ParsePatterns(info.Include); err != nil {
			return selection{}, false
		}
		if sel.exclude, err = ParsePatterns(info.Exclude); err != nil {
			return selection{}, false
		}
		address = c.d.Source.Path
	}
	if below := strings.Trim(strings.TrimPrefix(c.o.Path, c.d.Root), "/"); below != "" || c.s.Database != "" {
		return sel, false
	}
	if strings.Contains(address, "://") { // read from a server, of which the address may have named a database
		db, err := databaseOf(address)
		return sel, err == nil && db == ""
	}
	version, others := false, false
	for _, f := range c.d.Collections() {
		version = version || f.DB == "admin" && f.Name == "system.version"
		others = others || f.DB != "admin"
	}
	return sel, version && others
}

// extra adds the collections that the target has besides: those of databases that are compared as a whole, and where the
// dump is of a whole server those of the databases that it does not have.
func (c *comparer) extra(ctx context.Context, known map[string]bool) error {
	below := strings.Trim(strings.TrimPrefix(c.o.Path, c.d.Root), "/")
	if strings.Contains(below, "/") || len(c.From) > 0 {
		return nil
	}
	sel, everything := c.scope()
	if everything {
		names, err := c.s.Client.ListDatabaseNames(ctx, bson.D{})
		if err != nil {
			return fmt.Errorf("listing the databases: %w", err)
		}
		for _, db := range names {
			if !sel.takesDatabase(db) {
				continue
			}
			if err := c.listDatabase(ctx, db); err != nil {
				return err
			}
		}
	}
	for _, db := range sortedKeys(c.there) {
		for _, name := range sortedKeys(c.there[db]) {
			e := c.there[db][name]
			like := Collection{DB: db, Name: name, Type: e.Type}
			if known[db+"."+name] || !c.selects(&like) || !sel.takes(db, name) {
				continue
			}
			one := newCompared("", db+"."+name)
			if e.Type != layout.TypeView {
				n, err := c.count(ctx, &job{feed: feed{Collection: like}, db: db, name: name})
				if err != nil {
					return fmt.Errorf("counting %s.%s: %w", db, name, err)
				}
				one.Documents.Extra = n
			}
			c.add(one)
		}
	}
	return nil
}
