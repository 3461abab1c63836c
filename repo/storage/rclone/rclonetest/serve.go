// Package rclonetest starts rclone's own servers in this process, over loopback, for tests and benchmarks.
package rclonetest

import (
	"context"
	"fmt"
	"strings"

	_ "github.com/rclone/rclone/backend/local"
	_ "github.com/rclone/rclone/cmd/serve/s3"
	_ "github.com/rclone/rclone/cmd/serve/sftp"
	_ "github.com/rclone/rclone/cmd/serve/webdav"
	"github.com/rclone/rclone/fs/config/obscure"
	"github.com/rclone/rclone/fs/rc"
)

// What the servers take for credentials.
const (
	AccessKey = "ACCESS"
	SecretKey = "SECRET"
	User      = "u"
	Password  = "p"
)

// Kind is a protocol.
type Kind string

// The protocols.
const (
	S3     Kind = "s3" // the folders in the served one are the buckets
	WebDAV Kind = "webdav"
	SFTP   Kind = "sftp"
)

// A Server is one that runs.
type Server struct {
	Addr string // host:port
	id   string
}

// Start serves the folder dir.
func Start(ctx context.Context, kind Kind, dir string) (*Server, error) {
	in := rc.Params{"type": string(kind), "fs": dir, "addr": "127.0.0.1:0"}
	switch kind {
	case S3:
		in["auth_key"] = []string{AccessKey + "," + SecretKey}
	case SFTP:
		in["user"], in["pass"], in["authorized_keys"] = User, Password, ""
	}
	start := rc.Calls.Get("serve/start")
	if start == nil {
		return nil, fmt.Errorf("rclone has no serve/start")
	}
	out, err := start.Fn(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", kind, err)
	}
	s := &Server{}
	if s.id, err = out.GetString("id"); err != nil {
		return nil, err
	}
	s.Addr, err = out.GetString("addr")
	return s, err
}

// Stop ends the server.
func (s *Server) Stop() error {
	_, err := rc.Calls.Get("serve/stop").Fn(context.Background(), rc.Params{"id": s.id})
	return err
}

// Spec is the connection string of the repository "repo" on a server of the kind at addr; with S3 in the bucket "bucket".
func Spec(kind Kind, addr string) string {
	switch kind {
	case S3:
		return fmt.Sprintf(`:s3,provider=Rclone,access_key_id=%s,secret_access_key=%s,endpoint="http://%s":bucket/repo`, AccessKey, SecretKey, addr)
	case SFTP:
		host, port, _ := strings.Cut(addr, ":")
		return fmt.Sprintf(":sftp,host=%s,port=%s,user=%s,pass=%s,shell_type=none:repo", host, port, User, obscure.MustObscure(Password))
	}
	return fmt.Sprintf(`:webdav,vendor=other,url="http://%s":repo`, addr)
}
