package mongotest

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// authState is a connection's authentication by SCRAM-SHA-256 (RFC 5802, RFC 7677).
type authState struct {
	done   bool
	prefix string // the messages so far, as the signature has them
	nonce  string
}

var authenticationFailed = &Error{Code: 18, Name: "AuthenticationFailed", Message: "Authentication failed."}

const (
	scramRounds = 4096
	scramSalt   = "mongotest's salt"
)

func payload(body bson.Raw) string {
	_, b, _ := body.Lookup("payload").BinaryOK()
	return string(b)
}

func saslReply(text string, done bool) bson.D {
	return bson.D{{Key: "conversationId", Value: int32(1)}, {Key: "done", Value: done}, {Key: "payload", Value: bson.Binary{Data: []byte(text)}}, {Key: "ok", Value: 1.0}}
}

func (r *request) saslStart() (any, error) {
	if m, _ := r.body.Lookup("mechanism").StringValueOK(); m != "SCRAM-SHA-256" {
		return nil, errorf(334, "MechanismUnavailable", "Received authentication for mechanism %s which is not enabled", m)
	}
	first, ok := strings.CutPrefix(payload(r.body), "n,,")
	user, nonce, ok2 := strings.Cut(strings.TrimPrefix(first, "n="), ",r=")
	if !ok || !ok2 || user != r.s.o.User {
		return nil, authenticationFailed
	}
	r.auth.nonce = nonce + "mongotest"
	answer := fmt.Sprintf("r=%s,s=%s,i=%d", r.auth.nonce, base64.StdEncoding.EncodeToString([]byte(scramSalt)), scramRounds)
	r.auth.prefix = first + "," + answer + ","
	return saslReply(answer, false), nil
}

func (r *request) saslContinue() (any, error) {
	last := payload(r.body)
	if last == "" && r.auth.done {
		return saslReply("", true), nil
	}
	plain, proof64, ok := strings.Cut(last, ",p=")
	proof, err := base64.StdEncoding.DecodeString(proof64)
	if !ok || err != nil || plain != "c=biws,r="+r.auth.nonce || len(proof) != sha256.Size {
		return nil, authenticationFailed
	}
	salted, err := pbkdf2.Key(sha256.New, r.s.o.Password, []byte(scramSalt), scramRounds, sha256.Size)
	if err != nil {
		return nil, err
	}
	message := r.auth.prefix + plain
	clientKey := mac(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	signature := mac(stored[:], message)
	for i := range proof {
		proof[i] ^= signature[i]
	}
	if !bytes.Equal(proof, clientKey) {
		return nil, authenticationFailed
	}
	r.auth.done = true
	server := mac(mac(salted, "Server Key"), message)
	return saslReply("v="+base64.StdEncoding.EncodeToString(server), true), nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
