package mongotest

import (
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A Call is a command as it came in.
type Call struct {
	Member     int
	Conn       int64 // counts connections from 1
	Count      int   // counts the commands of this name from 1
	Name       string
	DB         string
	Collection string   // of commands on a collection; "" for the others
	Body       bson.Raw // without the documents of a document sequence
	Documents  int      // in document sequences and in the arrays documents, updates, deletes
}

// Namespace is the database and the collection with a dot between.
func (c Call) Namespace() string { return c.DB + "." + c.Collection }

// An Outcome says what a hook makes of a command. The zero value lets it run.
type Outcome struct {
	Error *Error   // answered instead of running the command
	Reply bson.D   // answered instead of running the command
	Drop  DropKind // end the connection
	Bytes int      // with DropInReply: after so many bytes of the reply
}

// A DropKind says when a connection ends.
type DropKind int

const (
	DropNot    DropKind = iota
	DropBefore          // without running the command
	DropAfter           // the command ran, and its reply is lost
	DropInReply
)

// A Hook is asked before each command runs, hello and its like excepted; concurrently, where commands come over several
// connections. It may read and change the server, or wait: the command waits for it. nil lets the command run.
type Hook func(c Call) *Outcome

type hook struct{ ask Hook }

// OnCommand asks h before each command until the returned function is called. The first hook that returns an outcome
// decides.
func (s *Server) OnCommand(h Hook) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := &hook{h}
	s.hooks = append(s.hooks, entry)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hooks = slices.DeleteFunc(s.hooks, func(e *hook) bool { return e == entry })
	}
}

// Fail gives the nth command of a name an outcome, n counted from 1 from now on; n = 0 means all. ns may be "" for any
// namespace.
func (s *Server) Fail(name, ns string, n int, o Outcome) (remove func()) {
	seen := make(chan int, 1)
	seen <- 0
	return s.OnCommand(func(c Call) *Outcome {
		if c.Name != name || ns != "" && c.Namespace() != ns {
			return nil
		}
		k := <-seen + 1
		seen <- k
		if n != 0 && k != n {
			return nil
		}
		return &o
	})
}

// Calls returns the commands that came in so far, of some names or of all; hello and its like excepted.
func (s *Server) Calls(names ...string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Call
	for _, c := range s.calls {
		if len(names) == 0 || slices.Contains(names, c.Name) {
			out = append(out, c)
		}
	}
	return out
}

// maxCalls bounds the commands that a server remembers.
const maxCalls = 100_000

// before records a command and asks the hooks.
func (s *Server) before(c *Call) *Outcome {
	s.mu.Lock()
	s.counts[c.Name]++
	c.Count = s.counts[c.Name]
	if len(s.calls) < maxCalls {
		kept := *c
		if kept.Body = nil; len(c.Body) <= 64<<10 {
			kept.Body = slices.Clone(c.Body)
		}
		s.calls = append(s.calls, kept)
	}
	hooks := slices.Clone(s.hooks)
	s.mu.Unlock()
	for _, h := range hooks {
		if o := h.ask(*c); o != nil {
			return o
		}
	}
	return nil
}

// Error is a command's error, or a document's of a write command.
type Error struct {
	Code    int32
	Name    string
	Message string
	Labels  []string
	extra   bson.D
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%d): %s", e.Name, e.Code, e.Message) }

// Errors that tests often need.
var (
	SnapshotTooOld     = &Error{Code: 239, Name: "SnapshotTooOld", Message: "Read timestamp is older than the oldest available timestamp."}
	NotWritablePrimary = &Error{Code: 10107, Name: "NotWritablePrimary", Message: "not primary"}
	CursorNotFound     = &Error{Code: 43, Name: "CursorNotFound", Message: "cursor not found"}
	Unauthorized       = &Error{Code: 13, Name: "Unauthorized", Message: "not authorized on db to execute command"}
	Interrupted        = &Error{Code: 11602, Name: "InterruptedDueToReplStateChange", Message: "operation was interrupted"}
)

func errorf(code int32, name, format string, args ...any) *Error {
	return &Error{Code: code, Name: name, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) reply() bson.D {
	d := bson.D{{Key: "ok", Value: 0.0}, {Key: "errmsg", Value: e.Message}, {Key: "code", Value: e.Code}, {Key: "codeName", Value: e.Name}}
	if len(e.Labels) > 0 {
		d = append(d, bson.E{Key: "errorLabels", Value: e.Labels})
	}
	return append(d, e.extra...)
}
