// Package transform reads files of updates that make a restored MongoDB fit the place where it is: the domain, the
// origins that browsers are let in from, the ids and secrets of logins with others.
//
// It does no I/O: who fills in the values reads them. What a value holds that is not in the file itself is never in an
// error, and in nothing that is shown.
//
// # Files
//
//	[values]                                   # what ${NAME} in texts stands for
//	domain = "dev.example.org"                 # shown; the others are not
//	secret = { file = "/run/secrets/oauth" }   # also env, command, credential
//
//	[[update]]
//	name = "the origins of browsers"           # for people
//	namespace = "girder.setting"               # as it is called in the target
//	filter = '{"key": "core.cors.allow_origin"}'
//	update = '{"$set": {"value": "https://${domain}"}}'
//	matches = 1                                # or "1..", "0..1": how many documents the filter has to mean
//	upsert = true                              # make the document if there is none
//
// filter and update are extended JSON; filters are those of package query. Updates are such that doing them twice is
// doing them once, so that a restore that was interrupted can be run again: $set, $unset, $setOnInsert, $rename, $min,
// $max, $addToSet, $pull and $pullAll. A filter may not ask for what an update of the same collection changes, unless it
// may mean no document.
package transform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/query"
)

// A File is a list of updates. It is made by Parse.
type File struct {
	Values  map[string]Value
	Updates []Update // in the order in which they are made
}

// A Value is what stands in for ${NAME}.
type Value struct {
	Text string // in the file itself, if Kind is ""
	// Kind is file, env, command or credential, and Where the name of one.
	Kind, Where string
}

// Kinds are the kinds of values that are not in the file.
var kinds = []string{"file", "env", "command", "credential"}

// An Update changes documents of one collection.
type Update struct {
	Name           string // "" = none was given
	DB, Collection string // in the target
	Filter, Update string // as they are written: what they show of values is ${NAME}
	Expected       Range
	Upsert         bool

	filter, update bson.Raw
}

// Namespace is DB.COLLECTION.
func (u *Update) Namespace() string { return u.DB + "." + u.Collection }

// A Range is how many documents are expected.
type Range struct {
	Min, Max int64 // Max -1 = any number
}

// Has reports whether a number is within.
func (r Range) Has(n int64) bool { return n >= r.Min && (r.Max < 0 || n <= r.Max) }

func (r Range) String() string {
	switch {
	case r.Max < 0:
		return fmt.Sprintf("%d or more", r.Min)
	case r.Min == r.Max:
		return strconv.FormatInt(r.Min, 10)
	}
	return fmt.Sprintf("%d to %d", r.Min, r.Max)
}

// A Statement is an update whose values are filled in. Its Filter and Document may hold secrets.
type Statement struct {
	*Update
	Query    *query.Query
	Document bson.Raw
}

// An Error says what is wrong with a file. It is a usage error.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// file is a file as it is written.
type file struct {
	Values map[string]any `toml:"values"`
	Update []struct {
		Name      string `toml:"name"`
		Namespace string `toml:"namespace"`
		Filter    string `toml:"filter"`
		Update    string `toml:"update"`
		Matches   any    `toml:"matches"`
		Upsert    bool   `toml:"upsert"`
	} `toml:"update"`
}

// Parse reads a file. The error is an *Error.
func Parse(text []byte) (*File, error) {
	var in file
	d := toml.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
			row, _ := strict.Errors[0].Position()
			return nil, &Error{fmt.Errorf("line %d: unknown key %s", row, strings.Join(strict.Errors[0].Key(), "."))}
		}
		if e, ok := errors.AsType[*toml.DecodeError](err); ok {
			row, _ := e.Position()
			return nil, &Error{fmt.Errorf("line %d: %w", row, err)}
		}
		return nil, &Error{err}
	}
	f := &File{Values: map[string]Value{}}
	for _, name := range slices.Sorted(maps.Keys(in.Values)) {
		v, err := parseValue(name, in.Values[name])
		if err != nil {
			return nil, &Error{fmt.Errorf("values.%s: %w", name, err)}
		}
		f.Values[name] = v
	}
	if len(in.Update) == 0 {
		return nil, &Error{errors.New("it has no [[update]]")}
	}
	used := map[string]bool{}
	for i, e := range in.Update {
		u := Update{Name: e.Name, Filter: strings.TrimSpace(e.Filter), Update: strings.TrimSpace(e.Update), Upsert: e.Upsert}
		err := f.parseUpdate(&u, e.Namespace, e.Matches, used)
		if err != nil {
			name := e.Namespace
			if e.Name != "" {
				name = e.Name
			}
			return nil, &Error{fmt.Errorf("update %d (%s): %w", i+1, name, err)}
		}
		f.Updates = append(f.Updates, u)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Values)) {
		if !used[name] {
			return nil, &Error{fmt.Errorf("values.%s: no update has ${%s}", name, name)}
		}
	}
	return f, f.repeatable()
}

