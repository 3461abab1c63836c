package main

import "testing"

func TestFill(t *testing.T) {
	const text = `Saves the sources as one snapshot.
Each becomes a folder.

  homes=/srv/homes   a folder, or a file that is somewhere
  wtsnap backup /srv/homes --exclude-file excludes    a long one
  wtsnap backup /srv/homes --exclude-file excludes --dry-run

The end.`
	for columns, want := range map[int]string{
		200: `Saves the sources as one snapshot. Each becomes a folder.

  homes=/srv/homes   a folder, or a file that is somewhere
  wtsnap backup /srv/homes --exclude-file excludes    a long one
  wtsnap backup /srv/homes --exclude-file excludes --dry-run

The end.`,
		44: `Saves the sources as one snapshot. Each
becomes a folder.

  homes=/srv/homes   a folder, or a file
                     that is somewhere
  wtsnap backup /srv/homes --exclude-file excludes
      a long one
  wtsnap backup /srv/homes --exclude-file excludes --dry-run

The end.`,
	} {
		if got := fill(text, columns); got != want {
			t.Errorf("in %d columns:\n%s\nwant\n%s", columns, got, want)
		}
	}
}
