package limit_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/limit"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func table(t *testing.T, s string) limit.Timetable {
	t.Helper()
	tt, err := limit.ParseTimetable(s)
	if err != nil {
		t.Fatal(err)
	}
	return tt
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		return limit.New(mem.New(), limit.Options{Bandwidth: table(t, "1P"), Connections: 1})
	})
}

// metered reports its bytes as the rclone storage does.
type metered struct{ *mem.Storage }

func (m metered) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	for n := len(data); n > 0; n -= storage.MoveStep {
		if err := storage.Moved(ctx, min(n, storage.MoveStep)); err != nil {
			return storage.Info{}, err
		}
	}
	return m.Storage.Put(ctx, name, data)
}

func TestBandwidth(t *testing.T) {
	for _, c := range []struct {
		name    string
		backend storage.Storage
	}{{"reported", metered{mem.New()}}, {"not reported", mem.New()}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := limit.New(c.backend, limit.Options{Bandwidth: table(t, "100k:1M")})
				data := make([]byte, 1000<<10)
				start := time.Now()
				var wg sync.WaitGroup
				for i := range 3 {
					wg.Go(func() {
						if _, err := st.Put(t.Context(), fmt.Sprintf("packs/%d", i), data); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if took := time.Since(start); took < 29*time.Second || took > 31*time.Second {
					t.Errorf("3000 KiB up at 100 KiB/s took %v", took)
				}
				start = time.Now()
				if _, err := st.Get(t.Context(), "packs/1", 0, -1, nil); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < 800*time.Millisecond || took > 1100*time.Millisecond {
					t.Errorf("1000 KiB down at 1 MiB/s took %v", took)
				}
			})
		})
	}
}

func TestBandwidthIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var notes atomic.Int64
		r := retry.New(metered{mem.New()}, retry.Options{Stall: time.Minute, Notify: func(op, name string, err error, _ time.Duration) { notes.Add(1) }})
		st := limit.New(r, limit.Options{Bandwidth: table(t, "1k")})
		start := time.Now()
		if _, err := st.Put(t.Context(), "packs/1", make([]byte, 600<<10)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 9*time.Minute || notes.Load() != 0 {
			t.Errorf("took %v with %d retries", took, notes.Load())
		}
	})
}

func TestTimetableChangesDuringAnOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The bubble's clock starts at midnight UTC on 2000-01-01.
		time.Sleep(time.Until(time.Date(2000, 1, 1, 7, 59, 0, 0, time.Local).AddDate(0, 0, 1)))
		st := limit.New(metered{mem.New()}, limit.Options{Bandwidth: table(t, "00:00,1k 08:00,off")})
		start := time.Now()
		if _, err := st.Put(t.Context(), "packs/1", make([]byte, 10<<20)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < time.Minute || took > 62*time.Second {
			t.Errorf("10 MiB from a minute before the limit ends took %v", took)
		}
	})
}

func TestConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := &busy{Storage: mem.New()}
		st := limit.New(busy, limit.Options{Connections: 3})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if _, err := st.Put(t.Context(), fmt.Sprintf("packs/%d", i), []byte("x")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if busy.most.Load() != 3 {
			t.Errorf("up to %d at once, want 3", busy.most.Load())
		}
	})
}

type busy struct {
	*mem.Storage
	now, most atomic.Int64
}

func (b *busy) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	b.most.Store(max(b.most.Load(), b.now.Add(1)))
	defer b.now.Add(-1)
	time.Sleep(time.Second)
	return b.Storage.Put(ctx, name, data)
}

func TestCancelEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := limit.New(metered{mem.New()}, limit.Options{Bandwidth: table(t, "1k"), Connections: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := st.Put(ctx, "packs/1", make([]byte, 1<<20)); err == nil {
			t.Error("a cancelled put succeeded")
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestParseTimetable(t *testing.T) {
	for _, c := range []struct {
		in   string
		at   string // "Mon 15:04"
		want limit.Rate
	}{
		{"512", "Mon 00:00", limit.Rate{Up: 512 << 10, Down: 512 << 10}},
		{"100B", "Mon 00:00", limit.Rate{Up: 100, Down: 100}},
		{"10M", "Sat 23:59", limit.Rate{Up: 10 << 20, Down: 10 << 20}},
		{"1.5M", "Sat 23:59", limit.Rate{Up: 3 << 19, Down: 3 << 19}},
		{"1Mi", "Sat 23:59", limit.Rate{Up: 1 << 20, Down: 1 << 20}},
		{"1MiB", "Sat 23:59", limit.Rate{Up: 1 << 20, Down: 1 << 20}},
		{"10M:100k", "Mon 00:00", limit.Rate{Up: 10 << 20, Down: 100 << 10}},
		{"off:1k", "Mon 00:00", limit.Rate{Up: 0, Down: 1 << 10}},
		{"off", "Mon 00:00", limit.Rate{}},
		{"0", "Mon 00:00", limit.Rate{}},
		{"08:00,512k 19:00,10M 23:00,off", "Tue 07:59", limit.Rate{}},
		{"08:00,512k 19:00,10M 23:00,off", "Tue 08:00", limit.Rate{Up: 512 << 10, Down: 512 << 10}},
		{"08:00,512k 19:00,10M 23:00,off", "Tue 22:59", limit.Rate{Up: 10 << 20, Down: 10 << 20}},
		{"08:00,512k 19:00,10M 23:00,off", "Sun 00:00", limit.Rate{}},
		{"Mon-00:00,512 Fri-23:59,10M Sat-10:00,off", "Wed 12:00", limit.Rate{Up: 512 << 10, Down: 512 << 10}},
		{"Mon-00:00,512 Fri-23:59,10M Sat-10:00,off", "Sat 09:00", limit.Rate{Up: 10 << 20, Down: 10 << 20}},
		{"Mon-00:00,512 Fri-23:59,10M Sat-10:00,off", "Sun 12:00", limit.Rate{}},
		{"Monday-08:00,1M:2M", "Sun 12:00", limit.Rate{Up: 1 << 20, Down: 2 << 20}},
	} {
		got := table(t, c.in).At(weekTime(t, c.at))
		if got != c.want {
			t.Errorf("%q on %s: %+v, want %+v", c.in, c.at, got, c.want)
		}
	}
	for _, bad := range []string{"", " ", "fast", "10X", "-1", "1M:", ":1M", "8:00,1M", "25:00,1M", "08:00", "08:00,1M 09:00",
		"Foo-08:00,1M", "08:00,1M 08:00,2M", "NaN", "Inf", "1e300", "08:00,1M,2M", "0.0001B"} {
		if tt, err := limit.ParseTimetable(bad); err == nil {
			t.Errorf("%q was taken as %+v", bad, tt)
		}
	}
	if table(t, "off").Limited() || !table(t, "08:00,off 09:00,1M").Limited() {
		t.Error("Limited is wrong")
	}
}

func weekTime(t *testing.T, s string) time.Time {
	t.Helper()
	var day, clock string
	if _, err := fmt.Sscan(s, &day, &clock); err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse("15:04", clock)
	if err != nil {
		t.Fatal(err)
	}
	for d := 1; d <= 7; d++ {
		got := time.Date(2026, 11, d, at.Hour(), at.Minute(), 0, 0, time.UTC)
		if got.Format("Mon") == day {
			return got
		}
	}
	t.Fatalf("no day %q", day)
	return time.Time{}
}

func TestFastest(t *testing.T) {
	for in, want := range map[string]limit.Rate{
		"off":                               {},
		"512:1M":                            {Up: 512 << 10, Down: 1 << 20},
		"08:00,512k 19:00,10M:1M":           {Up: 10 << 20, Down: 1 << 20},
		"08:00,512k 19:00,10M:off":          {Up: 10 << 20},
		"Mon-08:00,512k Tue-19:00,off:100k": {Down: 512 << 10},
	} {
		if got := table(t, in).Fastest(); got != want {
			t.Errorf("%s: %+v, want %+v", in, got, want)
		}
	}
	if got := (limit.Timetable{}).Fastest(); got != (limit.Rate{}) {
		t.Errorf("no timetable: %+v", got)
	}
}
