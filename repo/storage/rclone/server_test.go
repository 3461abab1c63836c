package rclone_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/rclone/rclone/cmd/serve/s3"
	_ "github.com/rclone/rclone/cmd/serve/sftp"
	_ "github.com/rclone/rclone/cmd/serve/webdav"
	rcloneconfig "github.com/rclone/rclone/fs/config"
	"github.com/rclone/rclone/fs/config/obscure"
	"github.com/rclone/rclone/fs/rc"

	"github.com/whole-tale/wtsnap/repo/storage/rclone"
)

// The servers are rclone's own, started in this process over loopback.

// serve starts a server of the kind on a folder and returns its address.
func serve(t *testing.T, kind, dir string, opt rc.Params) string {
	t.Helper()
	in := rc.Params{"type": kind, "fs": dir, "addr": "127.0.0.1:0"}
	for k, v := range opt {
		in[k] = v
	}
	start := rc.Calls.Get("serve/start")
	if start == nil {
		t.Fatal("rclone has no serve/start")
	}
	out, err := start.Fn(t.Context(), in)
	if err != nil {
		t.Fatalf("starting %s: %v", kind, err)
	}
	id, _ := out.GetString("id")
	addr, err := out.GetString("addr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := rc.Calls.Get("serve/stop").Fn(context.Background(), rc.Params{"id": id}); err != nil {
			t.Logf("stopping %s: %v", kind, err)
		}
	})
	return addr
}

// webdavSpec and its like write connection strings; quote doubles quotes as rclone wants.
func webdavSpec(url string) string {
	return `:webdav,vendor=other,url="` + url + `":repo`
}

func s3Spec(url string) string {
	return `:s3,provider=Rclone,access_key_id=ACCESS,secret_access_key=SECRET,endpoint="` + url + `":bucket/repo`
}

func sftpSpec(addr string) string {
	host, port, _ := strings.Cut(addr, ":")
	return fmt.Sprintf(":sftp,host=%s,port=%s,user=u,pass=%s,shell_type=none:repo", host, port, obscure.MustObscure("p"))
}

func serveWebDAV(t *testing.T) string {
	return "http://" + serve(t, "webdav", t.TempDir(), nil)
}

func serveS3(t *testing.T) string {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	return "http://" + serve(t, "s3", dir, rc.Params{"auth_key": []string{"ACCESS,SECRET"}})
}

func serveSFTP(t *testing.T) string {
	return serve(t, "sftp", t.TempDir(), rc.Params{"user": "u", "pass": "p", "authorized_keys": ""})
}

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
