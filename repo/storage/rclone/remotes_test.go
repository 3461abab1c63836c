package rclone

import (
	"slices"
	"testing"
)

func TestIsSecret(t *testing.T) {
	for _, c := range []struct {
		kind, key string
		want      bool
	}{
		{"box", "token", true}, {"box", "client_secret", true}, {"box", "client_id", false}, {"box", "root_folder_id", false},
		{"sftp", "pass", true}, {"sftp", "host", false}, {"sftp", "user", false}, {"sftp", "key_pem", true}, {"sftp", "key_file", false},
		{"s3", "secret_access_key", true}, {"s3", "endpoint", false}, {"s3", "region", false},
		{"crypt", "password", true}, {"crypt", "remote", false}, {"webdav", "bearer_token", true},
		{"no such backend", "anything", true},
	} {
		if got := isSecret(c.kind, c.key); got != c.want {
			t.Errorf("%s %s: %v", c.kind, c.key, got)
		}
	}
}

// The remotes that a remote is made of come with it, each once, also where they name each other.
func TestSections(t *testing.T) {
	t.Setenv("RCLONE_CONFIG_INNER_TYPE", "local")
	t.Setenv("RCLONE_CONFIG_OTHER_TYPE", "local")
	t.Setenv("RCLONE_CONFIG_OTHER_NOUNC", "true")
	t.Setenv("RCLONE_CONFIG_BOTH_TYPE", "union")
	t.Setenv("RCLONE_CONFIG_BOTH_UPSTREAMS", "inner:a other:b both:c")
	t.Setenv("RCLONE_CONFIG_OUTER_TYPE", "crypt")
	t.Setenv("RCLONE_CONFIG_OUTER_REMOTE", "both:x")
	t.Setenv("RCLONE_CONFIG_OUTER_PASSWORD", "secret")
	got, err := Sections("outer:repo", Options{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range got {
		names = append(names, r.Name+" "+r.Type)
	}
	if want := []string{"outer crypt", "both union", "inner local", "other local"}; !slices.Equal(names, want) {
		t.Fatalf("%q, want %q", names, want)
	}
	if i := slices.IndexFunc(got[0].Options, func(o Option) bool { return o.Key == "password" }); i < 0 || !got[0].Options[i].Secret || got[0].Options[i].Value != "secret" {
		t.Errorf("outer: %+v", got[0])
	}
	if _, err := Sections("nowhere:x", Options{}); err == nil {
		t.Error("an unknown remote was not refused")
	}
	if !HasSecret(":sftp,host=h,pass=x:p") || HasSecret(":sftp,host=h:p") {
		t.Error("a connection string's secrets")
	}
}
