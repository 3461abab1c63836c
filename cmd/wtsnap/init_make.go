package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/setup"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// A made is a file that this run made, and that is removed again if the run does not get to the repository.
type made struct{ files, folders []string }

func (m *made) file(path string, data []byte) error {
	if err := m.folder(filepath.Dir(path)); err != nil {
		return err
	}
	if err := writeSecret(path, data); err != nil {
		return err
	}
	m.files = append(m.files, path)
	return nil
}

// folder makes a folder, and notes those that were missing.
func (m *made) folder(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if up := filepath.Dir(dir); up != dir {
		if err := m.folder(up); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	m.folders = append(m.folders, dir)
	return nil
}

// undo removes what was made; folders that something else is in stay.
func (m *made) undo() {
	for _, f := range m.files {
		_ = os.Remove(f)
	}
	for i := len(m.folders) - 1; i >= 0; i-- {
		_ = os.Remove(m.folders[i])
	}
}

// writeConfiguration writes wtsnap.toml, and reads it back as every other command will.
func (a *app) writeConfiguration(m *made, path string, answers setup.Answers) error {
	data := setup.Configuration(answers)
	if err := m.file(path, data); err != nil {
		return err
	}
	if _, err := config.Read(path, a.vocabulary()); err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("the configuration that was made: %w", err)
	}
	return nil
}

// secretSources puts addresses that hold passwords into files of their own beside the configuration.
func secretSources(m *made, configPath string, sources []setup.Source) error {
	for i := range sources {
		s := &sources[i]
		if !strings.HasPrefix(s.From, "mongodb") || snapshot.RedactURI(s.From) == s.From {
			continue
		}
		s.File = filepath.Join(filepath.Dir(configPath), s.Label+"-uri")
		if err := m.file(s.File, []byte(s.From+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// testInstance is whose the snapshot is that proves a new repository; it is forgotten at once.
const testInstance = "wtsnap-init-test"

// tryRepository backs a file up, restores it, compares it, and forgets it again.
func tryRepository(ctx context.Context, r *repo.Repository) (err error) {
	dir, err := os.MkdirTemp("", "wtsnap-init-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	want := []byte("wtsnap init was here on " + time.Now().UTC().Format(time.RFC3339) + "\n")
	from, to := filepath.Join(dir, "test"), filepath.Join(dir, "restored")
	if err := os.WriteFile(from, want, 0o600); err != nil {
		return err
	}
	spec, err := snapshot.ParseSource("test=" + from)
	if err != nil {
		return err
	}
	rep, err := snapshot.Backup(ctx, r, snapshot.BackupOptions{Instance: testInstance, Sources: []snapshot.SourceSpec{spec}, Program: "wtsnap " + programVersion()})
	if err != nil {
		return fmt.Errorf("backing up a test file: %w", err)
	}
	defer func() {
		if ferr := r.Forget(context.WithoutCancel(ctx), []repo.SnapshotRef{rep.Snapshot.Ref}); err == nil && ferr != nil {
			err = fmt.Errorf("forgetting the test snapshot: %w", ferr)
		}
	}()
	o := snapshot.RestoreOptions{Snapshot: rep.Snapshot, Path: "test", Target: snapshot.TargetSpec{Kind: snapshot.TargetFolder, Path: to}, Verify: true}
	if _, err := snapshot.Restore(ctx, r, o); err != nil {
		return fmt.Errorf("restoring the test file: %w", err)
	}
	got, err := os.ReadFile(filepath.Join(to, "test"))
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("other bytes came back than were saved")
	}
	if err != nil {
		return fmt.Errorf("restoring the test file: %w", err)
	}
	return nil
}
