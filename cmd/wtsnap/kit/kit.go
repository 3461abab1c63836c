// Package kit makes the page with which a backup is restored on a machine that has nothing: where the repository is, how
// its storage is reached, the key or a share of it, and the commands, in order. A line that begins with four spaces is a
// command, and nothing else is: a test follows the page by that.
package kit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"html/template"
	"image/png"
	"io"
	"slices"
	"strings"
	text "text/template"
	"time"

	"github.com/boombuler/barcode"
	"github.com/boombuler/barcode/qr"

	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/snapshot"
)

// A Page is what goes onto paper.
type Page struct {
	Made       time.Time
	Version    string // of wtsnap
	Format     int
	Repository string // as -r takes it
	Hidden     bool   // the repository's place holds secrets that were left out
	ID         string
	Key        string // the password; "" = it is split, or kept elsewhere
	Needed, Of int    // shares; 0 = the key is not split
	Remotes    []rclone.Remote
	Secrets    bool // the remotes' secrets are on the page
	Instances  []Instance
}

// An Instance is whose snapshots are restored.
type Instance struct {
	Name   string
	Newest time.Time
	Labels []Label
}

// A Label is a part of it.
type Label struct {
	Name string
	Kind snapshot.SourceKind
	From string // where it was; "" = nowhere that it could go back to
}

// Share is the page of one share.
type Share struct {
	*Page
	Number int
	Line   string
}

// Missing names the options that somebody has to fill in.
func (p *Page) Missing() (out []string) {
	for _, r := range p.Remotes {
		for _, o := range r.Options {
			if o.Secret && !p.Secrets {
				out = append(out, r.Name+": "+o.Key)
			}
		}
	}
	return out
}

// Token reports whether a remote lives on a token, which ages.
func (p *Page) Token() bool {
	return slices.ContainsFunc(p.Remotes, func(r rclone.Remote) bool {
		return slices.ContainsFunc(r.Options, func(o rclone.Option) bool { return o.Key == "token" })
	})
}

// Config is the command that writes the remotes' configuration.
func (p *Page) Config() string {
	var lines []string
	for _, r := range p.Remotes {
		lines = append(lines, quote("["+r.Name+"]"), quote("type = "+r.Type))
		for _, o := range r.Options {
			if !o.Secret || p.Secrets {
				lines = append(lines, quote(o.Key+" = "+o.Value))
			}
		}
	}
	return `printf '%s\n' ` + strings.Join(lines, " ") + " > rclone.conf"
}

// Export is the command that says where everything is.
func (p *Page) Export() string {
	out := "export WTSNAP_CONFIG=none WTSNAP_REPO=" + quote(p.Repository) + ` WTSNAP_PASSWORD_FILE="$PWD/wtsnap.key"`
	if len(p.Remotes) > 0 {
		out += ` RCLONE_CONFIG="$PWD/rclone.conf"`
	}
	return out
}

// WriteKey is the command that writes the key's file.
func (p *Page) WriteKey() string { return `printf '%s\n' ` + quote(p.Key) + " > wtsnap.key" }

// Join is the command that makes the key of shares.
func (p *Page) Join() string {
	var files []string
	for i := range p.Needed {
		files = append(files, fmt.Sprintf("share-%d", i+1))
	}
	return "wtsnap kit join " + strings.Join(files, " ") + " > wtsnap.key"
}

// Restore is the command that restores the instance, or shows the plan.
func (i *Instance) Restore(flag string) string {
	out := "wtsnap restore --instance " + quote(i.Name) + " --all"
	for _, l := range i.Labels {
		if l.From == "" {
			out += " --map " + quote(l.Name+"="+l.Name)
		}
	}
	return out + " " + flag
}

// Mongo names the labels that are MongoDBs.
func (i *Instance) Mongo() (out []string) {
	for _, l := range i.Labels {
		if l.Kind == snapshot.SourceMongo {
			out = append(out, l.Name)
		}
	}
	return out
}

