package corpus

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// The documents of Girder's collections, by the fields that its models have. What an update changes is drawn after the
// revision is mixed in: see changing.

// changing returns a number that differs between the revisions of a document.
func (f *fields) changing(n int) int {
	return int(mix(f.fixed.Uint64()+uint64(f.revision)) % uint64(n))
}

func (f *fields) reference(name string) {
	var id objectID
	copy(id[:], f.self[:4])
	copy(id[4:], f.hex(16))
	f.id(name, id)
}

func (f *fields) hex(n int) string { return hex.EncodeToString(f.w.noise((n + 1) / 2))[:n] }

func (f *fields) sentence(words int) string {
	var b strings.Builder
	for range words {
		b.WriteString(f.w.word())
		b.WriteByte(' ')
	}
	return b.String()
}

// edited is a text to which each update adds a few words.
func (f *fields) edited(name string, words int) {
	s := f.sentence(words)
	if f.revision > 0 {
		s += fmt.Sprintf("%s %d", f.w.words[f.changing(len(f.w.words))], f.changing(1000))
	}
	f.string(name, s)
}

func (f *fields) access(levels int) {
	f.object("access", func() {
		f.array("users", func() {
			for i := range levels {
				f.object(strconv.Itoa(i), func() {
					f.int32("level", int32(f.fixed.IntN(3)))
					f.reference("id")
					f.array("flags", func() {})
				})
			}
		})
		f.array("groups", func() {})
	})
}

func (f *fields) times() {
	f.time("created", f.created)
	f.time("updated", f.updated)
}

func writeAssetstore(f *fields) {
	f.string("name", "Assetstore "+f.w.word())
	f.int32("type", 0)
	f.string("root", "/srv/"+f.w.word())
	f.null("perms")
	f.time("created", f.created)
}

func writeUser(f *fields) {
	login := f.w.word() + f.hex(4)
	f.string("login", login)
	f.string("email", login+"@example.org")
	f.string("firstName", f.w.word())
	f.string("lastName", f.w.word())
	f.string("hashAlg", "bcrypt")
	f.string("salt", "$2b$12$"+f.hex(53))
	f.bool("emailVerified", true)
	f.bool("admin", f.fixed.IntN(50) == 0)
	f.string("status", "enabled")
	f.int64("size", int64(f.changing(1<<30)))
	f.array("groups", func() { f.reference("0") })
	f.access(1 + f.fixed.IntN(3))
	f.object("meta", func() { f.edited("lastVisit", 4) })
	f.times()
}

func writeGroup(f *fields) {
	f.string("name", f.sentence(2))
	f.edited("description", 12)
	f.bool("public", true)
	f.access(4)
	f.times()
}

func writeCollection(f *fields) {
	f.string("name", f.sentence(3))
	f.edited("description", 20)
	f.int64("size", int64(f.changing(1<<30)))
	f.access(2)
	f.times()
}

func writeFolder(f *fields) {
	f.string("name", f.sentence(2))
	f.string("lowerName", f.w.word())
	f.edited("description", 6)
	f.reference("parentId")
	f.string("parentCollection", "folder")
	f.reference("baseParentId")
	f.string("baseParentType", "user")
	f.reference("creatorId")
	f.bool("public", f.fixed.IntN(3) == 0)
	f.int64("size", int64(f.changing(1<<24)))
	f.access(1 + f.fixed.IntN(3))
	f.times()
}

func writeItem(f *fields) {
	f.string("name", f.sentence(2)+".dat")
	f.string("lowerName", f.w.word())
	f.edited("description", 3)
	f.reference("folderId")
	f.reference("creatorId")
	f.reference("baseParentId")
	f.string("baseParentType", "user")
	f.int64("size", int64(f.fixed.IntN(1<<28)))
	f.object("meta", func() {
		f.string("identifier", "doi:10."+f.hex(12))
		f.string("provider", "DataONE")
		f.double("score", f.fixed.Float64())
		f.edited("note", 8)
	})
	f.times()
}

func writeFile(f *fields) {
	sum := f.hex(128)
	f.string("name", f.w.word()+".dat")
	f.string("mimeType", "application/octet-stream")
	f.array("exts", func() { f.string("0", "dat") })
	f.int64("size", int64(f.fixed.IntN(1<<28)))
	f.reference("itemId")
	f.reference("creatorId")
	f.reference("assetstoreId")
	f.string("sha512", sum)
	f.string("path", sum[:2]+"/"+sum[2:4]+"/"+sum[:32])
	f.time("created", f.created)
	if f.revision > 0 {
		f.time("updated", f.updated)
	}
}

func writeJob(f *fields) {
	f.string("title", f.sentence(4))
	f.string("type", "wholetale.instance")
	f.string("handler", "worker_handler")
	f.reference("userId")
	f.int32("status", int32(f.changing(5)))
	f.object("progress", func() {
		f.int32("total", 5)
		f.int32("current", int32(f.changing(6)))
		f.edited("message", 4)
	})
	f.array("log", func() {
		for i := range 4 + f.fixed.IntN(16) {
			f.string(strconv.Itoa(i), fmt.Sprintf("[%s] %s %s", f.created.Format("15:04:05"), f.hex(12), f.sentence(10)))
		}
	})
	f.object("kwargs", func() { f.string("tale", f.hex(24)) })
	f.times()
}

func writeToken(f *fields) {
	f.string("key", f.hex(64))
	f.reference("userId")
	f.array("scope", func() { f.string("0", "core.user_auth") })
	f.time("expires", f.updated.AddDate(0, 6, 0))
	f.time("created", f.created)
}
