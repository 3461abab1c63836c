package oplog

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// transactional commands are those that may be a part of a transaction:
//
//	applyOps                      a whole transaction, its last part, or no transaction at all
//	applyOps, partialTxn: true    a part; the next one's prevOpTime is its timestamp
//	applyOps, prepare: true       the last part, to be committed or aborted by a command of its own
//	commitTransaction             prevOpTime: the last part
//	abortTransaction              prevOpTime: the last part
//
// The effects are as of the entry that commits.
var transactional = map[string]bool{"applyOps": true, "commitTransaction": true, "abortTransaction": true}

// A part is one entry of a transaction whose commit has not been seen.
type part struct {
	raw      bson.Raw // o of its applyOps
	ts       bson.Timestamp
	previous bson.Timestamp
}

// pending are the parts of open transactions, by their timestamps.
type pending struct {
	parts map[bson.Timestamp]*part
	bytes int64
}

// maxNesting is of applyOps in each other: users can make such.
const maxNesting = 10

func (p *pending) add(e *Entry) {
	p.parts[e.Timestamp] = &part{raw: bytes.Clone(e.Object), ts: e.Timestamp, previous: e.Previous}
	p.bytes += int64(len(e.Object))
}

// take removes a chain of parts and returns it, first part first. missing is where the chain breaks off.
func (p *pending) take(last bson.Timestamp) (chain []*part, missing bson.Timestamp) {
	for at := last; !at.IsZero(); {
		q := p.parts[at]
		if q == nil {
			return chain, at
		}
		delete(p.parts, at)
		p.bytes -= int64(len(q.raw))
		chain = append([]*part{q}, chain...)
		at = q.previous
	}
	return chain, bson.Timestamp{}
}

// opens reports whether an entry is a part of a transaction that it does not commit.
func (s *scan) opens(e *Entry) bool {
	head, _ := first(e.Object)
	return e.Op == Command && string(head.name) == "applyOps" && (isTrue(e.Object, "partialTxn") || isTrue(e.Object, "prepare"))
}

func (s *scan) transaction(ctx context.Context, e *Entry, verb string) error {
	switch {
	case verb == "abortTransaction":
		s.pending.take(e.Previous)
		return nil
	case s.opens(e):
		s.pending.add(e)
		if s.pending.bytes > s.o.Memory {
			return refused(e, errors.New("the transactions that are open here do not fit into the memory that the fold may use"))
		}
		return nil
	}
	if e.Linked && !e.Previous.IsZero() || verb == "commitTransaction" {
		chain, err := s.chain(ctx, e)
		if err != nil {
			return refused(e, err)
		}
		for _, p := range chain {
			if err := s.applyOps(e, p.raw, 0); err != nil {
				return refused(e, fmt.Errorf("a transaction's part %s: %w", Text(p.ts), err))
			}
		}
	}
	if verb == "commitTransaction" {
		return nil
	}
	return refused(e, s.applyOps(e, e.Object, 0))
}

// chain returns the parts of the transaction that an entry commits. Those before the scan's start are read anew.
func (s *scan) chain(ctx context.Context, e *Entry) ([]*part, error) {
	if e.Previous.IsZero() {
		return nil, errors.New("a commit that does not say of what")
	}
	chain, missing := s.pending.take(e.Previous)
	for !missing.IsZero() {
		p, err := s.lookBack(ctx, missing)
		if err != nil {
			return nil, err
		}
		chain = append([]*part{p}, chain...)
		missing = p.previous
	}
	return chain, nil
}

// lookBack reads the part of a transaction at a timestamp.
func (s *scan) lookBack(ctx context.Context, ts bson.Timestamp) (*part, error) {
	for raw, err := range s.log.Entries(ctx, ts) {
		if err != nil {
			return nil, err
		}
		e, err := Parse(raw)
		if err != nil {
			return nil, err
		}
		if e.Timestamp.Before(ts) {
			continue
		}
		if !e.Timestamp.Equal(ts) || !s.opens(&e) || !e.Previous.Before(ts) {
			break
		}
		return &part{raw: bytes.Clone(e.Object), ts: ts, previous: e.Previous}, nil
	}
	return nil, fmt.Errorf("it commits a transaction whose part %s is not in the oplog that was saved", Text(ts))
}

// applyOps follows the operations of an applyOps as if they were entries of the one that commits them.
func (s *scan) applyOps(e *Entry, o bson.Raw, depth int) error {
	list, ok := find(o, "applyOps")
	if !ok || list.typ != bson.TypeArray {
		return errors.New("an applyOps without a list of operations")
	}
	if depth > maxNesting {
		return fmt.Errorf("more than %d applyOps in each other", maxNesting)
	}
	return each(list.value, func(f element) error {
		if f.typ != bson.TypeEmbeddedDocument {
			return errors.New("an operation of an applyOps that is none")
		}
		op, err := parse(bson.Raw(f.value))
		if err != nil {
			return err
		}
		op.Timestamp = e.Timestamp
		switch {
		case op.Op == Noop || skippedOps[op.Op]:
		case op.Op == Command:
			if head, ok := first(op.Object); ok && string(head.name) == "applyOps" {
				return s.applyOps(e, op.Object, depth+1)
			}
			err = s.command(&op)
		case op.changes():
			err = s.document(&op)
		default:
			err = fmt.Errorf("its kind %q is unknown here", op.Op)
		}
		return refused(&op, err)
	})
}
