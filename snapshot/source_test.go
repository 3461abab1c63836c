package snapshot

import (
	"errors"
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
		"mongo=mongodb://db1,db2/?x=1":      {},
		"mongodb+srv://db1":                 {},
		"mongo=mongodump:dump.archive":      {},
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
	for _, in := range []string{"mongodb://db", "m=mongodb+srv://db", "m=mongodump:-"} {
		if _, err := ParseSource(in); !errors.Is(err, ErrMongoSource) {
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
	} {
		if CheckSources(bad) == nil {
			t.Errorf("%+v were taken", bad)
		}
	}
	must(t, CheckSources([]SourceSpec{{Label: "a", Kind: SourceStdin, Path: "x"}, {Label: "b", Kind: SourceTar, Path: "y"}}))
}
