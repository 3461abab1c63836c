package repo

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
)

// manyBlobs makes a repository whose index lists n blobs in full segments, in packs of 16 MiB that nobody stored.
func manyBlobs(t testing.TB, n int, pass []byte) *mem.Storage {
	st := mem.New()
	r, err := Init(t.Context(), st, InitOptions{Password: pass})
	must0(t, err)
	random := rand.New(rand.NewPCG(1, 1))
	const packBlobs = 64
	for made := 0; made < n; {
		var packs []index.Pack
		for ; made < n && len(packs)*packBlobs < segmentBlobs; made += packBlobs {
			p := index.Pack{Kind: index.Data, Hash: "sha1:0123456789abcdef0123456789abcdef01234567", Frames: make([]index.Frame, packBlobs)}
			for i := 0; i < len(p.ID); i += 8 {
				binary.LittleEndian.PutUint64(p.ID[i:], random.Uint64())
			}
			var end uint32
			for i := range p.Frames {
				b := index.Blob{Size: 128<<10 + random.Uint32N(512<<10)}
				binary.LittleEndian.PutUint64(b.Key[:], random.Uint64())
				binary.LittleEndian.PutUint64(b.Key[8:], random.Uint64())
				p.Frames[i] = index.Frame{Offset: end, Length: b.Size / 2, Encoding: chunk.Zstd, Blobs: []index.Blob{b}}
				end += b.Size / 2
			}
			p.Size = int64(end) + 4096
			packs = append(packs, p)
		}
		_, err := r.writeSegment(t.Context(), packs)
		must0(t, err)
	}
	return st
}

// BenchmarkLoadIndex opens a repository of WTSNAP_BLOBS blobs, a million if it is not set, and loads its index from storage
// in memory. It reports CPU seconds, and what the heap holds beside the storage: when all is loaded, and at the worst.
//
//	WTSNAP_BLOBS=10000000 go test ./repo -run none -bench LoadIndex -benchtime 1x
func BenchmarkLoadIndex(b *testing.B) {
	n := 1_000_000
	if s := os.Getenv("WTSNAP_BLOBS"); s != "" {
		set, err := strconv.Atoi(s)
		must0(b, err)
		n = set
	}
	pass, err := keyFile()
	must0(b, err)
	st := manyBlobs(b, n, pass)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	cpu := func() float64 {
		var u syscall.Rusage
		must0(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
	}
	var held, worst int64
	var spent float64
	for b.Loop() {
		runtime.GC()
		runtime.GC()
		before, began := heap(), cpu()
		done, watched := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(watched)
			for tick := time.NewTicker(5 * time.Millisecond); ; {
				select {
				case <-tick.C:
					worst = max(worst, heap()-before)
				case <-done:
					tick.Stop()
					return
				}
			}
		}()
		r, err := Open(b.Context(), st, OpenOptions{Password: pass})
		must0(b, err)
		must0(b, r.LoadIndex(b.Context()))
		close(done)
		<-watched
		spent += cpu() - began
		runtime.GC()
		held = heap() - before
		if got := r.Index().Len(); got != (n+63)/64*64 {
			b.Fatalf("%d blobs are in the index, not %d", got, n)
		}
	}
	b.ReportMetric(spent/float64(b.N), "cpu-s/op")
	b.ReportMetric(float64(held)/float64(n), "held-B/blob")
	b.ReportMetric(float64(worst)/float64(n), "peak-B/blob")
}
