package rclone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fserrors"
	"github.com/rclone/rclone/lib/pacer"
	"golang.org/x/oauth2"

	"github.com/whole-tale/wtsnap/repo/storage"
)

func TestDeafCallIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := []byte("the caller's bytes")
		up := newUpload(data)
		dst := make([]byte, 0, 100)
		down := newDownload(dst)
		late := make(chan error, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		release := make(chan struct{})
		start := time.Now()
		err := (&Storage{}).guard(ctx, func(context.Context) error {
			in := up.reader(context.Background())
			<-release // as a protocol library would that knows no context
			_, err := io.ReadAll(in)
			late <- err
			late <- down.fill(context.Background(), strings.NewReader("late"), 4)
			return nil
		})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute+grace {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		up.revoke()
		down.revoke()
		close(release)
		for range 2 {
			if err := <-late; !errors.Is(err, errRevoked) {
				t.Errorf("the abandoned call got at the caller's memory: %v", err)
			}
		}
		if got := string(dst[:4]); got != "\x00\x00\x00\x00" {
			t.Errorf("the caller's buffer holds %q", got)
		}
	})
}

func TestPanicOfABackendIsAnError(t *testing.T) {
	err := (&Storage{}).guard(t.Context(), func(context.Context) error { panic("odd") })
	if err == nil || !strings.Contains(err.Error(), "odd") {
		t.Error(err)
	}
}

func TestDownloadChecksTheLength(t *testing.T) {
	for _, c := range []struct {
		body string
		n    int64
		ok   bool
	}{{"12345", 5, true}, {"1234", 5, false}, {"123456", 5, false}, {"", 1, false}} {
		d := newDownload(nil)
		err := d.fill(t.Context(), strings.NewReader(c.body), c.n)
		if (err == nil) != c.ok {
			t.Errorf("%d bytes of %q: %v", c.n, c.body, err)
		}
		if c.ok && string(d.bytes()) != c.body {
			t.Errorf("%q came out as %q", c.body, d.bytes())
		}
	}
}

func TestLRUForgetsTheOldest(t *testing.T) {
	l := newLRU(10)
	for i := range 100 {
		l.put(fmt.Sprint(i), nil)
		l.get("0")
	}
	if len(l.m) > 10 {
		t.Errorf("%d entries", len(l.m))
	}
	for name, want := range map[string]bool{"0": true, "1": false, "99": true} {
		if _, ok := l.get(name); ok != want {
			t.Errorf("%s known: %v", name, ok)
		}
	}
}

// statusError is like the error types of many backends.
type statusError struct {
	StatusCode int
	text       string
}

func (e *statusError) Error() string { return e.text }

// codeError is like Google's.
type codeError struct {
	Code int
	text string
}

func (e codeError) Error() string { return e.text }

func TestKinds(t *testing.T) {
	token := func(err error) error {
		return &url.Error{Op: "Get", URL: "https://api.box.com/2.0/folders/0", Err: fmt.Errorf("couldn't fetch token: %w", err)}
	}
	for _, c := range []struct {
		err  error
		want error
	}{
		{errors.New("connection reset by peer"), nil},
		{io.ErrUnexpectedEOF, nil},
		{&statusError{500, "internal"}, nil},
		{&statusError{503, "unavailable"}, nil},
		{fs.ErrorObjectNotFound, storage.ErrNotExist},
		{fmt.Errorf("stat: %w", fs.ErrorDirNotFound), storage.ErrNotExist},
		{fs.ErrorIsDir, storage.ErrNotExist},
		{&statusError{404, "gone"}, storage.ErrNotExist},
		{&statusError{401, "who are you"}, storage.ErrAuth},
		{token(errors.New(`invalid_grant: maybe token expired? - try refreshing with "rclone config reconnect box:"`)), storage.ErrAuth},
		{token(errors.New("invalid_client: if you're using your own client id/secret, make sure they're properly set up")), storage.ErrAuth},
		{token(&oauth2.RetrieveError{ErrorCode: "invalid_grant"}), storage.ErrAuth},
		{token(errors.New("dial tcp: lookup api.box.com: no such host")), nil},
		{errors.New(`empty token found - please run "rclone config reconnect box:"`), storage.ErrAuth},
		{errors.New("ssh: handshake failed: ssh: unable to authenticate, attempted methods [none password]"), storage.ErrAuth},
		{errors.New("couldn't connect to ssh-agent: SSH agent requested but SSH_AUTH_SOCK not-specified"), storage.ErrAuth},
		{errors.New("ssh: handshake failed: knownhosts: key mismatch"), storage.ErrConfig},
		{&statusError{403, "api error SignatureDoesNotMatch"}, storage.ErrAuth},
		{&statusError{403, "api error AccessDenied"}, storage.ErrDenied},
		{&statusError{403, `Error "storage_limit_exceeded" (403)`}, storage.ErrQuota},
		{codeError{403, "googleapi: Error 403: The user's Drive storage quota has been exceeded., storageQuotaExceeded"}, storage.ErrQuota},
		{codeError{403, "googleapi: Error 403: User Rate Limit Exceeded, userRateLimitExceeded"}, storage.ErrThrottled},
		{codeError{403, "googleapi: Error 403: Insufficient permissions"}, storage.ErrDenied},
		{&statusError{507, ""}, storage.ErrQuota},
		{&statusError{429, ""}, storage.ErrThrottled},
		{errors.New("HTTP error 429 (429 Too Many Requests) returned body: ..."), storage.ErrThrottled},
		{errors.New("https response error StatusCode: 403, RequestID: 1"), storage.ErrDenied},
		{fserrors.RetryError(&statusError{429, ""}), storage.ErrThrottled},
		{fmt.Errorf("write: %w", syscall.ENOSPC), storage.ErrQuota},
		{fmt.Errorf("open: %w", syscall.EROFS), storage.ErrReadOnly},
		{errors.New("can't modify or delete files in --s3-version-at mode"), storage.ErrReadOnly},
		{fmt.Errorf("open: %w", syscall.EACCES), storage.ErrDenied},
		{errors.New("sftp: \"Permission denied\" (SSH_FX_PERMISSION_DENIED)"), storage.ErrDenied},
	} {
		if got := kindOf("get", c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if got := kindOf("put", fs.ErrorDirNotFound); got != nil {
		t.Errorf("a put into a missing folder: %v, want another try", got)
	}
}

func TestRetryAfterIsFound(t *testing.T) {
	if got := retryAfter(fmt.Errorf("put: %w", pacer.RetryAfterError(errors.New("busy"), 7*time.Second))); got != 7*time.Second {
		t.Errorf("%v, want 7s", got)
	}
	if got := retryAfter(fserrors.NewErrorRetryAfter(time.Hour)); got < 59*time.Minute || got > time.Hour {
		t.Errorf("%v, want an hour", got)
	}
	if got := retryAfter(errors.New("busy")); got != 0 {
		t.Errorf("%v, want none", got)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"box:a/b":                  "box:a/b",
		":sftp,host=h,pass=p:repo": ":sftp,…:repo",
		`:s3,secret="a:b":bucket`:  ":s3,…:bucket",
		":s3,secret=unterminated":  ":s3,…",
	} {
		if got := redact(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
