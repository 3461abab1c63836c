package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// FormatVersion is the repository format that this program writes; it reads all up to it.
const FormatVersion = 1

const (
	configName = "config"
	keysDir    = "keys/"
)

// config is the only object that is not sealed: what must be known before the password.
type config struct {
	Format int       `json:"format"`
	ID     string    `json:"id"` // 32 hex digits, random; bound into every key object
	Made   time.Time `json:"created"`
}

// KDFParams are the parameters of argon2id (RFC 9106). The zero value means DefaultKDF.
type KDFParams struct {
	Time    uint32 // passes
	Memory  uint32 // KiB
	Threads uint8
}

// DefaultKDF is the second recommended option of RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes. Where a later version
// raises it, passwords are derived so from when they are changed or upgraded on.
func DefaultKDF() KDFParams { return KDFParams{Time: 3, Memory: 64 << 10, Threads: 4} }

// grown returns the parameters to derive a password with, where it is not said: today's, and no weaker than k's.
func (k *KDFParams) grown() KDFParams {
	d := DefaultKDF()
	return KDFParams{Time: max(d.Time, k.Time), Memory: max(d.Memory, k.Memory), Threads: max(d.Threads, k.Threads)}
}

// Check returns nil where parameters are within what every reader takes, and not weaker than today's.
func (k *KDFParams) Check() error {
	d := DefaultKDF()
	switch {
	case k.Time > maxKDFTime || k.Memory > maxKDFMemory:
		return fmt.Errorf("a derivation with %d passes over %d MiB is too slow: at most %d passes, %d MiB", k.Time, k.Memory>>10, maxKDFTime, maxKDFMemory>>10)
	case k.Time < d.Time || k.Memory < d.Memory || k.Threads < d.Threads:
		return fmt.Errorf("a derivation with %d passes over %d MiB is too weak: at least %d passes, %d MiB", k.Time, k.Memory>>10, d.Time, d.Memory>>10)
	}
	return nil
}

// Bounds of what a key object may ask for, so that a hostile one can't exhaust the machine.
const (
	maxKDFTime   = 64
	maxKDFMemory = 1 << 20 // KiB
)

// keyPrefix starts the content of a key file made by NewKeyFile. Such a password has 256 random bits
// and needs no slow derivation.
const keyPrefix = "wtsnap-key-1:"

// NewKeyFile returns the content of a key file: a password that no one can guess, and that opens the
// repository without the cost of a slow key derivation.
func NewKeyFile() ([]byte, error) {
	var key [keySize]byte
	if _, err := io.ReadFull(rand.Reader, key[:]); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	return []byte(keyPrefix + hex.EncodeToString(key[:])), nil
}

// isKeyFile reports whether password is the content of a key file.
func isKeyFile(password []byte) bool {
	rest, ok := strings.CutPrefix(string(password), keyPrefix)
	if !ok || len(rest) != 2*keySize {
		return false
	}
	_, err := hex.DecodeString(rest)
	return err == nil
}

// keyObject is the content of keys/ID, JSON: the master key, sealed by a key that comes from a
// password.
type keyObject struct {
	Version int `json:"version"`
	// ID is the object's name: keys that were swapped are noticed without their passwords. Repository is
	// config.ID: a config that is lost can be made again.
	ID         string    `json:"id"`
	Repository string    `json:"repository"`
	KDF        string    `json:"kdf"` // "argon2id", or "blake3" for a key file
	Time       uint32    `json:"time,omitempty"`
	Memory     uint32    `json:"memory_kib,omitempty"`
	Threads    uint8     `json:"threads,omitempty"`
	Salt       []byte    `json:"salt"`
	Sealed     []byte    `json:"sealed"` // nonce, then master key and KeyInfo as JSON
	Made       time.Time `json:"created"`
	// Check is keyed BLAKE3-256 of ad and Sealed, under a key from the master key: whoever has the repository
	// open can tell whether the keys of other passwords are whole.
	Check []byte `json:"check"`
}

// KeyInfo describes a key object; all but ID is sealed in it.
type KeyInfo struct {
	ID      string    `json:"id"` // 32 hex digits, the object's name
	Label   string    `json:"label"`
	Host    string    `json:"host"`
	User    string    `json:"user"`
	Created time.Time `json:"created"`
	Current bool      `json:"current"` // it opened this repository
	// KeyFile: the password is a key file's, which needs no slow derivation. Else KDF has the parameters of its derivation.
	// Neither is stored here.
	KeyFile bool      `json:"-"`
	KDF     KDFParams `json:"-"`
}

