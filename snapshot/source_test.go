package snapshot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseSource(t *testing.T) {
	cwd, err := os.Getwd()
	must(t, err)
	for in, want := range map[string]SourceSpec{
		"homes=/srv/homes":                  {Label: "homes", Kind: SourceFolder, Path: "/srv/homes"},
		"/srv/homes":                        {Label: "homes", Kind: SourceFolder, Path: "/srv/homes"},
		"/srv/homes/":                       {Label: "homes", Kind: SourceFolder, Path: "/srv/homes/"},
		"system=/etc/traefik/acme.json":     {Label: "system", Kind: SourceFolder, Path: "/etc/traefik/acme.json"},
		"/etc/traefik/acme.json":            {Label: "acme.json", Kind: SourceFolder, Path: "/etc/traefik/acme.json"},
		"old=tar:home-20180401.tgz":         {Label: "old", Kind: SourceTar, Path: "home-20180401.tgz"},
		"tar:/x/home-20180401.tgz":          {Label: "home-20180401.tgz", Kind: SourceTar, Path: "/x/home-20180401.tgz"},
		"old=tar:-":                         {Label: "old", Kind: SourceTar, Path: "-"},
		"ledger=stdin:NAME":                 {Label: "ledger", Kind: SourceStdin, Path: "NAME"},
		"stdin:dump.sql":                    {Label: "dump.sql", Kind: SourceStdin, Path: "dump.sql"},
		"a=stdin:a name":                    {Label: "a", Kind: SourceStdin, Path: "a name"},
		"/srv/a=b":                          {Label: "", Path: "/srv/a=b"}, // its base name cannot be a label
		"x=/srv/a=b":                        {Label: "x", Kind: SourceFolder, Path: "/srv/a=b"},
		"./x=y":                             {},
		"l=./tar:x":                         {Label: "l", Kind: SourceFolder, Path: "./tar:x"},
		".":                                 {Label: filepath.Base(cwd), Kind: SourceFolder, Path: "."},
		"..":                                {Label: filepath.Base(filepath.Dir(cwd)), Kind: SourceFolder, Path: ".."},
		"/":                                 {},
		"root=/":                            {Label: "root", Kind: SourceFolder, Path: "/"},
		"":                                  {},
		"x=":                                {},
		"=x":                                {},
		"..=x":                              {},
		"my label=/srv":                     {},
		"tar:-":                             {},
		"tar:":                              {},
		"x=tar:":                            {},
		"stdin:":                            {},
		"x=stdin:a/b":                       {},
		"s3://bucket":                       {},
		"m=mongodb://db1,db2/?x=1":          {Label: "m", Kind: SourceMongo, Path: "mongodb://db1,db2/?x=1", Address: "mongodb://db1,db2/?x=1"},
		"mongodb+srv://db1/?x=1":            {Label: "mongo", Kind: SourceMongo, Path: "mongodb+srv://db1/?x=1", Address: "mongodb+srv://db1/?x=1"},
		"mongodb://a:b@db1":                 {Label: "mongo", Kind: SourceMongo, Path: "mongodb://a:***@db1", Address: "mongodb://a:b@db1"},
		"m=mongodump:dump.archive":          {Label: "m", Kind: SourceMongo, Path: "mongodump:dump.archive", Address: "mongodump:dump.archive"},
		"mongodump:-":                       {Label: "mongo", Kind: SourceMongo, Path: "mongodump:-", Address: "mongodump:-"},
		"mongodump:":                        {},
		"mongodb:x":                         {},
		"/srv/My Docs":                      {},
		strings.Repeat("x", 256) + "=/srv/": {},
	} {
		got, err := ParseSource(in)
		if want.Label == "" {
			if err == nil {
				t.Errorf("%q is %+v", in, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v, want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"my label=mongodb://u:secret@h", "m=mongo-db://u:secret@h", "=mongodb://u:secret@h"} {
		if _, err := ParseSource(in); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v", in, err)
		}
	}
}

func TestSourcesTogether(t *testing.T) {
	for _, bad := range [][]SourceSpec{
		nil,
		{{Label: "a", Path: "x"}, {Label: "a", Path: "y"}},
		{{Label: "a", Kind: SourceStdin, Path: "x"}, {Label: "b", Kind: SourceTar, Path: "-"}},
		{{Label: "a/b", Path: "x"}},
		{{Label: "a", Kind: SourceStdin, Path: "x"}, {Label: "b", Kind: SourceMongo, Address: "mongodump:-"}},
	} {
		if CheckSources(bad) == nil {
			t.Errorf("%+v were taken", bad)
		}
	}
	must(t, CheckSources([]SourceSpec{{Label: "a", Kind: SourceStdin, Path: "x"}, {Label: "b", Kind: SourceTar, Path: "y"}}))
}
