package storage

import "time"

// A Token is what can be known of a credential that ends, without the credential itself.
//
// What a provider does not tell is not made up: a zero time, or a zero duration, is unknown.
type Token struct {
	Remote  string        // the name of the remote that it belongs to
	Kind    string        // of the remote, such as "box"
	Issued  time.Time     // about when it was last renewed
	Expiry  time.Time     // of the short-lived half, by which requests are made
	Renews  bool          // there is a long-lived half, from which the short-lived one is made anew
	Once    bool          // the long-lived half is good for one use, which brings the next one: it may be kept in one place only
	Unused  time.Duration // the long-lived half dies when it was not used for so long
	Path    string        // the file that holds it
	Stored  bool          // a renewed one can be written there
	Problem string        // why it cannot be understood, or ""
}

// Dies returns when the token is of no use any more unless it is used before, or the zero time where that cannot be known.
func (t *Token) Dies() time.Time {
	switch {
	case !t.Renews:
		return t.Expiry
	case t.Unused > 0 && !t.Issued.IsZero():
		return t.Issued.Add(t.Unused)
	}
	return time.Time{}
}

// TokenStages are how many days before its end a token is warned of, the first warning first.
var TokenStages = []int{14, 7, 2}

// Stage returns the last of TokenStages that has been reached, 0 where the token is dead, and -1 where there is no reason
// to warn.
func (t *Token) Stage(now time.Time) int {
	dies := t.Dies()
	if dies.IsZero() {
		return -1
	}
	left := dies.Sub(now)
	if left <= 0 {
		return 0
	}
	stage := -1
	for _, days := range TokenStages {
		if left <= time.Duration(days)*24*time.Hour {
			stage = days
		}
	}
	return stage
}
