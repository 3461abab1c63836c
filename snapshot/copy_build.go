package snapshot

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
)

// A copyBuild puts a snapshot's trees together in the other repository. It is for one goroutine.
type copyBuild struct {
	k     *copying
	snap  *Snapshot
	stack []*copyFolder // from the root down to the folder that is being filled
	file  *copyFile     // nil: none is being put together
	root  chunk.ID      // once it is finished

	mu    sync.Mutex
	queue []*copyBatch // being read, or read and not built yet, in order
}

type copyFolder struct {
	node Node
	b    *FolderBuilder
}

type copyFile struct {
	node  Node
	path  string
	list  *ListBuilder
	short bool // something of it could not be read
}

func newCopyBuild(k *copying, s *Snapshot) *copyBuild { return &copyBuild{k: k, snap: s} }

// queued says that a batch is being read.
func (b *copyBuild) queued(batch *copyBatch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, batch)
}

// takeNext builds what the first batch of the queue describes, whose blobs are stored.
func (b *copyBuild) takeNext() error {
	b.mu.Lock()
	batch := b.queue[0]
	b.queue = b.queue[1:]
	b.mu.Unlock()
	for i := range batch.events {
		if err := b.event(&batch.events[i], batch); err != nil {
			return err
		}
	}
	if time.Since(b.k.checked) < b.k.o.CheckpointInterval || b.k.isDamaged() || b.k.plan.heals {
		return nil
	}
	return b.checkpoint(b.k.store)
}

// takeRest builds what can be built of the batches that an interruption has left: all up to the first part that was not
// read. Nobody reads any more.
func (b *copyBuild) takeRest() error {
	for _, batch := range b.queue {
		if len(batch.got) < len(batch.ids) {
			return nil // its reading has not begun
		}
		for i := range batch.events {
			e := batch.events[i]
			missing := slices.IndexFunc(e.parts, func(p copyPart) bool { return p.want >= 0 && batch.got[p.want].IsZero() })
			if missing >= 0 {
				e.parts, e.last = e.parts[:missing], false
			}
			if err := b.event(&e, batch); err != nil || missing >= 0 {
				return err
			}
		}
	}
	return nil
}

func (b *copyBuild) event(e *copyEvent, batch *copyBatch) error {
	b.k.o.Progress.SetPath(e.path)
	switch e.kind {
	case copyFolderBegins:
		b.stack = append(b.stack, &copyFolder{*e.node, NewFolderBuilder(b.k.plan.to.Hasher(), func(data []byte) (chunk.ID, error) {
			var bases []chunk.ID
			if data[2] == 0 {
				bases = e.leaves.near(firstName(data))
			}
			return b.k.putTree(data, bases)
		})})
	case copyFolderEnds:
		f := b.stack[len(b.stack)-1]
		id, err := f.b.Finish()
		if err != nil {
			return err
		}
		b.stack = b.stack[:len(b.stack)-1]
		f.node.Subtree = id
		return b.add(e.path, &f.node)
	case copyEntry:
		return b.add(e.path, e.node)
	case copyContent:
		return b.content(e, batch)
	}
	return nil
}

// add adds a finished node to the folder that is being filled.
func (b *copyBuild) add(path string, n *Node) error {
	if len(b.stack) == 0 {
		b.root = n.Subtree
		return nil
	}
	if err := b.stack[len(b.stack)-1].b.Add(n); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	return nil
}

func (b *copyBuild) content(e *copyEvent, batch *copyBatch) error {
	if b.file == nil {
		b.file = &copyFile{node: *e.node, path: e.path, list: NewListBuilder(func(data []byte) (chunk.ID, error) { return b.k.putTree(data, nil) })}
	}
	f := b.file
	for _, p := range e.parts {
		if p.want >= 0 {
			if p.ID = batch.got[p.want]; p.ID.IsZero() {
				f.short = true
				continue
			}
		}
		if err := f.list.Add(p.Part); err != nil {
			return fmt.Errorf("%q: %w", e.path, err)
		}
		b.k.o.Progress.Bytes.Add(p.Len())
	}
	if !e.last {
		return nil
	}
	b.file = nil
	b.k.o.Progress.Files.Add(1)
	size := f.node.Size
	if err := f.list.Finish(&f.node); err != nil {
		return fmt.Errorf("%q: %w", e.path, err)
	}
	switch {
	case f.short:
		b.k.lose(f.path, errLostPart)
		return nil
	case f.node.Size != size: // its list could not be read to its end, which was noted
		return nil
	}
	return b.add(f.path, &f.node)
}

// errLostPart says why a file cannot be copied.
var errLostPart = &repo.DamageError{Kind: repo.DamageBlobGone, Object: "file", Detail: "a part of it cannot be read",
	Hint: "wtsnap check --read-data names the packs"}

// checkpoint stores what is finished as an incomplete snapshot, if something new was stored since the last one.
func (b *copyBuild) checkpoint(ctx context.Context) error {
	k := b.k
	k.checked = time.Now()
	if stored := k.s.Stats().BlobsNew; stored == k.stored || len(b.stack) == 0 {
		return nil
	}
	var below *Node
	if b.file != nil && !b.file.short {
		n := b.file.node
		if err := b.file.list.Clone().Finish(&n); err != nil {
			return err
		}
		n.Flags |= FlagPartial
		below = &n
	}
	for i := len(b.stack) - 1; i >= 0; i-- {
		c := b.stack[i].b.Clone()
		if below != nil {
			if err := c.Add(below); err != nil {
				return err
			}
		}
		id, err := c.Finish()
		if err != nil {
			return err
		}
		n := b.stack[i].node
		n.Subtree, n.Flags = id, n.Flags|FlagPartial
		below = &n
	}
	m := *b.snap.Manifest
	m.Root, m.Parent, m.Complete, m.Checkpoint = below.Subtree, b.snap.Ref.ID, false, true
	data, err := EncodeManifest(&m)
	if err != nil {
		return err
	}
	if _, err := k.s.Checkpoint(ctx, repo.Payload{Instance: m.Instance, Time: m.Time, Data: data}); err != nil {
		return fmt.Errorf("storing a checkpoint: %w", err)
	}
	k.stored = k.s.Stats().BlobsNew
	return nil
}