// Weak reports whether the password's derivation is weaker than a new one's would be.
func (k *KeyInfo) Weak() bool { return !k.KeyFile && k.KDF.grown() != k.KDF }

// derivation sets how the password is derived.
func (k *KeyInfo) derivation(o *keyObject) {
	k.KeyFile = o.KDF == kdfKeyFile
	k.KDF = KDFParams{Time: o.Time, Memory: o.Memory, Threads: o.Threads}
}

// sealedKey is the plaintext of keyObject.Sealed.
type sealedKey struct {
	Master []byte  `json:"master"`
	Info   KeyInfo `json:"info"`
	// Pol is the chunker's polynomial where it is that of another repository, rather than the one that follows from the
	// master key. Since version 2.
	Pol chunk.Pol `json:"polynomial,omitempty"`
}

// keyVersion is the newest version of key objects that this program reads. It writes 2 where there is a polynomial.
const keyVersion = 2

const kdfKeyFile = "blake3"
const kdfArgon2id = "argon2id"

// wrappingKey derives what seals the master key. It may take as long as the parameters ask.
func (k *keyObject) wrappingKey(password []byte) ([]byte, error) {
	switch k.KDF {
	case kdfArgon2id:
		if k.Time == 0 || k.Time > maxKDFTime || k.Memory == 0 || k.Memory > maxKDFMemory || k.Threads == 0 {
			return nil, fmt.Errorf("argon2id parameters out of bounds: %d passes, %d KiB, %d threads", k.Time, k.Memory, k.Threads)
		}
		return argon2.IDKey(password, k.Salt, k.Time, k.Memory, k.Threads, keySize), nil
	case kdfKeyFile:
		out := make([]byte, keySize)
		blake3.DeriveKey("wtsnap 2026-11-23 key file", append(bytes.Clone(password), k.Salt...), out)
		return out, nil
	}
	return nil, fmt.Errorf("unknown key derivation %q", k.KDF)
}

// ad binds what is sealed to all else that the key object says.
func (k *keyObject) ad() []byte {
	return fmt.Appendf(nil, "wtsnap key\x00%s\x00%s\x00%d\x00%s\x00%d\x00%d\x00%d\x00%x\x00%s",
		k.Repository, k.ID, k.Version, k.KDF, k.Time, k.Memory, k.Threads, k.Salt, k.Made.UTC().Format(time.RFC3339Nano))
}

func (k *keyObject) check(master [keySize]byte) []byte {
	var key [keySize]byte
	blake3.DeriveKey(contextKeyCheck, master[:], key[:])
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	_, _ = h.Write(k.ad())
	_, _ = h.Write(k.Sealed)
	return h.Sum(nil)[:32]
}

// decodeKeyObject decodes the key object of that name and checks that it is what its name says, and of that repository
// unless that is empty.
func decodeKeyObject(repository, name string, data []byte) (*keyObject, error) {
	damage := func(kind, detail string, err error) error {
		return &DamageError{Kind: kind, Object: name, Detail: detail, Err: err}
	}
	var k keyObject
	if err := strictJSON(data, &k); err != nil {
		return nil, damage(DamageDecode, "is no key object", err)
	}
	switch {
	case k.Version < 1 || k.Version > keyVersion:
		return nil, damage(DamageDecode, "is no key object that this program knows", &FormatError{Version: k.Version, Supported: keyVersion})
	case keysDir+k.ID != name:
		return nil, damage(DamageOpen, fmt.Sprintf("is the key %q under another name", k.ID), nil)
	case repository != "" && k.Repository != repository:
		return nil, damage(DamageOpen, fmt.Sprintf("is a key of the repository %q, not of %s", k.Repository, repository), nil)
	}
	return &k, nil
}

