// Package repo owns the repository: its keys, its packs and the blobs in them, its index, its
// snapshot manifests (as opaque payloads), and the removal of what nothing needs any more.
//
// Every object is written once under a name of its own and never changed in place. Names:
//
//	config                      format version and repository id, in clear
//	keys/ID                     the master key wrapped by a password
//	packs/X/ID                  sealed frames of blobs, then a sealed directory of them
//	index/ID                    sealed segments: which blob lies where
//	snapshots/INSTANCE/TIME-ID  sealed manifests
//	forgotten/INSTANCE/TIME-ID  the same, forgotten and not yet swept
//	annotations/SNAPSHOT-ID     sealed notes on a snapshot (tags, holds)
//	condemned/ID, leases/ID     garbage collection
//	ledger/KIND/ID              sealed records of what was done when
//
// Invariants:
//
//   - Write order: a manifest is stored only after an index segment that lists every pack it needs,
//     and a segment only after its packs. A crash leaves orphans, never a reference to nothing.
//   - A Session alone can store a manifest, and stores it last.
//   - What is read is authenticated and hashed again before it is handed out.
//   - No lock stops a writer. Whatever deletes does so in two steps, at least a grace time apart, and
//     only after every living writer knows of it (see gc.go).
//
// The bytes of every object are specified in docs/format.md.
package repo
