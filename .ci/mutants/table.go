package main

// protocol are the tests of what several processes do to each other.
const protocol = `Prune|Writer|Lease|Sweep|Undelete|Merge|Adopt|Condemn|Busy|Slept|Sleep|Suspended|Clock|Repair|Damaged|NoDelta|Interleavings$|FewSwitches`

var mutants = []mutant{
	{"a writer looks for condemned packs no more once it has begun", "repo/session.go",
		"news := s.lease.unseen(lists)", "news := s.lease.unseen(lists[:0])", protocol},
	{"a writer relies on condemned packs", "repo/session.go",
		"if !ok || s.index.Pack(loc.Pack).Condemned {\n\t\treturn false", "if !ok {\n\t\treturn false", protocol},
	{"a writer does not mind that its pack was condemned while it was uploaded", "repo/session_upload.go",
		"if info.Condemned {\n\t\treturn true, nil", "if info.Condemned {\n\t\treturn false, nil", protocol},
	{"a lease is not renewed", "repo/lease.go",
		"_ = l.renew(ctx, nil) //", "_ = l.stop //", protocol},
	{"who slept goes on", "repo/lease.go",
		"silent > l.alive()", "silent > 100*l.alive()", protocol},
	{"who slept leaves its manifest", "repo/session.go",
		"if lost := s.lease.check(); lost != nil {", "if lost := s.failed(); lost != nil {", protocol},
	{"who slept leaves its manifest where the request failed", "repo/session.go",
		"if lost := s.lease.check(); lost != nil {", "if lost := s.lease.check(); err == nil && lost != nil {", protocol},
	{"who slept leaves its segment", "repo/session_upload.go",
		"if lost := s.lease.check(); lost != nil {", "if lost := s.failed(); lost != nil {", protocol},
	{"who slept leaves its segment where the request failed", "repo/session_upload.go",
		"if lost := s.lease.check(); lost != nil {", "if lost := s.lease.check(); err == nil && lost != nil {", protocol},
	{"a prune that slept leaves its segment", "repo/sweep.go",
		"if err = errors.Join(err, w.takeBack(ctx, p.lease)); err != nil {", "if err != nil {", protocol},
	{"a merge that slept leaves its segment", "repo/merge.go",
		"if err = errors.Join(err, w.takeBack(ctx, l)); err != nil {", "if err != nil {", protocol},
	{"a repair that slept leaves its segment", "repo/repair.go",
		"return errors.Join(err, w.takeBack(ctx, l))", "return err", protocol},
	{"an undelete that slept leaves its manifest where the request failed", "repo/snapshots.go",
		"if lost := sure(); lost != nil {", "if lost := sure(); err == nil && lost != nil {", protocol},
	{"a session relies on what an earlier one could not list", "repo/repository.go",
		"anew = anew || r.unlisted", "anew = anew || false", protocol + "|FailedSession"},
	{"a prune acts on lists that writers have not seen", "repo/prune.go",
		"!l.dead() && !slices.Contains(l.Seen, list.ID) {", "l.dead() && !slices.Contains(l.Seen, list.ID) {", protocol},
	{"the grace time counts for nothing", "repo/prune.go",
		"ready := p.start.Sub(list.Time) >= p.o.Grace", "ready := true", protocol},
	{"a prune reads the leases before the lists", "repo/prune.go",
		`	lists, damaged, err := r.condemnedAndDamaged(ctx)
	if err != nil {
		return p, err
	}
	leases, err := r.leases(ctx)
`, `	leases, err := r.leases(ctx)
	if err != nil {
		return p, err
	}
	lists, damaged, err := r.condemnedAndDamaged(ctx)
`, protocol},
	{"two prunes are at work", "repo/prune.go",
		"if err := busy(leases, l.ID); err != nil {", "if err := busy(nil, l.ID); err != nil {", protocol},
	{"packs go, and their lines in the index stay", "repo/sweep.go",
		"if len(gone) == 0 && len(p.merge) == 0 {", "if len(p.merge) == 0 {", protocol},
	{"forgotten snapshots stay that have lost something", "repo/sweep.go",
		"if err := p.sweepForgotten(ctx, gone); err != nil {", "if err := p.sweepForgotten(ctx, nil); err != nil {", protocol},
	{"packs are removed that are needed again", "repo/prune.go",
		"if !list.Damaged && needed(id) {", "if !list.Damaged && needed(id) && false {", protocol},
	{"a prune that slept goes on to remove", "repo/sweep.go",
		"if err := p.lease.check(); err != nil {\n\t\treturn err\n\t}\n\t// Through", "// Through", protocol},
	{"undelete minds no prune", "repo/snapshots.go",
		"if err := l.alone(ctx); err != nil {", "if err := l.check(); err != nil {", protocol},
	{"merging minds no prune", "repo/merge.go",
		"if err := l.alone(ctx); errors.Is(err, ErrBusy) {", "if err := l.check(); errors.Is(err, ErrBusy) {", protocol},
	{"giving packs up minds no prune", "repo/repairpacks.go",
		"if err := l.alone(ctx); err != nil {", "if err := l.check(); err != nil {", protocol},
	{"a pack that is gone counts for as good as one that is condemned", "repo/mark.go",
		"size != info.Size {\n\t\t\tm.poor[ref] = rankLost", "size != info.Size {\n\t\t\tm.poor[ref] = rankCondemned", protocol},
	{"a pack that was given up counts for as good as one that is condemned", "repo/mark.go",
		"ok && list.Damaged {\n\t\t\t\tm.poor[ref] = rankLost", "ok && list.Damaged {\n\t\t\t\tm.poor[ref] = rankCondemned", protocol},
	{"a delta may rest on what is on its way", "repo/delta.go",
		"return !w.s.useStored(key) })", "return !w.s.useKey(key) })", protocol},
}
