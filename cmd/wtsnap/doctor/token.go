package doctor

import (
	"fmt"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Tokens examines the credentials that end. worked says that they were just used.
func Tokens(tokens []storage.Token, worked bool, now time.Time) (out Findings) {
	for i := range tokens {
		t := &tokens[i]
		of := "the token of " + t.Remote
		reconnect := "run: rclone config reconnect " + t.Remote + ":"
		switch stage := t.Stage(now); {
		case t.Problem != "":
			out.Problem(Token, ExitCredentials, of+" in "+t.Path+": "+t.Problem, reconnect)
			continue
		case stage == 0 && !worked:
			out.Problem(Token, ExitCredentials, of+" died "+date(t.Dies()), reconnect)
		case stage > 0:
			out.Problem(Token, ExitCredentials, TokenText(t, now), TokenHint(t))
		default:
			out.Add(Token, OK, TokenText(t, now), "")
		}
		if !t.Stored {
			text, hint := of+" cannot be stored in "+t.Path+" when it is renewed", "make the file writable for whoever runs wtsnap"
			if t.Once {
				out.Problem(Token, ExitCredentials, text+": "+kindName(t)+" takes each one only once, so the run after that is refused", hint)
			} else if t.Renews {
				out.Add(Token, Warning, text, hint)
			}
		}
		if t.Once {
			out.Add(Token, Note, kindName(t)+" takes a refresh token only once: a copy of "+t.Path+" on another machine ends this one",
				"give each machine a remote of its own: rclone config")
		}
	}
	return out
}

func kindName(t *storage.Token) string {
	if t.Kind == "box" {
		return "Box"
	}
	return t.Kind
}

func date(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }

// TokenText says in a line what can be known of a token.
func TokenText(t *storage.Token, now time.Time) string {
	text := "the token of " + t.Remote
	if t.Renews && !t.Issued.IsZero() {
		text += " was renewed about " + Ago(now.Sub(t.Issued)) + " ago"
	}
	dies := t.Dies()
	switch {
	case !t.Renews && dies.IsZero():
		return text + " cannot be renewed, and does not say when it ends"
	case !t.Renews:
		return text + " cannot be renewed, and ends " + date(dies)
	case dies.IsZero():
		return text + "; how long it lives unused, its provider does not say"
	}
	return text + "; unused, it dies " + date(dies)
}

// TokenHint says what to do about a token that ends soon.
func TokenHint(t *storage.Token) string {
	if !t.Renews {
		return "run: rclone config reconnect " + t.Remote + ":"
	}
	return "any command that uses " + t.Remote + " renews it; if this comes again, run: rclone config reconnect " + t.Remote + ":"
}

// Ago is a duration for people who compare days.
func Ago(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return "a minute"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
