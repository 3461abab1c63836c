package mongo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/snapshot"
)

// Where users and roles wait until the server takes them over.
const (
	tempUsers = "tempusers"
	tempRoles = "temproles"
)

// authCollections are the collections of the dump that hold users and roles and are chosen: those of the whole server, or
// of one database, as mongodump --dumpDbUsersAndRoles writes them.
func (rs *restore) authCollections() (out []feed) {
	if rs.NoUsers || len(rs.Include) > 0 || rs.s.Database != "" && rs.s.Database != "admin" {
		return nil
	}
next:
	for _, c := range rs.auth {
		if strings.HasSuffix(c.Name, "system.version") {
			continue
		}
		for _, p := range rs.Exclude {
			if p.Match(c.DB, c.Name) {
				continue next
			}
		}
		out = append(out, c)
	}
	return out
}

// users restores users and roles: those of the dump are added or replaced, and no others are removed, so that nobody
// shuts himself out.
func (rs *restore) users(ctx context.Context) error {
	list := rs.authCollections()
	if len(list) == 0 {
		return nil
	}
	if rs.o.DryRun {
		for _, c := range list {
			rs.action(snapshot.OpUpdate, c.Namespace(), c.Bytes)
		}
		return nil
	}
	if err := rs.checkAuthVersion(ctx); err != nil {
		rs.problemAt("admin.system.users", err)
		return nil
	}
	byDB := map[string][]feed{} // "" = of the whole server
	for _, c := range list {
		db := ""
		if c.DB != "admin" || strings.HasPrefix(c.Name, "$") {
			db = c.DB
		}
		byDB[db] = append(byDB[db], c)
	}
	for db, list := range byDB {
		if err := rs.mergeUsers(ctx, db, list); err != nil {
			if !abandonable(err) {
				return fmt.Errorf("restoring users and roles: %w", err)
			}
			hint := ""
			if isCode(err, errUnauthorized) {
				hint = " (the role restore is needed; --no-users leaves them out)"
			}
			rs.problemAt(list[0].Namespace(), fmt.Errorf("users and roles: %w%s", err, hint))
		}
	}
	return nil
}

// checkAuthVersion refuses users in a form that today's servers do not read.
func (rs *restore) checkAuthVersion(ctx context.Context) error {
	for _, f := range rs.auth {
		if f.DB != "admin" || f.Name != "system.version" {
			continue
		}
		for doc, err := range f.documents(ctx) {
			if err != nil {
				return err
			}
			if id, _ := doc.Lookup("_id").StringValueOK(); id != "authSchema" {
				continue
			}
			if v, _ := doc.Lookup("currentVersion").AsInt64OK(); v != 3 && v != 5 {
				return fmt.Errorf("the users and roles have version %d of their form, and servers read 3 and 5: make them anew", v)
			}
		}
	}
	return nil
}

func (rs *restore) mergeUsers(ctx context.Context, db string, list []feed) error {
	command := bson.D{{Key: "_mergeAuthzCollections", Value: 1}}
	drop := func(name string) error {
		_, err := rs.command(ctx, "admin", bson.D{{Key: "drop", Value: name}})
		if isCode(err, errNamespaceNotFound) {
			err = nil
		}
		return err
	}
	defer func() { // the merged command has taken what it needs
		_ = drop(tempUsers)
		_ = drop(tempRoles)
	}()
	for _, c := range list {
		temp, field := tempUsers, "tempUsersCollection"
		if strings.HasSuffix(c.Name, "system.roles") {
			temp, field = tempRoles, "tempRolesCollection"
		}
		if err := drop(temp); err != nil {
			return err
		}
		j := &job{feed: c, db: "admin", name: temp}
		if err := rs.documents(ctx, j); err != nil {
			return err
		}
		if j.failed > 0 {
			return &abandonedError{errors.New("the server did not take them all")}
		}
		command = append(command, bson.E{Key: field, Value: "admin." + temp})
	}
	command = append(command, bson.E{Key: "drop", Value: false}, bson.E{Key: "db", Value: db}, bson.E{Key: "writeConcern", Value: rs.writeConcern()})
	_, err := rs.command(ctx, "admin", command)
	return err
}
