package reader

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// A Repository is a folder with a repository's objects, opened. It is for one goroutine.
type Repository struct {
	dir     string
	blobKey []byte
	sealKey []byte
	blobs   map[key]place
	decoded map[*frame][][]byte // the frames of the last uses, see frameOf
	held    int                 // their bytes
}

// Open opens the repository in the folder dir with a password, or the content of a key file without its line end.
func Open(dir, password string) (*Repository, error) {
	var config struct {
		Format int    `json:"format"`
		ID     string `json:"id"`
	}
	if err := readJSON(filepath.Join(dir, "config"), &config); err != nil {
		return nil, err
	}
	if config.Format != 1 {
		return nil, fmt.Errorf("the repository has format %d, this program knows format 1", config.Format)
	}
	files, err := os.ReadDir(filepath.Join(dir, "keys"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		master, err := masterKey(filepath.Join(dir, "keys", f.Name()), config.ID, password)
		if err != nil {
			continue // the key of another password
		}
		r := &Repository{dir: dir, blobKey: make([]byte, 32), sealKey: make([]byte, 32)}
		blake3.DeriveKey("wtsnap 2026-11-23 blob id", master, r.blobKey)
		blake3.DeriveKey("wtsnap 2026-11-23 seal", master, r.sealKey)
		return r, nil
	}
	return nil, fmt.Errorf("none of the %d keys opens with this password", len(files))
}

func readJSON(file string, v any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// masterKey unwraps the master key of the key object in file.
func masterKey(file, repository, password string) ([]byte, error) {
	var k struct {
		Version   int    `json:"version"`
		ID        string `json:"id"`
		KDF       string `json:"kdf"`
		Time      uint32 `json:"time"`
		MemoryKiB uint32 `json:"memory_kib"`
		Threads   uint8  `json:"threads"`
		Salt      []byte `json:"salt"`
		Sealed    []byte `json:"sealed"`
		Created   string `json:"created"`
	}
	if err := readJSON(file, &k); err != nil {
		return nil, err
	}
	if k.Version != 1 && k.Version != 2 || k.Time > 64 || k.MemoryKiB > 1<<20 {
		return nil, errors.New("a key object of another version, or of parameters beyond the limits")
	}
	var wrapping []byte
	switch k.KDF {
	case "argon2id":
		if k.Time == 0 || k.Threads == 0 {
			return nil, errors.New("argon2id without passes or threads")
		}
		wrapping = argon2.IDKey([]byte(password), k.Salt, k.Time, k.MemoryKiB, k.Threads, 32)
	case "blake3":
		wrapping = make([]byte, 32)
		blake3.DeriveKey("wtsnap 2026-11-23 key file", append([]byte(password), k.Salt...), wrapping)
	default:
		return nil, fmt.Errorf("an unknown key derivation %q", k.KDF)
	}
	var ad bytes.Buffer
	ad.WriteString("wtsnap key")
	for _, field := range []string{repository, k.ID, strconv.Itoa(k.Version), k.KDF, strconv.Itoa(int(k.Time)),
		strconv.Itoa(int(k.MemoryKiB)), strconv.Itoa(int(k.Threads)), hex.EncodeToString(k.Salt), k.Created} {
		ad.WriteByte(0)
		ad.WriteString(field)
	}
	plain, err := unseal(wrapping, k.Sealed, ad.Bytes())
	if err != nil {
		return nil, err
	}
	var content struct {
		Master []byte `json:"master"`
	}
	if err := json.Unmarshal(plain, &content); err != nil {
		return nil, err
	}
	return content.Master, nil
}

// unseal opens a nonce and XChaCha20-Poly1305's ciphertext.
func unseal(key, sealed, ad []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < aead.NonceSize() {
		return nil, errors.New("too short to be sealed")
	}
	return aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], ad)
}

// unsealAs opens what is bound to a kind of thing and the bytes that tell which.
func (r *Repository) unsealAs(kind string, what, sealed []byte) ([]byte, error) {
	ad := append([]byte("\x01"+kind+"\x00"), what...)
	plain, err := unseal(r.sealKey, sealed, ad)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return plain, nil
}

// object reads a sealed object and gives its content, of at most limit bytes.
func (r *Repository) object(name string, limit uint64) ([]byte, error) {
	sealed, err := os.ReadFile(filepath.Join(r.dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	if len(sealed) == 0 || sealed[0] != 1 {
		return nil, fmt.Errorf("%s: not a sealed object of version 1", name)
	}
	plain, err := r.unsealAs("wtsnap object", []byte(name), sealed[1:])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	in := input{rest: plain}
	encoding, size, length := in.byte(), in.uvarint(), in.uvarint()
	stored := in.bytes(length)
	for _, zero := range in.rest {
		if zero != 0 {
			in.fail("padding that is not zero")
		}
	}
	if in.err == nil && size > limit {
		in.fail("larger than its kind may be")
	}
	if in.err != nil {
		return nil, fmt.Errorf("%s: %w", name, in.err)
	}
	switch encoding {
	case 0:
		if length != size {
			return nil, fmt.Errorf("%s: has not the size it says", name)
		}
		return stored, nil
	case 1:
		return decompress(stored, size, nil)
	}
	return nil, fmt.Errorf("%s: an unknown encoding %d", name, encoding)
}

// decompress gives the size bytes of a zstd frame, whose raw dictionary may be nil.
func decompress(stored []byte, size uint64, dictionary []byte) ([]byte, error) {
	options := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1 << 30)}
	if dictionary != nil {
		options = append(options, zstd.WithDecoderDictRaw(0, dictionary))
	}
	d, err := zstd.NewReader(nil, options...)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	plain, err := d.DecodeAll(stored, make([]byte, 0, size))
	if err != nil {
		return nil, err
	}
	if uint64(len(plain)) != size {
		return nil, fmt.Errorf("decompresses to %d bytes instead of %d", len(plain), size)
	}
	return plain, nil
}

// names lists the objects below a folder of the repository, with their whole names.
func (r *Repository) names(folder string) ([]string, error) {
	var names []string
	err := fs.WalkDir(os.DirFS(r.dir), folder, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name == folder {
			return nil
		}
		if err == nil && d.Type().IsRegular() {
			names = append(names, path.Clean(name))
		}
		return err
	})
	return names, err
}
