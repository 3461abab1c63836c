package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// readData reads packs, as far as that is asked for, and records which.
func (c *checker) readData(ctx context.Context) error {
	var reads packReads
	var all []readCandidate
	if c.o.Within > 0 {
		var err error
		if reads, err = c.r.checkReads(storage.WithCaching(ctx, storage.CacheBypass)); err != nil {
			return err
		}
		all = c.candidates()
	}
	start := time.Now()
	chosen := c.choose(&reads, all, start)
	err := c.readPacks(ctx, chosen)
	if err == nil && c.o.Within == 0 { // what deltas rest on would be read besides, whatever the budget
		err = c.readDeltas(ctx)
	}
	whole := c.readWhole()
	if c.o.Within > 0 {
		reads.note(whole, true, start)
		c.rep.Coverage = reads.coverage(all, c.o.Within, c.o.ReadBudget, start)
	}
	c.whole = whole
	return err
}

// record notes in the ledger what was read, at the end of a check that may have failed: what could not be read of the
// ledger has been told by then, and goes.
func (c *checker) record(ctx context.Context) {
	if c.o.Record && (len(c.whole) > 0 || c.rep.Coverage != nil) {
		rec := &CheckRecord{Bytes: c.rep.BytesRead, Problems: len(c.rep.Problems), Coverage: c.rep.Coverage}
		there := map[packKey]bool{}
		for id := range c.present {
			there[packKeyOf(id)] = true
		}
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout) // of an interrupted run as well
		defer cancel()
		c.rep.Unrecorded = c.r.recordCheck(rctx, rec, c.whole, func(k packKey) bool { return there[k] })
	}
}

// recordTimeout bounds the recording of what an interrupted check has read.
const recordTimeout = time.Minute

// candidates are the packs that a coverage is about: those that are there and are not about to be removed.
func (c *checker) candidates() []readCandidate {
	var all []readCandidate
	for ref, info := range c.x.Packs() {
		if c.present[info.ID] && !info.Condemned {
			all = append(all, readCandidate{ref, info.ID, info.Size, c.stored[info.ID]})
		}
	}
	return all
}

// readWhole returns the packs that were read and of which no blob is bad.
func (c *checker) readWhole() []index.PackID {
	var whole []index.PackID
	for _, ref := range c.read {
		info := c.x.Pack(ref)
		sound := true
		for i := range info.Blobs {
			sound = sound && !c.bad[info.FirstBlob+index.BlobRef(i)]
		}
		if sound {
			whole = append(whole, info.ID)
		}
	}
	return whole
}

// choose returns the packs to read.
func (c *checker) choose(reads *packReads, all []readCandidate, now time.Time) []index.PackRef {
	if c.o.Within > 0 {
		return reads.choose(all, c.o.Within, c.o.ReadBudget, now)
	}
	var chosen []index.PackRef
	for ref, info := range c.x.Packs() {
		if !c.present[info.ID] { // condemned ones are read too: they may hold the only copy of something
			continue
		}
		switch {
		case c.o.Parts > 0:
			if (int(info.ID[0])<<8|int(info.ID[1]))%c.o.Parts == c.o.Part-1 {
				chosen = append(chosen, ref)
			}
		case c.o.ReadShare >= 1 || c.o.ReadShare > 0 && rand.Float64() < c.o.ReadShare:
			chosen = append(chosen, ref)
		}
	}
	if len(chosen) == 0 && c.o.ReadShare > 0 { // a small share of few packs is one of them
		var present []index.PackRef
		for ref, info := range c.x.Packs() {
			if c.present[info.ID] {
				present = append(present, ref)
			}
		}
		if len(present) > 0 {
			chosen = append(chosen, present[rand.IntN(len(present))])
		}
	}
	return chosen
}

