package mongo

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/tag"

	"github.com/whole-tale/wtsnap/snapshot"
)

// selectionTimeout is how long a server is looked for where the connection string does not say.
const selectionTimeout = 15 * time.Second

// ConnectOptions are the options of Connect.
type ConnectOptions struct {
	// ReadPreference chooses the member to read from: a mode, and tags that it must have, as in "secondary" or
	// "nearest:dc=east,use=backup". "" = as the connection string says.
	ReadPreference string
	// Member is host or host:port of the only member to talk to.
	Member string
	// Past is the member that was read last time. Where neither a member nor a read preference is asked for, or it is
	// among those that are, it is read again: natural order is stable on one member only. A hidden one has to be asked for.
	Past string
	// ReadOnly pins the connection to one member, which need not be the primary.
	ReadOnly bool
	Password string // of the user that the connection string names without one
	AppName  string // for the server's log; "" = wtsnap
}

// A Server is a connection to a MongoDB. Its methods may be used concurrently.
type Server struct {
	Client   *driver.Client
	URI      string // without secrets
	Database string // that the connection string names, or ""
	Version  string // such as "7.0.42"
	Wire     int32  // the newest version of the protocol that it speaks
	Kind     Kind
	Set      string // replica set
	Member   string // the one that is read, where it is pinned to one
	Sessions bool   // it knows sessions

	read    *readpref.ReadPref
	concern *readconcern.ReadConcern // of reads that must not be rolled back; nil = the connection's
}

// Kind says what answers at the other end.
type Kind uint8

// The kinds of servers.
const (
	Standalone Kind = iota
	ReplicaSet
	Sharded // mongos
)

// helloReply is what is needed of a server's answer to hello.
type helloReply struct {
	Primary   bool              `bson:"isWritablePrimary"`
	Secondary bool              `bson:"secondary"`
	Set       string            `bson:"setName"`
	Me        string            `bson:"me"`
	Hosts     []string          `bson:"hosts"`    // the members that a driver may choose, as the set's configuration names them
	Passives  []string          `bson:"passives"` // those of them that are never the primary
	Msg       string            `bson:"msg"`
	Wire      int32             `bson:"maxWireVersion"`
	Tags      map[string]string `bson:"tags"`
	Sessions  *int32            `bson:"logicalSessionTimeoutMinutes"`
}

// mayHave reports whether a member may be one of the set: where it is not, nothing will answer under its name, however long
// that is waited for.
func (h *helloReply) mayHave(member string) bool {
	is := func(name string) bool { return strings.EqualFold(name, member) }
	return len(h.Hosts) == 0 || slices.ContainsFunc(h.Hosts, is) || slices.ContainsFunc(h.Passives, is)
}

// Connect connects to the server that uri names, and asks what it is. An error's text has no password.
func Connect(ctx context.Context, uri string, o ConnectOptions) (*Server, error) {
	s := &Server{URI: snapshot.RedactURI(uri)}
	base, err := clientOptions(uri, &o)
	if err != nil {
		return nil, fmt.Errorf("the address %s: %w", s.URI, err)
	}
	if s.Database, err = databaseOf(uri); err != nil {
		return nil, fmt.Errorf("the address %s: %w", s.URI, err)
	}
	if s.read = base.ReadPreference; s.read == nil {
		s.read = readpref.Primary()
	}
	if s.Client, err = driver.Connect(base); err != nil {
		return nil, fmt.Errorf("the address %s: %w", s.URI, err)
	}
	hello, err := s.hello(ctx)
	if err == nil && o.ReadOnly && hello.Set != "" && (base.Direct == nil || !*base.Direct) {
		hello, err = s.pin(ctx, base, &o, hello)
	}
	if err == nil {
		err = s.describe(ctx, hello)
	}
	if err != nil {
		s.Close(ctx)
		return nil, connectError(s.URI, base, s.Database, err)
	}
	return s, nil
}

// Close ends the connection.
func (s *Server) Close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = s.Client.Disconnect(ctx) // the server notices anyway
}

