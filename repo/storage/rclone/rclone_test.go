package rclone_test

import (
	"fmt"
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
