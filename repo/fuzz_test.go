package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
)

// fixedKeys are the keys of a known master key: what is behind the authentication is fuzzed by sealing it.
func fixedKeys(t testing.TB) *keys {
	t.Helper()
	return must[*keys](t)(deriveKeys([keySize]byte{1, 2, 3}))
}

// fixedRepo is a repository of these keys, without anything in it.
func fixedRepo(k *keys, st storage.Storage) *Repository {
	return reopen(&Repository{keys: k, config: config{Format: 1, ID: strings.Repeat("ab", 16)}}, st)
}

// FuzzObject opens arbitrary bytes, and arbitrary plaintext behind the authentication.
func FuzzObject(f *testing.F) {
	k := fixedKeys(f)
	for _, content := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("text "), 100), noise(1, 1000)} {
		data := must[[]byte](f)(k.sealObject("index/a", content))
		plain := must[[]byte](f)(k.open(nil, data[1:], objectAD("index/a")))
		f.Add(data, plain)
	}
	f.Add([]byte{1}, []byte{0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0})
	f.Fuzz(func(t *testing.T, data, plain []byte) {
		if _, err := k.openObject("index/a", data); err != nil && !isDamage(err) {
			t.Errorf("error of no kind: %v", err)
		}
		if len(plain) > 1 { // a size that is far from true only costs time here
			if size, n := binary.Uvarint(plain[1:]); n > 0 && size > 1<<20 && size <= maxObject {
				return
			}
		}
		sealed := must[[]byte](t)(k.seal([]byte{objectVersion}, plain, objectAD("index/a")))
		content, err := k.openObject("index/a", sealed)
		if err != nil {
			if !isDamage(err, DamageDecode) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		again := must[[]byte](t)(k.sealObject("index/a", content))
		back, err := k.openObject("index/a", again)
		if err != nil || !bytes.Equal(back, content) {
			t.Errorf("sealed again it is something else: %v", err)
		}
		if _, err := k.openObject("index/b", again); !isDamage(err, DamageOpen) {
			t.Errorf("opened under another name: %v", err)
		}
	})
}

// FuzzPack parses arbitrary files, and files whose directory and trailer are sealed arbitrary plaintext.
func FuzzPack(f *testing.F) {
	k := fixedKeys(f)
	b := &packBuilder{kind: index.Data}
	for i := range 3 {
		var ad []byte
		frame := index.Frame{Encoding: chunk.Raw, Blobs: []index.Blob{{Key: index.Key{byte(i)}, Size: 10}}}
		ad = frameAD(ad, b.kind, &frame)
		b.addSealed(frame, must[[]byte](f)(k.seal(nil, noise(uint64(i), 10), ad)))
	}
	frames := slices.Clone(b.frames)
	_, err := b.finish(k)
	must0(f, err)
	directory := must[[]byte](f)(index.AppendFrames([]byte{byte(index.Data)}, frames))
	f.Add(b.buf, []byte(nil), directory, uint32(0), uint32(0), true)
	f.Add([]byte("x"), noise(1, 200), directory, uint32(3), uint32(1<<31), false)
	f.Add([]byte{}, noise(1, 20), []byte{9, 9}, uint32(1<<31), uint32(1<<31), false)
	f.Fuzz(func(t *testing.T, file, before, directory []byte, offset, length uint32, honest bool) {
		if kind, frames, err := parsePack(k, file); err == nil {
			judgeFrames(t, kind, frames, len(file))
		}
		sealed := must[[]byte](t)(k.seal(nil, directory, directoryAD()))
		if honest {
			offset, length = uint32(len(before)), uint32(len(sealed))
		}
		var where [8]byte
		binary.LittleEndian.PutUint32(where[:4], offset)
		binary.LittleEndian.PutUint32(where[4:], length)
		whole := append(slices.Clone(before), sealed...)
		whole = must[[]byte](t)(k.seal(whole, where[:], trailerAD()))
		kind, frames, err := parsePack(k, whole)
		if err == nil {
			judgeFrames(t, kind, frames, len(before))
		}
		// As the repair of an index reads it: in ranges.
		m := mem.New()
		r := fixedRepo(k, m)
		name := packName(packID(whole))
		info := must[storage.Info](t)(m.Put(t.Context(), name, whole))
		p, rerr := r.readDirectory(t.Context(), info)
		if (err == nil) != (rerr == nil) {
			t.Errorf("parsed whole: %v; in ranges: %v", err, rerr)
		}
		if rerr == nil && p.Validate() == nil {
			if _, err := index.New().AddPack(index.SegmentID{}, p); err != nil {
				t.Errorf("a valid pack is not taken: %v", err)
			}
		}
		if rerr != nil && !isDamage(rerr, DamageOpen) {
			t.Errorf("error of another kind: %v", rerr)
		}
	})
}

func judgeFrames(t *testing.T, kind index.Kind, frames []index.Frame, end int) {
	if kind != index.Data && kind != index.Tree {
		t.Errorf("kind %d", kind)
	}
	pos := uint32(0)
	for _, f := range frames {
		if f.Offset != pos || len(f.Blobs) == 0 {
			t.Errorf("frame %+v at %d", f, pos)
		}
		pos += f.Length
	}
	if int(pos) > end {
		t.Errorf("frames reach to %d of %d", pos, end)
	}
}

