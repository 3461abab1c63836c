// Package mongotest is a MongoDB server for tests: the wire protocol and the commands that dumping and restoring need,
// over a storage in memory that keeps every version of every document, so that reads at a cluster time are really reads
// at that time. It can be any server from 2.6 on, as a standalone, a replica set or a mongos, and it does on request what
// real servers do only in bad nights: a history that is too short, an oplog that rolled over, an election, a connection
// that ends in the middle of a batch.
//
// It was written from MongoDB's documentation and from what the real tools send and expect; it shares no code with
// wtsnap. Documents are kept and returned as the bytes that came, but for what a real server changes itself: _id goes to
// the front, and zero timestamps are filled in. Where it is lenient, a real server may not be: what passes here has to
// pass with the real tools and with FerretDB, too, as far as those can.
//
// The package also starts those: see Ferret and Tool.
package mongotest

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A Role is what a server says it is.
type Role int

const (
	ReplicaSet Role = iota // members of one replica set, the first of them the primary
	Standalone
	Mongos
)

// Options say which server to be. The zero value is a replica set rs0 of one member, version 7.0.14.
type Options struct {
	Version  string // "3.2.22", "7.0.14"
	Role     Role
	Set      string   // the replica set's name
	Members  int      // of the replica set
	Listen   string   // host:port of the first member; "" = any port
	Tags     []bson.D // of each member
	User     string   // with Password: commands need authentication by SCRAM-SHA-256
	Password string
	Start    uint32 // the clock's first second; 0 means 1,700,000,000. It goes on by Advance alone
	NoOplog  bool   // a replica set without one, which spares memory
	Window   int    // documents in a first batch, 0 means 101
}

// A Server is a fake server, or replica set of them. Its methods may be called from any goroutine, also from hooks.
type Server struct {
	tb      testing.TB
	o       Options
	version [3]int
	st      *store

	mu      sync.Mutex
	members []*member
	primary int
	conns   int64
	cursors map[int64]*cursor
	cursorN int64
	written map[string][]byte // replies to retryable writes
	params  map[string]any
	hooks   []*hook
	counts  map[string]int
	calls   []Call
	wait    sync.WaitGroup
}

// member is one listening address.
type member struct {
	s        *Server
	n        int
	addr     string
	listener net.Listener
	conns    map[net.Conn]struct{}
	down     bool
}

// Start starts a server on the loopback interface that ends with the test.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	if o.Version == "" {
		o.Version = "7.0.14"
	}
	if o.Set == "" {
		o.Set = "rs0"
	}
	if o.Members == 0 || o.Role != ReplicaSet {
		o.Members = 1
	}
	if o.Start == 0 {
		o.Start = 1_700_000_000
	}
	if o.Window == 0 {
		o.Window = 101
	}
	s := &Server{tb: tb, o: o, cursors: map[int64]*cursor{}, written: map[string][]byte{}, counts: map[string]int{}}
	if n, err := fmt.Sscanf(o.Version, "%d.%d.%d", &s.version[0], &s.version[1], &s.version[2]); n < 2 {
		tb.Fatalf("mongotest: version %q: %v", o.Version, err)
	}
	s.st = newStore(s, o.Start)
	s.params = map[string]any{
		"featureCompatibilityVersion":       bson.D{{Key: "version", Value: fmt.Sprintf("%d.%d", s.version[0], s.version[1])}},
		"minSnapshotHistoryWindowInSeconds": int32(300),
		"authSchemaVersion":                 int32(5),
	}
	for i := range o.Members {
		m := &member{s: s, n: i, addr: "127.0.0.1:0", conns: map[net.Conn]struct{}{}}
		if i == 0 && o.Listen != "" {
			m.addr = o.Listen
		}
		if err := m.listen(); err != nil {
			tb.Fatalf("mongotest: %v", err)
		}
		m.addr = m.listener.Addr().String()
		s.members = append(s.members, m)
	}
	// Only now: whoever used the port before may connect at once.
	for _, m := range s.members {
		m.start()
	}
	tb.Cleanup(s.Close)
	return s
}

// Close ends the server and waits for its goroutines.
func (s *Server) Close() {
	for i := range s.members {
		s.Stop(i)
	}
	s.wait.Wait()
}

