package line_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/whole-tale/wtsnap/repo/storage/storagetest/line"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What goes in comes out, whatever the line is like, and is counted.
func TestBytesPass(t *testing.T) {
	data := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body) // an echo; the client notices if it ends early
	}))
	defer server.Close()
	for _, o := range []line.Options{{}, {Latency: 2 * time.Millisecond}, {Latency: time.Millisecond, Up: 100e6, Down: 200e6}} {
		l, err := line.New(strings.TrimPrefix(server.URL, "http://"), o)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{}
		client := &http.Client{Transport: transport}
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				answer, err := client.Post("http://"+l.Addr(), "", bytes.NewReader(data))
				if err != nil {
					t.Error(err)
					return
				}
				defer answer.Body.Close()
				if got, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d of %d bytes came back, or others: %v", len(got), len(data), err)
				}
			})
		}
		all.Wait()
		transport.CloseIdleConnections()
		got := l.Traffic()
		if least := int64(3 * len(data)); got.Up < least || got.Down < least || got.Up > least+10000 || got.Connections != 3 {
			t.Errorf("counted %+v for 3 times %d bytes each way", got, len(data))
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A line that is closed cuts what goes over it.
func TestCloseCuts(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	l, err := line.New(silent.Addr().String(), line.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
