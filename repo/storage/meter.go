package storage

import "context"

// Meter is told of an operation's bytes while they move. Move may wait, which
// slows the operation down, and may end it with an error.
type Meter interface {
	Move(ctx context.Context, n int) error
}

type meterKey struct{}

// meters is a list from the innermost meter outwards.
type meters struct {
	Meter
	outer *meters
}

// WithMeter returns a context whose operations report to m, and then to the
// meters that ctx has already.
func WithMeter(ctx context.Context, m Meter) context.Context {
	outer, _ := ctx.Value(meterKey{}).(*meters)
	return context.WithValue(ctx, meterKey{}, &meters{m, outer})
}

// Moved tells the meters of ctx that n more bytes are about to go up or have
// come down. Implementations of Storage call it in steps of at most MoveStep.
func Moved(ctx context.Context, n int) error {
	m, _ := ctx.Value(meterKey{}).(*meters)
	for ; m != nil; m = m.outer {
		if err := m.Move(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// MoveStep is the largest number of bytes reported at once.
const MoveStep = 64 << 10

type cacheKey struct{}

// Caching says what a cache does with the objects of one operation.
type Caching int

const (
	CacheByName Caching = iota // what the cache is configured to hold
	CacheWhole                 // hold this object, whatever its name
	CacheBypass                // neither read the cached copy nor keep it
)

// WithCaching returns a context that tells a cache what to do.
func WithCaching(ctx context.Context, c Caching) context.Context {
	return context.WithValue(ctx, cacheKey{}, c)
}

// CachingOf returns what ctx tells a cache to do.
func CachingOf(ctx context.Context) Caching {
	c, _ := ctx.Value(cacheKey{}).(Caching)
	return c
}
