// Package girdertest makes the database of a small Whole Tale for tests: users with folders, items, files and their
// chunks, tales with workspaces outside of their creators' folders, keys, groups, and what others share with them. It
// knows of each document whose it is, from how it was made and not from the rules that are tested.
package girdertest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// A Corpus is a database, or two: girder, and assets for the content of files.
type Corpus struct {
	Documents map[string][]bson.Raw      // by DB.COLLECTION
	Owned     map[string]map[string]bool // by user's login: "DB.COLLECTION _id" of that user's documents
	Users     []User

	rnd *rand.Rand
	ids uint64
}

// A User is one of them.
type User struct {
	Login string
	ID    bson.ObjectID
	Tales []bson.ObjectID
}

// Secret is in every document that has a password's hash, a key or a token.
const Secret = "SECRET"

// New makes a corpus with users of these logins.
func New(logins ...string) *Corpus {
	c := &Corpus{Documents: map[string][]bson.Raw{}, Owned: map[string]map[string]bool{}, rnd: rand.New(rand.NewPCG(1, 2))}
	tales := c.id()
	c.add("girder.collection", "", bson.D{{Key: "_id", Value: tales}, {Key: "name", Value: "WholeTale Workspaces"}, {Key: "creatorId", Value: nil}})
	c.add("girder.assetstore", "", bson.D{{Key: "_id", Value: c.id()}, {Key: "type", Value: 1}, {Key: "db", Value: "assets"}})
	for _, login := range logins {
		c.Users = append(c.Users, User{Login: login, ID: c.id()})
		c.Owned[login] = map[string]bool{}
	}
	for i := range c.Users {
		u := &c.Users[i]
		other := c.Users[(i+1)%len(c.Users)]
		c.user(u)
		for _, name := range []string{"Public", "Private"} {
			c.folder(u, "user", u.ID, u.ID, name, 3, bson.D{{Key: "baseParentType", Value: "user"}, {Key: "baseParentId", Value: u.ID}}, other.ID)
		}
		for n := range 2 {
			c.tale(u, tales, n, other.ID)
		}
		for n := range 2 {
			c.add("girder.api_key", u.Login, bson.D{{Key: "_id", Value: c.id()}, {Key: "userId", Value: u.ID}, {Key: "key", Value: Secret + fmt.Sprint(n)}})
		}
		c.add("girder.password", u.Login, bson.D{{Key: "_id", Value: c.id()}, {Key: "userId", Value: u.ID}, {Key: "hash", Value: Secret}})
		c.add("girder.token", "", bson.D{{Key: "_id", Value: Secret + u.Login}, {Key: "userId", Value: u.ID}})
		c.add("girder.notification", "", bson.D{{Key: "_id", Value: c.id()}, {Key: "userId", Value: u.ID}})
		c.add("girder.job", "", bson.D{{Key: "_id", Value: c.id()}, {Key: "userId", Value: u.ID}})
		c.add("girder.instance", "", bson.D{{Key: "_id", Value: c.id()}, {Key: "creatorId", Value: u.ID}})
		c.add("girder.group", "", bson.D{{Key: "_id", Value: c.id()}, {Key: "name", Value: "group of " + u.Login}, {Key: "creatorId", Value: u.ID},
			{Key: "access", Value: access(u.ID)}, {Key: "requests", Value: bson.A{other.ID}}})
	}
	return c
}

func (c *Corpus) id() bson.ObjectID {
	c.ids++
	var id bson.ObjectID
	binary.BigEndian.PutUint32(id[:], 0x65000000+uint32(c.ids))
	binary.BigEndian.PutUint64(id[4:], c.rnd.Uint64())
	return id
}

// add adds a document; owner "" is nobody's to restore.
func (c *Corpus) add(ns, owner string, doc bson.D) {
	data, err := bson.Marshal(doc)
	if err != nil {
		panic(err)
	}
	c.Documents[ns] = append(c.Documents[ns], data)
	if owner != "" {
		c.Owned[owner][Key(ns, data)] = true
	}
}

// Key is how Owned names a document.
func Key(ns string, doc bson.Raw) string {
	v := doc.Lookup("_id")
	return ns + " " + hex.EncodeToString(append([]byte{byte(v.Type)}, v.Value...))
}

func access(users ...bson.ObjectID) bson.D {
	list := bson.A{}
	for _, u := range users {
		list = append(list, bson.D{{Key: "id", Value: u}, {Key: "level", Value: 2}, {Key: "flags", Value: bson.A{}}})
	}
	return bson.D{{Key: "users", Value: list}, {Key: "groups", Value: bson.A{}}}
}

func (c *Corpus) user(u *User) {
	c.add("girder.user", u.Login, bson.D{{Key: "_id", Value: u.ID}, {Key: "login", Value: u.Login}, {Key: "email", Value: u.Login + "@example.org"},
		{Key: "salt", Value: "$2b$12$" + Secret}, {Key: "groups", Value: bson.A{}}, {Key: "access", Value: access(u.ID)}})
}

