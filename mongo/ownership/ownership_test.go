package ownership

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/ownership/girdertest"
)

// memory is a Source in memory that counts how often each collection is read.
type memory struct {
	docs  map[string][]bson.Raw
	reads map[string]int
	fail  string // of this collection the second document cannot be read
}

var errRead = errors.New("cannot be read")

func (m *memory) Namespaces() (out []Namespace) {
	for _, ns := range slices.Sorted(maps.Keys(m.docs)) {
		f := girdertest.Namespace(ns)
		out = append(out, Namespace{f[0], f[1]})
	}
	return out
}

func (m *memory) Documents(_ context.Context, n Namespace) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) {
		m.reads[n.String()]++
		for i, d := range m.docs[n.String()] {
			if n.String() == m.fail && i == 1 {
				yield(nil, errRead)
				return
			}
			own := slices.Clone(d)
			if !yield(own, nil) {
				return
			}
			clear(own) // it is valid until the next
		}
	}
}

// owned lists the documents that match, as the corpus does.
func owned(t *testing.T, src *memory, o *Owned) map[string]bool {
	t.Helper()
	got := map[string]bool{}
	for _, n := range src.Namespaces() {
		match := o.Match(n)
		if match == nil {
			continue
		}
		for _, d := range src.docs[n.String()] {
			ok, err := match(d)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				got[girdertest.Key(n.String(), d)] = true
			}
		}
	}
	return got
}

// TestWholeTale finds exactly the documents of each user.
func TestWholeTale(t *testing.T) {
	c := girdertest.New("alice", "bob", "carol")
	m := Builtin("wholetale")
	for _, u := range c.Users {
		src := &memory{docs: c.Documents, reads: map[string]int{}}
		o, err := m.Resolve(t.Context(), src, u.Login, nil)
		if err != nil {
			t.Fatal(err)
		}
		if src.reads["assets.chunk"] > 0 || src.reads["girder.item"] != 1 || src.reads["girder.file"] != 1 || src.reads["girder.folder"] > 5 {
			t.Errorf("collections were read too often: %v", src.reads)
		}
		if diff := cmp.Diff(c.Owned[u.Login], owned(t, src, o)); diff != "" {
			t.Errorf("%s: -made +found\n%s", u.Login, diff)
		}
		if err := o.Count(t.Context(), src); err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for _, n := range o.Counts {
			total += n.Documents
			if n.Documents == 0 || n.Bytes < 20*n.Documents {
				t.Errorf("counted %+v", n)
			}
		}
		if total != int64(len(c.Owned[u.Login])) || total < 50 {
			t.Errorf("%s: %d documents are counted of %d", u.Login, total, len(c.Owned[u.Login]))
		}
		if src.reads["assets.chunk"] != 1 {
			t.Errorf("chunks were read %d times", src.reads["assets.chunk"])
		}
		want := []Place{{"home", u.ID.Hex(), true, []string{u.Login[:1] + "/" + u.Login, u.Login}}}
		for _, tale := range u.Tales {
			want = append(want, Place{"tale", tale.Hex(), false, []string{tale.Hex()[:1] + "/" + tale.Hex()}})
		}
		if diff := cmp.Diff(want, o.Places); diff != "" {
			t.Error(diff)
		}
	}
}

