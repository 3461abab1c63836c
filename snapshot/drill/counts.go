package drill

import (
	"fmt"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/snapshot"
)

// counts compares the documents that were decoded with those that the manifest counted while they were saved, of each database all
// of whose collections were decoded in this run. All collections of one that does not agree count as wrong.
func (d *runner) counts(s *snapshot.Snapshot, old bool, units []unit) {
	for i := range s.Sources {
		src := &s.Sources[i]
		if src.Mongo == nil || src.Mongo.Role != snapshot.MongoDump || !s.Complete {
			continue
		}
		for _, db := range src.Mongo.Databases {
			below := src.Label + "/" + db.Name + "/"
			decoded, whole := d.decoded(s, old, units, below)
			var have int64
			for _, u := range decoded {
				have += u.Documents
			}
			if !whole || have == db.Documents {
				continue
			}
			name := strings.TrimSuffix(below, "/")
			d.mismatch(name, name, fmt.Errorf("its collections have %d documents, and the manifest counted %d when they were saved", have, db.Documents))
			for _, u := range decoded {
				u.Bad++
			}
		}
	}
}

// decoded returns what was found of the collections below a path, and whether all of them were decoded without fault.
func (d *runner) decoded(s *snapshot.Snapshot, old bool, units []unit, below string) (out []*Unit, whole bool) {
	id := s.Ref.ID.String()
	for i := range units {
		if !units[i].collection || !strings.HasPrefix(units[i].Path, below) {
			continue
		}
		at := slices.IndexFunc(d.rep.Units, func(u Unit) bool {
			return u.Path == units[i].Path && u.Snapshot == id && u.Old == old && u.Skipped == "" && u.Bad == 0
		})
		if at < 0 {
			return nil, false
		}
		out = append(out, &d.rep.Units[at])
	}
	return out, len(out) > 0
}
