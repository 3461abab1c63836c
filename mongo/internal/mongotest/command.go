package mongotest

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// commands are those that hooks see, by name. A handler's answer is a document without ok, or a whole reply as bytes
// with room for the header at its front.
func (r *request) handler() func() (any, error) {
	switch r.name {
	case "find":
		return r.find
	case "getMore":
		return r.getMore
	case "killCursors":
		return r.killCursors
	case "aggregate":
		return r.aggregate
	case "count":
		return r.count
	case "distinct":
		return r.distinct
	case "listDatabases":
		return r.listDatabases
	case "listCollections":
		return r.listCollections
	case "listIndexes":
		return r.listIndexes
	case "collStats", "collstats", "dbStats", "dbstats":
		return r.stats
	case "insert":
		return r.insert
	case "update":
		return r.update
	case "delete":
		return r.delete
	case "findAndModify", "findandmodify":
		return r.findAndModify
	case "create":
		return r.create
	case "drop":
		return r.drop
	case "dropDatabase":
		return r.dropDatabase
	case "renameCollection":
		return r.renameCollection
	case "createIndexes":
		return r.createIndexes
	case "dropIndexes", "deleteIndexes":
		return r.dropIndexes
	case "collMod":
		return r.collMod
	case "applyOps":
		return r.applyOps
	case "_mergeAuthzCollections":
		return r.mergeAuthz
	case "createUser", "updateUser", "dropUser", "usersInfo", "createRole", "updateRole", "dropRole", "rolesInfo":
		return r.users
	case "getParameter":
		return r.getParameter
	case "setParameter":
		return r.setParameter
	case "replSetGetStatus":
		return r.replSetGetStatus
	case "replSetStepDown":
		return r.replSetStepDown
	case "serverStatus":
		return r.serverStatus
	case "endSessions":
		return r.endSessions
	case "startSession":
		return r.startSession
	case "refreshSessions", "fsync", "fsyncUnlock", "validate", "setFeatureCompatibilityVersion", "killSessions", "getLastError", "getlasterror":
		return func() (any, error) { return bson.D{}, nil }
	}
	return nil
}

// greetings are the commands that hooks do not see.
func (r *request) greeting() func() (any, error) {
	switch strings.ToLower(r.name) {
	case "hello", "ismaster":
		return r.hello
	case "ping":
		return func() (any, error) { return bson.D{}, nil }
	case "buildinfo":
		return r.buildInfo
	case "connectionstatus":
		return func() (any, error) {
			return bson.D{{Key: "authInfo", Value: bson.D{{Key: "authenticatedUsers", Value: bson.A{}}, {Key: "authenticatedUserRoles", Value: bson.A{}}}}}, nil
		}
	case "whatsmyuri":
		return func() (any, error) { return bson.D{{Key: "you", Value: "127.0.0.1:1"}}, nil }
	case "getcmdlineopts", "hostinfo", "getlog":
		return func() (any, error) { return bson.D{{Key: "parsed", Value: bson.D{}}}, nil }
	case "saslstart":
		return r.saslStart
	case "saslcontinue":
		return r.saslContinue
	}
	return nil
}

// answer runs the command and makes its reply.
func (r *request) answer() ([]byte, *Outcome) {
	if f := r.greeting(); f != nil {
		return r.reply(f()), nil
	}
	if r.old && r.s.atLeast(5, 1) {
		return r.reply(nil, errorf(352, "UnsupportedOpQueryCommand", "Unsupported OP_QUERY command: %s. The client driver may require an upgrade.", r.name)), nil
	}
	call := Call{Member: r.m.n, Conn: r.conn, Name: r.name, DB: r.db, Collection: r.collection(), Body: r.body, Documents: r.countDocuments()}
	o := r.s.before(&call)
	if o != nil {
		switch {
		case o.Drop == DropBefore:
			return nil, o
		case o.Error != nil:
			return r.reply(nil, o.Error), o
		case o.Reply != nil:
			return r.reply(o.Reply, nil), o
		}
	}
	f := r.handler()
	if f == nil {
		return r.reply(nil, errorf(59, "CommandNotFound", "no such command: '%s'", r.name)), o
	}
	if err := r.admit(); err != nil {
		return r.reply(nil, err), o
	}
	once := r.onceKey()
	if once != "" {
		r.s.mu.Lock()
		reply := slices.Clone(r.s.written[once])
		r.s.mu.Unlock()
		if reply != nil {
			return reply, o
		}
	}
	reply := r.reply(f())
	if once != "" {
		r.s.mu.Lock()
		r.s.written[once] = slices.Clone(reply)
		r.s.mu.Unlock()
	}
	return reply, o
}