// folder makes a folder with what is in it. base says where its tree begins; others may see it.
func (c *Corpus) folder(u *User, parentKind string, parent, creator bson.ObjectID, name string, depth int, base bson.D, other bson.ObjectID) bson.ObjectID {
	id := c.id()
	doc := append(bson.D{{Key: "_id", Value: id}, {Key: "name", Value: name}, {Key: "parentCollection", Value: parentKind},
		{Key: "parentId", Value: parent}, {Key: "creatorId", Value: creator}, {Key: "access", Value: access(u.ID, other)}}, base...)
	c.add("girder.folder", u.Login, doc)
	for n := range 1 + c.rnd.IntN(3) {
		c.item(u, id, creator, fmt.Sprint("item", n), base)
	}
	if depth > 0 {
		for n := range c.rnd.IntN(3) {
			by := creator
			if n == 1 {
				by = other // what another user put there is the owner's, too
			}
			c.folder(u, "folder", id, by, fmt.Sprint("folder", n), depth-1, base, other)
		}
	}
	return id
}

func (c *Corpus) item(u *User, folder, creator bson.ObjectID, name string, base bson.D) {
	id := c.id()
	var plain bson.D
	for _, e := range base {
		if e.Key != "meta" {
			plain = append(plain, e)
		}
	}
	c.add("girder.item", u.Login, append(bson.D{{Key: "_id", Value: id}, {Key: "name", Value: name}, {Key: "folderId", Value: folder},
		{Key: "creatorId", Value: creator}}, plain...))
	for n := range 1 + c.rnd.IntN(2) {
		file := bson.D{{Key: "_id", Value: c.id()}, {Key: "name", Value: fmt.Sprint(name, ".", n)}, {Key: "itemId", Value: id}, {Key: "creatorId", Value: creator}}
		if n == 1 {
			c.add("girder.file", u.Login, append(file, bson.E{Key: "sha512", Value: "abcd"}, bson.E{Key: "path", Value: "ab/cd/abcd"}))
			continue
		}
		uuid := hex.EncodeToString(binary.BigEndian.AppendUint64(nil, c.rnd.Uint64()))
		c.add("girder.file", u.Login, append(file, bson.E{Key: "chunkUuid", Value: uuid}))
		for k := range 1 + c.rnd.IntN(2) {
			data := make([]byte, 200)
			for i := range data {
				data[i] = byte(c.rnd.Uint32())
			}
			c.add("assets.chunk", u.Login, bson.D{{Key: "_id", Value: c.id()}, {Key: "uuid", Value: uuid}, {Key: "n", Value: k},
				{Key: "data", Value: bson.Binary{Data: data}}})
		}
	}
}

// tale makes a tale with a workspace and versions, which lie in a collection and name the tale in different ways.
func (c *Corpus) tale(u *User, tales bson.ObjectID, n int, other bson.ObjectID) {
	id := c.id()
	u.Tales = append(u.Tales, id)
	base := bson.D{{Key: "baseParentType", Value: "collection"}, {Key: "baseParentId", Value: tales}}
	workspace := c.folder(u, "collection", tales, u.ID, "workspace of "+id.Hex(), 1, base, other)
	c.folder(u, "collection", tales, u.ID, "versions of "+id.Hex(), 2, append(slices.Clone(base), bson.E{Key: "meta",
		Value: bson.D{{Key: "taleId", Value: id.Hex()}}}), other)
	c.add("girder.tale", u.Login, bson.D{{Key: "_id", Value: id}, {Key: "title", Value: fmt.Sprint("tale ", n, " of ", u.Login)}, {Key: "creatorId", Value: u.ID},
		{Key: "workspaceId", Value: workspace}, {Key: "access", Value: access(u.ID, other)}})
}

// Write is WriteTo for a test.
func (c *Corpus) Write(t testing.TB, dir string) {
	t.Helper()
	if err := c.WriteTo(dir); err != nil {
		t.Fatal(err)
	}
}

// WriteTo writes the corpus as a folder of mongodump's.
func (c *Corpus) WriteTo(dir string) error {
	for ns, docs := range c.Documents {
		f := Namespace(ns)
		path := filepath.Join(dir, filepath.FromSlash(layout.DataPath(f[0], f[1])))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, slices.Concat(docs...), 0o600); err != nil {
			return err
		}
		meta, err := layout.MarshalMetadata(&layout.Metadata{Name: f[1], Type: layout.TypeCollection, Indexes: []bson.Raw{idIndex()}})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(layout.MetadataPath(f[0], f[1]))), meta, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func idIndex() bson.Raw {
	data, err := bson.Marshal(bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "_id", Value: int32(1)}}}, {Key: "name", Value: "_id_"}})
	if err != nil {
		panic(err)
	}
	return data
}

// Namespace cuts DB.COLLECTION.
func Namespace(ns string) [2]string {
	for i := range len(ns) {
		if ns[i] == '.' {
			return [2]string{ns[:i], ns[i+1:]}
		}
	}
	return [2]string{"", ns}
}
