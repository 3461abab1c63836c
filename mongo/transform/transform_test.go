package transform

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

const girder = `
[values]
domain = "dev.example.org"
secret = { file = "/run/secrets/oauth" }
id = { env = "OAUTH_ID" }

[[update]]
name = "origins"
namespace = "girder.setting"
filter = '{"key": "core.cors.allow_origin"}'
update = '{"$set": {"value": "https://${domain},https://dashboard.${domain}", "n": 1, "not": "$${domain}", "list": ["${domain}", {"x": "${domain}"}]}}'
matches = 1
upsert = true

[[update]]
namespace = "girder.setting"
filter = '{"key": "oauth.globus_client_secret"}'
update = '{"$set": {"other": "${secret}"}, "$unset": {"gone": ""}}'
matches = "0..1"

[[update]]
namespace = "girder.setting"
filter = '{"key": "oauth.globus_client_id"}'
update = '{"$set": {"value": "${id}"}}'
matches = "1.."
`

func TestFill(t *testing.T) {
	f, err := Parse([]byte(girder))
	if err != nil {
		t.Fatal(err)
	}
	list, err := f.Fill(func(kind, where string) (string, error) { return kind + ":" + where + "${domain}", nil })
	if err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	for i, want := range []string{
		`{"$set": {"value": "https://dev.example.org,https://dashboard.dev.example.org","n": {"$numberInt":"1"},"not": "${domain}","list": ["dev.example.org",{"x": "dev.example.org"}]}}`,
		`{"$set": {"other": "file:/run/secrets/oauth${domain}"},"$unset": {"gone": ""}}`, // what a value holds is not looked at again
		`{"$set": {"value": "env:OAUTH_ID${domain}"}}`,
	} {
		if got := list[i].Document.String(); got != want {
			t.Errorf("%d: %s\nwant %s", i, got, want)
		}
	}
	for i, want := range []string{"1", "0 to 1", "1 or more"} {
		if got := list[i].Expected.String(); got != want {
			t.Errorf("%d: %s expected, want %s", i, got, want)
		}
	}
	r := list[2].Expected
	if r.Has(0) || !r.Has(1) || !r.Has(1e6) || list[1].Expected.Has(2) {
		t.Error("a range takes what it should not")
	}
	if !list[0].Upsert || list[0].Namespace() != "girder.setting" || strings.Contains(list[2].Update.Update, "OAUTH") {
		t.Errorf("%+v", list[0].Update)
	}
	gone := errors.New("gone")
	if _, err := f.Fill(func(string, string) (string, error) { return "", gone }); !errors.Is(err, gone) {
		t.Error(err)
	}
}

// TestExample: the file that the documents give as an example is right.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("../../docs/deploy/girder-transform.toml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(text)
	if err != nil || len(f.Updates) < 5 {
		t.Fatal(f, err)
	}
}