// FuzzFrame opens frames whose sealed content is arbitrary and whose description does not fit.
func FuzzFrame(f *testing.F) {
	k := fixedKeys(f)
	zstd, _ := chunk.NewCodec(chunk.LevelDefault).Encode(nil, bytes.Repeat([]byte("abc"), 100))
	f.Add(zstd, uint32(300), uint32(0), uint8(1))
	f.Add([]byte("plain"), uint32(2), uint32(3), uint8(0))
	f.Add(zstd, uint32(16<<20), uint32(1), uint8(2))
	f.Fuzz(func(t *testing.T, stored []byte, size1, size2 uint32, encoding uint8) {
		frame := index.Frame{Encoding: chunk.Encoding(encoding), Blobs: []index.Blob{{Size: size1 % (1 << 20)}, {Size: size2 % (1 << 20)}}}
		sealed := must[[]byte](t)(k.seal(nil, stored, frameAD(nil, index.Data, &frame)))
		plain, err := openFrame(k, index.Data, &frame, sealed, []byte("base"), &frameScratch{})
		if err == nil && len(plain) != int(frame.Size()) {
			t.Errorf("%d bytes, want %d", len(plain), frame.Size())
		}
	})
}

// FuzzKeyObject opens arbitrary key objects, and key objects that wrap arbitrary plaintext.
func FuzzKeyObject(f *testing.F) {
	pass := []byte(keyPrefix + strings.Repeat("0f", keySize))
	id := strings.Repeat("ab", 16)
	name, data, err := newKeyObject(id, [keySize]byte{1}, pass, KDFParams{}, "label", 0)
	must0(f, err)
	f.Add(data, []byte(`{"master":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","info":{}}`))
	f.Add([]byte(`{"version":1,"kdf":"argon2id","time":4000000000,"memory_kib":4000000000,"threads":255}`), []byte("{}"))
	f.Fuzz(func(t *testing.T, data, plain []byte) {
		if _, err := openKeyObject(id, name, data, pass); err != nil && !isDamage(err) && !errors.Is(err, ErrWrongPassword) {
			t.Errorf("error of no kind: %v", err)
		}
		k := keyObject{Version: 1, ID: strings.TrimPrefix(name, keysDir), Repository: id, KDF: kdfKeyFile, Salt: []byte("salt"), Made: time.Unix(0, 0).UTC()}
		wrap := must[[]byte](t)(k.wrappingKey(pass))
		aead, err := chacha20poly1305.NewX(wrap)
		must0(t, err)
		nonce := make([]byte, nonceSize)
		k.Sealed = aead.Seal(nonce, nonce, plain, k.ad())
		s, err := openKeyObject(id, name, must[[]byte](t)(json.Marshal(k)), pass)
		if err != nil && !isDamage(err, DamageDecode) {
			t.Errorf("error of another kind: %v", err)
		}
		if err == nil && len(s.Master) != keySize {
			t.Errorf("a master key of %d bytes", len(s.Master))
		}
	})
}

// FuzzConfig reads arbitrary configs.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"format":1,"id":"` + strings.Repeat("ab", 16) + `","created":"2026-11-23T00:00:00Z"}`))
	f.Add([]byte(`{"format":99}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		m := mem.New()
		_, err := m.Put(t.Context(), configName, data)
		must0(t, err)
		c, err := readConfig(t.Context(), m)
		var format *FormatError
		if err != nil && !isDamage(err) && !errors.As(err, &format) {
			t.Errorf("error of no kind: %v", err)
		}
		if err == nil && (len(c.ID) != 32 || c.Format != 1) {
			t.Errorf("config %+v", c)
		}
	})
}

// FuzzSmallObjects decodes arbitrary contents of leases, condemned lists, index segments and annotations.
func FuzzSmallObjects(f *testing.F) {
	f.Add([]byte(`{"id":"aa","count":1,"kind":"writer","host":"","pid":1,"started":"2026-11-23T00:00:00Z","renewed":"2026-11-23T00:00:00Z","seen":null}`))
	f.Add([]byte(`{"id":"x","time":"2026-11-23T00:00:00Z","packs":["` + strings.Repeat("ab", 32) + `"]}`))
	k := fixedKeys(f)
	segment, err := index.AppendSegment(nil, []index.Pack{{ID: index.PackID{1}, Kind: index.Data, Size: 100,
		Frames: []index.Frame{{Length: 50, Blobs: []index.Blob{{Size: 3}}}}}})
	must0(f, err)
	f.Add(segment)
	f.Fuzz(func(t *testing.T, content []byte) {
		ctx := context.Background()
		r := fixedRepo(k, mem.New())
		for _, name := range []string{"leases/aa-1", "condemned/x", "index/" + strings.Repeat("ab", 16), annotationsDir + strings.Repeat("cd", 16) + "-1"} {
			must0(t, r.writeObject(ctx, name, content))
		}
		leases, err := r.leases(ctx)
		if err != nil || len(leases) != 1 {
			t.Errorf("leases: %v, %v", leases, err)
		}
		lists, bad, err := r.condemnedAndDamaged(ctx)
		if err != nil || len(lists)+len(bad) != 1 {
			t.Errorf("condemned lists: %v, %v, %v", lists, bad, err)
		}
		if err := r.LoadIndex(ctx); err != nil && !isDamage(err) {
			t.Errorf("index: %v", err)
		}
		if _, err := r.Annotations(ctx); err != nil && !isDamage(err) {
			t.Errorf("annotations: %v", err)
		}
	})
}

// FuzzSnapshotName parses names of manifests and makes them again.
func FuzzSnapshotName(f *testing.F) {
	f.Add(strings.Repeat("0f", 16) + "/20261123T010203Z-" + strings.Repeat("ab", 16))
	f.Add("x")
	f.Fuzz(func(t *testing.T, name string) {
		ref, err := parseSnapshotName(storage.Info{Name: snapshotsDir + name, Size: 1})
		if err != nil {
			if !isDamage(err) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if ref.Name() != snapshotsDir+name {
			t.Errorf("%q is parsed as %q", snapshotsDir+name, ref.Name())
		}
	})
}