// readPacks reads the chosen packs whole.
func (c *checker) readPacks(ctx context.Context, chosen []index.PackRef) error {
	sound := c.planSound(chosen)
	var mu sync.Mutex
	var scratch sync.Pool
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Workers)
	for _, ref := range chosen {
		g.Go(func() error {
			s, ok := scratch.Get().(*unitScratch)
			if !ok {
				s = &unitScratch{}
			}
			defer scratch.Put(s)
			info := c.x.Pack(ref)
			err := c.readPack(ctx, ref, info, sound, s)
			whole := err == nil
			if err != nil && !c.givenUp[info.ID] { // which is known; snapshots that still need it are named
				if err := c.damage(packName(info.ID), err); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if whole {
				c.read = append(c.read, ref)
			}
			c.rep.PacksRead++
			c.rep.BytesRead += info.Size
			if c.o.OnPack != nil {
				c.o.OnPack(c.rep.PacksRead, len(chosen), info.Size)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	c.deltas = slices.DeleteFunc(c.deltas, sound.set.Has)
	return nil
}

// readPack compares a pack with its name, its own directory and the index, and decodes all that is in
// it.
func (c *checker) readPack(ctx context.Context, ref index.PackRef, info index.PackInfo, sound *soundDeltas, s *unitScratch) error {
	file, err := c.r.st.Get(ctx, packName(info.ID), 0, -1, s.raw)
	if err != nil {
		return packError(info.ID, err)
	}
	s.raw = file
	damage := func(kind, detail string, err error) error {
		return &DamageError{Kind: kind, Object: packName(info.ID), Detail: detail, Err: err, Hint: healHint}
	}
	if err := sound.read(ctx, ref, &packFile{info.ID, file}); err != nil {
		return err
	}
	var failed error
	bad := 0
	blob := info.FirstBlob
	for _, f := range c.x.Frames(ref) {
		first := blob
		blob += index.BlobRef(len(f.Blobs))
		if len(f.Bases) == 0 && sound.frame(first, len(f.Blobs)) {
			continue
		}
		if err := c.readFrameOf(ctx, info, &f, file, s); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			failed = err
			bad++
			c.mu.Lock()
			for i := range f.Blobs {
				c.bad[first+index.BlobRef(i)] = true
			}
			c.mu.Unlock()
		} else if len(f.Bases) > 0 {
			c.mu.Lock()
			for i := range f.Blobs {
				c.deltas = append(c.deltas, first+index.BlobRef(i))
			}
			c.mu.Unlock()
		}
	}
	if packID(file) != info.ID {
		return damage(DamageHash, fmt.Sprintf("its bytes are not those that were stored; %d of its %d frames can't be read", bad, info.Frames), nil)
	}
	if failed != nil {
		return failed
	}
	kind, frames, err := parsePack(c.r.keys, file)
	if err != nil {
		return damage(DamageOpen, "its directory can't be read", err)
	}
	if kind != info.Kind || !sameFrames(frames, c.x, ref) {
		return damage(DamageIndex, "its directory and the index differ", nil)
	}
	return nil
}

// readFrameOf decodes a frame and hashes its blobs. Deltas are only opened: readDeltas reads them together with their
// bases.
func (c *checker) readFrameOf(ctx context.Context, info index.PackInfo, f *index.Frame, file []byte, s *unitScratch) error {
	end := int64(f.Offset) + int64(f.Length)
	if end > int64(len(file)) {
		return &DamageError{Kind: DamageSize, Object: packName(info.ID), Detail: "is shorter than the index says"}
	}
	sealed := file[f.Offset:end]
	switch f.Encoding {
	case chunk.Patched:
		_, err := c.r.openPatch(info.ID, info.Kind, f, sealed, &s.frame)
		return err
	case chunk.ZstdDelta:
		s.frame.ad = frameAD(s.frame.ad[:0], info.Kind, f)
		if _, err := c.r.keys.open(s.frame.stored[:0], sealed, s.frame.ad); err != nil {
			return frameDamage(DamageOpen, info.ID, f, err)
		}
		return nil
	}
	_, err := c.r.decodeFrame(ctx, c.x, info.ID, info.Kind, f, sealed, &s.frame)
	return err
}

// readDeltas puts those deltas of the packs that were read together that are not known to be sound, and hashes them: they
// are damaged, or rest on what lies in packs that were not read. It reads what they rest on, each whole blob once for all
// that rest on it.
func (c *checker) readDeltas(ctx context.Context) error {
	b := &batch{r: c.r, x: c.x, fn: func(int, []byte) error { return nil }}
	b.o = ReadOptions{Workers: c.o.Workers, OnError: func(i int, err error) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bad[c.deltas[i]] = true
		var d *DamageError
		if !errors.As(err, &d) {
			return err
		}
		if pack, perr := index.ParsePackID(path.Base(d.Object)); vanished(err) || perr == nil && c.givenUp[pack] {
			return nil // what it rests on was given up: damage to the snapshots that need it, which are followed later, if any
		}
		p := Problem{Kind: d.Kind, Object: d.Object, Detail: strings.TrimPrefix(d.Error(), "damaged: "+d.Object+": "), Hint: d.Hint}
		if id := p.Kind + p.Object + p.Detail; !c.filed[id] {
			c.filed[id] = true
			c.rep.Problems = append(c.rep.Problems, p)
		}
		return nil
	}}
	return b.read(ctx, b.planCopies(c.deltas))
}

func sameFrames(frames []index.Frame, x *index.Index, ref index.PackRef) bool {
	i := 0
	for _, f := range x.Frames(ref) {
		if i == len(frames) || f.Offset != frames[i].Offset || f.Length != frames[i].Length || f.Encoding != frames[i].Encoding ||
			!slices.Equal(f.Bases, frames[i].Bases) || !slices.Equal(f.Blobs, frames[i].Blobs) {
			return false
		}
		i++
	}
	return i == len(frames)
}

// parsePack reads the trailer and the directory of a whole pack file.
func parsePack(k *keys, file []byte) (index.Kind, []index.Frame, error) {
	if len(file) < trailerSize {
		return 0, nil, errors.New("it is too short for a trailer")
	}
	offset, length, err := openTrailer(k, file[len(file)-trailerSize:], int64(len(file)))
	if err != nil {
		return 0, nil, err
	}
	return openDirectory(k, file[offset:offset+length], offset)
}