func (r *request) collection() string {
	name := r.name
	if name == "getMore" {
		name = "collection"
	}
	c, _ := r.body.Lookup(name).StringValueOK()
	return c
}

func (r *request) countDocuments() (n int) {
	for _, docs := range r.documents {
		n += len(docs)
	}
	for _, field := range []string{"documents", "updates", "deletes"} {
		if a, ok := r.body.Lookup(field).ArrayOK(); ok {
			values, _ := a.Values()
			n += len(values)
		}
	}
	return n
}

var writing = []string{"insert", "update", "delete", "findAndModify", "findandmodify", "create", "drop", "dropDatabase", "renameCollection", "createIndexes",
	"dropIndexes", "collMod", "applyOps", "_mergeAuthzCollections", "createUser", "updateUser", "dropUser", "createRole", "updateRole", "dropRole"}

// admit checks whether this member runs the command for this client.
func (r *request) admit() error {
	if r.s.o.User != "" && !r.auth.done {
		return &Error{Code: 13, Name: "Unauthorized", Message: "command " + r.name + " requires authentication"}
	}
	if r.s.o.Role != ReplicaSet || r.m.n == r.s.Primary() {
		return nil
	}
	if slices.Contains(writing, r.name) {
		e := *NotWritablePrimary
		if r.body.Lookup("txnNumber").Type != 0 {
			e.Labels = []string{"RetryableWriteError"}
		}
		return &e
	}
	if mode, ok := r.body.Lookup("$readPreference", "mode").StringValueOK(); r.name != "getMore" && !r.old && (!ok || mode == "primary") &&
		slices.Contains([]string{"find", "aggregate", "count", "distinct", "listCollections", "listIndexes", "listDatabases"}, r.name) {
		return errorf(13435, "NotPrimaryNoSecondaryOk", "not primary and secondaryOk=false")
	}
	return nil
}

// onceKey names a retryable write, "" for all else.
func (r *request) onceKey() string {
	id, n := r.body.Lookup("lsid", "id"), r.body.Lookup("txnNumber")
	if n.Type == 0 || r.body.Lookup("autocommit").Type != 0 {
		return ""
	}
	return string(id.Value) + string(n.Value)
}

// reply makes the bytes of a reply, with room for its header.
func (r *request) reply(answer any, err error) []byte {
	if b, ok := answer.([]byte); ok && err == nil {
		return b
	}
	var d bson.D
	var e *Error
	switch {
	case errors.As(err, &e):
		d = e.reply()
	case err != nil:
		d = errorf(1, "InternalError", "%v", err).reply()
	default:
		d = append(d, answer.(bson.D)...)
		if !slices.ContainsFunc(d, func(e bson.E) bool { return e.Key == "ok" }) {
			d = append(d, bson.E{Key: "ok", Value: 1.0})
		}
	}
	return append(make([]byte, replyRoom), rawOf(append(d, r.s.times()...))...)
}

// times are the fields that a replica set adds to each reply.
func (s *Server) times() bson.D {
	if s.o.Role == Standalone || !s.atLeast(3, 6) {
		return nil
	}
	now := s.Now()
	return bson.D{
		{Key: "$clusterTime", Value: bson.D{{Key: "clusterTime", Value: now},
			{Key: "signature", Value: bson.D{{Key: "hash", Value: bson.Binary{Data: make([]byte, 20)}}, {Key: "keyId", Value: int64(0)}}}}},
		{Key: "operationTime", Value: now},
	}
}

