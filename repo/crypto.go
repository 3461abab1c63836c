package repo

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/whole-tale/wtsnap/chunk"
)

// The master key is 32 random bytes. Every other key is derived from it with BLAKE3's key derivation
// mode, whose context strings are hard-coded and unique by its specification (BLAKE3 paper, 2020,
// section 6.2).
const (
	contextBlobID     = "wtsnap 2026-11-23 blob id"
	contextSeal       = "wtsnap 2026-11-23 seal"
	contextPolynomial = "wtsnap 2026-11-23 chunker polynomial"
	contextNames      = "wtsnap 2026-11-23 object names"
	contextKeyCheck   = "wtsnap 2026-11-23 key check"
)

const (
	keySize   = 32
	nonceSize = chacha20poly1305.NonceSizeX // 24
	tagSize   = 16
	// Overhead is what sealing adds, in bytes.
	Overhead = nonceSize + tagSize
)

// maxObject bounds every sealed object other than packs, in bytes of plaintext: a hostile length
// field can't make a reader allocate more.
const maxObject = 256 << 20

// objectLimit is how much plaintext an object of that name has at most. What is read several at a time, or is small by
// its nature, has less: an object of 30 KB can decompress to 256 MiB. The limits are several times what a writer makes of
// the largest repository; docs/format.md has them, too.
func objectLimit(name string) uint64 {
	dir, _, _ := strings.Cut(name, "/")
	switch dir + "/" {
	case indexDir:
		return 64 << 20 // 335 bytes for each blob of a full segment, which takes 25
	case ledgerDir:
		return maxLedgerRecord + 1<<20
	case snapshotsDir, forgottenDir:
		return 16 << 20
	case annotationsDir, leasesDir:
		return 1 << 20
	}
	return maxObject // condemned lists: 67 bytes for each pack, one at a time
}

// keys are all that follows from a master key.
type keys struct {
	hasher *chunk.Hasher
	params chunk.Params
	aead   cipher.AEAD
	names  [keySize]byte
	codec  *chunk.Codec // of small objects; it decodes what any level encoded
}

func deriveKeys(master [keySize]byte) (*keys, error) {
	var id, seal [keySize]byte
	k := &keys{codec: chunk.NewCodec(chunk.LevelDefault)}
	blake3.DeriveKey(contextBlobID, master[:], id[:])
	blake3.DeriveKey(contextSeal, master[:], seal[:])
	blake3.DeriveKey(contextNames, master[:], k.names[:])
	aead, err := chacha20poly1305.NewX(seal[:])
	if err != nil {
		return nil, err
	}
	k.aead = aead
	k.hasher = chunk.NewHasher(id)
	stream := blake3.NewDeriveKey(contextPolynomial)
	if _, err := stream.Write(master[:]); err != nil {
		return nil, err
	}
	pol, err := chunk.DerivePol(stream.Digest())
	if err != nil {
		return nil, fmt.Errorf("deriving the chunker's polynomial: %w", err)
	}
	k.params = chunk.DefaultParams(pol)
	return k, nil
}

// instanceName is what stands for an instance in object names: a keyed hash, so that the backend
// does not learn the names.
func (k *keys) instanceName(instance string) string {
	h, err := blake3.NewKeyed(k.names[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	_, _ = h.WriteString("instance\x00" + instance)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// seal appends nonce, ciphertext and tag of plain to dst. ad says what the bytes are; the same ad is
// needed to open them.
func (k *keys) seal(dst, plain, ad []byte) ([]byte, error) {
	n := len(dst)
	dst = append(dst, make([]byte, nonceSize)...)
	if _, err := io.ReadFull(rand.Reader, dst[n:]); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	return k.aead.Seal(dst, dst[n:n+nonceSize], plain, ad), nil
}

var errOpen = errors.New("the bytes do not authenticate: they were changed, or belong to another object")

// open appends the plaintext of sealed to dst.
func (k *keys) open(dst, sealed, ad []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, errOpen
	}
	out, err := k.aead.Open(dst, sealed[:nonceSize], sealed[nonceSize:], ad)
	if err != nil {
		return nil, errOpen
	}
	return out, nil
}

// padme rounds n up so that its length leaks O(log log n) bits and grows by 12 % at most (Nikitin et
// al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PETS 2019).
func padme(n int) int {
	if n < 2 {
		return n
	}
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	mask := 1<<(e-s) - 1
	return (n + mask) &^ mask
}

// objectVersion is the first byte of every sealed object, and part of what is authenticated.
const objectVersion = 1

// objectAD binds a sealed object to its full name; a forgotten manifest to the name that it had.
func objectAD(name string) []byte {
	return append([]byte{objectVersion}, "wtsnap object\x00"+canonicalName(name)...)
}

// sealObject makes the bytes of a small object (anything but a pack): version byte, then sealed:
// encoding, size, stored size, content, zeros up to a Padmé length.
func (k *keys) sealObject(name string, content []byte) ([]byte, error) {
	stored, encoding := k.codec.Encode(nil, content)
	plain := make([]byte, 0, padme(len(stored)+1+2*binary.MaxVarintLen64))
	plain = append(plain, byte(encoding))
	plain = binary.AppendUvarint(plain, uint64(len(content)))
	plain = binary.AppendUvarint(plain, uint64(len(stored)))
	plain = append(plain, stored...)
	plain = append(plain, make([]byte, padme(len(plain))-len(plain))...)
	return k.seal([]byte{objectVersion}, plain, objectAD(name))
}

// openObject is the inverse of sealObject. Its errors are *DamageError or *FormatError.
func (k *keys) openObject(name string, data []byte) ([]byte, error) {
	damage := func(kind, detail string, err error) error {
		return &DamageError{Kind: kind, Object: name, Detail: detail, Err: err}
	}
	if len(data) == 0 {
		return nil, damage(DamageSize, "it is empty", nil)
	}
	if data[0] != objectVersion {
		// An unknown version can be a newer program's or a flipped bit; only this one authenticates.
		return nil, damage(DamageOpen, fmt.Sprintf("its first byte is %d, not %d: damaged, or written by a newer version",
			data[0], objectVersion), nil)
	}
	plain, err := k.open(nil, data[1:], objectAD(name))
	if err != nil {
		return nil, damage(DamageOpen, "can't be opened", err)
	}
	if len(plain) == 0 {
		return nil, damage(DamageDecode, "its content is empty", nil)
	}
	encoding, rest := chunk.Encoding(plain[0]), plain[1:]
	size, n := binary.Uvarint(rest)
	if n <= 0 {
		return nil, damage(DamageDecode, "its size field is wrong", nil)
	}
	if limit := objectLimit(name); size > limit {
		return nil, damage(DamageDecode, fmt.Sprintf("says that it has %d bytes, the limit is %d", size, limit), nil)
	}
	rest = rest[n:]
	length, n := binary.Uvarint(rest)
	if n <= 0 || length > uint64(len(rest)-n) {
		return nil, damage(DamageDecode, "its length field is wrong", nil)
	}
	stored := rest[n : n+int(length)]
	out, err := k.codec.Decode(nil, stored, encoding, nil, int(size))
	if err != nil || encoding == chunk.ZstdDelta {
		return nil, damage(DamageDecode, "can't be decompressed", err)
	}
	return out, nil
}

// randomID is 16 random bytes: the id of objects that are not named by their content.
func randomID() ([16]byte, error) {
	var id [16]byte
	if _, err := io.ReadFull(rand.Reader, id[:]); err != nil {
		return id, fmt.Errorf("reading random bytes: %w", err)
	}
	return id, nil
}