// newKeyObject wraps master, and the chunker's polynomial unless it follows from that: then pol is 0.
func newKeyObject(repository string, master [keySize]byte, password []byte, p KDFParams, label string, pol chunk.Pol) (string, []byte, error) {
	if len(password) == 0 {
		return "", nil, errors.New("the password is empty")
	}
	if p == (KDFParams{}) {
		p = DefaultKDF()
	}
	id, err := randomID()
	if err != nil {
		return "", nil, err
	}
	k := keyObject{Version: 1, ID: hex.EncodeToString(id[:]), Repository: repository, KDF: kdfArgon2id, Time: p.Time, Memory: p.Memory, Threads: p.Threads,
		Salt: make([]byte, 32), Made: time.Now().UTC().Truncate(time.Second)}
	if pol != 0 {
		k.Version = 2
	}
	if isKeyFile(password) {
		k.KDF, k.Time, k.Memory, k.Threads = kdfKeyFile, 0, 0, 0
	}
	if _, err := io.ReadFull(rand.Reader, k.Salt); err != nil {
		return "", nil, fmt.Errorf("reading random bytes: %w", err)
	}
	host, _ := os.Hostname() // a label for people; empty is fine
	plain, err := json.Marshal(sealedKey{Master: master[:], Pol: pol, Info: KeyInfo{
		ID: k.ID, Label: label, Host: host, User: os.Getenv("USER"), Created: k.Made}})
	if err != nil {
		return "", nil, err
	}
	wrap, err := k.wrappingKey(password)
	if err != nil {
		return "", nil, err
	}
	aead, err := chacha20poly1305.NewX(wrap)
	if err != nil {
		return "", nil, err
	}
	nonce := make([]byte, nonceSize)
	if _, err := io.ReadFull(rand.Reader, nonce); err != nil {
		return "", nil, fmt.Errorf("reading random bytes: %w", err)
	}
	k.Sealed = aead.Seal(nonce, nonce, plain, k.ad())
	k.Check = k.check(master)
	data, err := json.MarshalIndent(k, "", " ")
	return keysDir + k.ID, append(data, '\n'), err
}

// openKeyObject returns the master key: ErrWrongPassword, *DamageError.
func openKeyObject(repository, name string, data, password []byte) (*sealedKey, error) {
	k, err := decodeKeyObject(repository, name, data)
	if err != nil {
		return nil, err
	}
	return k.open(password)
}

// open returns the master key: ErrWrongPassword, *DamageError.
func (k *keyObject) open(password []byte) (*sealedKey, error) {
	damage := func(detail string, err error) error {
		return &DamageError{Kind: DamageDecode, Object: keysDir + k.ID, Detail: detail, Err: err}
	}
	if (k.KDF == kdfKeyFile) != isKeyFile(password) {
		return nil, ErrWrongPassword // spares the cost of trying
	}
	wrap, err := k.wrappingKey(password)
	if err != nil {
		return nil, damage("can't be tried", err)
	}
	aead, err := chacha20poly1305.NewX(wrap)
	if err != nil {
		return nil, err
	}
	if len(k.Sealed) < Overhead {
		return nil, damage("its sealed part is too short", nil)
	}
	plain, err := aead.Open(nil, k.Sealed[:nonceSize], k.Sealed[nonceSize:], k.ad())
	if err != nil {
		return nil, ErrWrongPassword
	}
	var s sealedKey
	if err := strictJSON(plain, &s); err != nil || len(s.Master) != keySize {
		return nil, damage("holds no master key", err)
	}
	if (k.Version == 2) != (s.Pol != 0) || s.Pol != 0 && (chunk.DefaultParams(s.Pol).Validate() != nil || !s.Pol.Irreducible()) {
		return nil, damage(fmt.Sprintf("the chunker's polynomial %#x is none", uint64(s.Pol)), nil)
	}
	s.Info.derivation(k)
	return &s, nil
}

// strictJSON decodes one JSON value and refuses unknown keys and trailing bytes.
func strictJSON(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the end")
	}
	return nil
}

// keyObjects lists the key objects, in the order of their names.
func keyObjects(ctx context.Context, st storage.Storage) ([]storage.Info, error) {
	var objects []storage.Info
	err := st.List(ctx, keysDir, func(i storage.Info) error {
		objects = append(objects, i)
		return nil
	})
	slices.SortFunc(objects, func(a, b storage.Info) int { return strings.Compare(a.Name, b.Name) })
	return objects, err
}

// keyNames lists the names of the key objects, in their order.
func keyNames(ctx context.Context, st storage.Storage) ([]string, error) {
	objects, err := keyObjects(ctx, st)
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = o.Name
	}
	return names, err
}