// TestSecretsStayUnsaid: not even an expression that a secret makes wrong is quoted.
func TestSecretsStayUnsaid(t *testing.T) {
	f, err := Parse([]byte("[values]\ns = { env = \"X\" }\n[[update]]\nnamespace = \"a.b\"\nfilter = '{\"a\": {\"$regex\": \"^${s}$\"}}'\nupdate = '{\"$set\": {\"v\": 1}}'\nmatches = 1"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Fill(func(string, string) (string, error) { return "hush(", nil })
	if e, ok := errors.AsType[*Error](err); !ok || strings.Contains(e.Error(), "hush") {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	update := func(filter, update, matches, more string) string {
		return fmt.Sprintf("[[update]]\nnamespace = \"a.b\"\nfilter = '%s'\nupdate = '%s'\nmatches = %s\n%s", filter, update, matches, more)
	}
	for text, want := range map[string]string{
		"":                              "no [[update]]",
		"x = 1":                         "line 1: unknown key x",
		"[[update]]\nfoo = 1":           "line 2: unknown key update.foo",
		"[[update]]\nfilter = 1 1":      "line 2: ",
		"[[update]]\nnamespace = \"a\"": `update 1 (a): namespace is DB.COLLECTION`,
		update(`{}`, `{"$set":{"v":1}}`, `-1`, ""):                                                          "matches is how many",
		update(`{}`, `{"$set":{"v":1}}`, `"2..1"`, ""):                                                      "matches is how many",
		update(`{}`, `{"$set":{"v":1}}`, `"1"`, ""):                                                         "matches is how many",
		update(``, `{"$set":{"v":1}}`, `1`, ""):                                                             "filter: it is empty",
		update(`{"$where":"1"}`, `{"$set":{"v":1}}`, `1`, ""):                                               "filter: the operator $where",
		update(`{}`, `{"v":1}`, `1`, ""):                                                                    "would replace whole documents",
		update(`{}`, `{}`, `1`, ""):                                                                         "changes nothing",
		update(`{}`, `{"$inc":{"v":1}}`, `1`, ""):                                                           "$inc cannot be repeated",
		update(`{}`, `{"$set":{}}`, `1`, ""):                                                                "$set needs fields",
		update(`{}`, `{"$set":{"_id":1}}`, `1`, ""):                                                         "an _id cannot be changed",
		update(`{}`, `{"$setOnInsert":{"v":1}}`, `1`, ""):                                                   "needs upsert",
		update(`{}`, `{"$set":{"v":"${x}"}}`, `1`, ""):                                                      "${x} is not among the values",
		update(`{"v":1}`, `{"$set":{"v":2}}`, `1`, ""):                                                      "its filter asks for v, which update 1 changes",
		update(`{"v.w":1}`, `{"$unset":{"v":2}}`, `1`, ""):                                                  "asks for v.w",
		update(`{"w":1}`, `{"$rename":{"v":"w"}}`, `1`, ""):                                                 "asks for w",
		update(`{"k":1}`, `{"$set":{"v":2}}`, `1`, "") + update(`{"v":1}`, `{"$set":{"x":2}}`, `"1.."`, ""): "update 2 (a.b): its filter asks for v, which update 1 changes",
		"[values]\nx = \"1\"\n" + update(`{}`, `{"$set":{"v":1}}`, `1`, ""):                                 "values.x: no update has ${x}",
		"[values]\nx = 1\n" + update(`{}`, `{"$set":{"v":1}}`, `1`, ""):                                     "values.x: it is a text",
		"[values]\nx = { url = \"1\" }\n" + update(`{}`, `{"$set":{"v":1}}`, `1`, ""):                       "values.x: it is a text",
		"[values]\n\"x-y\" = \"1\"\n" + update(`{}`, `{"$set":{"v":1}}`, `1`, ""):                           "letters, digits",
	} {
		_, err := Parse([]byte(text))
		if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Error(), want) {
			t.Errorf("%s\n\t%v, want %s", text, err, want)
		}
	}
	for _, text := range []string{update(`{"v":1}`, `{"$set":{"v":2}}`, `"0.."`, ""), update(`{"v":1}`, `{"$setOnInsert":{"v":2}}`, `1`, "upsert = true")} {
		if _, err := Parse([]byte(text)); err != nil {
			t.Errorf("%s\n\t%v", text, err)
		}
	}
}

// FuzzParse: no text makes it panic, and what is accepted can be filled in.
func FuzzParse(f *testing.F) {
	f.Add(girder, "x")
	f.Add("[values]\nx = \"\\u0000\"\n[[update]]\nnamespace = \"a.b\"\nfilter = '{\"a\": \"${x}\"}'\nupdate = '{\"$set\": {\"v\": [\"$${x}\", \"${x}${x}\"]}}'\nmatches = \"0..\"", "${x}")
	f.Fuzz(func(t *testing.T, text, secret string) {
		file, err := Parse([]byte(text))
		if err != nil {
			return
		}
		list, err := file.Fill(func(string, string) (string, error) { return secret, nil })
		if err != nil {
			return
		}
		for _, s := range list {
			if err := s.Document.Validate(); err != nil {
				t.Error(err)
			}
			if _, err := s.Query.Match(bson.Raw{5, 0, 0, 0, 0}); err != nil {
				t.Error(err)
			}
		}
	})
}
