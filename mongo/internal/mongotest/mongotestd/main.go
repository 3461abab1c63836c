// Mongotestd is the server of package mongotest as a program, for tests of other programs, benchmarks and demonstrations.
// It prints its URI, answers each line of its standard input with the seconds of processor time that it has used, and
// ends when the input does.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
)

// host stands for the test that a server belongs to.
type host struct {
	testing.TB // for the method that no other package can have
	ends       []func()
}

func (h *host) Helper()          {}
func (h *host) Cleanup(f func()) { h.ends = append(h.ends, f) }
func (h *host) Errorf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "mongotestd: "+format+"\n", args...)
}
func (h *host) Fatalf(format string, args ...any) {
	h.Errorf(format, args...)
	os.Exit(1)
}

func main() {
	var o mongotest.Options
	var role, load string
	var documents, size int
	flag.StringVar(&o.Version, "version", "", "of the server that it pretends to be")
	flag.StringVar(&role, "role", "set", "set, standalone or mongos")
	flag.IntVar(&o.Members, "members", 1, "of the replica set")
	flag.StringVar(&o.Listen, "listen", "", "host:port of the first member (default any port)")
	flag.BoolVar(&o.NoOplog, "no-oplog", false, "keep no oplog")
	flag.StringVar(&load, "load", "", "a folder that mongodump wrote")
	flag.IntVar(&documents, "documents", 0, "make so many in girder.item")
	flag.IntVar(&size, "size", 169, "of such a document, in bytes")
	clock := flag.Bool("clock", false, "take the time of operations from this machine's clock")
	flag.Parse()
	if *clock {
		o.Start = uint32(time.Now().Unix())
	}
	switch role {
	case "set":
	case "standalone":
		o.Role = mongotest.Standalone
	case "mongos":
		o.Role = mongotest.Mongos
	default:
		fmt.Fprintln(os.Stderr, "mongotestd: no such role")
		os.Exit(2)
	}
	h := &host{}
	s := mongotest.Start(h, o)
	if *clock {
		go func() {
			for now := o.Start; ; time.Sleep(100 * time.Millisecond) {
				if t := uint32(time.Now().Unix()); t > now {
					s.Advance(t - now)
					now = t
				}
			}
		}()
	}
	if load != "" {
		s.LoadFolder(h, load)
	}
	if documents > 0 {
		generate(s, documents, size)
	}
	fmt.Println(s.URI())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Printf("%.3f\n", cpu().Seconds())
	}
	for _, end := range h.ends {
		end()
	}
}

// cpu is what the process has used of all cores, in its own code and in the system's.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		fmt.Fprintln(os.Stderr, "mongotestd:", err)
		os.Exit(1)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// generate makes documents of a size that do not compress to nothing.
func generate(s *mongotest.Server, n, size int) {
	const fixed = 4 + 5 + 12 + 3 + 5 + 1 + 3 + 4 + 1
	x := uint64(1)
	for i := range n {
		var text strings.Builder
		for text.Len() < max(size-fixed, 1) {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			fmt.Fprintf(&text, "%016x", x)
		}
		id := bson.ObjectID{1, 2, 3, 4, 5, 6, 7, 8, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
		doc, err := bson.Marshal(bson.D{{Key: "_id", Value: id}, {Key: "n", Value: int32(i)}, {Key: "s", Value: text.String()[:max(size-fixed, 1)]}})
		if err != nil {
			fmt.Fprintln(os.Stderr, "mongotestd:", err)
			os.Exit(1)
		}
		s.Load("girder.item", doc)
	}
}
