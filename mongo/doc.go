// Package mongo reads MongoDB servers and the dumps of MongoDB's own tools into snapshots, and brings them back.
//
// A MongoDB in a snapshot is a label with exactly the folder layout that mongodump writes below it (package layout):
//
//	mongo/girder/user.bson             the documents of a collection, end to end, as the server stores them
//	mongo/girder/user.metadata.json    its options and indexes
//	mongo/admin/system.users.bson      users and roles
//	mongo/oplog.bson                   what happened while the dump was made, where that is how it is consistent
//	mongo/prelude.json                 the versions of the server and of the tool
//
// Invariants:
//
//   - Documents are passed on as the bytes that came, never decoded and encoded again: duplicate keys, zero timestamps
//     and types that nobody uses any more survive.
//   - What is in a complete snapshot says how its collections hang together (snapshot.MongoInfo.Consistency). A dump that
//     cannot keep what it promised fails; it is never passed off as whole.
//   - No message, log or manifest has a password in it (snapshot.RedactURI).
//
// The layout is specified in docs/format.md.
package mongo