// Where tells the labels with their places.
func (i *Instance) Where() string {
	var out []string
	for _, l := range i.Labels {
		text := l.Name
		switch {
		case l.Kind == snapshot.SourceMongo:
			text += " (a MongoDB)"
		case l.From != "":
			text += " (" + l.From + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// quote makes one word of the shell's of a text.
func quote(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@%+,", r)
	})
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Text writes the page as text.
func (p *Page) Text(w io.Writer) error { return textPage.Execute(w, p) }

// HTML writes the page for a printer.
func (p *Page) HTML(w io.Writer) error { return writeHTML(w, "wtsnap recovery kit", p.Text, p.Key) }

// Text writes the share's page as text.
func (s *Share) Text(w io.Writer) error { return sharePage.Execute(w, s) }

// HTML writes the share's page for a printer.
func (s *Share) HTML(w io.Writer) error {
	return writeHTML(w, fmt.Sprintf("wtsnap key, share %d of %d", s.Number, s.Of), s.Text, s.Line)
}

// code makes a QR code; nil where there is nothing to encode.
func code(content string) (barcode.Barcode, error) {
	if content == "" {
		return nil, nil
	}
	return qr.Encode(content, qr.M, qr.Auto)
}

// blocks draws a QR code with characters of half a line.
func blocks(content string) (string, error) {
	c, err := code(content)
	if c == nil || err != nil {
		return "", err
	}
	const quiet = 2
	side := c.Bounds().Dx()
	dark := func(x, y int) bool {
		if x < 0 || y < 0 || x >= side || y >= side {
			return false
		}
		r, _, _, _ := c.At(x, y).RGBA()
		return r == 0
	}
	var b strings.Builder
	for y := -quiet; y < side+quiet; y += 2 {
		b.WriteString("  ")
		for x := -quiet; x < side+quiet; x++ {
			b.WriteString(map[[2]bool]string{{false, false}: " ", {true, false}: "▀", {false, true}: "▄", {true, true}: "█"}[[2]bool{dark(x, y), dark(x, y+1)}])
		}
		b.WriteString("\n")
	}
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
		if rest := strings.TrimLeft(lines[i], " "); len(rest) < len(lines[i]) { // four blanks would make a command of it
			lines[i] = strings.Repeat("\u00a0", len(lines[i])-len(rest)) + rest
		}
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n"), nil
}

func writeHTML(w io.Writer, title string, page func(io.Writer) error, content string) error {
	var b bytes.Buffer
	if err := page(&b); err != nil {
		return err
	}
	type line struct {
		Text    string
		Command bool
	}
	data := struct {
		Title string
		Lines []line
		QR    template.URL
	}{Title: title}
	for text := range strings.Lines(b.String()) {
		text = strings.TrimRight(text, "\n")
		if strings.ContainsAny(text, "▀▄█") { // the picture is drawn by the printer instead
			continue
		}
		command, ok := strings.CutPrefix(text, "    ")
		data.Lines = append(data.Lines, line{command, ok})
	}
	c, err := code(content)
	if err != nil {
		return err
	}
	if c != nil {
		if c, err = barcode.Scale(c, 4*(c.Bounds().Dx()), 4*(c.Bounds().Dy())); err != nil {
			return err
		}
		var img bytes.Buffer
		if err := png.Encode(&img, c); err != nil {
			return err
		}
		data.QR = template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(img.Bytes()))
	}
	return htmlPage.Execute(w, data)
}

var textPage = text.Must(text.New("kit").Funcs(text.FuncMap{"qr": blocks, "list": func(s []string) string { return strings.Join(s, ", ") },
	"date": func(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }, "short": func(id string) string { return id[:min(8, len(id))] }}).Parse(
	`WTSNAP RECOVERY KIT
made {{date .Made}} by wtsnap {{.Version}}, for repository {{short .ID}} at {{.Repository}}

{{if .Key}}WHOEVER HOLDS THIS PAGE CAN READ THE WHOLE BACKUP.{{else if .Of}}This page does not hold the key: {{.Needed}} of {{.Of}} shares give it.{{else}}This page does not hold the key.{{end}}
Keep it away from the machine that it is for, where fire, theft and an intruder on that machine do not reach it.
Try it once a year, and print it anew when the key, the storage or its account changes.

What follows restores the backup on a bare machine. Lines that are set in are commands for a shell; type them as they
are, as root if files of several users are to be restored with their owners.

1. The program: wtsnap {{.Version}} or newer (repository format {{.Format}}), one file in your PATH; from
https://github.com/whole-tale/wtsnap. Work in an empty folder, and let nobody else read what you write there:

    umask 077

2. The key.
{{- if .Key}}

    {{.WriteKey}}

The same as a picture:
{{qr .Key}}
{{- else if .Of}} Put {{.Needed}} of the {{.Of}} shares together: copy each share's line into a file of its own (share-1, share-2, ...).

    {{.Join}}
{{- else}} Copy the key, which is kept elsewhere, into the file wtsnap.key.
{{- end}}

3. The storage.
{{- if .Remotes}}

    {{.Config}}
{{- if .Missing}}

Of this configuration the secrets were left out ({{list .Missing}}). Log in anew: rclone config reconnect, or rclone
config update, with --config rclone.conf and rclone of any version, which is at https://rclone.org.
{{- else if .Token}}

A token ages, and may have been renewed since: if the storage refuses it, log in anew with rclone config reconnect
--config rclone.conf, and rclone of any version, which is at https://rclone.org.
{{- end}}
{{- else if .Hidden}} Its address holds secrets, which were left out: write it whole in the next step.
{{- else}} It needs nothing more.
{{- end}}

4. Where everything is, and a look at what there is:

    {{.Export}}
    wtsnap snapshots
{{range .Instances}}
5. Instance {{.Name}}, last saved {{date .Newest}}: {{.Where}}.
What would be restored where, and then do it. Without --map a label goes to where it was, if nothing is in its way there.
{{- with .Mongo}}
A MongoDB ({{list .}}) becomes a folder for mongorestore here; to restore into an empty running server, write --to-mongo
mongodb://HOST/ instead of its --map.{{end}}

    {{.Restore "--dry-run"}}
    {{.Restore "--yes"}}

The last command may be repeated until it ends without an error: it goes on where it was.
{{end}}`))

var sharePage = text.Must(text.New("share").Funcs(text.FuncMap{"qr": blocks, "date": func(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") },
	"short": func(id string) string { return id[:min(8, len(id))] }}).Parse(
	`WTSNAP KEY, SHARE {{.Number}} OF {{.Of}}
made {{date .Made}}, for repository {{short .ID}}

{{.Needed}} of the {{.Of}} shares give the key of the backup; fewer say nothing about it. Keep each with somebody else.
To use it, copy the line into a file, get {{.Needed}} such files together, and run: wtsnap kit join FILE... > wtsnap.key

{{.Line}}

{{qr .Line}}
`))

var htmlPage = template.Must(template.New("html").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title>
<style>
body { font: 11pt/1.35 sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em }
div { min-height: .8em; overflow-wrap: anywhere }
pre { background: #eee; padding: .4em .6em; margin: .2em 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 9.5pt }
div:first-of-type { font-weight: bold; font-size: 15pt }
@media print { body { margin: 0; max-width: none } pre { border: 1px solid #999; break-inside: avoid } }
</style></head><body>
{{range .Lines}}{{if .Command}}<pre>{{.Text}}</pre>{{else}}<div>{{.Text}}</div>{{end}}
{{end}}{{with .QR}}<p><img alt="the key, or the share, as a QR code" src="{{.}}"></p>{{end}}
</body></html>
`))
