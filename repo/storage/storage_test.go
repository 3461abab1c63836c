package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

func TestError(t *testing.T) {
	cause := io.ErrUnexpectedEOF
	err := fmt.Errorf("outer: %w", &storage.Error{
		Op: "put", Name: "packs/ab/1", Kind: storage.ErrQuota, Err: cause, Hint: "free space", RetryAfter: time.Second,
	})
	if !errors.Is(err, storage.ErrQuota) || !errors.Is(err, cause) || errors.Is(err, storage.ErrAuth) {
		t.Errorf("%v is not of its kind and cause", err)
	}
	if got, want := err.Error(), "outer: put packs/ab/1: the storage is full: unexpected EOF"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if storage.Hint(err) != "free space" || storage.RetryAfter(err) != time.Second || !storage.Permanent(err) {
		t.Errorf("hint %q, retry after %v, permanent %v", storage.Hint(err), storage.RetryAfter(err), storage.Permanent(err))
	}
	plain := errors.New("connection reset")
	if storage.Hint(plain) != "" || storage.RetryAfter(plain) != 0 || storage.Permanent(plain) || storage.Permanent(storage.ErrThrottled) || storage.Permanent(storage.ErrStalled) {
		t.Error("an error that may pass is taken for another")
	}
	if got := (&storage.Error{Op: "get", Name: "a", Err: storage.ErrNotExist}).Error(); got != "get a: object does not exist" {
		t.Errorf("%q", got)
	}
}

func TestMatchHash(t *testing.T) {
	const md5OfA = "md5:0cc175b9c0f1b6a831c399e269772661"
	for _, c := range []struct {
		hash         string
		match, known bool
	}{
		{md5OfA, true, true},
		{"md5:00", false, true},
		{"sha1:86f7e437faa5a7fce15d1ddcb9eaeaea377667b8", true, true},
		{"quickxor:00", false, false},
		{"", false, false},
	} {
		if match, known := storage.MatchHash(c.hash, []byte("a")); match != c.match || known != c.known {
			t.Errorf("%q: match %v, known %v", c.hash, match, known)
		}
	}
	if storage.HashName(md5OfA) != "md5" || storage.HashName("") != "" {
		t.Error("HashName is wrong")
	}
}

// note is a meter that writes down that it was asked.
type note struct {
	name string
	log  *[]string
	err  error
}

func (n note) Move(_ context.Context, bytes int) error {
	*n.log = append(*n.log, fmt.Sprint(n.name, bytes))
	return n.err
}

func TestMetersAreAskedFromTheInside(t *testing.T) {
	var log []string
	ctx := storage.WithMeter(t.Context(), note{"outer", &log, nil})
	inner := storage.WithMeter(ctx, note{"inner", &log, nil})
	if err := storage.Moved(inner, 7); err != nil {
		t.Fatal(err)
	}
	if err := storage.Moved(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if want := []string{"inner7", "outer7"}; !slices.Equal(log, want) {
		t.Errorf("%q, want %q", log, want)
	}
	stop := errors.New("stop")
	if err := storage.Moved(storage.WithMeter(ctx, note{"x", &log, stop}), 1); err != stop {
		t.Errorf("%v, want the meter's error", err)
	}
}

func TestCaching(t *testing.T) {
	if got := storage.CachingOf(t.Context()); got != storage.CacheByName {
		t.Errorf("without a wish: %v", got)
	}
	if got := storage.CachingOf(storage.WithCaching(t.Context(), storage.CacheBypass)); got != storage.CacheBypass {
		t.Errorf("with a wish: %v", got)
	}
}
