package repo

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
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
	for _, p := range []KDFParams{weak, {Time: 65, Memory: 64 << 10, Threads: 4}, {Time: 3, Memory: 2 << 20, Threads: 4}} {
		if p.Check() == nil {
			t.Errorf("%+v is taken", p)
		}
	}
}

// hostileKey stores a key object that anybody who can write to the storage can make.
func hostileKey(t *testing.T, m *mem.Storage, repository, id string, p KDFParams) string {
	t.Helper()
	k := keyObject{Version: 1, ID: id, Repository: repository, KDF: kdfArgon2id, Time: p.Time, Memory: p.Memory, Threads: p.Threads,
		Salt: make([]byte, 32), Sealed: make([]byte, 200)}
	must[any](t)(m.Put(t.Context(), keysDir+id, must[[]byte](t)(json.Marshal(k))))
	return keysDir + id
}

// Key objects that somebody adds to the storage cost a right password nothing, and a wrong one no more than is allowed.
func TestHostileKeys(t *testing.T) {
	m := mem.New()
	pass := []byte("a password")
	r := must[*Repository](t)(Init(t.Context(), m, InitOptions{Password: pass}))
	// They come first by their names. All of them would take hours.
	dear := KDFParams{Time: maxKDFTime, Memory: maxKDFMemory, Threads: 1}
	for i := range 200 {
		hostileKey(t, m, r.ID(), fmt.Sprintf("%032x", i), dear)
	}
	must[any](t)(m.Put(t.Context(), keysDir+hex.EncodeToString(make([]byte, 15)), make([]byte, maxKeyObject+1)))
	over := hostileKey(t, m, r.ID(), fmt.Sprintf("%032x", 1000), KDFParams{Time: 1, Memory: maxKDFMemory + 1, Threads: 1})
	must[*Repository](t)(Open(t.Context(), m, OpenOptions{Password: pass}))

	trial := keyTrial{repository: r.ID(), password: []byte("a wrong one"), spent: maxKDFSpent}
	k, s, err := trial.find(t.Context(), m, must[[]storage.Info](t)(keyObjects(t.Context(), m)))
	if k != nil || s != nil || err != nil || trial.tried != 0 || !isDamage(trial.damaged) {
		t.Errorf("a wrong password when enough was tried: %v, %v, %d tried, %v", k, err, trial.tried, trial.damaged)
	}
	if d, _ := errors.AsType[*DamageError](trial.damaged); d == nil || d.Object == "" || d.Hint != foreignKeysHint && d.Object != over {
		t.Errorf("the error says %+v", d)
	}
}

// What is derived in vain counts, and ends the search by an error that names a key object.
func TestHostileKeysAreCounted(t *testing.T) {
	m := mem.New()
	r := must[*Repository](t)(Init(t.Context(), m, InitOptions{Password: []byte("a password"), KDF: KDFParams{Time: 1, Memory: 64, Threads: 1}}))
	p := KDFParams{Time: 2, Memory: 64, Threads: 1}
	first := hostileKey(t, m, r.ID(), fmt.Sprintf("%032x", 1), p)
	hostileKey(t, m, r.ID(), fmt.Sprintf("%032x", 2), p)
	objects := must[[]storage.Info](t)(keyObjects(t.Context(), m))
	trial := keyTrial{repository: r.ID(), password: []byte("wrong")}
	k, _, err := trial.find(t.Context(), m, objects)
	if k != nil || err != nil || trial.damaged != nil || trial.tried != 3 || trial.spent != 64*(2+2+1) {
		t.Errorf("%v, %v, %+v", k, err, trial)
	}
	trial = keyTrial{repository: r.ID(), password: []byte("wrong"), spent: maxKDFSpent - 1}
	if _, _, err := trial.find(t.Context(), m, objects); err != nil || trial.tried != 1 || !isDamage(trial.damaged, DamageDecode) {
		t.Errorf("%v, %+v, first %s", err, trial, first)
	}
	if _, err := Open(t.Context(), m, OpenOptions{Password: []byte("wrong")}); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("within what is tried: %v", err)
	}
	// Key objects without end: those that are read are bounded, and so is the password's chance.
	for i := range maxKeyTries {
		hostileKey(t, m, r.ID(), fmt.Sprintf("%032x", i), KDFParams{})
	}
	_, err = Open(t.Context(), m, OpenOptions{Password: []byte("wrong")})
	if d, ok := errors.AsType[*DamageError](err); !ok || d.Hint == "" {
		t.Errorf("%d key objects: %v", maxKeyTries+1, err)
	}
}
