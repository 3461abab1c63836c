package snapshot

import "testing"

func TestRedactURI(t *testing.T) {
	for in, want := range map[string]string{
		"mongodb://db1,db2:27018/girder?replicaSet=rs1": "mongodb://db1,db2:27018/girder?replicaSet=rs1",
		"mongodb://u@db1/":                                         "mongodb://u@db1/",
		"mongodb://u:p%40@db1/?a=b":                                "mongodb://u:***@db1/?a=b",
		"mongodb+srv://u:p@q/r:s@db1/x?a=b":                        "mongodb+srv://u:***@db1/x?a=b",
		"mongodb://u:p?q@db1/x":                                    "mongodb://u:***@db1/x",
		"mongodb://h/?tlsCertificateKeyFilePassword=s&w=1":         "mongodb://h/?tlsCertificateKeyFilePassword=***&w=1",
		"mongodb://h/?AuthMechanismProperties=A:b,AWS_TOKEN:c;w=1": "mongodb://h/?AuthMechanismProperties=***&w=1",
		"m=mongodb://u:p@h":                                        "m=mongodb://u:***@h",
		"/srv/a:b@c":                                               "/srv/a:b@c",
	} {
		if got := RedactURI(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func TestTimestamp(t *testing.T) {
	a, b := Timestamp{1700000000, 9}, Timestamp{1700000001, 1}
	if a.Compare(b) >= 0 || b.Compare(a) <= 0 || a.Compare(a) != 0 || a.Compare(Timestamp{1700000000, 10}) >= 0 {
		t.Error("timestamps are not in order")
	}
	if got := a.String() + " " + a.Time().Format("2006-01-02T15:04:05Z07:00"); got != "1700000000.9 2023-11-14T22:13:20Z" {
		t.Error(got)
	}
}
