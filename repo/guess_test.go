package repo

import (
	"slices"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// Guesses are followed until those that were wrong outweigh the others, and end no chains.
func TestGuesses(t *testing.T) {
	ctx := t.Context()
	tr := newRepo(t)
	old := [][]byte{word("kin", 300_000), word("stranger", 300_000), noise(1, 300_000)}
	n, _, err := backupOver(ctx, tr.open(tr.st), nil, old, SessionOptions{Level: chunk.LevelFastest})
	must0(t, err)
	s, err := tr.open(tr.st).Begin(ctx, SessionOptions{Level: chunk.LevelFastest})
	must0(t, err)
	defer func() { must0(t, s.Close(ctx)) }()
	w := s.Writer()
	put := func(data []byte, base int) bool {
		t.Helper()
		before := s.Stats().BlobsDelta
		_, added, err := w.PutHinted(ctx, index.Data, data, Hint{Bases: n.ids[base : base+1], Guess: true})
		must0(t, err)
		if !added {
			t.Fatal("it is there")
		}
		return s.Stats().BlobsDelta > before
	}
	if !put(edited(old[0], 1), 0) {
		t.Error("a right guess makes no delta")
	}
	if put(edited(old[2], 1), 2) {
		t.Error("noise was compared with a guess")
	}
	wrong := 0
	for i := byte(0); s.Guesses(); i++ {
		if put(append(word("different", 250_000), i), 1) {
			t.Fatal("a wrong guess makes a delta")
		}
		wrong++
	}
	if most := (guessLoss + guessGain*300_000) / 250_000; wrong < most-2 || wrong > most+2 {
		t.Errorf("%d wrong guesses were followed, want about %d", wrong, most)
	}
	if put(edited(old[0], 2), 0) || len(s.ends.regions) > 0 {
		t.Errorf("a guess was followed, or ended a chain (%d)", len(s.ends.regions))
	}
	off, err := tr.open(tr.st).Begin(ctx, SessionOptions{Delta: DeltaOff})
	must0(t, err)
	if off.Guesses() {
		t.Error("guesses are worth following where there are no deltas")
	}
	must0(t, off.Close(ctx))
	if slices.Contains(n.ids, chunk.ID{}) {
		t.Error("no ids")
	}
}
