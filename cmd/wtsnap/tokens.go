package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/alert"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/doctor"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
)

// A placedToken is a token and a place that is reached by it.
type placedToken struct {
	storage.Token
	spec string
}

// placedTokens are the tokens of this repository's remote, and of the other repositories' of the configuration.
func (a *app) placedTokens() (out []placedToken) {
	for _, spec := range a.remotes() {
		list, err := rclone.Tokens(spec, rclone.Options{ConfigPath: a.g.rcloneConfig, Warn: a.warn, Log: a.rcloneLog})
		if err != nil {
			continue // opening it says so
		}
		for _, t := range list {
			if !slices.ContainsFunc(out, func(o placedToken) bool { return o.Remote == t.Remote }) {
				out = append(out, placedToken{t, spec})
			}
		}
	}
	return out
}

const (
	// renewAfter is how old a token may be that a run does not renew.
	renewAfter = 20 * time.Hour
	// renewLimit bounds the renewing of one.
	renewLimit = time.Minute
)

// keepTokens uses the remotes of the configuration that this run has not used, which renews their tokens, and says what is
// wrong with any of them. What the run itself has met is told as its failure.
func (a *app) keepTokens(ctx context.Context, j *config.Job, rep *job.Report, state *alert.State) (notices []alert.Notice) {
	place := func(name string) string {
		if name == "" {
			return a.g.repo
		}
		return one(a.config.Repositories[name], "repo")
	}
	own, told := place(j.Repository), map[string]bool{} // told: places whose credentials a step has failed with
	for _, s := range rep.Steps {
		if _, where := config.SplitStep(s.Name); s.Exit == exitCredentials {
			told[place(cmpOr(where, j.Repository))] = true
		}
	}
	refused := map[string]error{}
	for _, t := range a.placedTokens() {
		if t.spec == own || told[t.spec] || !t.Renews || !t.Issued.IsZero() && a.now().Sub(t.Issued) < renewAfter {
			continue
		}
		if err := a.renew(ctx, t.spec); errors.Is(err, storage.ErrAuth) {
			refused[t.Remote] = err
		} else if err != nil {
			a.warn(fmt.Sprintf("renewing the token of %s: %v", t.Remote, err))
		}
	}
	state.Figures.Tokens = nil
	for _, t := range a.placedTokens() {
		state.Figures.Tokens = append(state.Figures.Tokens, alert.TokenFigures{Remote: t.Remote, Dies: t.Dies()})
		if told[t.spec] {
			continue
		}
		if n, ok := tokenNotice(&t.Token, refused[t.Remote], a.now()); ok {
			notices = append(notices, n)
			rep.Notices = append(rep.Notices, n.Text)
		}
	}
	return notices
}

// tokenNotice says what is wrong with a token: that it was refused, that it cannot be stored when it is renewed, or how soon
// it ends, which is another trouble at each of the days before its end that storage.TokenStages names.
func tokenNotice(t *storage.Token, refused error, now time.Time) (alert.Notice, bool) {
	n := alert.Notice{Topic: "token " + t.Remote, Title: "the credentials of " + t.Remote + " end soon"}
	stage := t.Stage(now)
	switch {
	case refused != nil:
		n.Cause, n.Title = "refused", "the credentials of "+t.Remote+" are refused"
		n.Text = "using " + t.Remote + ": " + message(refused) + "\ntry: " + hint(refused)
	case t.Problem != "":
		n.Cause, n.Title = "problem", "the credentials of "+t.Remote+" are of no use"
		n.Text = "the token of " + t.Remote + ": " + t.Problem + "\ntry: rclone config reconnect " + t.Remote + ":"
	case stage == 0:
		n.Cause, n.Title = "dead", "the credentials of "+t.Remote+" have ended"
		n.Text = doctor.TokenText(t, now) + "\ntry: rclone config reconnect " + t.Remote + ":"
	case stage > 0:
		n.Cause = fmt.Sprintf("%d days", stage)
		n.Text = fmt.Sprintf("%s (within %d days)\ntry: %s", doctor.TokenText(t, now), stage, doctor.TokenHint(t))
	case t.Renews && !t.Stored:
		n.Cause, n.Title = "not stored", "the credentials of "+t.Remote+" cannot be renewed"
		n.Text = "the token of " + t.Remote + " cannot be stored in " + t.Path + " when it is renewed\ntry: make the file writable for whoever runs wtsnap"
	default:
		return n, false
	}
	return n, true
}

// renew uses a remote, by which rclone renews and stores its token if the short-lived one is over.
func (a *app) renew(ctx context.Context, spec string) error {
	ctx, cancel := context.WithTimeout(ctx, renewLimit)
	defer cancel()
	st, err := rclone.Open(ctx, spec, rclone.Options{ConfigPath: a.g.rcloneConfig, Warn: a.warn, Log: a.rcloneLog})
	if err != nil {
		return err
	}
	_, err = st.Stat(ctx, "config")
	closing, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	_ = st.Close(closing)
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}

// one is the value of a key that has one.
func one(v config.Values, key string) string {
	if len(v[key]) == 0 {
		return ""
	}
	return v[key][0]
}