func (r *request) hello() (any, error) {
	s := r.s
	s.mu.Lock()
	primary := s.primary
	s.mu.Unlock()
	writable := s.o.Role != ReplicaSet || r.m.n == primary
	name := "isWritablePrimary"
	if r.name != "hello" {
		name = "ismaster"
	}
	d := bson.D{}
	if truthy(r.body.Lookup("helloOk")) && s.atLeast(4, 4) {
		d = append(d, bson.E{Key: "helloOk", Value: true})
	}
	d = append(d, bson.E{Key: name, Value: writable})
	switch s.o.Role {
	case Mongos:
		d = append(d, bson.E{Key: "msg", Value: "isdbgrid"})
	case ReplicaSet:
		var hosts []string
		for _, m := range s.members {
			hosts = append(hosts, m.addr)
		}
		s.st.mu.RLock()
		term, now := s.st.term, s.st.now
		s.st.mu.RUnlock()
		election := bson.ObjectID{0x7f, 0xff, 0xff, 0xff}
		election[11] = byte(term)
		d = append(d, bson.E{Key: "hosts", Value: hosts}, bson.E{Key: "setName", Value: s.o.Set}, bson.E{Key: "setVersion", Value: int32(1)},
			bson.E{Key: "secondary", Value: !writable}, bson.E{Key: "primary", Value: hosts[primary]}, bson.E{Key: "me", Value: r.m.addr})
		if writable {
			d = append(d, bson.E{Key: "electionId", Value: election})
		}
		if len(s.o.Tags) > r.m.n {
			d = append(d, bson.E{Key: "tags", Value: s.o.Tags[r.m.n]})
		}
		when := bson.NewDateTimeFromTime(time.Unix(int64(now.T), 0))
		op := bson.D{{Key: "ts", Value: now}, {Key: "t", Value: term}}
		d = append(d, bson.E{Key: "lastWrite", Value: bson.D{{Key: "opTime", Value: op}, {Key: "lastWriteDate", Value: when},
			{Key: "majorityOpTime", Value: op}, {Key: "majorityWriteDate", Value: when}}})
	}
	d = append(d, bson.E{Key: "maxBsonObjectSize", Value: int32(maxDocument)}, bson.E{Key: "maxMessageSizeBytes", Value: int32(maxMessage)},
		bson.E{Key: "maxWriteBatchSize", Value: int32(maxBatch)}, bson.E{Key: "localTime", Value: bson.NewDateTimeFromTime(time.Now())},
		bson.E{Key: "minWireVersion", Value: int32(0)}, bson.E{Key: "maxWireVersion", Value: s.wireVersion()}, bson.E{Key: "readOnly", Value: false})
	if s.atLeast(3, 6) {
		d = append(d, bson.E{Key: "logicalSessionTimeoutMinutes", Value: int32(30)})
	}
	if s.o.User != "" && r.body.Lookup("saslSupportedMechs").Type != 0 {
		d = append(d, bson.E{Key: "saslSupportedMechs", Value: bson.A{"SCRAM-SHA-256"}})
	}
	if spec, ok := r.body.Lookup("speculativeAuthenticate").DocumentOK(); ok && s.o.User != "" {
		inner := &request{s: s, m: r.m, auth: r.auth, body: spec, db: "admin"}
		if answer, err := inner.saslStart(); err == nil {
			d = append(d, bson.E{Key: "speculativeAuthenticate", Value: answer})
		}
	}
	return d, nil
}

func (r *request) buildInfo() (any, error) {
	v := bson.A{int32(r.s.version[0]), int32(r.s.version[1]), int32(r.s.version[2]), int32(0)}
	return bson.D{{Key: "version", Value: r.s.o.Version}, {Key: "gitVersion", Value: "mongotest"}, {Key: "versionArray", Value: v},
		{Key: "bits", Value: int32(64)}, {Key: "maxBsonObjectSize", Value: int32(maxDocument)}, {Key: "modules", Value: bson.A{}}}, nil
}

