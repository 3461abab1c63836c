package mem_test

import (
	"testing"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Storage { return mem.New() })
}

func TestCloneIsIndependent(t *testing.T) {
	a := mem.New()
	if _, err := a.Put(t.Context(), "config", []byte("a")); err != nil {
		t.Fatal(err)
	}
	b := a.Clone()
	if err := a.Delete(t.Context(), "config"); err != nil {
		t.Fatal(err)
	}
	if a.Len() != 0 || b.Len() != 1 {
		t.Errorf("after deleting from the original: %d there, %d in the clone", a.Len(), b.Len())
	}
}