func (m *member) listen() error {
	l, err := net.Listen("tcp", m.addr)
	if err != nil {
		return err
	}
	m.listener, m.down = l, false
	return nil
}

func (m *member) start() {
	m.s.wait.Add(1)
	go m.accept(m.listener)
}

func (m *member) accept(l net.Listener) {
	defer m.s.wait.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		m.s.mu.Lock()
		if m.down {
			m.s.mu.Unlock()
			c.Close()
			continue
		}
		m.conns[c] = struct{}{}
		m.s.conns++
		id := m.s.conns
		m.s.wait.Add(1)
		m.s.mu.Unlock()
		go m.serve(c, id)
	}
}

// Stop makes a member unreachable: its port is closed, and so are its connections. What it stored stays.
func (s *Server) Stop(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[n]
	if m.down {
		return
	}
	m.down = true
	m.listener.Close()
	for c := range m.conns {
		c.Close()
	}
	s.st.wake()
}

// Resume makes a stopped member reachable again, at the address that it had.
func (s *Server) Resume(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.members[n].down {
		return
	}
	if err := s.members[n].listen(); err != nil {
		s.tb.Errorf("mongotest: %v", err)
		return
	}
	s.members[n].start()
}

// DropConnections closes every connection, and goes on listening.
func (s *Server) DropConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.members {
		for c := range m.conns {
			c.Close()
		}
	}
}

// StepDown makes member n the primary.
func (s *Server) StepDown(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.primary = n
	s.st.mu.Lock()
	s.st.term++
	s.st.mu.Unlock()
}

// Addr is the address of member n.
func (s *Server) Addr(n int) string { return s.members[n].addr }

// Primary is the number of the primary.
func (s *Server) Primary() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.primary
}

// URI leads a driver to the server: all members of a replica set by its name.
func (s *Server) URI() string {
	var hosts []string
	for _, m := range s.members {
		hosts = append(hosts, m.addr)
	}
	auth, query := "", "/"
	if s.o.User != "" {
		auth = s.o.User + ":" + s.o.Password + "@"
	}
	if s.o.Role == ReplicaSet {
		query += "?replicaSet=" + s.o.Set
	}
	return "mongodb://" + auth + strings.Join(hosts, ",") + query
}

// Advance moves the clock on. Operations take the second that it shows, and count up within it.
func (s *Server) Advance(seconds uint32) {
	s.st.mu.Lock()
	s.st.clock += seconds
	s.st.mu.Unlock()
}

// Now is the time of the last write.
func (s *Server) Now() bson.Timestamp {
	s.st.mu.RLock()
	defer s.st.mu.RUnlock()
	return s.st.now
}

// ForgetHistory makes reads before a time fail with SnapshotTooOld, those of open cursors included.
func (s *Server) ForgetHistory(before bson.Timestamp) {
	s.st.mu.Lock()
	s.st.oldest = before
	s.st.mu.Unlock()
}

// ExpireCursors kills all cursors that did not ask to be spared.
func (s *Server) ExpireCursors() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.cursors {
		if !c.noTimeout {
			delete(s.cursors, id)
		}
	}
}

// OpenCursors counts the cursors that were neither read to their end nor killed.
func (s *Server) OpenCursors() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.cursors)
}

// atLeast compares the server's version.
func (s *Server) atLeast(v ...int) bool {
	for i, n := range v {
		if s.version[i] != n {
			return s.version[i] > n
		}
	}
	return true
}

func (s *Server) wireVersion() int32 {
	for _, v := range []struct{ major, minor, wire int }{
		{9, 0, 29}, {8, 3, 28}, {8, 2, 27}, {8, 1, 26}, {8, 0, 25}, {7, 3, 24}, {7, 0, 21}, {6, 0, 17}, {5, 0, 13},
		{4, 4, 9}, {4, 2, 8}, {4, 0, 7}, {3, 6, 6}, {3, 4, 5}, {3, 2, 4}, {3, 0, 3}, {2, 6, 2},
	} {
		if s.atLeast(v.major, v.minor) {
			return int32(v.wire)
		}
	}
	return 0
}
