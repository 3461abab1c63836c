package rclone

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fserrors"
	"github.com/rclone/rclone/lib/pacer"
	"golang.org/x/oauth2"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// failed says what kind of error the backend's is. Backends have some fifty
// error types of their own, and none in common: besides rclone's sentinels, the
// HTTP status and the words are what there is to go by.
func (s *Storage) failed(op, name string, err error) error {
	e := &storage.Error{Op: op, Name: name, Err: plain(err), RetryAfter: retryAfter(err)}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return e
	}
	for _, kind := range []error{storage.ErrName, storage.ErrEmpty, storage.ErrShort, storage.ErrTooLarge, storage.ErrConfig} {
		if errors.Is(err, kind) {
			return e
		}
	}
	e.Kind = kindOf(op, err)
	switch e.Kind {
	case storage.ErrAuth:
		e.Hint = s.authHint(err)
	case storage.ErrQuota:
		e.Hint = "free space there, or raise the quota; wtsnap forget --prune frees what is no longer needed"
	case storage.ErrDenied:
		e.Hint = "the account needs to read, write, list and delete below " + redact(s.spec)
		if op == "delete" {
			e.Hint = "run it on a machine that may remove objects; the account of this one needs that right below " + redact(s.spec)
		}
	}
	return e
}

// worded is an error in fewer words.
type worded struct {
	text string
	err  error
}

func (w *worded) Error() string { return w.text }
func (w *worded) Unwrap() error { return w.err }

// noise is what only the backend's maker could use: the parameters of requests, numbers of requests, how often one was
// tried, and what leads up to the token that could not be had.
var noise = regexp.MustCompile(`(?:https response error |exceeded maximum number of attempts, \d+, |RequestID: [^,]*, |HostID: [^,]*, | \(null\))|` +
	`^.*(?:couldn't fetch token: )|\?[^\s"?]*=[^\s"?]*`)

// plain takes the noise out of what a backend says.
func plain(err error) error {
	text := err.Error()
	if short := noise.ReplaceAllString(text, ""); short != text {
		return &worded{short, err}
	}
	return err
}

func (s *Storage) authHint(err error) string {
	m := reconnect.FindStringSubmatch(err.Error())
	switch {
	case m != nil: // of a remote that this one wraps, perhaps
		return fmt.Sprintf("run: rclone config reconnect %s:", m[1])
	case s.remote == "":
		return "check the user name, the password or the key in the connection string"
	case s.cfg.value(s.remote, "token") != "":
		return fmt.Sprintf("run: rclone config reconnect %s:", s.remote)
	}
	return fmt.Sprintf("check the credentials of %s in %s", s.remote, s.cfg.path)
}

var reconnect = regexp.MustCompile(`rclone config reconnect ([^":\s]+):`)

func kindOf(op string, err error) error {
	text := strings.ToLower(err.Error())
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case isAuth(err, text):
		return storage.ErrAuth
	case op != "put" && notExist(err):
		return storage.ErrNotExist
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT),
		has("storage_limit_exceeded", "storagequotaexceeded", "storage quota", "quotaexceeded", "quotalimitreached",
			"quota exceeded", "insufficient_space", "insufficient storage", "not enough space", "no space left", "disk quota", "out of space"):
		return storage.ErrQuota
	case errors.Is(err, syscall.EROFS), has("read-only file system", "read only", "modify or delete files in --"): // the last: a view of old versions
		return storage.ErrReadOnly
	case has("ratelimitexceeded", "rate limit", "rate_limit", "too many requests", "slowdown", "slow down", "too_many_requests"):
		return storage.ErrThrottled
	}
	switch status(err, text) {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return storage.ErrAuth
	case http.StatusForbidden:
		return storage.ErrDenied
	case http.StatusTooManyRequests:
		return storage.ErrThrottled
	case http.StatusInsufficientStorage:
		return storage.ErrQuota
	}
	if errors.Is(err, fs.ErrorPermissionDenied) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) || has("permission denied") {
		return storage.ErrDenied
	}
	if errors.Is(err, fs.ErrorNotFoundInConfigFile) || has("knownhosts: key") { // of a host key that is unknown, or another one
		return storage.ErrConfig
	}
	return nil
}

// isAuth reports whether the credentials are at fault. rclone turns a refused
// token into words, of which some are always there.
func isAuth(err error, text string) bool {
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		if e.ErrorCode == "invalid_grant" || e.ErrorCode == "invalid_client" || e.ErrorCode == "unauthorized_client" {
			return true
		}
	}
	for _, words := range []string{
		"rclone config reconnect", "couldn't fetch token: invalid_", "couldn't fetch token: unauthorized_", "invalid_grant",
		"ssh: unable to authenticate", "couldn't connect to ssh-agent", "failed to parse private key", "failed to read private key",
		"530 login incorrect", "invalidaccesskeyid", "signaturedoesnotmatch", "expiredtoken",
		"logon failure", "invalidaccesstoken", "expired_access_token", "invalid_access_token",
	} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

func notExist(err error) bool {
	for _, e := range []error{fs.ErrorObjectNotFound, fs.ErrorDirNotFound, fs.ErrorIsDir, fs.ErrorNotAFile, syscall.ENOENT, syscall.ENOTDIR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return status(err, strings.ToLower(err.Error())) == http.StatusNotFound
}

var statusWords = regexp.MustCompile(`(?:http error|status code|statuscode|status|http response error)[:= ]*"?(\d{3})\b|\b(401 unauthorized|403 forbidden|404 not found|429 too many|507 insufficient)`)

// status finds the HTTP status in err: a method or a field where the error has
// one, else the words.
func status(err error, text string) int {
	for queue := []error{err}; len(queue) > 0; queue = queue[1:] {
		e := queue[0]
		if e == nil {
			continue
		}
		if m, ok := e.(interface{ HTTPStatusCode() int }); ok {
			return m.HTTPStatusCode()
		}
		if code := statusField(e); code != 0 {
			return code
		}
		switch u := e.(type) {
		case interface{ Unwrap() error }:
			queue = append(queue, u.Unwrap())
		case interface{ Unwrap() []error }:
			queue = append(queue, u.Unwrap()...)
		case interface{ Cause() error }:
			queue = append(queue, u.Cause())
		}
	}
	if m := statusWords.FindStringSubmatch(text); m != nil {
		code, _ := strconv.Atoi((m[1] + m[2])[:3])
		return code
	}
	return 0
}

func statusField(err error) int {
	v := reflect.ValueOf(err)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return 0
	}
	for _, name := range []string{"StatusCode", "HTTPStatusCode", "Status", "Code"} {
		f := v.FieldByName(name)
		if f.IsValid() && f.CanInt() && f.Int() >= 400 && f.Int() < 600 {
			return int(f.Int())
		}
	}
	return 0
}

func retryAfter(err error) time.Duration {
	if d, ok := pacer.IsRetryAfter(err); ok {
		return d
	}
	if t := fserrors.RetryAfterErrorTime(err); !t.IsZero() {
		return max(0, time.Until(t))
	}
	return 0
}

// redact leaves the values out of a connection string: they may be secrets.
func redact(spec string) string {
	head, options, ok := strings.Cut(spec, ",")
	if !ok {
		return spec
	}
	if i := strings.LastIndexByte(options, ':'); i >= 0 {
		return head + ",…" + options[i:]
	}
	return head + ",…"
}
