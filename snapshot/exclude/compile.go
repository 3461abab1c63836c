package exclude

import (
	"slices"
	"strings"
)

// add compiles a pattern. What it means follows git's parse_path_pattern, match_basename and match_pathname (dir.c).
func (m *Matcher) add(p Pattern) error {
	bad := func(reason string) error { return &PatternError{p, reason} }
	text := trimSpaces(p.Text)
	r := rule{Rule: Rule{Text: text, Origin: p.Origin}}
	if text, r.Negate = strings.CutPrefix(text, "!"); text == "" {
		return bad("nothing follows the exclamation mark")
	}
	if strings.IndexByte(text, 0) >= 0 {
		return bad("contains a NUL byte")
	}
	text, r.dirOnly = strings.CutSuffix(text, "/")
	r.base = strings.IndexByte(text, '/') < 0
	if !r.base {
		text = strings.TrimPrefix(text, "/")
	}
	// git compares the literal beginning first and matches only the rest as a glob, so that a "**" right behind it counts
	// as standing at the beginning.
	n := strings.IndexAny(text, `*?[\`)
	if n < 0 {
		n = len(text)
	}
	r.prefix = text[:n]
	var reason string
	if r.glob, reason = parseGlob(text[n:], !r.base); reason != "" {
		return bad(reason)
	}
	if reason := r.neverMatches(); reason != "" {
		return bad(reason)
	}
	if end := r.glob.end(); len(end) == len(r.glob) { // only escapes
		r.prefix, r.glob = r.prefix+end, nil
	}
	m.file(r)
	return nil
}

// neverMatches says why no path can match the rule, or "".
func (r *rule) neverMatches() string {
	// The literal text, with other bytes for what is none.
	var text strings.Builder
	text.WriteString(r.prefix)
	for i, t := range r.glob {
		switch t.kind {
		case literal:
			text.WriteByte(t.char)
		case folders:
			text.WriteString("**/")
		default:
			text.WriteString("**")
		}
		if i == 0 && t.kind == folders && r.prefix != "" && !strings.HasSuffix(r.prefix, "/") {
			text.Reset() // "a**/": nothing may be left of the slash, so what follows need not be a name
			text.WriteString(r.prefix + "**")
		}
	}
	if text.Len() == 0 {
		return "it names nothing"
	}
	for _, name := range strings.Split(text.String(), "/") {
		switch {
		case name == "":
			return "a name before, between or behind its slashes is empty, so it never matches"
		case name == "." || name == "..":
			return "patterns are relative to the source's root, so \"" + name + "\" never matches"
		}
	}
	return ""
}

// file puts a rule where Match finds it.
func (m *Matcher) file(r rule) {
	number := int32(len(m.rules))
	add := func(index map[string][]int32, key string) {
		index[key] = slices.Insert(index[key], 0, number)
	}
	rest := r.glob.literal()
	switch {
	case len(r.glob) == 0 && r.base:
		add(m.names, r.prefix)
	case len(r.glob) == 0:
		add(m.paths, r.prefix)
	case r.prefix == "" && r.base && r.glob[0].kind == star && rest != "":
		m.addSuffix(rest, number)
	case r.prefix == "" && !r.base && r.glob[0].kind == folders && rest != "" && strings.IndexByte(rest, '/') < 0:
		add(m.names, rest) // **/name
	default:
		r.suffix = r.glob.end()
		m.globs = slices.Insert(m.globs, 0, number)
	}
	m.rules = append(m.rules, r)
}

func (m *Matcher) addSuffix(suffix string, number int32) {
	i, found := slices.BinarySearchFunc(m.suffixes, len(suffix), func(s suffixes, n int) int { return s.length - n })
	if !found {
		m.suffixes = slices.Insert(m.suffixes, i, suffixes{len(suffix), map[string][]int32{}})
	}
	rules := m.suffixes[i].rules
	rules[suffix] = slices.Insert(rules[suffix], 0, number)
}

// matches decides for the rules that Match finds in no map.
func (r *rule) matches(path, name string, isDir bool) bool {
	if r.dirOnly && !isDir {
		return false
	}
	text := path
	if r.base {
		text = name
	}
	text, ok := strings.CutPrefix(text, r.prefix)
	return ok && strings.HasSuffix(text, r.suffix) && r.glob.match(text)
}
