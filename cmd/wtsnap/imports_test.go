package main

import (
	goparser "go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/whole-tale/wtsnap/"

// layers are the packages from the top down: each may import those below it, and what lies in its own folder. The second
// reader of docs comes last, since it shares nothing with the others.
var layers = []string{"cmd", "mongo", "snapshot", "repo", "index", "chunk", "docs"}

func layerOf(path string) int {
	first, _, _ := strings.Cut(path, "/")
	for i, l := range layers {
		if l == first {
			return i
		}
	}
	return -1
}

// TestImports keeps the structure: imports point downwards, one package imports rclone, one urfave/cli, one MongoDB's
// driver, and the storages and the file system know nothing of repositories and snapshots. Tests may import what they
// test with.
func TestImports(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "build") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		files++
		file, err := goparser.ParseFile(token.NewFileSet(), path, nil, goparser.ImportsOnly)
		if err != nil {
			return err
		}
		from := filepath.ToSlash(filepath.Dir(rel))
		layer := layerOf(from)
		if layer < 0 {
			t.Errorf("%s lies in no layer", rel)
		}
		for _, spec := range file.Imports {
			what, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := forbidden(from, layer, what); why != "" {
				t.Errorf("%s imports %s: %s", rel, what, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Errorf("only %d files were looked at", files)
	}
}

func forbidden(from string, layer int, what string) string {
	below := func(folder string) bool { return from == folder || strings.HasPrefix(from, folder+"/") }
	switch {
	case strings.HasPrefix(what, "github.com/rclone/") && !below("repo/storage/rclone"):
		return "only repo/storage/rclone imports rclone"
	case strings.HasPrefix(what, "go.mongodb.org/") && !below("mongo"):
		return "only mongo imports the driver"
	case strings.HasPrefix(what, "github.com/urfave/cli") && !below("cmd/wtsnap"):
		return "only cmd/wtsnap imports the command line's library"
	case !strings.HasPrefix(what, module):
		return ""
	}
	what = strings.TrimPrefix(what, module)
	switch {
	case strings.HasPrefix(what, "docs/") && !below("docs"):
		return "the second reader is for tests"
	case below("repo/storage") && !strings.HasPrefix(what, "repo/storage"):
		return "a storage knows nothing of what it stores"
	case below("snapshot/localfs") || below("snapshot/exclude"):
		return "it stands alone"
	case layerOf(what) < layer:
		return "imports point downwards"
	}
	return ""
}
