package rclone_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rclone/rclone/fs/config/obscure"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

func TestConformance(t *testing.T) {
	var n atomic.Int64
	for name, spec := range map[string]func(*testing.T) string{
		"local":  func(t *testing.T) string { return ":local:" + filepath.Join(t.TempDir(), "made", "by", "put") },
		"folder": func(t *testing.T) string { return filepath.Join(t.TempDir(), "repo") },
		"memory": func(*testing.T) string { return fmt.Sprintf(":memory:bucket%d/repo", n.Add(1)) },
		"crypt": func(t *testing.T) string {
			return fmt.Sprintf(":crypt,remote=%q,password=%s:", t.TempDir(), obscure.MustObscure("secret"))
		},
		"webdav": func(t *testing.T) string { return webdavSpec(serveWebDAV(t)) },
		"s3":     func(t *testing.T) string { return s3Spec(serveS3(t)) },
		"sftp":   func(t *testing.T) string { return sftpSpec(serveSFTP(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, func(t *testing.T) storage.Storage {
				// rclone's S3 server answers 500 when two make a folder at once.
				return retry.New(open(t, spec(t), rclone.Options{}), retry.Options{First: time.Millisecond, Total: 20 * time.Second})
			})
		})
	}
}

func TestTemporaryObjectsOfTheDead(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "packs", "ab")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	old, young := filepath.Join(folder, ".wtsnap-1"), filepath.Join(folder, ".wtsnap-2")
	for _, path := range []string{old, young} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, then, then); err != nil {
		t.Fatal(err)
	}
	st := open(t, ":local:"+dir, rclone.Options{})
	err := st.List(t.Context(), "", func(i storage.Info) error {
		t.Errorf("list shows %s", i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err != nil {
		t.Errorf("a listing removed something: %v", err)
	}
	if _, err := st.Put(t.Context(), "config", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old one after a put: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("the young one after a put: %v", err)
	}
}

func TestHashNames(t *testing.T) {
	for name, c := range map[string]struct{ spec, want string }{
		"local":  {":local:" + t.TempDir(), ""},
		"memory": {":memory:hashes/repo", "md5"},
		"s3":     {s3Spec(serveS3(t)), "md5"},
	} {
		st := open(t, c.spec, rclone.Options{})
		got, err := st.HashName(t.Context())
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
		info, err := st.Put(t.Context(), "config", []byte("x"))
		if err != nil || storage.HashName(info.Hash) != c.want {
			t.Errorf("%s: hash %q, %v", name, info.Hash, err)
		}
	}
}
