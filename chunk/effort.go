package chunk

import "sync"

const (
	// Of a stream's blobs, number effortFirst and each effortEvery'th after it are compressed at both levels. What has
	// fewer blobs is not worth the trial.
	effortFirst = 4
	effortEvery = 16
	// effortGain is the part of what the fastest level makes, one in so many bytes, that LevelDefault must save to be worth
	// half as much time again.
	effortGain = 400
	// effortFade is how fast what was seen loses its weight: one in so many parts at each trial.
	effortFade = 4
)

// An Effort finds out for a stream of like blobs, such as the documents of one collection, whether LevelDefault makes
// them smaller than LevelFastest does: its hash tables find longer matches, but not where documents are much the same,
// and there the fastest level even wins. The zero value is ready. It may be used concurrently.
type Effort struct {
	mu            sync.Mutex
	blobs         int
	fast, regular int64 // bytes that each level made of the same blobs, the newest with most weight
}

// next says how the next blob is compressed: at both levels to compare them, or at one.
func (e *Effort) next() (both, fastest bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.blobs
	e.blobs++
	return n >= effortFirst && (n-effortFirst)%effortEvery == 0, e.fast > 0 && e.fast <= e.regular+e.regular/effortGain
}

// learn takes what each level made of a blob.
func (e *Effort) learn(fast, regular int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fast += int64(fast) - e.fast/effortFade
	e.regular += int64(regular) - e.regular/effortFade
}
