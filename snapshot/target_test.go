package snapshot

import (
	"errors"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]TargetSpec{
		"/srv/homes":               {Kind: TargetFolder, Path: "/srv/homes"},
		"./tar:x":                  {Kind: TargetFolder, Path: "./tar:x"},
		"a:b":                      {Kind: TargetFolder, Path: "a:b"},
		"./http://x":               {Kind: TargetFolder, Path: "./http://x"},
		"tar:-":                    {Kind: TargetTar, Stdout: true},
		"tar:a.tar":                {Kind: TargetTar, Path: "a.tar"},
		"tar:a.tar.gz":             {Kind: TargetTar, Path: "a.tar.gz", Compression: CompressGzip},
		"tar:a.TGZ":                {Kind: TargetTar, Path: "a.TGZ", Compression: CompressGzip},
		"tar:/x/a.tar.zst":         {Kind: TargetTar, Path: "/x/a.tar.zst", Compression: CompressZstd},
		"zip:a.zip":                {Kind: TargetZip, Path: "a.zip"},
		"zip:-":                    {Kind: TargetZip, Stdout: true},
		"mongodb://db1,db2/?a=b":   {Kind: TargetMongoDB, Path: "mongodb://db1,db2/?a=b"},
		"mongodb+srv://cluster/db": {Kind: TargetMongoDB, Path: "mongodb+srv://cluster/db"},
		"mongodump:-":              {Kind: TargetMongodump, Stdout: true},
		"mongodump:x.archive":      {Kind: TargetMongodump, Path: "x.archive"},
		"mongodump:x.archive.gz":   {Kind: TargetMongodump, Path: "x.archive.gz", Compression: CompressGzip},
		"mongodump:x.zst":          {Kind: TargetMongodump, Path: "x.zst"},
	} {
		got, err := ParseTarget(in)
		if err != nil || got != want {
			t.Errorf("ParseTarget(%q) = %+v, %v; want %+v", in, got, err, want)
			continue
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("ParseTarget(%q) does not survive String: %+v, %v", in, again, err)
		}
	}
	for _, in := range []string{"", "tar:", "zip:", "mongodump:", "s3://bucket", "a\x00b"} {
		var spec *TargetSpecError
		if got, err := ParseTarget(in); !errors.As(err, &spec) {
			t.Errorf("ParseTarget(%q) = %+v, %v; want a TargetSpecError", in, got, err)
		}
	}
}