var nameOf = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func parseValue(name string, in any) (Value, error) {
	if !nameOf.MatchString(name) {
		return Value{}, errors.New("a name has letters, digits and _")
	}
	if text, ok := in.(string); ok {
		return Value{Text: text}, nil
	}
	table, ok := in.(map[string]any)
	if !ok || len(table) != 1 {
		return Value{}, fmt.Errorf("it is a text, or { file = ... } with one of %s", strings.Join(kinds, ", "))
	}
	for kind, where := range table {
		text, ok := where.(string)
		if !slices.Contains(kinds, kind) || !ok || text == "" {
			return Value{}, fmt.Errorf("it is a text, or { file = ... } with one of %s", strings.Join(kinds, ", "))
		}
		return Value{Kind: kind, Where: text}, nil
	}
	panic("unreachable")
}

func (f *File) parseUpdate(u *Update, namespace string, matches any, used map[string]bool) (err error) {
	var ok bool
	if u.DB, u.Collection, ok = strings.Cut(namespace, "."); !ok || u.DB == "" || u.Collection == "" {
		return fmt.Errorf("namespace is DB.COLLECTION, and not %q", namespace)
	}
	if u.Expected, err = parseRange(matches); err != nil {
		return err
	}
	if u.filter, err = query.ParseDocument(u.Filter); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	if _, err := query.Compile(u.filter); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	if u.update, err = query.ParseDocument(u.Update); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := checkUpdate(u.update, u.Upsert); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	u.Filter, u.Update = oneLine(u.Filter), oneLine(u.Update)
	for _, doc := range []bson.Raw{u.filter, u.update} {
		if _, err := fill(doc, func(name string) (string, error) {
			used[name] = true
			if _, ok := f.Values[name]; !ok {
				return "", fmt.Errorf("${%s} is not among the values; a ${ that is meant is written $${", name)
			}
			return "", nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// oneLine takes the blanks out of JSON.
func oneLine(text string) string {
	var out bytes.Buffer
	if err := json.Compact(&out, []byte(text)); err != nil {
		return text // not of what was parsed
	}
	return out.String()
}

// parseRange reads 1, "1..", "0..1".
func parseRange(in any) (Range, error) {
	bad := fmt.Errorf("matches is how many documents the filter has to mean: 1, \"1..\" or \"0..1\"")
	if n, ok := in.(int64); ok && n >= 0 {
		return Range{n, n}, nil
	}
	text, ok := in.(string)
	from, to, dots := strings.Cut(text, "..")
	if !ok || !dots {
		return Range{}, bad
	}
	r := Range{Max: -1}
	var err error
	if r.Min, err = strconv.ParseInt(from, 10, 64); err != nil || r.Min < 0 {
		return Range{}, bad
	}
	if to != "" {
		if r.Max, err = strconv.ParseInt(to, 10, 64); err != nil || r.Max < r.Min {
			return Range{}, bad
		}
	}
	return r, nil
}

// operators are those that can be repeated.
var operators = []string{"$set", "$unset", "$setOnInsert", "$rename", "$min", "$max", "$addToSet", "$pull", "$pullAll"}

func checkUpdate(doc bson.Raw, upsert bool) error {
	list, err := doc.Elements()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("it changes nothing; there are %s", strings.Join(operators, " "))
	}
	for _, e := range list {
		op := e.Key()
		switch {
		case !strings.HasPrefix(op, "$"):
			return fmt.Errorf("it would replace whole documents (%s): write {\"$set\": {...}}", op)
		case !slices.Contains(operators, op):
			return fmt.Errorf("%s cannot be repeated, or is unknown; there are %s", op, strings.Join(operators, " "))
		case op == "$setOnInsert" && !upsert:
			return errors.New("$setOnInsert needs upsert = true")
		}
		fields, ok := e.Value().DocumentOK()
		inner, err := fields.Elements()
		if !ok || err != nil || len(inner) == 0 {
			return fmt.Errorf("%s needs fields: {\"%s\": {\"FIELD\": VALUE}}", op, op)
		}
		for _, f := range inner {
			if op == "$setOnInsert" {
				continue
			}
			if f.Key() == "_id" || strings.HasPrefix(f.Key(), "_id.") {
				return fmt.Errorf("%s: an _id cannot be changed", op)
			}
		}
	}
	return nil
}

// repeatable refuses filters that would mean other documents after the updates.
func (f *File) repeatable() error {
	for i := range f.Updates {
		u := &f.Updates[i]
		if u.Expected.Min == 0 && !u.Upsert {
			continue
		}
		q, err := query.Compile(u.filter)
		if err != nil {
			return &Error{err}
		}
		for k := range f.Updates {
			other := &f.Updates[k]
			if other.Namespace() != u.Namespace() {
				continue
			}
			for _, changed := range other.changes() {
				for _, asked := range q.Paths() {
					if within(changed, asked) || within(asked, changed) {
						return &Error{fmt.Errorf("update %d (%s): its filter asks for %s, which update %d changes: "+
							"run again, after an interruption, it would mean other documents; "+
							"ask for another field, or let it mean none (matches = \"0..\")", i+1, u.Namespace(), asked, k+1)}
					}
				}
			}
		}
	}
	return nil
}

func within(path, of string) bool { return path == of || strings.HasPrefix(path, of+".") }

// changes are the fields that an update changes in documents that are there.
func (u *Update) changes() (out []string) {
	list, _ := u.update.Elements() // of a document that was checked
	for _, e := range list {
		if e.Key() == "$setOnInsert" {
			continue
		}
		fields, _ := e.Value().Document().Elements()
		for _, f := range fields {
			out = append(out, f.Key())
			if to, ok := f.Value().StringValueOK(); ok && e.Key() == "$rename" {
				out = append(out, to)
			}
		}
	}
	return out
}

// Fill makes statements: read returns what a value holds that is not in the file. An error of read is passed on.
func (f *File) Fill(read func(kind, where string) (string, error)) ([]Statement, error) {
	texts := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(f.Values)) {
		v := f.Values[name]
		if v.Kind == "" {
			texts[name] = v.Text
			continue
		}
		text, err := read(v.Kind, v.Where)
		if err != nil {
			return nil, fmt.Errorf("values.%s: %w", name, err)
		}
		texts[name] = text
	}
	value := func(name string) (string, error) { return texts[name], nil }
	var out []Statement
	for i := range f.Updates {
		s := Statement{Update: &f.Updates[i]}
		filter, err := fill(s.filter, value)
		if err != nil {
			return nil, &Error{err}
		}
		if s.Document, err = fill(s.update, value); err != nil {
			return nil, &Error{err}
		}
		if s.Query, err = query.Compile(filter); err != nil {
			// The reason may quote an expression that has a secret in it.
			return nil, &Error{fmt.Errorf("update %d (%s): the filter is wrong with its values filled in", i+1, s.Namespace())}
		}
		out = append(out, s)
	}
	return out, nil
}

var placeholder = regexp.MustCompile(`\$?\$\{[^}]*\}`)

// fill replaces ${NAME} in the texts of a document by what value returns. $${ stands for ${.
func fill(doc bson.Raw, value func(name string) (string, error)) (bson.Raw, error) {
	list, err := doc.Elements()
	if err != nil {
		return nil, err
	}
	d := bson.D{}
	for _, e := range list {
		v, err := fillValue(e.Value(), value)
		if err != nil {
			return nil, err
		}
		d = append(d, bson.E{Key: e.Key(), Value: v})
	}
	return bson.Marshal(d)
}

func fillValue(v bson.RawValue, value func(name string) (string, error)) (any, error) {
	switch v.Type {
	case bson.TypeEmbeddedDocument:
		return fill(v.Document(), value)
	case bson.TypeArray:
		list, err := v.Array().Values()
		if err != nil {
			return nil, err
		}
		out := bson.A{}
		for _, e := range list {
			one, err := fillValue(e, value)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		}
		return out, nil
	case bson.TypeString:
		var failed error
		text := placeholder.ReplaceAllStringFunc(v.StringValue(), func(found string) string {
			if rest, ok := strings.CutPrefix(found, "$$"); ok {
				return "$" + rest
			}
			text, err := value(found[2 : len(found)-1])
			if err != nil {
				failed = err
			}
			return text
		})
		return text, failed
	}
	return v, nil
}