// clientOptions turns a connection string and what was asked for besides into the driver's options.
func clientOptions(uri string, o *ConnectOptions) (*options.ClientOptions, error) {
	c := options.Client().ApplyURI(uri)
	if err := c.Validate(); err != nil {
		var escape url.EscapeError
		if errors.As(err, &escape) {
			return nil, errors.New("a % in it that begins no escape (a % in a user name or a password is written %25)")
		}
		return nil, err
	}
	if o.Password != "" && c.Auth != nil && c.Auth.Username != "" && !c.Auth.PasswordSet {
		c.Auth.Password, c.Auth.PasswordSet = o.Password, true
	}
	if c.AppName == nil {
		if o.AppName == "" {
			o.AppName = "wtsnap"
		}
		c.SetAppName(o.AppName)
	}
	if c.ServerSelectionTimeout == nil {
		c.SetServerSelectionTimeout(selectionTimeout)
	}
	if o.ReadPreference != "" {
		p, err := ParseReadPreference(o.ReadPreference)
		if err != nil {
			return nil, err
		}
		c.SetReadPreference(p)
	}
	if o.Member != "" {
		if o.ReadPreference != "" {
			return nil, errors.New("a member and a read preference exclude each other")
		}
		c.SetHosts([]string{withPort(o.Member)}).SetDirect(true)
	}
	return c, nil
}

// withPort adds the port that a server has by default.
func withPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i < 0 || strings.HasSuffix(host, "]") {
		return host + ":27017"
	}
	return host
}

// ParseReadPreference reads MODE or MODE:TAG=VALUE,TAG=VALUE.
func ParseReadPreference(text string) (*readpref.ReadPref, error) {
	name, tags, hasTags := strings.Cut(text, ":")
	mode, err := readpref.ModeFromString(name)
	if err != nil {
		return nil, fmt.Errorf("read preference %q: there are primary, primaryPreferred, secondary, secondaryPreferred and nearest", name)
	}
	var opts []readpref.Option
	if hasTags {
		var set tag.Set
		for t := range strings.SplitSeq(tags, ",") {
			key, value, ok := strings.Cut(t, "=")
			if !ok || key == "" {
				return nil, fmt.Errorf("read preference %q: %q is no TAG=VALUE", text, t)
			}
			set = append(set, tag.Tag{Name: key, Value: value})
		}
		opts = append(opts, readpref.WithTagSets(set))
	}
	p, err := readpref.New(mode, opts...)
	if err != nil {
		return nil, fmt.Errorf("read preference %q: %w", text, err)
	}
	return p, nil
}

// databaseOf returns the database that a connection string names, or "".
func databaseOf(uri string) (string, error) {
	_, rest, _ := strings.Cut(uri, "://")
	rest, _, _ = strings.Cut(rest, "?")
	_, db, _ := strings.Cut(rest[strings.LastIndexByte(rest, '@')+1:], "/")
	return url.PathUnescape(db)
}

func (s *Server) hello(ctx context.Context) (*helloReply, error) {
	var h helloReply
	err := s.run(ctx, "admin", bson.D{{Key: "hello", Value: 1}}).Decode(&h)
	return &h, err
}

// run runs a command with the connection's read preference, where RunCommand would ask the primary.
func (s *Server) run(ctx context.Context, db string, command bson.D) *driver.SingleResult {
	return s.Client.Database(db).RunCommand(ctx, command, options.RunCmd().SetReadPreference(s.read))
}

// pin replaces the connection by one to the member that answered, or to the one that was read last time if it will do.
func (s *Server) pin(ctx context.Context, base *options.ClientOptions, o *ConnectOptions, answered *helloReply) (*helloReply, error) {
	if o.Past != "" && o.Past != answered.Me && answered.mayHave(o.Past) {
		if h := s.tryPast(ctx, base, o.Past, answered.Set); h != nil {
			return h, nil
		}
	}
	if answered.Me == "" {
		return answered, nil
	}
	direct := *base
	direct.SetHosts([]string{answered.Me}).SetDirect(true)
	client, err := driver.Connect(&direct)
	if err != nil {
		return nil, err
	}
	s.Close(ctx)
	s.Client = client
	return s.hello(ctx)
}

// tryPast connects to the member that was read last time, which is worth a wait of some seconds: it may be restarting. It
// returns nil where that one is away or is not asked for.
func (s *Server) tryPast(ctx context.Context, base *options.ClientOptions, past, set string) *helloReply {
	direct := *base
	direct.SetHosts([]string{past}).SetDirect(true).SetServerSelectionTimeout(3 * time.Second)
	client, err := driver.Connect(&direct)
	if err != nil {
		return nil
	}
	other := &Server{Client: client, read: s.read}
	h, err := other.hello(ctx)
	if err != nil || h.Set != set || h.Me != past || !chosen(base.ReadPreference, h) {
		other.Close(ctx)
		return nil
	}
	s.Close(ctx)
	s.Client = client
	return h
}