func (r *request) getParameter() (any, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	d := bson.D{}
	for name, v := range r.s.params {
		if r.body.Lookup(name).Type != 0 || r.body.Index(0).Value().String() == `"*"` {
			d = append(d, bson.E{Key: name, Value: v})
		}
	}
	if len(d) == 0 {
		return nil, errorf(72, "InvalidOptions", "no option found to get")
	}
	return d, nil
}

func (r *request) setParameter() (any, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	given := without(r.body, "setParameter", "lsid", "$db", "$clusterTime", "$readPreference", "comment")
	if len(given) == 0 {
		return nil, errorf(72, "InvalidOptions", "no option found to set")
	}
	last := bson.D{}
	for _, e := range given {
		was, ok := r.s.params[e.Key]
		if !ok {
			return nil, errorf(72, "InvalidOptions", "attempted to set unrecognized parameter [%s]", e.Key)
		}
		r.s.params = maps.Clone(r.s.params)
		r.s.params[e.Key] = e.Value
		last = bson.D{{Key: "was", Value: was}}
	}
	return last, nil
}

// SetParameter sets what getParameter answers.
func (s *Server) SetParameter(name string, v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.params[name] = v
}

func (r *request) replSetGetStatus() (any, error) {
	if r.s.o.Role != ReplicaSet {
		return nil, errorf(76, "NoReplicationEnabled", "not running with --replSet")
	}
	primary, now := r.s.Primary(), r.s.Now()
	op := bson.D{{Key: "ts", Value: now}, {Key: "t", Value: int64(1)}}
	members := bson.A{}
	for i, m := range r.s.members {
		state, name := int32(2), "SECONDARY"
		if i == primary {
			state, name = 1, "PRIMARY"
		}
		members = append(members, bson.D{{Key: "_id", Value: int32(i)}, {Key: "name", Value: m.addr}, {Key: "health", Value: 1.0}, {Key: "state", Value: state},
			{Key: "stateStr", Value: name}, {Key: "optime", Value: op}, {Key: "self", Value: i == r.m.n}})
	}
	return bson.D{{Key: "set", Value: r.s.o.Set}, {Key: "myState", Value: int32(1)}, {Key: "members", Value: members},
		{Key: "optimes", Value: bson.D{{Key: "lastCommittedOpTime", Value: op}, {Key: "appliedOpTime", Value: op}, {Key: "readConcernMajorityOpTime", Value: op}}}}, nil
}

func (r *request) replSetStepDown() (any, error) {
	if len(r.s.members) < 2 {
		return nil, errorf(262, "ExceededTimeLimit", "No electable secondaries caught up")
	}
	r.s.StepDown((r.s.Primary() + 1) % len(r.s.members))
	return bson.D{}, nil
}

func (r *request) serverStatus() (any, error) {
	d := bson.D{{Key: "host", Value: r.m.addr}, {Key: "version", Value: r.s.o.Version}, {Key: "process", Value: "mongod"},
		{Key: "storageEngine", Value: bson.D{{Key: "name", Value: "wiredTiger"}, {Key: "persistent", Value: true}}}}
	if r.s.o.Role == Mongos {
		d[2].Value = "mongos"
	}
	if r.s.o.Role == ReplicaSet {
		d = append(d, bson.E{Key: "repl", Value: bson.D{{Key: "setName", Value: r.s.o.Set}, {Key: "me", Value: r.m.addr}}})
	}
	return d, nil
}

func (r *request) startSession() (any, error) {
	r.s.st.mu.Lock()
	id := r.s.st.newUUID()
	r.s.st.mu.Unlock()
	return bson.D{{Key: "id", Value: bson.D{{Key: "id", Value: bson.Binary{Subtype: 4, Data: id[:]}}}}, {Key: "timeoutMinutes", Value: int32(30)}}, nil
}

// endSessions kills the sessions' cursors, as servers do.
func (r *request) endSessions() (any, error) {
	a, _ := r.body.Lookup("endSessions").ArrayOK()
	values, _ := a.Values()
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	for _, v := range values {
		id, _ := v.DocumentOK()
		for n, c := range r.s.cursors {
			if c.session != "" && c.session == string(id.Lookup("id").Value) {
				delete(r.s.cursors, n)
			}
		}
	}
	return bson.D{}, nil
}
