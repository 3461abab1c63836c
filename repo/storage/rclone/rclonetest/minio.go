package rclonetest

import (
	"net"
	"os"
	"os/exec"
	"testing"
)

// The account that may do everything on a MinIO that MinIO starts.
const (
	MinIOUser   = "wtsnap-user"
	MinIOSecret = "wtsnap-secret"
)

// MinIO starts a server on a folder and a port of its own and returns its URL.
func MinIO(t *testing.T, program string) string {
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
	server.Env = append(os.Environ(), "HOME="+home, "MINIO_ROOT_USER="+MinIOUser, "MINIO_ROOT_PASSWORD="+MinIOSecret,
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
