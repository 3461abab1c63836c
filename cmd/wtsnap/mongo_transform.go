package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/mongo/transform"
	"github.com/whole-tale/wtsnap/snapshot"
)

// readTransform reads a file of updates, and the secrets that it names.
func (a *app) readTransform(name string) ([]transform.Statement, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, usagef("", "the updates of --transform: %v", err)
	}
	f, err := transform.Parse(text)
	if err != nil {
		return nil, usagef("", "%s: %v", shown(name), err)
	}
	list, err := f.Fill(func(kind, where string) (string, error) {
		s := config.Secret{}
		switch kind {
		case "file":
			s.File = where
		case "env":
			s.Env = where
		case "command":
			s.Command = where
		case "credential":
			s.Credential = where
		default:
			return "", errors.New("there is no such kind of secret: " + kind)
		}
		return s.Read(a.ctx)
	})
	if err != nil {
		return nil, usagef("", "%s: %v", shown(name), err)
	}
	return list, nil
}

// updateText says what became of an update, or would become. What was filled in of secrets is not in it.
func updateText(u *snapshot.RestoredUpdate, dry bool) string {
	name := u.Name
	if name == "" {
		name = u.Filter
	}
	text := fmt.Sprintf("%s %s: ", shown(u.Namespace), shown(name))
	switch {
	case dry:
		text += fmt.Sprintf("%s of %s expected, %s", number(u.Matched), u.Expected, shown(u.Update))
	case u.Inserted > 0:
		text += "made, because there was none"
	case u.Done:
		text += fmt.Sprintf("%s changed, %s as they were", number(u.Changed), number(u.Matched-u.Changed))
	default:
		text += "not made"
	}
	if u.Failed {
		text += " (not as expected)"
	}
	return text
}
