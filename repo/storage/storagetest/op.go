// Package storagetest holds what tests need around a storage: the conformance
// suite that every implementation and decorator passes, a referee that watches
// the rules of the repository, and decorators that fail, crash and hang.
package storagetest

import (
	"context"
	"fmt"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
)

// Kind is a method of storage.Storage.
type Kind string

const (
	Put    Kind = "put"
	Get    Kind = "get"
	Stat   Kind = "stat"
	List   Kind = "list"
	Delete Kind = "delete"
)

// Changes reports whether the operation can change what is stored.
func (k Kind) Changes() bool { return k == Put || k == Delete }

// Op is one operation.
type Op struct {
	Kind Kind
	Name string // the object, or the prefix of a list
	Data []byte // what was put
}

// String is "put packs/ab/… (123 bytes)".
func (o Op) String() string {
	if o.Kind == Put {
		return fmt.Sprintf("%s %s (%d bytes)", o.Kind, o.Name, len(o.Data))
	}
	return fmt.Sprintf("%s %s", o.Kind, o.Name)
}

// Replay applies the changes among ops to st: what a backend holds after a
// crash that let exactly these operations through.
func Replay(st storage.Storage, ops []Op) error {
	ctx := context.Background()
	for _, op := range ops {
		var err error
		switch op.Kind {
		case Put:
			_, err = st.Put(ctx, op.Name, op.Data)
		case Delete:
			err = st.Delete(ctx, op.Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Content returns every object of st.
func Content(st storage.Storage) (map[string][]byte, error) {
	ctx := context.Background()
	var names []string
	err := st.List(ctx, "", func(i storage.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(names))
	for _, name := range names {
		if out[name], err = st.Get(ctx, name, 0, -1, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Copy returns the objects of st in memory.
func Copy(st storage.Storage) (*mem.Storage, error) {
	objects, err := Content(st)
	if err != nil {
		return nil, err
	}
	m := mem.New()
	for name, data := range objects {
		if _, err := m.Put(context.Background(), name, data); err != nil {
			return nil, err
		}
	}
	return m, nil
}
