package repo

import (
	"errors"
	"testing"
)

// A password that was derived with little is shown as weak, grows when it is changed or upgraded, and never shrinks.
func TestDerivationGrows(t *testing.T) {
	tr := newRepo(t)
	weak := KDFParams{Time: 1, Memory: 64, Threads: 1}
	must[KeyInfo](t)(tr.open(tr.st).AddKey(t.Context(), []byte("old"), weak, "an old one"))
	open := func(password string) (*Repository, KeyInfo) {
		t.Helper()
		r := must[*Repository](t)(Open(t.Context(), tr.st, OpenOptions{Password: []byte(password)}))
		for _, k := range must[[]KeyInfo](t)(r.Keys(t.Context())) {
			if k.Current {
				return r, k
			}
		}
		t.Fatal("no current key")
		return nil, KeyInfo{}
	}
	_, k := open("old")
	if k.KDF != weak || !k.Weak() || k.KeyFile {
		t.Errorf("the weak one: %+v", k)
	}
	r, err := Open(t.Context(), tr.st, OpenOptions{Password: tr.pass})
	must0(t, err)
	for _, k := range must[[]KeyInfo](t)(r.Keys(t.Context())) {
		if k.Current != k.KeyFile || k.Current == k.Weak() {
			t.Errorf("as another password sees it: %+v", k)
		}
	}
	r, _ = open("old")
	must[KeyInfo](t)(r.UpgradeKey(t.Context(), []byte("old"), KDFParams{}))
	r, k = open("old")
	if k.KDF != DefaultKDF() || k.Weak() || k.Label != "an old one" {
		t.Errorf("upgraded: %+v", k)
	}
	strong := KDFParams{Time: 4, Memory: 64 << 10, Threads: 4}
	must0(t, strong.Check())
	must[KeyInfo](t)(r.ChangeKey(t.Context(), []byte("new"), strong))
	r, _ = open("new")
	must[KeyInfo](t)(r.ChangeKey(t.Context(), []byte("newer"), KDFParams{}))
	if _, k = open("newer"); k.KDF != strong {
		t.Errorf("a change made it weaker: %+v", k)
	}
	if _, err := Open(t.Context(), tr.st, OpenOptions{Password: []byte("new")}); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("the password before: %v", err)
	}
	for _, p := range []KDFParams{weak, {Time: 65, Memory: 64 << 10, Threads: 4}, {Time: 3, Memory: 5 << 20, Threads: 4}} {
		if p.Check() == nil {
			t.Errorf("%+v is taken", p)
		}
	}
}
