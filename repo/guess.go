package repo

import (
	"context"
	"sync/atomic"

	"github.com/whole-tale/wtsnap/chunk"
)

const (
	// guessLoss bounds the plaintext of blobs, in bytes, that a session compares with a guess in vain before it has found
	// anything. It bounds what is read from a backend for that too: not more than three times what these blobs take.
	guessLoss = 4 << 20
	// guessGain is for how many bytes each byte that was found may be compared in vain later.
	guessGain = 4
)

// guesses counts what a session's guesses have cost and brought.
type guesses struct{ lost, found atomic.Int64 }

// worth reports whether a guess is worth following.
func (g *guesses) worth() bool { return g.lost.Load() < guessLoss+guessGain*g.found.Load() }

// Guesses reports whether guesses are worth following: whether those of the session that were wrong do not outweigh the others.
func (s *Session) Guesses() bool { return s.o.Delta != DeltaOff && s.guesses.worth() }

// guess is delta for bases that are a guess. They end no chain, and for noise, which resembles nothing, none is read.
func (w *Writer) guess(ctx context.Context, data []byte, h *Hint) delta {
	if !w.s.guesses.worth() || chunk.LooksRandom(data) {
		return delta{}
	}
	b := &deltaBases{plain: w.base[:0]}
	for _, id := range h.Bases {
		w.addBase(ctx, b, id, w.s.o.Delta)
	}
	if w.base = b.plain; len(b.keys) == 0 {
		return delta{}
	}
	d := delta{bases: b, size: len(data)}
	d.encoding, d.stored, d.leaves = w.encodeDelta(data, b, h)
	if d.encoding == chunk.Raw {
		w.s.guesses.lost.Add(int64(len(data)))
	} else {
		w.s.guesses.found.Add(int64(len(data) - d.leaves))
	}
	return d
}