// Keys lists the passwords of the repository. Only the current one's label can be read: the others
// are sealed by their own passwords.
func (r *Repository) Keys(ctx context.Context) ([]KeyInfo, error) {
	names, err := keyNames(ctx, r.st)
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	infos := make([]KeyInfo, 0, len(names))
	for _, name := range names {
		if id := path.Base(name); id == r.key.ID {
			infos = append(infos, r.key)
			continue
		}
		k, err := r.readKeyObject(ctx, name)
		if errors.Is(err, storage.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		info := KeyInfo{ID: path.Base(name), Created: k.Made}
		info.derivation(k)
		infos = append(infos, info)
	}
	return infos, nil
}

// readKeyObject reads a key object that another password may open.
func (r *Repository) readKeyObject(ctx context.Context, name string) (*keyObject, error) {
	data, err := r.st.Get(ctx, name, 0, -1, nil)
	if errors.Is(err, storage.ErrTooLarge) {
		return nil, &DamageError{Kind: DamageSize, Object: name, Detail: "is no key object", Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	k, err := decodeKeyObject(r.config.ID, name, data)
	if err == nil && subtle.ConstantTimeCompare(k.Check, k.check(r.master)) != 1 {
		err = &DamageError{Kind: DamageHash, Object: name, Detail: "is not what was written, or wraps another master key"}
	}
	return k, err
}

// AddKey adds a password and returns what describes it. Without parameters it is derived as a new repository's, and no
// weaker than the one that is used now.
func (r *Repository) AddKey(ctx context.Context, password []byte, p KDFParams, label string) (KeyInfo, error) {
	if p == (KDFParams{}) {
		p = r.key.KDF.grown()
	}
	name, data, err := newKeyObject(r.config.ID, r.master, password, p, label, r.pol)
	if err != nil {
		return KeyInfo{}, err
	}
	s, err := openKeyObject(r.config.ID, name, data, password)
	if err != nil {
		return KeyInfo{}, fmt.Errorf("verifying the new key before it is stored: %w", err)
	}
	if _, err := r.st.Put(ctx, name, data); err != nil {
		return KeyInfo{}, fmt.Errorf("storing the key: %w", err)
	}
	// Without a key all is lost: see that it is there before another one may be removed.
	got, err := r.st.Get(ctx, name, 0, -1, nil)
	if err != nil {
		return KeyInfo{}, fmt.Errorf("reading the new key back: %w", err)
	}
	if !bytes.Equal(got, data) {
		return KeyInfo{}, &DamageError{Kind: DamageHash, Object: name, Detail: "is not what was stored a moment ago"}
	}
	return s.Info, nil
}

// RemoveKey removes a password. The current one can be removed as long as another is left; whoever
// knows the master key from before still has it: only a copy into a new repository changes that.
func (r *Repository) RemoveKey(ctx context.Context, id string) error {
	names, err := keyNames(ctx, r.st)
	if err != nil {
		return fmt.Errorf("listing keys: %w", err)
	}
	if !slices.Contains(names, keysDir+id) {
		return fmt.Errorf("no key %s: %w", id, storage.ErrNotExist)
	}
	for _, name := range names {
		if name == keysDir+id {
			continue
		}
		if _, err := r.readKeyObject(ctx, name); err == nil {
			return r.st.Delete(ctx, keysDir+id)
		}
	}
	return ErrLastKey
}

// UpgradeKey wraps the master key anew with the password that opened this repository, which is derived with other
// parameters from then on.
func (r *Repository) UpgradeKey(ctx context.Context, password []byte, p KDFParams) (KeyInfo, error) {
	return r.ChangeKey(ctx, password, p)
}

// ChangeKey adds a password and then removes the one that opened this repository.
func (r *Repository) ChangeKey(ctx context.Context, password []byte, p KDFParams) (KeyInfo, error) {
	old := r.key
	info, err := r.AddKey(ctx, password, p, old.Label)
	if err != nil {
		return KeyInfo{}, err
	}
	if err := r.st.Delete(ctx, keysDir+old.ID); err != nil {
		return info, fmt.Errorf("the new password works, but the old one could not be removed: %w", err)
	}
	info.Current = true
	r.key = info
	return info, nil
}
