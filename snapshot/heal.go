package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// What healing does with a snapshot that both repositories have.
const (
	HealNeeded  = "damaged here" // something of it is not there
	HealWhole   = "whole"
	HealDone    = "healed"
	HealDiffers = "different" // the other repository's folders are not those of the lost ones
)

// PlanHeal finds the snapshots of a repository that another one has, too: copies of it, or what it is a copy of. What it lacks
// of them can be stored again from there. What packs hold counts as it does for a backup: packs that were given up
// (repo.RepairPacks) do not count, damaged ones that were not do.
func PlanHeal(ctx context.Context, r, other *repo.Repository) (*CopyPlan, error) {
	if r.ID() == other.ID() {
		return nil, ErrSameRepository
	}
	p := &CopyPlan{from: other, to: r, heals: true}
	var err error
	if p.there, err = r.Snapshots(ctx); err != nil {
		return nil, err
	}
	if p.notes, err = r.Annotations(ctx); err != nil {
		return nil, err
	}
	here := map[repo.SnapshotID]bool{}
	for _, ref := range p.there {
		here[ref.ID] = true
	}
	aside, err := r.Aside(ctx) // by a heal that ended in the midst of it, or by a repair
	if err != nil {
		return nil, err
	}
	p.aside = map[repo.SnapshotID]repo.SnapshotRef{}
	for _, ref := range aside {
		here[ref.ID], p.aside[ref.ID] = true, ref
	}
	refs, err := other.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	refs = slices.DeleteFunc(refs, func(ref repo.SnapshotRef) bool { return !here[ref.ID] })
	snaps, err := Load(ctx, other, refs)
	var damage *repo.DamageError
	if err != nil && !errors.As(err, &damage) {
		return nil, err
	}
	for _, s := range snaps {
		p.Snapshots = append(p.Snapshots, &CopiedSnapshot{Snapshot: s, State: HealNeeded})
	}
	slices.SortStableFunc(p.Snapshots, func(a, b *CopiedSnapshot) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Ref.ID.String(), b.Ref.ID.String()))
	})
	return p, nil
}

// Heal stores what the snapshots of the plan lack, read and verified from the other repository. Nothing is removed. A
// manifest that cannot be read is put aside, stored anew, and then removed.
func (p *CopyPlan) Heal(ctx context.Context, o CopyOptions) (*CopyReport, error) {
	refs := maps.Clone(p.aside)
	for _, ref := range p.there {
		refs[ref.ID] = ref
	}
	return p.run(ctx, o, func(ctx context.Context, k *copying, s *CopiedSnapshot) error {
		if err := p.healSnapshot(ctx, k, s, refs[s.Ref.ID]); err != nil {
			return err
		}
		if _, ok := p.aside[s.Ref.ID]; ok && (s.State == HealDone || s.State == HealWhole) {
			return p.to.DropAside(ctx, refs[s.Ref.ID])
		}
		return nil
	})
}

func (p *CopyPlan) healSnapshot(ctx context.Context, k *copying, s *CopiedSnapshot, ref repo.SnapshotRef) error {
	here, err := loadSnapshot(ctx, p.to, ref)
	var damage *repo.DamageError
	switch {
	case errors.As(err, &damage):
		s.broken = true
		if err := k.snapshot(ctx, s, nil); err != nil {
			return err
		}
		if s.State == CopyDone {
			s.State, p.aside[s.Ref.ID] = HealDone, ref
		}
		return nil
	case errors.Is(err, storage.ErrNotExist):
		return nil // forgotten meanwhile
	case err != nil:
		return err
	}
	w := newCopyWalk(k, nil)
	if w.useFolder(ctx, here.Root, 0) {
		s.State = HealWhole
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("looking at it: %w", ctx.Err())
	}
	return k.snapshot(ctx, s, here)
}
