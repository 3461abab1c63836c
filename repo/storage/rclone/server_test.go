package rclone_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rcloneconfig "github.com/rclone/rclone/fs/config"

	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/rclone/rclonetest"
)

// The servers are rclone's own, started in this process over loopback.

// serve starts a server of the kind on a folder and returns its address.
func serve(t *testing.T, kind rclonetest.Kind, dir string) string {
	t.Helper()
	s, err := rclonetest.Start(t.Context(), kind, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Logf("stopping %s: %v", kind, err)
		}
	})
	return s.Addr
}

// webdavSpec and its like write connection strings for a URL or an address.
func webdavSpec(url string) string {
	return rclonetest.Spec(rclonetest.WebDAV, strings.TrimPrefix(url, "http://"))
}

func s3Spec(url string) string {
	return rclonetest.Spec(rclonetest.S3, strings.TrimPrefix(url, "http://"))
}

func sftpSpec(addr string) string { return rclonetest.Spec(rclonetest.SFTP, addr) }

func serveWebDAV(t *testing.T) string {
	return "http://" + serve(t, rclonetest.WebDAV, t.TempDir())
}

func serveS3(t *testing.T) string {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	return "http://" + serve(t, rclonetest.S3, dir)
}

func serveSFTP(t *testing.T) string { return serve(t, rclonetest.SFTP, t.TempDir()) }

func open(t *testing.T, spec string, o rclone.Options) *rclone.Storage {
	t.Helper()
	st, err := rclone.Open(t.Context(), spec, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(context.Background()); err != nil {
			t.Log(err)
		}
	})
	return st
}

// config writes an rclone configuration and makes it this process's.
func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rclone.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	rclone.Forget()
	t.Cleanup(rclone.Forget)
	return path
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "wtsnap-rclone")
	if err != nil {
		panic(err)
	}
	// Keys and configuration of the servers go there, not to the user's home.
	os.Setenv("RCLONE_CONFIG", filepath.Join(dir, "rclone.conf"))
	os.Unsetenv("RCLONE_CONFIG_PASS")
	if err := rcloneconfig.SetCacheDir(dir); err != nil {
		panic(err)
	}
	// Before any server runs: what this sets, servers read.
	if _, err := rclone.Open(context.Background(), ":local:"+dir, rclone.Options{}); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
