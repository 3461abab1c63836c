package kit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"
)

// A share is one line of text:
//
//	wtsnap-share-1:NEEDED:OF:NUMBER:SET:VALUE:SUM
//
// NEEDED of the OF shares with the same SET, 8 hex digits, give the secret. VALUE is, in hex, the value at NUMBER of a
// polynomial over the scalars of P-521 whose value at 0 is the secret (Shamir, by circl). SUM is the beginning of the
// SHA-256 of what stands before it, so that a mistyped share is noticed.
//
// The secret is 65 bytes, which is less than the group's order: the kind (1: a key file's 32 bytes; 0: text), the length,
// the bytes, zeros, and the first 4 bytes of the SHA-256 of the text.
const (
	sharePrefix = "wtsnap-share-1"
	keyPrefix   = "wtsnap-key-1:"
	secretSize  = 65
	digestSize  = 4
	maxText     = secretSize - 2 - digestSize
	maxShares   = 64
)

var shareLine = regexp.MustCompile(sharePrefix + `(?::[0-9a-f]+){6}`)

// CheckSplit refuses numbers of shares that make no sense.
func CheckSplit(needed, of int) error {
	if needed < 2 || of < needed || of > maxShares {
		return fmt.Errorf("%d of %d shares: needed are 2 at least, and no more than there are, which may be %d", needed, of, maxShares)
	}
	return nil
}

// Split makes shares of a password: needed of them give it back, fewer say nothing about it.
func Split(password string, needed, of int) ([]string, error) {
	if err := CheckSplit(needed, of); err != nil {
		return nil, err
	}
	secret, err := encodeSecret(password)
	if err != nil {
		return nil, err
	}
	g := group.P521
	scalar := g.NewScalar()
	if err := scalar.UnmarshalBinary(append(make([]byte, int(g.Params().ScalarLength)-secretSize), secret...)); err != nil {
		return nil, err
	}
	var set [4]byte
	_, _ = rand.Read(set[:]) // it never fails
	var out []string
	for i, s := range secretsharing.New(rand.Reader, uint(needed-1), scalar).Share(uint(of)) {
		value, err := s.Value.MarshalBinary()
		if err != nil {
			return nil, err
		}
		text := fmt.Sprintf("%s:%d:%d:%d:%x:%x", sharePrefix, needed, of, i+1, set, value)
		out = append(out, text+":"+shareSum(text))
	}
	// What goes on paper has been read back.
	if back, err := Join(slices.Clone(out[of-needed:])); err != nil || back != password {
		return nil, fmt.Errorf("the shares do not give the key back: %w", err)
	}
	return out, nil
}

func shareSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:digestSize])
}

func encodeSecret(password string) ([]byte, error) {
	out := make([]byte, secretSize)
	data := []byte(password)
	if rest, ok := strings.CutPrefix(password, keyPrefix); ok && rest == strings.ToLower(rest) {
		if raw, err := hex.DecodeString(rest); err == nil {
			out[0], data = 1, raw
		}
	}
	if len(data) > maxText {
		return nil, fmt.Errorf("the password is too long to be split: it has %d bytes, and %d are the most; a key file can be split (wtsnap key add --new-key-file)", len(data), maxText)
	}
	out[1] = byte(len(data))
	copy(out[2:], data)
	sum := sha256.Sum256([]byte(password))
	copy(out[secretSize-digestSize:], sum[:])
	return out, nil
}

func decodeSecret(secret []byte) (string, error) {
	bad := errors.New("the shares do not fit together: one of them is wrong")
	if len(secret) < secretSize {
		return "", bad
	}
	for _, b := range secret[:len(secret)-secretSize] {
		if b != 0 {
			return "", bad
		}
	}
	secret = secret[len(secret)-secretSize:]
	if secret[0] > 1 || int(secret[1]) > maxText {
		return "", bad
	}
	text := string(secret[2 : 2+secret[1]])
	if secret[0] == 1 {
		text = keyPrefix + hex.EncodeToString([]byte(text))
	}
	if sum := sha256.Sum256([]byte(text)); string(sum[:digestSize]) != string(secret[secretSize-digestSize:]) {
		return "", bad
	}
	return text, nil
}

// FindShares returns the shares in a text, which may be a page around them.
func FindShares(text string) []string { return shareLine.FindAllString(strings.ToLower(text), -1) }

// Join gives the password back. Shares may be given twice, and more than are needed.
func Join(lines []string) (string, error) {
	if len(lines) == 0 {
		return "", errors.New("there is no share: its line begins with " + sharePrefix)
	}
	var head string
	needed := 0
	have := map[int]secretsharing.Share{}
	for _, line := range lines {
		s, err := parseShare(line)
		if err != nil {
			return "", err
		}
		if head == "" {
			head, needed = s.head, s.needed
		}
		if s.head != head {
			return "", errors.New("the shares are not of the same set: they were made at different times")
		}
		have[s.number] = s.share
	}
	if n := needed - len(have); n > 0 {
		return "", fmt.Errorf("%d of the needed %d shares are there: %d more are needed", len(have), needed, n)
	}
	var shares []secretsharing.Share
	for _, s := range have {
		shares = append(shares, s)
	}
	secret, err := secretsharing.Recover(uint(needed-1), shares)
	if err != nil {
		return "", err
	}
	data, err := secret.MarshalBinary()
	if err != nil {
		return "", err
	}
	return decodeSecret(data)
}

type parsedShare struct {
	head           string // what is equal for all of a set
	needed, number int
	share          secretsharing.Share
}

func parseShare(line string) (p parsedShare, err error) {
	bad := func(why string) (parsedShare, error) {
		return p, fmt.Errorf("the share %.24s… is damaged: %s", line, why)
	}
	at := strings.LastIndexByte(line, ':')
	parts := strings.Split(line, ":")
	if len(parts) != 7 || parts[0] != sharePrefix {
		return bad("it does not have the form of one")
	}
	if shareSum(line[:at]) != line[at+1:] {
		return bad("its checksum is wrong: compare it with the original, digit by digit")
	}
	var of int
	for i, n := range []*int{&p.needed, &of, &p.number} {
		if *n, err = strconv.Atoi(parts[1+i]); err != nil {
			return bad("it has no numbers")
		}
	}
	if CheckSplit(p.needed, of) != nil || p.number < 1 || p.number > of {
		return bad("its numbers make no sense")
	}
	value, err := hex.DecodeString(parts[5])
	if err != nil {
		return bad("its value is no hex")
	}
	g := group.P521
	p.share = secretsharing.Share{ID: g.NewScalar().SetUint64(uint64(p.number)), Value: g.NewScalar()}
	if err := p.share.Value.UnmarshalBinary(value); err != nil {
		return bad("its value is none")
	}
	p.head = strings.Join([]string{parts[1], parts[2], parts[4]}, ":")
	return p, nil
}
