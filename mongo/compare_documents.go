package mongo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"golang.org/x/sync/errgroup"
)

// errTooFar says that more documents wait for their counterpart than may.
var errTooFar = errors.New("both sides are in different orders")

// A fingerprint is what is compared of a document.
type fingerprint struct {
	id, content [16]byte
	name        string // the type and the bytes of its _id, of the first ones that wait
}

// A matcher meets the documents of both sides, those of one part of the _ids.
type matcher struct {
	part, parts uint32
	most        int // 0 = comparedAtOnce
	waiting     [2]map[[16]byte]fingerprint
	sum         ComparedDocuments
	rep         *ComparedCollection // gets examples
}

func fingerprintOf(doc bson.Raw) fingerprint {
	id, content := sha256.Sum256([]byte(idKey(doc))), sha256.Sum256(doc)
	return fingerprint{id: [16]byte(id[:16]), content: [16]byte(content[:16])}
}

func (m *matcher) takes(f *fingerprint) bool {
	return m.parts < 2 || binary.LittleEndian.Uint32(f.id[:])%m.parts == m.part
}

func (m *matcher) example(state, id string) {
	if id != "" && len(m.rep.Examples) < maxExamples {
		m.rep.Examples = append(m.rep.Examples, Example{state, shortText(bson.RawValue{Type: bson.Type(id[0]), Value: []byte(id[1:])})})
	}
}

// meet takes a document of a side: 0 is the dump's, 1 the target's.
func (m *matcher) meet(side int, f fingerprint) error {
	other := m.waiting[1-side]
	if there, ok := other[f.id]; ok {
		delete(other, f.id)
		if there.content == f.content {
			m.sum.Equal++
			return nil
		}
		m.sum.Differ++
		name := f.name
		if name == "" {
			name = there.name
		}
		m.example("differs", name)
		return nil
	}
	if m.waiting[side] == nil {
		m.waiting[side] = map[[16]byte]fingerprint{}
	}
	if len(m.waiting[side]) >= namedDocuments {
		f.name = ""
	}
	m.waiting[side][f.id] = f
	most := m.most
	if most == 0 {
		most = comparedAtOnce
	}
	if len(m.waiting[0])+len(m.waiting[1]) > most {
		return errTooFar
	}
	return nil
}

// end counts what is left over.
func (m *matcher) end() {
	m.sum.Missing, m.sum.Extra = int64(len(m.waiting[0])), int64(len(m.waiting[1]))
	for side, state := range []string{"missing", "extra"} {
		var names []string
		for _, f := range m.waiting[side] {
			if f.name != "" {
				names = append(names, f.name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			m.example(state, name)
		}
	}
}

// most is how many documents may wait for their counterpart.
func (c *comparer) most() int {
	if c.waiting > 0 {
		return c.waiting
	}
	return comparedAtOnce
}

// documents compares those of one part of the _ids: both sides are read at the same pace.
func (c *comparer) documents(ctx context.Context, j *job, m *matcher) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sides [2]chan []fingerprint
	g, gctx := errgroup.WithContext(ctx)
	for side, read := range []func(ctx context.Context, fn func(doc bson.Raw) error) error{
		func(ctx context.Context, fn func(doc bson.Raw) error) error { return c.readDump(ctx, j, fn) },
		func(ctx context.Context, fn func(doc bson.Raw) error) error { return c.readTarget(ctx, j, fn) },
	} {
		out := make(chan []fingerprint, 2)
		sides[side] = out
		g.Go(func() error {
			defer close(out)
			return fingerprints(gctx, m, read, out)
		})
	}
	err := m.run(sides)
	if err != nil {
		cancel() // nobody takes what they read
	}
	if gerr := g.Wait(); err == nil {
		err = gerr
	}
	return err
}

// run meets what comes from both sides, in turn while there is something of both.
func (m *matcher) run(sides [2]chan []fingerprint) error {
	open := 2
	for open > 0 {
		for side := range sides {
			if sides[side] == nil {
				continue
			}
			batch, ok := <-sides[side]
			if !ok {
				sides[side] = nil
				open--
				continue
			}
			for _, f := range batch {
				if err := m.meet(side, f); err != nil {
					return err
				}
			}
		}
	}
	m.end()
	return nil
}

// fingerprints sends what is to be compared of each document of a side.
func fingerprints(ctx context.Context, m *matcher, read func(ctx context.Context, fn func(doc bson.Raw) error) error, out chan<- []fingerprint) error {
	const some = 256
	var batch []fingerprint
	send := func() error {
		select {
		case out <- batch:
			batch = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := read(ctx, func(doc bson.Raw) error {
		f := fingerprintOf(doc)
		if !m.takes(&f) {
			return ctx.Err()
		}
		if id, err := doc.LookupErr("_id"); err == nil {
			f.name = string(byte(id.Type)) + string(id.Value)
		}
		if batch = append(batch, f); len(batch) < some {
			return nil
		}
		return send()
	})
	if err == nil && len(batch) > 0 {
		err = send()
	}
	return err
}

func (c *comparer) readDump(ctx context.Context, j *job, fn func(doc bson.Raw) error) error {
	for doc, err := range j.documents(ctx) {
		if err != nil {
			return err
		}
		if err := fn(asStored(doc)); err != nil {
			return err
		}
		c.o.Progress.Bytes.Add(int64(len(doc)))
	}
	return ctx.Err()
}

func (c *comparer) readTarget(ctx context.Context, j *job, fn func(doc bson.Raw) error) error {
	name, raw := c.data(j)
	command := bson.D{{Key: "find", Value: name}}
	if j.usersOf != "" {
		command = append(command, bson.E{Key: "filter", Value: bson.D{{Key: "db", Value: j.usersOf}}})
	}
	if raw {
		command = append(command, bson.E{Key: "rawData", Value: true})
	}
	cursor, err := c.s.Client.Database(j.db).RunCommandCursor(ctx, command)
	if err != nil {
		return fmt.Errorf("reading its documents: %w", err)
	}
	defer cursor.Close(context.WithoutCancel(ctx))
	for cursor.Next(ctx) {
		if err := fn(cursor.Current); err != nil {
			return err
		}
	}
	if err := cursor.Err(); err != nil && err != io.EOF {
		return fmt.Errorf("reading its documents: %w", err)
	}
	return ctx.Err()
}
