package rclone_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// TestConformanceMinIO runs the suite on a server that is not rclone's own. "make test-slow" builds it.
func TestConformanceMinIO(t *testing.T) {
	program := os.Getenv("WTSNAP_MINIO")
	if program == "" {
		t.Skip("WTSNAP_MINIO names no MinIO server: make test-slow builds one and sets it")
	}
	endpoint := startMinIO(t, program)
	var n atomic.Int64
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		spec := fmt.Sprintf(`:s3,provider=Minio,access_key_id=wtsnap-user,secret_access_key=wtsnap-secret,endpoint="%s":bucket%d/repo`,
			endpoint, n.Add(1))
		// The first call waits until the server answers.
		return retry.New(open(t, spec, rclone.Options{}), retry.Options{First: 10 * time.Millisecond, Total: time.Minute})
	})
}

// startMinIO starts a server on a folder and a port of its own and returns its URL.
func startMinIO(t *testing.T, program string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	server := exec.Command(program, "--quiet", "--config-dir", home, "server", "--address", addr, t.TempDir())
	server.Env = append(os.Environ(), "HOME="+home, "MINIO_ROOT_USER=wtsnap-user", "MINIO_ROOT_PASSWORD=wtsnap-secret",
		"MINIO_BROWSER=off", "MINIO_UPDATE=off")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Process.Kill(); err != nil {
			t.Errorf("stopping MinIO: %v", err)
		}
		_ = server.Wait() // it was killed
	})
	return "http://" + addr
}
