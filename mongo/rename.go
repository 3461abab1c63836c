package mongo

import (
	"fmt"
	"regexp"
	"strings"
)

// A rename maps namespaces of the dump to namespaces of the target.
type rename struct {
	from  *regexp.Regexp
	parts []string // of the new name: text, and at odd places the number of a group
	group []int
}

// ParseRenames reads the patterns of --ns-from and --ns-to, which mongorestore has, too: in FROM "*" stands for any
// text, $NAME$ for any text without a dot, and TO has as many asterisks and the same names. "\" takes the meaning from what follows. The
// first FROM that matches decides.
func ParseRenames(from, to []string) ([]rename, error) {
	if len(from) != len(to) {
		return nil, fmt.Errorf("each --ns-from needs its --ns-to: there are %d and %d", len(from), len(to))
	}
	var out []rename
	for i := range from {
		r, err := parseRename(from[i], to[i])
		if err != nil {
			return nil, fmt.Errorf("--ns-from %s --ns-to %s: %w", from[i], to[i], err)
		}
		out = append(out, r)
	}
	return out, nil
}

// token is a part of a pattern: literal text, an asterisk, or a variable.
type token struct {
	text string
	star bool
	name string
}

func tokens(pattern string) ([]token, error) {
	var out []token
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			out = append(out, token{text: text.String()})
			text.Reset()
		}
	}
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			if i++; i == len(pattern) {
				return nil, fmt.Errorf(`it ends with \`)
			}
			text.WriteByte(pattern[i])
		case '*':
			flush()
			out = append(out, token{star: true})
		case '$':
			end := strings.IndexByte(pattern[i+1:], '$')
			if end <= 0 {
				return nil, fmt.Errorf("a variable looks like $name$")
			}
			flush()
			out = append(out, token{name: pattern[i+1 : i+1+end]})
			i += end + 1
		default:
			text.WriteByte(pattern[i])
		}
	}
	flush()
	return out, nil
}

func parseRename(from, to string) (r rename, err error) {
	source, err := tokens(from)
	if err != nil {
		return r, err
	}
	target, err := tokens(to)
	if err != nil {
		return r, err
	}
	var pattern strings.Builder
	groups := map[string]int{}
	var stars []int
	n := 0
	for _, t := range source {
		switch {
		case t.star:
			n++
			stars = append(stars, n)
			pattern.WriteString("(.*?)")
		case t.name != "":
			if groups[t.name] != 0 {
				return r, fmt.Errorf("$%s$ comes twice", t.name)
			}
			n++
			groups[t.name] = n
			pattern.WriteString(`([^.]*?)`)
		default:
			pattern.WriteString(regexp.QuoteMeta(t.text))
		}
	}
	used := 0
	for _, t := range target {
		switch {
		case t.star:
			if used == len(stars) {
				return r, fmt.Errorf("the new name has more asterisks than the old one")
			}
			r.parts, r.group = append(r.parts, ""), append(r.group, stars[used])
			used++
		case t.name != "":
			if groups[t.name] == 0 {
				return r, fmt.Errorf("the old name has no $%s$", t.name)
			}
			r.parts, r.group = append(r.parts, ""), append(r.group, groups[t.name])
		default:
			r.parts, r.group = append(r.parts, t.text), append(r.group, 0)
		}
	}
	if used != len(stars) {
		return r, fmt.Errorf("the new name has fewer asterisks than the old one")
	}
	r.from, err = regexp.Compile("(?s)^" + pattern.String() + "$")
	return r, err
}

// apply returns the new name of a namespace.
func (r *rename) apply(ns string) (string, bool) {
	m := r.from.FindStringSubmatch(ns)
	if m == nil {
		return "", false
	}
	var out strings.Builder
	for i, text := range r.parts {
		if g := r.group[i]; g > 0 {
			text = m[g]
		}
		out.WriteString(text)
	}
	return out.String(), true
}
