package mongo

import (
	"context"
	"errors"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
)

// retryCodes are those with which a server that goes away, or is no primary any more, answers.
var retryCodes = []int{6, 7, 89, 91, 189, 9001, 10058, 10107, 11600, 11602, 13435, 13436}

const maxRetries = 6 // with pauses of 1 to 32 seconds, and the driver's own search for a primary besides

// again waits after an error that a second attempt may not have, and reports whether to make it.
func (rs *restore) again(ctx context.Context, err error, attempt int) bool {
	most := rs.retries
	if most == 0 {
		most = maxRetries
	}
	if attempt >= most || ctx.Err() != nil || !isTransient(err) {
		return false
	}
	pause := rs.pause
	if pause == 0 {
		pause = time.Second
	}
	timer := time.NewTimer(pause << attempt)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func isTransient(err error) bool {
	var e driver.ServerError
	if errors.As(err, &e) {
		for _, code := range retryCodes {
			if e.HasErrorCode(code) {
				return true
			}
		}
		return e.HasErrorLabel("RetryableWriteError") || e.HasErrorLabel("NetworkError")
	}
	return driver.IsNetworkError(err) || driver.IsTimeout(err)
}

// isCode reports whether a server's error is one of those.
func isCode(err error, codes ...int) bool {
	var e driver.ServerError
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.HasErrorCode(code) {
			return true
		}
	}
	return false
}

// codes of the server's that mean something here.
const (
	errNamespaceNotFound = 26
	errNamespaceExists   = 48
	errCommandNotFound   = 59
	errUnauthorized      = 13
	errDuplicateKey      = 11000
)

// command runs a command that may be run twice.
func (rs *restore) command(ctx context.Context, db string, command any) (bson.Raw, error) {
	for attempt := 0; ; attempt++ {
		reply, err := rs.s.Client.Database(db).RunCommand(ctx, command).Raw()
		if err == nil || reply != nil && reply.Lookup("writeErrors").Type != 0 {
			return reply, nil
		}
		if !rs.again(ctx, err, attempt) {
			return nil, err
		}
	}
}

// abandon makes an error end one collection, where the server is there and has decided.
func abandon(err error) error {
	var e driver.ServerError
	if errors.As(err, &e) && !isTransient(err) {
		return &abandonedError{err}
	}
	return err
}

// writeConcern is what each write waits for: that a majority has it, where there are several.
func (rs *restore) writeConcern() bson.D {
	if rs.s.Kind == Standalone {
		return bson.D{{Key: "w", Value: 1}}
	}
	return bson.D{{Key: "w", Value: "majority"}}
}
