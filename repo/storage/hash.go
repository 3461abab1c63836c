package storage

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"
)

// HashName returns the name of the hash function in an Info.Hash ("sha1"), or "".
func HashName(h string) string {
	name, _, ok := strings.Cut(h, ":")
	if !ok {
		return ""
	}
	return name
}

// NewHash returns the function of that name, or nil where it is none of the
// common ones: some backends have hashes of their own.
func NewHash(name string) hash.Hash {
	switch name {
	case "md5":
		return md5.New()
	case "sha1":
		return sha1.New()
	case "sha256":
		return sha256.New()
	case "sha512":
		return sha512.New()
	}
	return nil
}

// MatchHash reports whether data has the hash h of an Info; known is false where
// the function is not one that NewHash has.
func MatchHash(h string, data []byte) (match, known bool) {
	name, sum, _ := strings.Cut(h, ":")
	f := NewHash(name)
	if f == nil {
		return false, false
	}
	f.Write(data)
	return hex.EncodeToString(f.Sum(nil)) == sum, true
}
