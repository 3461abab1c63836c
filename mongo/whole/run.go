package whole

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Run restores the parts that are left, one after the other. Trouble with one is in its Err, or among its report's
// problems, and does not end the others; ctx does. around is called for each part: it calls do, which restores the part
// and tells the progress, before it returns. The plan must not be refused.
func (p *Plan) Run(ctx context.Context, r *repo.Repository, around func(part *Part, do func(*snapshot.Progress))) error {
	for _, part := range p.Parts {
		if part.State != Planned && part.State != Begun {
			continue
		}
		if ctx.Err() != nil {
			part.State = Waiting
			continue
		}
		if err := p.journal.begin(part); err != nil {
			return err
		}
		start := time.Now()
		around(part, func(progress *snapshot.Progress) { p.restore(ctx, r, part, progress) })
		part.Seconds = time.Since(start).Seconds()
		if part.State == Restored {
			if err := p.journal.done(part); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// restore restores one part and looks at it again.
func (p *Plan) restore(ctx context.Context, r *repo.Repository, part *Part, progress *snapshot.Progress) {
	o := p.options(part)
	o.Progress = progress
	do := snapshot.Restore
	if part.Moment != nil && part.Target.Kind == snapshot.TargetFolder {
		do = part.Moment.RestoreFolder
	}
	part.Report, part.Err = do(ctx, r, o)
	if part.Err == nil && part.Report.Problems == 0 && part.Target.Kind == snapshot.TargetFolder && part.Moment == nil {
		part.Err = p.compare(ctx, r, part)
	}
	part.State = Restored
	if part.Err != nil || part.Report.Problems > 0 {
		part.State = Failed
	}
}

// compare walks through the snapshot and the target once more, when all is written: nothing may be left to do.
func (p *Plan) compare(ctx context.Context, r *repo.Repository, part *Part) error {
	o := p.options(part)
	o.DryRun, o.Verify, o.Progress = true, false, &snapshot.Progress{}
	rep, err := snapshot.Restore(ctx, r, o)
	if err != nil {
		return fmt.Errorf("comparing it with the snapshot: %w", err)
	}
	if n := rep.Files.New + rep.Files.Updated + rep.Replaced; n > 0 {
		return fmt.Errorf("after the restore %d entries are not as in the snapshot: is somebody else writing there?", n)
	}
	return nil
}

// restorer is how a part's MongoDB is restored.
func (p *Plan) restorer(part *Part) *mongo.Restorer {
	t := p.o.Mongo
	if m := part.Moment; m != nil {
		t.Open = func(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, path string) (*mongo.Dump, error) {
			return m.Open(ctx, r, s, path)
		}
	}
	return &t
}

// options are those of one part.
func (p *Plan) options(part *Part) snapshot.RestoreOptions {
	o := p.o.Base
	o.Snapshot, o.Path, o.Target = part.Snapshot, part.Path, part.Target
	o.OwnInstance, o.Into = p.o.OwnInstance, p.o.Into
	if o.OwnInstance == "" {
		o.OwnInstance = p.o.Into
	}
	switch part.Target.Kind {
	case snapshot.TargetMongoDB:
		o.Foreign = p.restorer(part)
	case snapshot.TargetMongodump:
		t := mongo.DumpTarget{}
		if part.Moment != nil {
			t.Open = p.restorer(part).Open
		}
		o.Foreign = t
	}
	return o
}
