package mongo

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// A collection of a server that is dumped.
type collection struct {
	db, name string
	meta     layout.Metadata // without JSON
	bytes    int64           // of its documents, as the server estimates
	count    int64           // of its documents, likewise
}

func (c *collection) ns() string { return c.db + "." + c.name }

// data returns the collection that holds the documents, or "".
func (c *collection) data(s *Server) (name string, raw bool) {
	switch {
	case c.meta.IsView():
		return "", false
	case c.meta.IsTimeseries() && s.AtLeast(8, 3): // no buckets collection beside it any more
		return c.name, true
	case c.meta.IsTimeseries():
		return bucketsOf(c.name), false
	}
	return c.name, false
}

func (c *collection) isCapped() bool {
	capped, _ := c.meta.Options.Lookup("capped").BooleanOK()
	return capped
}

// same reports whether two listings name the same collection, not only one of the same name.
func (c *collection) same(o *collection) bool {
	return c.db == o.db && c.name == o.name && c.meta.UUID == o.meta.UUID && c.meta.Type == o.meta.Type
}

// The server's error codes that mean something here.
const (
	codeUnauthorized          = 13
	codeNamespaceNotFound     = 26
	codeCursorNotFound        = 43
	codeCommandNotFound       = 59
	codeNotAReplicaSet        = 123
	codeCappedPositionLost    = 136
	codeReadConcernNotEnabled = 148 // ReadConcernMajorityNotEnabled
	codeQueryPlanKilled       = 175
	codeNotImplemented        = 238
	codeSnapshotTooOld        = 239
	codeSnapshotUnavailable   = 246
	codeInterruptedRepl       = 11602
	codeNotPrimary            = 10107
	codeNotPrimaryNoSecondary = 13435
	codeInterruptedShutdown   = 11600
	codeShutdown              = 91
	codeAtlas                 = 8000
)

// hasCode reports whether a server's error is one of those.
func hasCode(err error, codes ...int) bool {
	var e driver.ServerError
	return errors.As(err, &e) && slices.ContainsFunc(codes, e.HasErrorCode)
}

// list returns the collections that are chosen, ordered by their names, with their options and UUIDs.
func (s *Server) list(ctx context.Context, sel *selection) ([]*collection, error) {
	names := []string{sel.database}
	if sel.database == "" {
		var err error
		if names, err = s.Client.ListDatabaseNames(ctx, bson.D{}); err != nil {
			return nil, fmt.Errorf("listing the databases: %w", err)
		}
	}
	var list []*collection
	for _, db := range names {
		if !sel.takesDatabase(db) {
			continue
		}
		some, err := s.listDatabase(ctx, db, sel)
		if err != nil {
			return nil, fmt.Errorf("listing the collections of %s: %w", db, err)
		}
		list = append(list, some...)
	}
	slices.SortFunc(list, func(a, b *collection) int {
		return cmp.Or(strings.Compare(a.db, b.db), strings.Compare(a.name, b.name))
	})
	return list, nil
}

func (s *Server) listDatabase(ctx context.Context, db string, sel *selection) (list []*collection, err error) {
	cursor, err := s.Client.Database(db).ListCollections(ctx, bson.D{})
	if err != nil {
		return nil, err
	}
	defer cursor.Close(ctx)
	for cursor.Next(ctx) {
		c, err := newCollection(db, cursor.Current)
		if err != nil {
			return nil, err
		}
		if sel.takes(db, c.name) {
			list = append(list, c)
		}
	}
	return list, cursor.Err()
}

// newCollection reads a document of listCollections.
func newCollection(db string, doc bson.Raw) (*collection, error) {
	var info struct {
		Name    string   `bson:"name"`
		Type    string   `bson:"type"`
		Options bson.Raw `bson:"options"`
		Info    struct {
			UUID bson.Binary `bson:"uuid"`
		} `bson:"info"`
	}
	if err := bson.Unmarshal(doc, &info); err != nil {
		return nil, err
	}
	if info.Name == "" {
		return nil, errors.New("the server lists one without a name")
	}
	return &collection{db: db, name: info.Name, meta: layout.Metadata{Options: slices.Clone(info.Options),
		UUID: hex.EncodeToString(info.Info.UUID.Data), Name: info.Name, Type: info.Type}}, nil
}

// detail asks for the indexes and the size of a collection. It reports false where it is gone.
func (s *Server) detail(ctx context.Context, c *collection) (there bool, err error) {
	name, raw := c.data(s)
	if name == "" {
		return true, nil
	}
	cursor, err := s.Client.Database(c.db).Collection(c.name).Indexes().List(ctx)
	if err != nil {
		return !hasCode(err, codeNamespaceNotFound), fmt.Errorf("listing the indexes of %s: %w", c.ns(), err)
	}
	defer cursor.Close(ctx)
	c.meta.Indexes = nil
	for cursor.Next(ctx) {
		c.meta.Indexes = append(c.meta.Indexes, slices.Clone(cursor.Current))
	}
	if err := cursor.Err(); err != nil {
		return true, fmt.Errorf("listing the indexes of %s: %w", c.ns(), err)
	}
	command := bson.D{{Key: "collStats", Value: name}}
	if raw {
		command = append(command, bson.E{Key: "rawData", Value: true})
	}
	// For progress and for the order of work: who may not ask does without.
	if doc, err := s.Client.Database(c.db).RunCommand(ctx, command, options.RunCmd().SetReadPreference(s.read)).Raw(); err == nil {
		c.bytes, c.count = number(doc, "size"), number(doc, "count")
	}
	return true, ctx.Err()
}

// number returns a field of any type of number.
func number(doc bson.Raw, field string) int64 {
	v := doc.Lookup(field)
	n, ok := v.AsInt64OK()
	if f, isDouble := v.DoubleOK(); !ok && isDouble {
		n = int64(f)
	}
	return n
}
