package rclone_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/rclone/rclonetest"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// TestConformanceMinIO runs the suite on a server that is not rclone's own. "make test-slow" builds it.
func TestConformanceMinIO(t *testing.T) {
	program := os.Getenv("WTSNAP_MINIO")
	if program == "" {
		t.Skip("WTSNAP_MINIO names no MinIO server: make test-slow builds one and sets it")
	}
	endpoint := rclonetest.MinIO(t, program)
	var n atomic.Int64
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		spec := fmt.Sprintf(`:s3,provider=Minio,access_key_id=%s,secret_access_key=%s,endpoint="%s":bucket%d/repo`,
			rclonetest.MinIOUser, rclonetest.MinIOSecret, endpoint, n.Add(1))
		// The first call waits until the server answers.
		return retry.New(open(t, spec, rclone.Options{}), retry.Options{First: 10 * time.Millisecond, Total: time.Minute})
	})
}
