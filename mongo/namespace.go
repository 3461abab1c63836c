package mongo

import (
	"fmt"
	"strings"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// A Pattern chooses namespaces: "*" stands for any text, "\" takes the meaning from what follows. It is matched against
// DB.COLLECTION from end to end.
type Pattern string

// ParsePatterns checks patterns of namespaces.
func ParsePatterns(texts []string) ([]Pattern, error) {
	var out []Pattern
	for _, text := range texts {
		if text == "" || strings.HasSuffix(strings.ReplaceAll(text, `\\`, ""), `\`) {
			return nil, fmt.Errorf("the pattern %q names no namespace, which looks like DB.COLLECTION or DB.*", text)
		}
		if !strings.Contains(text, ".") && text != "*" {
			return nil, fmt.Errorf("the pattern %q has no dot: a namespace looks like DB.COLLECTION; all of a database is %s.*", text, text)
		}
		out = append(out, Pattern(text))
	}
	return out, nil
}

// Match reports whether the pattern takes a namespace.
func (p Pattern) Match(db, collection string) bool { return globMatch(string(p), db+"."+collection) }

// globMatch matches in time of len(pattern)*len(text) at most.
func globMatch(pattern, text string) bool {
	star, from := -1, 0 // the last "*", and where the text goes on behind what it took
	i, j := 0, 0
	for j < len(text) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			star, from = i, j
			i++
			continue
		case i+1 < len(pattern) && pattern[i] == '\\' && pattern[i+1] == text[j]:
			i, j = i+2, j+1
			continue
		case i < len(pattern) && pattern[i] != '\\' && pattern[i] == text[j]:
			i, j = i+1, j+1
			continue
		}
		if star < 0 {
			return false
		}
		from++
		i, j = star+1, from
	}
	return strings.Trim(pattern[i:], "*") == ""
}

// selection says which namespaces of a server are dumped.
type selection struct {
	database         string // the only one, or ""
	include, exclude []Pattern
}

// takesDatabase reports whether a database is looked into.
func (s *selection) takesDatabase(db string) bool {
	if s.database != "" {
		return db == s.database
	}
	return db != "local" && !strings.HasPrefix(db, internalPrefix)
}

// internalPrefix begins the names of databases that a server keeps for itself.
const internalPrefix = "__mdb_internal"

// takes reports whether a collection is dumped. The rules are mongodump's, and then those of the user.
func (s *selection) takes(db, collection string) bool {
	if !s.takesDatabase(db) || isSystem(db, collection) && !(db == "config" && s.database == "config") {
		return false
	}
	for _, p := range s.exclude {
		if p.Match(db, collection) {
			return false
		}
	}
	for _, p := range s.include {
		if p.Match(db, collection) {
			return true
		}
	}
	return len(s.include) == 0
}

// configCollections are those of the database config that say what a sharded cluster looks like.
var configCollections = map[string]bool{"chunks": true, "collections": true, "databases": true, "settings": true,
	"shards": true, "tags": true, "version": true}

// isSystem reports whether a collection belongs to the server: it is made anew by it, or is part of another one.
func isSystem(db, collection string) bool {
	if strings.Contains(collection, "$") && !strings.Contains(collection, ".oplog.$") {
		return true
	}
	switch db {
	case "admin":
		return collection == "system.keys"
	case "config":
		return !configCollections[collection]
	}
	return strings.HasPrefix(collection, "system.") && collection != "system.js"
}

// bucketsOf returns the collection that holds the documents of the time series.
func bucketsOf(timeseries string) string { return layout.BucketsPrefix + timeseries }
