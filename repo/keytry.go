package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Whoever can write to the storage can add key objects, of any parameters: they are not authenticated before the password
// is derived. So keys that cost little are tried as they are read, the others after them, the cheapest first: a password
// opens its own key before those that cost more. What is tried in vain is bounded.
const (
	maxKeyObject = 64 << 10 // bytes; a real one has less than a thousand
	maxKeyTries  = 1000     // objects that are read
	// maxKDFSpent is how much is derived in vain before no other key is tried, in passes over one KiB: as much as the
	// dearest derivation that there is, or 340 default ones. That takes minutes, not hours; by the machine.
	maxKDFSpent = maxKDFTime * maxKDFMemory
)

// keyTrial looks for the key object that a password opens.
type keyTrial struct {
	repository string // the config's id; empty where each key object says itself what it is of
	password   []byte

	spent   uint64 // in vain, in passes over one KiB
	tried   int    // derivations in vain
	bad     int    // key objects that are damaged
	damaged error  // the last of them
	dear    []*keyObject
}

// cost is what the derivation takes, in passes over one KiB.
func (k *keyObject) cost() uint64 {
	if k.KDF == kdfKeyFile {
		return 0
	}
	return uint64(k.Time) * uint64(k.Memory)
}

// find returns the key object that the password opens and what is in it, or nil. An error is the storage's.
func (t *keyTrial) find(ctx context.Context, st storage.Storage, objects []storage.Info) (*keyObject, *sealedKey, error) {
	d := DefaultKDF()
	cheap := uint64(d.Time) * uint64(d.Memory)
	for i, o := range objects {
		if i == maxKeyTries {
			t.damage(&DamageError{Kind: DamageDecode, Object: o.Name, Hint: foreignKeysHint,
				Detail: fmt.Sprintf("was not tried: there are %d key objects, %d at most are read", len(objects), maxKeyTries)})
			break
		}
		k, err := t.read(ctx, st, o)
		switch {
		case errors.Is(err, storage.ErrNotExist): // removed meanwhile
		case err != nil && !isDamaged(err):
			return nil, nil, err
		case err != nil:
			t.damage(err)
		case k.KDF == kdfArgon2id && k.cost() > cheap:
			t.dear = append(t.dear, k)
		default:
			if s := t.open(k); s != nil {
				return k, s, nil
			}
		}
	}
	slices.SortStableFunc(t.dear, func(a, b *keyObject) int { return cmp.Compare(a.cost(), b.cost()) })
	for _, k := range t.dear {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if s := t.open(k); s != nil {
			return k, s, nil
		}
	}
	return nil, nil, nil
}

func (t *keyTrial) read(ctx context.Context, st storage.Storage, o storage.Info) (*keyObject, error) {
	if o.Size > maxKeyObject {
		return nil, &DamageError{Kind: DamageSize, Object: o.Name, Detail: fmt.Sprintf("has %d bytes, a key object has %d at most", o.Size, maxKeyObject)}
	}
	data, err := st.Get(ctx, o.Name, 0, -1, nil)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", o.Name, err)
	}
	return decodeKeyObject(t.repository, o.Name, data)
}

// open returns what is in a key object, nil where the password does not open it.
func (t *keyTrial) open(k *keyObject) *sealedKey {
	cost := k.cost()
	if isKeyFile(t.password) {
		cost = 0 // no password key is derived from it
	}
	if cost > 0 && t.spent >= maxKDFSpent {
		t.damage(&DamageError{Kind: DamageDecode, Object: keysDir + k.ID, Hint: foreignKeysHint,
			Detail: fmt.Sprintf("was not tried, after %d others that the password does not open and that took too long together", t.tried)})
		return nil
	}
	s, err := k.open(t.password)
	switch {
	case err == nil:
		return s
	case errors.Is(err, ErrWrongPassword):
		t.spent += cost
		t.tried++
	default:
		t.damage(err)
	}
	return nil
}

// damage notes a key object that can't be tried; another one may open.
func (t *keyTrial) damage(err error) {
	t.damaged = err
	t.bad++
}

// foreignKeysHint says what to do where key objects are too many.
const foreignKeysHint = "somebody who can write to the storage may have added them: look at keys/ with the storage's own means, move those away " +
	"that you don't know; your own one is in any copy of the folder"

func isDamaged(err error) bool {
	_, ok := errors.AsType[*DamageError](err)
	return ok
}

// anyKey reports whether one of the first key objects can be read, or that is not to be found out.
func anyKey(ctx context.Context, st storage.Storage) bool {
	const some = 8
	objects, err := keyObjects(ctx, st)
	if err != nil {
		return true
	}
	trial := keyTrial{}
	for _, o := range objects[:min(some, len(objects))] {
		if _, err := trial.read(ctx, st, o); err == nil || !isDamaged(err) {
			return true
		}
	}
	return false
}
