// Package oplog knows the entries of a replica set's oplog, and folds them into a dump: from the documents of a dump and
// the entries since, it makes the documents of a moment. It does no I/O: entries and documents come from iterators.
//
// An entry is a BSON document (entry.go). What it does to a document (update.go) is done on the bytes: a value that no
// entry touches keeps its bytes, new fields go to the end, as on the server. Commands change the catalog (catalog.go,
// metadata.go), transactions wait for their commit (transaction.go).
//
// The dump may be of one cluster time, or of a window of time in which every document was read at another moment. The
// entries of the window are then applied to documents that have some of their effects already. That gives the state at
// the window's end, for each entry sets values and says what they are, never by how much they change. After the
// window's end nothing can be missing: an update of a document that is not there, or that does not fit it, is refused
// (RefusedError), for the log or the dump is not whole.
//
// With $v:1 updates in a window, the order of fields that were removed and set again within it is one that the document
// may have had: a server's initial sync does the same.
//
// Memory: the changed documents, by _id, up to Options.Memory; what is beyond is read again in several passes, each with
// a part of the _ids. Entries of open transactions are in memory until their commit, within the same bound.
//
// The formats of updates are those of the server's documentation and of its sources (update/document_diff_serialization.h
// and update/modifier_node.cpp of MongoDB 5.0 to 8.0); none was made by a server here: docs/operations.md says what was
// verified.
package oplog
