package exclude

import "strings"

// A glob is a pattern taken to pieces.
type glob []token

type token struct {
	kind kind
	char byte // of a literal
	set  *set // of a class
}

type kind uint8

const (
	literal kind = iota
	any1         // one byte, no slash: ?
	class        // one byte of a set, no slash: [...]
	star         // any bytes, no slash: *
	all          // any bytes: ** at the end, or before an escaped slash
	folders      // nothing, or any bytes up to a slash: **/
)

// A set is a set of bytes.
type set [4]uint64

func (s *set) add(c byte)      { s[c>>6] |= 1 << (c & 63) }
func (s *set) has(c byte) bool { return s[c>>6]>>(c&63)&1 != 0 }

// parseGlob takes a pattern to pieces. In a path, two stars between slashes stand for any number of folders; any other
// number of stars is one star. reason says what is wrong with it.
func parseGlob(p string, isPath bool) (g glob, reason string) {
	for i := 0; i < len(p); {
		switch c := p[i]; c {
		case '?':
			g = append(g, token{kind: any1})
			i++
		case '*':
			start := i
			for i < len(p) && p[i] == '*' {
				i++
			}
			rest := p[i:]
			alone := isPath && i-start >= 2 && (start == 0 || p[start-1] == '/')
			switch {
			case alone && strings.HasPrefix(rest, "/"):
				g = append(g, token{kind: folders})
				i++
			case alone && (rest == "" || strings.HasPrefix(rest, `\/`)):
				g = append(g, token{kind: all})
			default:
				g = append(g, token{kind: star})
			}
		case '[':
			s, n, reason := parseClass(p[i:])
			if reason != "" {
				return nil, reason
			}
			g = append(g, token{kind: class, set: s})
			i += n
		case '\\':
			if i+1 == len(p) {
				return nil, "ends in a backslash that escapes nothing"
			}
			c = p[i+1]
			i++
			fallthrough
		default:
			g = append(g, token{kind: literal, char: c})
			i++
		}
	}
	return g, ""
}

// parseClass reads a bracket expression at the beginning of p and returns its length.
func parseClass(p string) (s *set, n int, reason string) {
	const open = "a bracket is not closed"
	s = new(set)
	i := 1
	negate := i < len(p) && (p[i] == '!' || p[i] == '^')
	if negate {
		i++
	}
	from := -1 // the byte that a range may begin with
	for first := true; ; first = false {
		if i >= len(p) {
			return nil, 0, open
		}
		c := p[i]
		switch {
		case c == ']' && !first:
			if negate {
				for w := range s {
					s[w] = ^s[w]
				}
			}
			s[0] &^= 1 << '/'
			if *s == (set{}) {
				return nil, 0, "a bracket matches no character"
			}
			return s, i + 1, ""
		case c == '-' && from >= 0 && i+1 < len(p) && p[i+1] != ']':
			i++
			if p[i] == '\\' {
				if i++; i >= len(p) {
					return nil, 0, open
				}
			}
			for c := from; c <= int(p[i]); c++ { // one the wrong way round adds nothing, as in git
				s.add(byte(c))
			}
			from = -1
		case c == '[' && i+1 < len(p) && p[i+1] == ':':
			end := strings.IndexByte(p[i+2:], ']')
			if end < 0 {
				return nil, 0, open
			}
			name, ok := strings.CutSuffix(p[i+2:i+2+end], ":")
			if !ok { // an ordinary bracket
				s.add('[')
				from = '['
				break
			}
			in, ok := classes[name]
			if !ok {
				return nil, 0, "unknown character class [:" + name + ":]"
			}
			for c := range 128 {
				if in(byte(c)) {
					s.add(byte(c))
				}
			}
			i += 2 + end
			from = -1
		default:
			if c == '\\' {
				if i++; i >= len(p) {
					return nil, 0, open
				}
				c = p[i]
			}
			s.add(c)
			from = int(c)
		}
		i++
	}
}

// classes are those of POSIX in the C locale, which git uses whatever the user's.
var classes = map[string]func(byte) bool{
	"alnum":  func(c byte) bool { return alpha(c) || digit(c) },
	"alpha":  alpha,
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl":  func(c byte) bool { return c < ' ' || c == 0x7f },
	"digit":  digit,
	"graph":  func(c byte) bool { return c > ' ' && c < 0x7f },
	"lower":  lower,
	"print":  func(c byte) bool { return c >= ' ' && c < 0x7f },
	"punct":  func(c byte) bool { return c > ' ' && c < 0x7f && !alpha(c) && !digit(c) },
	"space":  func(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' },
	"upper":  upper,
	"xdigit": func(c byte) bool { return digit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' },
}

func digit(c byte) bool { return c >= '0' && c <= '9' }
func lower(c byte) bool { return c >= 'a' && c <= 'z' }
func upper(c byte) bool { return c >= 'A' && c <= 'Z' }
func alpha(c byte) bool { return lower(c) || upper(c) }

// literal returns what follows the first token if all of it is literal, else "".
func (g glob) literal() string {
	if len(g) == 0 {
		return ""
	}
	if end := g[1:].end(); len(end) == len(g)-1 {
		return end
	}
	return ""
}

// end returns the literal end.
func (g glob) end() string {
	i := len(g)
	for i > 0 && g[i-1].kind == literal {
		i--
	}
	end := make([]byte, 0, len(g)-i)
	for _, t := range g[i:] {
		end = append(end, t.char)
	}
	return string(end)
}

// match reports whether the whole of text matches.
//
// On a mismatch it goes back to the last star and lets it take one byte more, and where that star can take no more, to
// the last of the tokens that may take slashes. Going back further is never needed: what follows such a token can begin
// anywhere that the token before it could reach. So the time is polynomial, whatever the pattern.
func (g glob) match(text string) bool {
	var (
		p, t         int
		starP, starT = -1, 0 // where to go on after the star takes a byte more: token behind it, text so far taken
		wideP, wideT = -1, 0 // the same for all and folders
	)
	for {
		if p == len(g) {
			if t == len(text) {
				return true
			}
		} else {
			switch tok := &g[p]; tok.kind {
			case star:
				p++
				starP, starT = p, t
				continue
			case all, folders:
				p++
				wideP, wideT = p, t
				starP = -1
				continue
			case literal:
				if t < len(text) && text[t] == tok.char {
					p, t = p+1, t+1
					continue
				}
			case any1:
				if t < len(text) && text[t] != '/' {
					p, t = p+1, t+1
					continue
				}
			case class:
				if t < len(text) && tok.set.has(text[t]) {
					p, t = p+1, t+1
					continue
				}
			}
		}
		switch {
		case starP >= 0 && starT < len(text) && text[starT] != '/':
			starT++
			p, t = starP, starT
		case wideP >= 0 && wideT < len(text):
			wideT++
			if g[wideP-1].kind == folders {
				next := strings.IndexByte(text[wideT-1:], '/')
				if next < 0 {
					return false
				}
				wideT += next
			}
			p, t, starP = wideP, wideT, -1
		default:
			return false
		}
	}
}
