package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
)

// A streamed is a step of a stream: the beginning of an entry, with the first bytes of a file, or further bytes of it.
type streamed struct {
	path   string
	node   *Node
	link   string // the path of an earlier entry that this is a further name of
	begins bool
	zeros  int64  // bytes of a hole, before data
	data   []byte // valid during the call
}

// A streamBatch is a stretch of the stream whose data are read at once.
type streamBatch struct {
	steps []streamStep
	ids   []chunk.ID // without repetitions
	at    []int64    // where each of them begins in data
	size  int64      // of data
	data  []byte
	bad   []error // by blob; nil where all is well
	cost  int64
}

type streamStep struct {
	streamed
	blob int // of the batch; -1: none
	size uint32
	err  error // the file's parts end here
}

// stream visits node, and what is below it, in tree order with all data, in order. It reads ahead: while one batch is
// handed to fn, the next is read, its blobs in the order in which they lie in the repository, each frame once.
//
// A file for which data are missing is left out where that shows before its first byte, that is, in its first batch;
// else zeros stand for what is missing. Either way it is reported.
//
// Memory: three batches of a quarter of the plan each, at least 4 MiB, or one blob if larger, and ReadBlobs' workers.
func (rs *restore) stream(ctx context.Context, node *Node, fn func(*streamed) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	planned, read := make(chan *streamBatch), make(chan *streamBatch)
	go func() {
		defer close(planned)
		b := &streamBuilder{rs: rs, ctx: ctx, out: planned, limit: max(rs.planBytes/4, 4<<20), seen: map[Part]int{}}
		if err := b.run(node); err != nil {
			cancel(err)
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(read)
		for b := range planned {
			if err := rs.readBatch(ctx, b); err != nil {
				cancel(err)
			}
			select {
			case read <- b:
			case <-ctx.Done():
			}
		}
	}()
	p := player{rs: rs, fn: fn}
	for b := range read {
		if err := ctx.Err(); err != nil {
			continue
		}
		if err := p.play(b); err != nil {
			cancel(err)
		}
	}
	<-done
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// readBatch reads a batch's blobs.
func (rs *restore) readBatch(ctx context.Context, b *streamBatch) error {
	if rs.o.DryRun || len(b.ids) == 0 || ctx.Err() != nil {
		return ctx.Err()
	}
	b.data = make([]byte, b.size)
	b.bad = make([]error, len(b.ids))
	return rs.r.ReadBlobs(ctx, b.ids, repo.ReadOptions{
		Workers: rs.workers,
		OnDownload: func(bytes int64) {
			rs.n.downloaded.Add(bytes)
			rs.o.Progress.Transferred.Add(bytes)
		},
		OnError: func(i int, err error) error {
			var damage *repo.DamageError
			if !errors.As(err, &damage) {
				return err
			}
			b.bad[i] = err
			return nil
		},
	}, func(i int, data []byte) error {
		end := b.size
		if i+1 < len(b.at) {
			end = b.at[i+1]
		}
		if int64(len(data)) != end-b.at[i] {
			b.bad[i] = &repo.DamageError{Kind: repo.DamageTree, Object: "blob " + b.ids[i].String(),
				Detail: fmt.Sprintf("it has %d bytes, a file's part %d", len(data), end-b.at[i])}
			return nil
		}
		copy(b.data[b.at[i]:], data)
		return nil
	})
}

// A player hands batches on. What it knows of a file holds over the batches that the file is in.
type player struct {
	rs       *restore
	fn       func(*streamed) error
	reported bool // a problem with the file
	left     bool // the file is left out
}

func (p *player) play(b *streamBatch) error {
	rs := p.rs
	for i := range b.steps {
		s := &b.steps[i]
		if s.begins {
			p.reported, p.left = false, false
			if err := firstBad(b, i); err != nil {
				rs.n.failed.Add(1)
				rs.problem(s.path, fmt.Errorf("left out: %w", err))
				p.reported, p.left = true, true
			}
		}
		if p.left {
			continue
		}
		err := s.err
		if s.blob >= 0 {
			if b.bad != nil && b.bad[s.blob] != nil {
				err = b.bad[s.blob]
			} else if b.data != nil {
				s.data = b.data[b.at[s.blob] : b.at[s.blob]+int64(s.size)]
			} else {
				s.zeros += int64(s.size) // a dry run
			}
			if err != nil {
				s.zeros += int64(s.size)
			}
		}
		if err != nil && !p.reported {
			p.reported = true
			rs.n.failed.Add(1)
			rs.problem(s.path, fmt.Errorf("zeros stand for what is missing: %w", err))
		}
		if err := p.fn(&s.streamed); err != nil {
			return err
		}
	}
	return nil
}

// firstBad looks through the steps of the file that begins at from, as far as the batch goes.
func firstBad(b *streamBatch, from int) error {
	if !b.steps[from].node.IsFile() {
		return nil
	}
	for i := from; i < len(b.steps) && (i == from || !b.steps[i].begins); i++ {
		s := &b.steps[i]
		if s.err != nil {
			return s.err
		}
		if s.blob >= 0 && b.bad != nil && b.bad[s.blob] != nil {
			return b.bad[s.blob]
		}
	}
	return nil
}

// A streamBuilder cuts the walk into batches.
type streamBuilder struct {
	rs    *restore
	ctx   context.Context // of one call of stream
	out   chan<- *streamBatch
	limit int64
	b     *streamBatch
	seen  map[Part]int // blobs of the batch
	late  []lateFolder
}

// A lateFolder was not chosen itself; it comes when something below it is.
type lateFolder struct {
	path string
	node *Node
}

func (sb *streamBuilder) run(node *Node) error {
	sb.b = &streamBatch{}
	var err error
	if node.IsDir() {
		if sb.rs.o.Path != "" && sb.rs.sel.include == nil {
			err = sb.add("", node)
		}
		if err == nil {
			err = sb.folder("", node, sb.rs.sel.include == nil)
		}
	} else {
		err = sb.entry("", node, true)
	}
	if err == nil {
		err = sb.send()
	}
	return err
}

func (sb *streamBuilder) folder(path string, n *Node, inside bool) error {
	c := NewFolderCursor(sb.rs.load, n.Subtree)
	for {
		child, err := c.Next(sb.ctx)
		if err != nil {
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return fatal
			}
			sb.rs.problem(path, damage)
			return nil
		}
		if child == nil {
			return nil
		}
		if err := sb.entry(path, child, inside); err != nil {
			return err
		}
	}
}

func (sb *streamBuilder) entry(dir string, n *Node, inside bool) error {
	path := joinPath(dir, n.Name)
	sel := sb.rs.sel
	if sel.excluded(path, n.IsDir()) {
		return nil
	}
	chosen := sel.included(path, n.IsDir(), inside)
	if err := sb.rs.bound.Count(n); err != nil {
		return err
	}
	if damage := tooDeep(path); n.IsDir() && damage != nil {
		sb.rs.problem(shortPath(path), damage)
		return nil
	}
	if n.IsDir() && !chosen {
		depth := len(sb.late)
		sb.late = append(sb.late, lateFolder{path, n})
		err := sb.folder(path, n, false)
		sb.late = sb.late[:min(depth, len(sb.late))]
		return err
	}
	if !chosen {
		return nil
	}
	for _, f := range sb.late {
		if err := sb.add(f.path, f.node); err != nil {
			return err
		}
	}
	sb.late = sb.late[:0]
	if err := sb.add(path, n); err != nil || !n.IsDir() {
		return err
	}
	return sb.folder(path, n, true)
}

// add appends an entry with its content.
func (sb *streamBuilder) add(path string, n *Node) error {
	s := streamStep{streamed: streamed{path: path, node: n, begins: true}, blob: -1}
	rs := sb.rs
	if n.Nlink > 1 && !n.IsDir() && rs.o.Target.Kind == TargetTar {
		if known, _ := rs.firstName(n, path); known != nil {
			s.link = known.rel
			return sb.step(s)
		}
	}
	if !n.IsFile() {
		return sb.step(s)
	}
	whole := int64(0)
	for p, err := range n.Parts(sb.ctx, rs.load, 0) {
		if err != nil {
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return fatal
			}
			s.err, s.zeros = damage, n.Size-whole
			return sb.step(s)
		}
		whole += p.Len()
		if p.IsHole() {
			s.zeros = p.HoleSize
		} else {
			s.blob, s.size = sb.blob(p.Part), p.Size
		}
		if err := sb.step(s); err != nil {
			return err
		}
		s = streamStep{streamed: streamed{path: path, node: n}, blob: -1}
	}
	if n.Size == 0 {
		return sb.step(s)
	}
	return nil
}

// blob returns the number of a blob in the batch.
func (sb *streamBuilder) blob(p Part) int {
	b := sb.b
	if i, ok := sb.seen[p]; ok {
		return i
	}
	i := len(b.ids)
	sb.seen[p] = i
	b.ids, b.at = append(b.ids, p.ID), append(b.at, b.size)
	b.size += int64(p.Size)
	b.cost += int64(p.Size) + 2*partCost
	return i
}

func (sb *streamBuilder) step(s streamStep) error {
	sb.b.steps = append(sb.b.steps, s)
	sb.b.cost += partCost
	if s.begins {
		sb.b.cost += planCost
	}
	if sb.b.cost < sb.limit {
		return nil
	}
	return sb.send()
}

func (sb *streamBuilder) send() error {
	if len(sb.b.steps) > 0 {
		select {
		case sb.out <- sb.b:
		case <-sb.ctx.Done():
			return context.Cause(sb.ctx)
		}
	}
	sb.b = &streamBatch{}
	clear(sb.seen)
	return nil
}