// TestGirder finds no tales, for it knows of none, and by other names of the user.
func TestGirder(t *testing.T) {
	c := girdertest.New("alice", "bob")
	src := &memory{docs: c.Documents, reads: map[string]int{}}
	for _, name := range []string{"alice", "alice@example.org", c.Users[0].ID.Hex()} {
		o, err := Builtin("girder").Resolve(t.Context(), src, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := owned(t, src, o)
		if len(got) < 20 || len(got) >= len(c.Owned["alice"]) {
			t.Errorf("%d documents", len(got))
		}
		for k := range got {
			if !c.Owned["alice"][k] {
				t.Errorf("%s is not alice's", k)
			}
		}
		if o.Name != "alice" {
			t.Errorf("%s is %q", name, o.Name)
		}
	}
	if a, b := Builtin("girder").Fits(src), Builtin("wholetale").Fits(src); a == 0 || b <= a {
		t.Errorf("girder fits %d, wholetale %d", a, b)
	}
	var users []string
	for u, err := range Builtin("girder").Users(t.Context(), src) {
		if err != nil {
			t.Fatal(err)
		}
		users = append(users, u[0])
	}
	if diff := cmp.Diff([]string{"alice", "bob"}, users); diff != "" {
		t.Error(diff)
	}
}

func TestOptional(t *testing.T) {
	c := girdertest.New("alice", "bob")
	src := &memory{docs: c.Documents, reads: map[string]int{}}
	count := func(with ...string) int {
		o, err := Builtin("wholetale").Resolve(t.Context(), src, "alice", with)
		if err != nil {
			t.Fatal(err)
		}
		return len(owned(t, src, o))
	}
	if without, with := count(), count("job"); with != without+1 {
		t.Errorf("%d documents, and %d with jobs", without, with)
	}
	if _, err := Builtin("wholetale").Resolve(t.Context(), src, "alice", []string{"token"}); err == nil {
		t.Error("tokens can be asked for")
	}
}

func TestNoUser(t *testing.T) {
	c := girdertest.New("alice", "bob")
	c.Documents["girder.user"] = append(c.Documents["girder.user"], raw(t, bson.D{{Key: "_id", Value: 1}, {Key: "login", Value: "x"}, {Key: "email", Value: "alice"}}))
	src := &memory{docs: c.Documents, reads: map[string]int{}}
	for name, count := range map[string]int{"nobody": 0, "alice": 2} {
		_, err := Builtin("girder").Resolve(t.Context(), src, name, nil)
		var none *NoUserError
		if !errors.As(err, &none) || none.Count != count {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, ns := range []string{"girder.user", "girder.folder", "girder.item"} {
		src.fail = ns
		if _, err := Builtin("girder").Resolve(t.Context(), src, "bob", nil); !errors.Is(err, errRead) {
			t.Errorf("%s cannot be read: %v", ns, err)
		}
	}
}

func raw(t testing.TB, d bson.D) bson.Raw {
	t.Helper()
	data, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFixes finds what documents of others say of a user, and nothing else.
func TestFixes(t *testing.T) {
	c := girdertest.New("alice", "bob", "carol")
	src := &memory{docs: c.Documents, reads: map[string]int{}}
	o, err := Builtin("wholetale").Resolve(t.Context(), src, "alice", nil)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]int{}
	for _, n := range src.Namespaces() {
		fixes := o.Fixes(n)
		if fixes == nil {
			continue
		}
		for _, d := range src.docs[n.String()] {
			list, err := fixes(d)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range list {
				fields[n.Collection+" "+f.Repair.Field+f.Repair.Array]++
				if !f.ID.Equal(d.Lookup("_id")) {
					t.Errorf("a fix of %v is of %v", d, f.ID)
				}
				switch f.Match {
				case "":
					if id, ok := f.Value.ObjectIDOK(); !ok || id != c.Users[0].ID {
						t.Errorf("the value is %v", f.Value)
					}
				case "id":
					if f.Value.Document().Lookup("id").ObjectID() != c.Users[0].ID || f.Value.Document().Lookup("level").Int32() != 2 {
						t.Errorf("the element is %v", f.Value)
					}
				default:
					t.Errorf("the elements differ in %q", f.Match)
				}
			}
		}
	}
	for _, want := range []string{"group creatorId", "group access.users", "group requests", "folder creatorId", "folder access.users", "item creatorId",
		"tale creatorId", "tale access.users", "file creatorId"} {
		if fields[want] == 0 {
			t.Errorf("no fix of %s", want)
		}
	}
	if fields["group requests"] != 1 || fields["group creatorId"] != 1 || fields["tale access.users"] != 4 {
		t.Errorf("fixes: %v", fields)
	}
}

func TestFor(t *testing.T) {
	c := girdertest.New("alice", "bob")
	moved := map[string][]bson.Raw{"other.user": nil}
	for ns, docs := range c.Documents {
		moved[strings.Replace(ns, "girder.", "copy.", 1)] = docs
	}
	src := &memory{docs: moved, reads: map[string]int{}}
	m, err := Builtin("wholetale").For(src)
	if err != nil || m.Database != "copy" {
		t.Fatalf("the database is %v, %v", m, err)
	}
	o, err := m.Resolve(t.Context(), src, "bob", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := owned(t, src, o); len(got) != len(c.Owned["bob"]) {
		t.Errorf("%d documents of %d", len(got), len(c.Owned["bob"]))
	}
	delete(moved, "copy.user")
	if m, err := Builtin("girder").For(src); err == nil {
		t.Errorf("it fits %s", m.Database)
	}
}

const head = "name='x'\ndatabase='d'\n[user]\ncollection='u'\nnames=['n']\n"

func TestParse(t *testing.T) {
	for _, name := range Builtins() {
		if m := Builtin(name); m.Name != name || len(m.Own) < 5 || len(m.Repairs) < 3 || len(m.Files) == 0 {
			t.Errorf("%s is %+v", name, m)
		}
	}
	if Builtin("../x") != nil {
		t.Error("there is a map ../x")
	}
	for text, want := range map[string]string{
		"":           "names no database",
		"nonsense":   "toml",
		"colour='x'": "unknown key colour",
		head + "[[own]]\ncollection='c'\nany=[{a='b'}]":                         "take others' documents",
		head + "[[own]]\ncollection='c'\nany=[{}]":                              "is empty",
		head + "[[own]]\ncollection='c'\nany=[{a='@x._id'}]":                    "no rule is about",
		head + "[[own]]\ncollection='c'\nany=[{a='@u'}]":                        "names no field",
		head + "[[own]]\ncollection='c'\nany=[{a='@f(u._id)'}]":                 "is neither",
		head + "[[own]]\ncollection='c'\nany=[{a=['@u._id']}]":                  "a value is",
		head + "[[own]]\ncollection='u'\nany=[{a='@u._id'}]":                    "only the one that is named",
		head + "[[repair]]\ncollections=['c']\nfield='f'":                       "empty",
		head + "[[repair]]\ncollections=['c']\nfield='f'\nelement={a='@u._id'}": "an element",
		head + "[[repair]]\ncollections=['c']\nfield='f'\nvalue='x'":            "nothing of the user",
		head + "[[files]]\nname='n'\nof='x'\npaths=['p']":                       "[[files]] needs",
		head + "[[files]]\nname='n'\nof='u'\npaths=['{p']":                      "not closed",
		"extends='girder'\n[[own]]\ncollection='token'\nany=[{a='@user._id'}]":  "never restored",
		"extends='nothing'": "there are girder and wholetale",
	} {
		_, err := Parse([]byte(text))
		var bad *MapError
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestMatch(t *testing.T) {
	doc := raw(t, bson.D{{Key: "s", Value: "text"}, {Key: "n", Value: int64(3)}, {Key: "f", Value: 3.0}, {Key: "b", Value: true}, {Key: "at", Value: "@x"},
		{Key: "list", Value: bson.A{1, "two", bson.A{"deep"}, bson.D{{Key: "a", Value: bson.A{"three"}}}}}, {Key: "sub", Value: bson.D{{Key: "x", Value: "y"}}}})
	for text, want := range map[string]bool{
		"s='text'": true, "s='tex'": false, "n=3": true, "n=4": false, "n=3.0": true, "f=3": true, "b=true": true, "b=false": false,
		"list='two'": true, "list=1": true, "list='deep'": false, "'list.a'='three'": true, "'sub.x'='y'": true, "'sub.z'='y'": false,
		"'s.x'='y'": false, "none='x'": false, "at='@@x'": true, "s='text', n=4": false,
	} {
		m, err := Parse([]byte(head + "[[own]]\ncollection='c'\nany=[{me='@u._id', " + text + "}]"))
		if err != nil {
			t.Fatal(err)
		}
		list := slices.DeleteFunc(m.Own[0].any[0], func(c condition) bool { return c.ref != nil })
		if got, err := matches(doc, list, nil); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := matches(bson.Raw{12, 0, 0, 0, 2, 's', 0, 99, 0, 0, 0, 0}, []condition{{path: []string{"s"}, want: "x"}}, nil); err == nil {
		t.Error("a broken document is matched")
	}
}

func TestExpand(t *testing.T) {
	for pattern, want := range map[string]string{"{l[0]}/{l}": "a/alice", "x/{l}.d": "x/alice.d", "plain": "plain", "{up}": "", "{none}": "", "{slash}": ""} {
		got, err := expand(pattern, func(f string) (string, bool) {
			v, ok := map[string]string{"l": "alice", "up": "..", "slash": "a/b"}[f]
			return v, ok
		})
		if got != want && want != "" || want == "" && err == nil {
			t.Errorf("%s: %q, %v", pattern, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range Builtins() {
		text, err := builtin.ReadFile("maps/" + name + ".toml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(head))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse(text)
		if err == nil && (m.Database == "" || m.User.Collection == "") {
			t.Fatalf("%q is %+v", text, m)
		}
	})
}

// FuzzMatch feeds documents that are none to what looks into them.
func FuzzMatch(f *testing.F) {
	c := girdertest.New("a", "b")
	for _, docs := range c.Documents {
		f.Add([]byte(docs[0]))
	}
	src := &memory{docs: c.Documents, reads: map[string]int{}}
	o, err := Builtin("wholetale").Resolve(context.Background(), src, "a", []string{"job"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, doc []byte) {
		for _, n := range src.Namespaces() {
			if match := o.Match(n); match != nil {
				_, _ = match(doc)
			}
			if fixes := o.Fixes(n); fixes != nil {
				_, _ = fixes(doc)
			}
		}
		for i, s := range o.sets {
			_ = set{}.gather(o.Map.refs[i], doc)
			_ = s
		}
	})
}