// chosen reports whether a member may be read. Where nothing is asked for, any with data will do.
func chosen(p *readpref.ReadPref, h *helloReply) bool {
	if !h.Primary && !h.Secondary {
		return false
	}
	if p == nil {
		return true
	}
	switch p.Mode() {
	case readpref.PrimaryMode, readpref.PrimaryPreferredMode:
		return h.Primary
	case readpref.SecondaryMode, readpref.SecondaryPreferredMode:
		if !h.Secondary {
			return false
		}
	}
	sets := p.TagSets()
	return len(sets) == 0 || slices.ContainsFunc(sets, func(set tag.Set) bool {
		for _, t := range set {
			if v, ok := h.Tags[t.Name]; !ok || v != t.Value {
				return false
			}
		}
		return true
	})
}

// describe fills in what the server is.
func (s *Server) describe(ctx context.Context, h *helloReply) error {
	s.Wire, s.Set, s.Member, s.Sessions = h.Wire, h.Set, h.Me, h.Sessions != nil
	switch {
	case h.Msg == "isdbgrid":
		s.Kind = Sharded
	case h.Set != "":
		s.Kind = ReplicaSet
	}
	var info struct {
		Version string `bson:"version"`
	}
	err := s.run(ctx, "admin", bson.D{{Key: "buildInfo", Value: 1}}).Decode(&info)
	s.Version = info.Version
	return err
}

// AtLeast reports whether the server's version is major.minor or newer.
func (s *Server) AtLeast(major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(s.Version, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}

// A TooOldError says that the driver does not speak the server's protocol any more.
type TooOldError struct {
	URI     string // without secrets
	Command string // that makes the server's own tools write an archive to standard output
	Err     error
}

func (e *TooOldError) Error() string {
	return fmt.Sprintf("the server %s is older than MongoDB 4.4, the oldest that is read natively: %v", e.URI, e.Err)
}

func (e *TooOldError) Unwrap() error { return e.Err }

// connectError says what is wrong with a connection, in the user's words where they are known.
func connectError(shown string, c *options.ClientOptions, db string, err error) error {
	text := err.Error()
	if i := strings.Index(text, "server at "); i >= 0 && strings.Contains(text, "version of the Go driver requires at least") {
		text, _, _ = strings.Cut(text[i:], " }")
		text, _, _ = strings.Cut(text, ", current topology")
		return &TooOldError{URI: shown, Command: dumpCommand(c, db), Err: errors.New(text)}
	}
	if strings.Contains(text, "server selection error") {
		var reasons []string
		for _, m := range lastError.FindAllStringSubmatch(text, -1) {
			reasons = append(reasons, m[1]+": "+m[2])
		}
		if len(reasons) == 0 {
			reasons = append(reasons, "of those that answer none is a member that was asked for")
		}
		return &HintError{fmt.Errorf("connecting to %s: no server: %s", shown, strings.Join(reasons, "; ")),
			"look whether MongoDB runs there, and can be reached from here; through a tunnel or a published port: add directConnection=true"}
	}
	return fmt.Errorf("connecting to %s: %w", shown, err)
}

// lastError finds in the driver's errors what became of each server.
var lastError = regexp.MustCompile(`Addr: ([^, ]+), Type: [^,]+, Last error: (.*?) }`)

// dumpCommand returns the mongodump that reads the same, in the options that it has had from the beginning. It asks for
// the password.
func dumpCommand(c *options.ClientOptions, db string) string {
	args := []string{"mongodump"}
	host := strings.Join(c.Hosts, ",")
	if c.ReplicaSet != nil {
		host = *c.ReplicaSet + "/" + host
	}
	args = append(args, "--host="+host)
	if c.Auth != nil && c.Auth.Username != "" {
		args = append(args, "--username="+c.Auth.Username)
		if c.Auth.AuthSource != "" {
			args = append(args, "--authenticationDatabase="+c.Auth.AuthSource)
		}
	}
	if c.TLSConfig != nil {
		args = append(args, "--ssl")
	}
	switch {
	case db != "":
		args = append(args, "--db="+db)
	case c.ReplicaSet != nil:
		args = append(args, "--oplog")
	}
	for i, a := range args {
		if strings.ContainsFunc(a, func(r rune) bool { return !strings.ContainsRune(plainInShell, r) }) {
			args[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(append(args, "--archive"), " ")
}

// plainInShell are the characters that need no quotes.
const plainInShell = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./:,@%+"
