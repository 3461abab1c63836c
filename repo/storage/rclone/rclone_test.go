package rclone_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/rclone/rclone/fs/config/obscure"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

func TestConformance(t *testing.T) {
	n := 0
	unique := func() int { n++; return n }
	for name, spec := range map[string]func(*testing.T) string{
		"local":  func(t *testing.T) string { return ":local:" + filepath.Join(t.TempDir(), "made", "by", "put") },
		"folder": func(t *testing.T) string { return filepath.Join(t.TempDir(), "repo") },
		"memory": func(*testing.T) string { return fmt.Sprintf(":memory:bucket%d/repo", unique()) },
		"crypt": func(t *testing.T) string {
			return fmt.Sprintf(":crypt,remote=%q,password=%s:", t.TempDir(), obscure.MustObscure("secret"))
		},
		"webdav": func(t *testing.T) string { return webdavSpec(serveWebDAV(t)) },
		"s3":     func(t *testing.T) string { return s3Spec(serveS3(t)) },
		"sftp":   func(t *testing.T) string { return sftpSpec(serveSFTP(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Storage { return open(t, spec(t), rclone.Options{}) })
		})
	}
}
