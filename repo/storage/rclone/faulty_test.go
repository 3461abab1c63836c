package rclone_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest/faulty"
)

func newProxy(t *testing.T, target string) *faulty.Proxy {
	t.Helper()
	p, err := faulty.New(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestFaultyServer(t *testing.T) {
	servers := map[string]struct {
		start func(*testing.T) string
		spec  func(string) string
		list  string // the method of listings
	}{
		"webdav": {serveWebDAV, webdavSpec, "PROPFIND"},
		"s3":     {serveS3, s3Spec, "GET"},
	}
	faults := []struct {
		name   string
		method string // of HTTP; "list" for the server's own
		times  int    // as many as rclone tries, so that it gives up; or one
		spoil  faulty.Fault
		done   bool // spoil does what was asked
	}{
		{"put 429", "PUT", 3, faulty.Answer(429, "Retry-After", "1"), false},
		{"put 500", "PUT", 3, faulty.Answer(500), false},
		{"put cut", "PUT", 3, faulty.CutUpload, false},
		{"put half", "PUT", 2, faulty.HalfUpload, false},
		{"put stored 502", "PUT", 3, faulty.DoneFailed, true},
		{"put hangs", "PUT", 1, faulty.Hang, false},
		{"put hangs halfway", "PUT", 1, faulty.HangHalfway, false},
		{"get 429", "GET", 3, faulty.Answer(429, "Retry-After", "1"), false},
		{"get 503", "GET", 3, faulty.Answer(503), false},
		{"get cut", "GET", 3, faulty.CutDownload, false},
		{"get hangs", "GET", 1, faulty.Hang, false},
		{"list 500", "list", 3, faulty.Answer(500), false},
		{"list cut", "list", 3, faulty.CutDownload, false},
		{"list hangs", "list", 1, faulty.Hang, false},
		{"delete 500", "DELETE", 3, faulty.Answer(500), false},
		{"delete done 502", "DELETE", 3, faulty.DoneFailed, true},
	}
	for name, server := range servers {
		t.Run(name, func(t *testing.T) {
			for _, f := range faults {
				t.Run(strings.ReplaceAll(f.name, " ", "-"), func(t *testing.T) {
					t.Parallel()
					p := newProxy(t, server.start(t))
					backend := open(t, server.spec(p.URL), rclone.Options{})
					st := retry.New(backend, retry.Options{First: time.Millisecond, Most: 10 * time.Millisecond, Stall: 700 * time.Millisecond})
					seed := make([]byte, 300_000)
					_, _ = rand.NewChaCha8([32]byte{1}).Read(seed)
					if _, err := st.Put(t.Context(), "index/first", seed); err != nil {
						t.Fatal(err)
					}
					method := f.method
					if method == "list" {
						method = server.list
					}
					p.Next(f.times, faulty.Method(method), f.spoil)
					data := bytes.Clone(seed[:200_000])
					if _, err := st.Put(t.Context(), "index/second", data); err != nil {
						t.Fatalf("put: %v", err)
					}
					clear(data) // nothing may read it any more
					got, err := st.Get(t.Context(), "index/first", 1000, 200_000, nil)
					if err != nil || !bytes.Equal(got, seed[1000:201_000]) {
						t.Fatalf("get: %d bytes, %v", len(got), err)
					}
					objects, err := storagetest.Content(st)
					if err != nil {
						t.Fatalf("content: %v", err)
					}
					if len(objects) != 2 || !bytes.Equal(objects["index/second"], seed[:200_000]) {
						t.Errorf("%d objects, the second one has %d bytes", len(objects), len(objects["index/second"]))
					}
					if err := st.Delete(t.Context(), "index/first"); err != nil {
						t.Fatalf("delete: %v", err)
					}
					if _, err := st.Stat(t.Context(), "index/first"); !errors.Is(err, storage.ErrNotExist) {
						t.Errorf("stat after delete: %v", err)
					}
					// One is enough where the deed was done and is found out.
					if hit := p.Met(); hit == 0 || hit != f.times && !f.done {
						t.Errorf("met %d spoiled requests of %d", hit, f.times)
					}
				})
			}
		})
	}
}

func TestPartialObjectIsRemoved(t *testing.T) {
	// Without a retry: the storage itself leaves no half object behind.
	p := newProxy(t, serveWebDAV(t))
	st := open(t, webdavSpec(p.URL), rclone.Options{})
	if _, err := st.Put(t.Context(), "index/first", []byte("x")); err != nil {
		t.Fatal(err)
	}
	p.Next(1000, faulty.Method("PUT"), faulty.HalfUpload)
	if _, err := st.Put(t.Context(), "packs/ab/1", make([]byte, 100_000)); err == nil {
		t.Fatal("a put of half the bytes succeeded")
	}
	if info, err := st.Stat(t.Context(), "packs/ab/1"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("stat of the partial object: %+v, %v", info, err)
	}
	if p.Met() == 0 {
		t.Error("no request was spoiled")
	}
}

func TestStatusKinds(t *testing.T) {
	for _, c := range []struct {
		code int
		want error
	}{
		{401, storage.ErrAuth}, {403, storage.ErrDenied}, {429, storage.ErrThrottled}, {507, storage.ErrQuota},
	} {
		t.Run(fmt.Sprint(c.code), func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, serveWebDAV(t))
			st := open(t, webdavSpec(p.URL), rclone.Options{})
			if _, err := st.Put(t.Context(), "config", []byte("x")); err != nil {
				t.Fatal(err)
			}
			p.Next(1000, faulty.Method("PUT"), faulty.Answer(c.code))
			_, err := st.Put(t.Context(), "packs/ab/1", []byte("data"))
			if !errors.Is(err, c.want) {
				t.Errorf("put: %v, want %v", err, c.want)
			}
			if c.want == storage.ErrAuth && storage.Hint(err) == "" {
				t.Errorf("no hint with %v", err)
			}
			p.Next(1000, faulty.Method("GET"), faulty.Answer(c.code))
			if _, err := st.Get(t.Context(), "config", 0, -1, nil); !errors.Is(err, c.want) && c.code != 507 {
				t.Errorf("get: %v, want %v", err, c.want)
			}
		})
	}
}

func TestWrongCredentials(t *testing.T) {
	for name, spec := range map[string]string{
		"s3 key":    strings.Replace(s3Spec(serveS3(t)), "SECRET", "WRONG", 1),
		"s3 id":     strings.Replace(s3Spec(serveS3(t)), "ACCESS", "OTHER", 1),
		"sftp user": strings.Replace(sftpSpec(serveSFTP(t)), "user=u", "user=other", 1),
	} {
		t.Run(name, func(t *testing.T) {
			st := open(t, spec, rclone.Options{})
			_, putErr := st.Put(t.Context(), "config", []byte("x"))
			_, getErr := st.Get(t.Context(), "config", 0, -1, nil)
			listErr := st.List(t.Context(), "", func(storage.Info) error { return nil })
			for _, err := range []error{putErr, getErr, listErr} {
				if !errors.Is(err, storage.ErrAuth) {
					t.Errorf("%v, want ErrAuth", err)
				}
				if hint := storage.Hint(err); !strings.Contains(hint, "connection string") {
					t.Errorf("hint %q", hint)
				}
				if strings.Contains(fmt.Sprint(err), "WRONG") {
					t.Errorf("the error shows the secret: %v", err)
				}
			}
		})
	}
}
