package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

const (
	// leaseQuiet is how old another writer's last renewal is when it may have died. A wrong guess costs a listing.
	leaseQuiet = 2*leaseRenew + 5*time.Minute
	// adoptMost bounds how many packs a session adopts: what several killed writers leave. What is beyond stays for the
	// next session.
	adoptMost = 256
)

// adopt finds the packs again that a writer had stored and not listed when it was killed: their blobs are not uploaded a
// second time. They are listed with the session's own. Where there is no sign of a killed writer it costs one listing of
// the leases; else a listing of the packs, and two small reads for each pack that no segment lists.
//
// Others may be at work on such a pack. Its writer may be alive, and list it as well: a pack may be listed twice. A prune
// may condemn it as an orphan, in a list that this session's lease has not seen: then what the session relies on is
// rescued before it commits, as from any other pack. Packs on lists that were read before are left alone.
func (s *Session) adopt(ctx context.Context) error {
	died, err := s.othersDied(ctx)
	if err != nil || !died {
		return err
	}
	condemned := map[index.PackID]bool{}
	lists, err := s.r.condemnedLists(ctx)
	if err != nil {
		return err
	}
	for _, list := range lists {
		for _, id := range list.packs {
			condemned[id] = true
		}
	}
	var orphans []storage.Info
	err = s.r.st.List(ctx, packsDir, func(i storage.Info) error {
		id, err := index.ParsePackID(path.Base(i.Name))
		if err != nil || condemned[id] || len(orphans) == adoptMost {
			return nil
		}
		if _, listed := s.index.FindPack(id); !listed {
			orphans = append(orphans, i)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("listing packs: %w", err)
	}
	packs, err := s.r.readDirectories(ctx, orphans, &IndexRepair{}) // those that can't be read are left to a prune
	if err != nil {
		return fmt.Errorf("reading what a killed run has left: %w", err)
	}
	for _, p := range packs {
		if _, err := s.index.AddPack(index.SegmentID{}, p); err != nil {
			s.r.distrust()
			return fmt.Errorf("pack %s: %w", p.ID, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packs = append(s.packs, packs...)
	return nil
}

// othersDied reports whether the leases look as if a writer was killed: one of the session's own instance is there, or one
// that was not renewed for long. Leases of killed writers stay until a prune removes them, so it reads one after the other,
// and no more than it takes.
func (s *Session) othersDied(ctx context.Context) (bool, error) {
	newest := map[string]int{} // counts, by id
	err := s.r.st.List(ctx, leasesDir, func(i storage.Info) error {
		id, count, _ := strings.Cut(path.Base(i.Name), "-")
		if n, err := strconv.Atoi(count); err == nil && id != s.lease.ID {
			newest[id] = max(newest[id], n)
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("listing the leases: %w", err)
	}
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		name := leaseName(id, newest[id])
		data, err := s.r.st.Get(ctx, name, 0, -1, nil)
		if errors.Is(err, storage.ErrNotExist) {
			continue // renewed or removed meanwhile: it lives
		}
		if err != nil {
			return false, fmt.Errorf("reading a lease: %w", err)
		}
		content, err := s.r.keys.openObject(name, data)
		var l leaseRecord
		if err != nil || strictJSON(content, &l) != nil || l.Kind != leaseWriter {
			continue
		}
		if l.Instance != "" && l.Instance == s.o.Instance || time.Since(l.Renewed) > leaseQuiet {
			return true, nil
		}
	}
	return false, nil
}
