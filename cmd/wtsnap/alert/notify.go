package alert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
)

const (
	// sendLimit bounds one attempt to tell somebody.
	sendLimit = 30 * time.Second
	// pingBody bounds what a ping carries of the log, in bytes; healthchecks.io keeps 100 kB.
	pingBody = 64 << 10
)

// A Teller delivers messages. The zero Teller waits between attempts as the default has it.
type Teller struct {
	Waits []time.Duration // before each attempt; nil = four attempts within 42 seconds
}

func (t Teller) waits() []time.Duration {
	if t.Waits == nil {
		return []time.Duration{0, 2 * time.Second, 10 * time.Second, 30 * time.Second}
	}
	return t.Waits
}

// notify sends a message through the notifier library, of which not every service has titles. Its errors quote the URL, which holds passwords: they are
// stripped of it.
func (t Teller) notify(ctx context.Context, secret *config.Secret, m *Message) error {
	text, err := secret.Read(ctx)
	if err != nil {
		return err
	}
	hide := func(err error) error { return errors.New(hidden(err.Error(), text)) }
	sender, err := shoutrrr.NewSender(log.New(io.Discard, "", 0), text)
	if err != nil {
		return hide(err)
	}
	return t.retried(ctx, func(ctx context.Context) error {
		params := types.Params{}
		params.SetTitle(m.Title)
		done := make(chan error, 1)
		go func() { done <- errors.Join(sender.Send(m.Title+"\n\n"+m.Text, &params)...) }()
		select {
		case err := <-done:
			if err != nil {
				return hide(err)
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// hidden is a text without the secret parts of a URL.
func hidden(text, secret string) string {
	parts := []string{secret}
	if u, err := url.Parse(secret); err == nil {
		parts = append(parts, u.String(), strings.TrimPrefix(u.String(), u.Scheme+"://"), u.User.String(), u.RawQuery)
		if p, ok := u.User.Password(); ok {
			parts = append(parts, p)
		}
		for _, p := range strings.Split(u.Path, "/") {
			if len(p) >= 8 { // a token; a short word such as api is none
				parts = append(parts, p)
			}
		}
	}
	for _, p := range parts {
		if p != "" {
			text = strings.ReplaceAll(text, p, "***")
			text = strings.ReplaceAll(text, strings.Trim(strconv.Quote(p), `"`), "***")
		}
	}
	return text
}

// retried tries several times.
func (t Teller) retried(ctx context.Context, do func(context.Context) error) error {
	var err error
	for _, wait := range t.waits() {
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return errors.Join(err, context.Cause(ctx))
			}
		}
		try, cancel := context.WithTimeoutCause(ctx, sendLimit, fmt.Errorf("no answer within %s", sendLimit))
		err = do(try)
		cancel()
		var permanent *permanentError
		if err == nil || errors.As(err, &permanent) {
			return err
		}
	}
	return err
}

// A permanentError is not worth another attempt.
type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// A PingKind is what a ping says.
type PingKind string

// The kinds, as what healthchecks.io appends to the check's URL.
const (
	PingStart   PingKind = "/start"
	PingSuccess PingKind = ""
	PingFailure PingKind = "/fail"
)

// Ping tells a monitor of healthchecks' kind that a job begins, is done, or failed, with the end of its log.
func (t Teller) Ping(ctx context.Context, secret *config.Secret, kind PingKind, text string) error {
	base, err := secret.Read(ctx)
	if err != nil {
		return err
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("it is no URL of a ping: http:// or https://")
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + string(kind)
	if len(text) > pingBody {
		text = text[len(text)-pingBody:]
	}
	return t.retried(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader([]byte(text)))
		if err != nil {
			return &permanentError{errors.New(hidden(err.Error(), base))}
		}
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
		req.Header.Set("User-Agent", "wtsnap")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return errors.New(hidden(err.Error(), base))
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) // so that the connection can be used again
		if resp.StatusCode/100 != 2 {
			err := fmt.Errorf("the monitor answered %s", resp.Status)
			if resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests {
				return &permanentError{err}
			}
			return err
		}
		return nil
	})
}
