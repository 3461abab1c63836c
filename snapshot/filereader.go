package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
)

// fileBatch is how much of a file is read at a time, in bytes; a single part may be longer.
const fileBatch = 4 << 20

// maxSteps bounds a batch of many holes and small parts.
const maxSteps = 1024

// A FileReader reads the content of one file of a snapshot in order. It reads ahead, so that whoever uses the bytes and
// the backend work at the same time. Missing or damaged data end it with the *repo.DamageError, after all bytes that come
// before them; the error names the file. It is for one goroutine, and must be closed.
//
// Memory: two batches of 4 MiB, less for smaller files, and what repo.ReadBlobs needs for its workers.
type FileReader struct {
	path    string
	cancel  context.CancelFunc
	batches chan fileBytes
	free    chan []byte // memory of a batch that was read to its end
	ended   error       // why there are no more batches; set before the channel is closed
	now     fileBytes   // what is read: the first of its steps
	err     error
}

// A fileBytes is a batch: what is to be read, in order, and the memory that it is in.
type fileBytes struct {
	steps  []fileData
	memory []byte
}

// A fileData is some bytes of a file, or an error in their place.
type fileData struct {
	zeros int64 // of a hole, before data
	data  []byte
	err   error
}

// OpenFile returns a reader of n's content from the byte at offset from on. path is for messages. r's index is loaded.
func OpenFile(ctx context.Context, r *repo.Repository, n *Node, path string, from int64) *FileReader {
	ctx, cancel := context.WithCancel(ctx)
	f := &FileReader{path: path, cancel: cancel, batches: make(chan fileBytes), free: make(chan []byte, 1)}
	if !n.IsFile() {
		f.err = fmt.Errorf("reading %q: it is a %v, which has no content", path, n.Type)
		close(f.batches)
		return f
	}
	go func() {
		defer close(f.batches)
		f.fetch(ctx, r, n, from)
		f.ended = context.Cause(ctx)
	}()
	return f
}

// fetch reads batch after batch. The next one is read while the last one is used.
func (f *FileReader) fetch(ctx context.Context, r *repo.Repository, n *Node, from int64) {
	var b fileBytes
	var ids []chunk.ID
	var at []int // of ids: the step that each is the data of
	send := func() bool {
		if len(b.steps) == 0 {
			return true
		}
		if err := readSteps(ctx, r, ids, func(i int) *fileData { return &b.steps[at[i]] }); err != nil {
			b.steps = []fileData{{err: err}}
		}
		select {
		case f.batches <- b:
		case <-ctx.Done():
			return false
		}
		b, ids, at = fileBytes{}, ids[:0], at[:0]
		return true
	}
	for p, err := range n.Parts(ctx, TreeLoader(r), from) {
		if err != nil {
			b.steps = append(b.steps, fileData{err: errTree(err)})
			break
		}
		skip := max(from-p.Offset, 0)
		length := p.Len() - skip
		full := len(b.steps) >= maxSteps || !p.IsHole() && b.memory != nil && length > int64(cap(b.memory)-len(b.memory))
		if full && !send() {
			return
		}
		if p.IsHole() {
			b.steps = append(b.steps, fileData{zeros: length})
			continue
		}
		if b.memory == nil {
			b.memory = f.room(max(length, min(n.Size-p.Offset, fileBatch)))
		}
		// data says which bytes of the blob are wanted, until they are there.
		start := len(b.memory)
		b.memory = b.memory[:start+int(length)]
		at, ids = append(at, len(b.steps)), append(ids, p.ID)
		b.steps = append(b.steps, fileData{data: b.memory[start:]})
	}
	send()
}

// room returns memory for n bytes, none of which is in use.
func (f *FileReader) room(n int64) []byte {
	select {
	case b := <-f.free:
		if int64(cap(b)) >= n {
			return b[:0]
		}
	default:
	}
	return make([]byte, 0, n)
}

// readSteps fills in the data of steps.
func readSteps(ctx context.Context, r *repo.Repository, ids []chunk.ID, step func(i int) *fileData) error {
	if len(ids) == 0 {
		return nil
	}
	return r.ReadBlobs(ctx, ids, repo.ReadOptions{OnError: func(i int, err error) error {
		var damage *repo.DamageError
		if !errors.As(err, &damage) {
			return err
		}
		step(i).err = damage
		return nil
	}}, func(i int, data []byte) error {
		s := step(i)
		skip := len(data) - len(s.data)
		if skip < 0 {
			s.err = &repo.DamageError{Kind: repo.DamageTree, Object: "blob " + ids[i].String(),
				Detail: fmt.Sprintf("it has %d bytes, fewer than a file's part", len(data))}
			return nil
		}
		copy(s.data, data[skip:])
		return nil
	})
}

// Read implements io.Reader.
func (f *FileReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for f.err == nil {
		if len(f.now.steps) == 0 {
			f.nextBatch()
			continue
		}
		switch cur := &f.now.steps[0]; {
		case cur.err != nil:
			f.err = fmt.Errorf("reading %q: %w", f.path, cur.err)
		case cur.zeros > 0:
			n := int(min(cur.zeros, int64(len(p))))
			clear(p[:n])
			cur.zeros -= int64(n)
			return n, nil
		case len(cur.data) > 0:
			n := copy(p, cur.data)
			cur.data = cur.data[n:]
			return n, nil
		default:
			f.now.steps = f.now.steps[1:]
		}
	}
	return 0, f.err
}

// nextBatch takes the next batch, and gives the memory of the last one back.
func (f *FileReader) nextBatch() {
	if f.now.memory != nil {
		select {
		case f.free <- f.now.memory:
		default:
		}
	}
	var ok bool
	if f.now, ok = <-f.batches; ok {
		return
	}
	if f.err = io.EOF; f.ended != nil {
		f.err = f.ended
	}
}

// Close ends the reading ahead, and waits for it.
func (f *FileReader) Close() error {
	f.cancel()
	for range f.batches { // until fetch has ended
	}
	f.err = errors.Join(f.err, errClosed)
	return nil
}

var errClosed = errors.New("the file is closed")

// ReadFileAt fills p with n's bytes from off on, all of which must be within the file. load reads pages, blob the content's
// blobs: TreeLoader's function, for example, or a cache before it. It reads nothing but what it needs, and nothing ahead.
func ReadFileAt(ctx context.Context, load, blob LoadFunc, n *Node, p []byte, off int64) error {
	end := off + int64(len(p))
	for part, err := range n.Parts(ctx, load, off) {
		if err != nil {
			return errTree(err)
		}
		if part.Offset >= end {
			return nil
		}
		from, to := max(off, part.Offset), min(end, part.Offset+part.Len())
		dst := p[from-off : to-off]
		if part.IsHole() {
			clear(dst)
			continue
		}
		data, err := blob(ctx, part.ID)
		if err != nil {
			return errTree(err)
		}
		if int64(len(data)) != part.Len() {
			return &repo.DamageError{Kind: repo.DamageTree, Object: "blob " + part.ID.String(), Detail: "it has another length than the file says"}
		}
		copy(dst, data[from-part.Offset:])
	}
	return nil
}
