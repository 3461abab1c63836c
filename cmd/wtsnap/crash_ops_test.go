package main

// crashOp is an operation that is killed. What breaks a repository so that there is something to repair is mended by
// running it to its end.
type crashOp struct {
	name    string
	args    []string
	prepare func() bool       // false: there is nothing to do
	mended  func()            // where the repository is not whole before the operation has succeeded
	after   func(when string) // what else has to be true
	forgets bool
}

func (c *crashes) crashOps() []crashOp {
	toCopy := []string{"copy", "--incomplete", "--to-repo", c.place + "-copy", "--to-password-file", c.path("copy.key")}
	edit := func() bool { c.edit(); return true }
	day := func() bool { c.edit(); c.backup(); return true }
	return append([]crashOp{
		{name: "backup", args: []string{"backup", "src"}, prepare: edit},
		{name: "forget", args: []string{"forget", "--keep-last", "4"}, forgets: true},
		{name: "undelete", args: []string{"undelete", "--all"}, prepare: func() bool { return len(c.names("forgotten/")) > 0 }},
		{name: "prune", args: []string{"prune", "--max-unused", "0"}},
		{name: "prune at once", args: []string{"prune", "--max-unused", "0", "--grace", "0"}},
		{name: "forget and prune", args: []string{"forget", "--keep-last", "3", "--prune", "--max-unused", "0", "--grace", "0"}, forgets: true},
		{
			name: "copy", args: toCopy,
			prepare: func() bool {
				if c.rng.IntN(3) == 0 { // what it does not have any more is copied again
					c.mustCopy("forget", "--keep-last", "1", "--prune", "--max-unused", "0", "--grace", "0")
				}
				return day()
			},
			after: func(when string) {
				c.copied(when)
				if c.rng.IntN(2) == 0 {
					return // the next one goes on from there
				}
				c.mustCopy("undelete", "--all")
				c.must(toCopy...)
				c.copied(when + ", and copied again")
				copies := c.ids(c.mustCopy)
				for id := range c.there {
					if !copies[id] {
						c.t.Errorf("%s: snapshot %s was not copied", when, id)
					}
				}
			},
		},
		{
			name:    "prune of the copy",
			args:    []string{"-r", c.place + "-copy", "-p", c.path("copy.key"), "forget", "--keep-last", "2", "--prune", "--max-unused", "0", "--grace", "0"},
			prepare: func() bool { day(); c.must(toCopy...); return true },
			after:   c.copied,
		},
	}, c.repairs(toCopy, day)...)
}

// repairs are the operations that mend something.
func (c *crashes) repairs(toCopy []string, day func() bool) []crashOp {
	heal := []string{"repair", "packs", "--read-data", "--yes", "--from", c.place + "-copy", "--from-password-file", c.path("copy.key")}
	return []crashOp{
		{
			name: "repair index", args: []string{"repair", "index", "--yes"},
			prepare: func() bool {
				names := c.names("index/")
				c.damage(names[c.rng.IntN(len(names))], c.rng.IntN(2) == 0)
				return true
			},
			mended: func() { c.must("repair", "index", "--yes") },
		},
		{
			name: "repair packs", args: []string{"repair", "packs", "--yes"},
			prepare: func() bool {
				// What is lost can be had from the source, and nothing else needs it.
				c.keep("1")
				packs := c.names("packs/")
				c.damage(packs[c.rng.IntN(len(packs))], false)
				return true
			},
			mended: func() {
				c.must("repair", "packs", "--yes")
				c.must("backup", c.path("src"))
			},
		},
		{
			name: "repair snapshots", args: []string{"repair", "snapshots", "--yes"},
			prepare: func() bool {
				day()
				packs := c.names("packs/")
				c.damage(packs[c.rng.IntN(len(packs))], false)
				c.must("repair", "packs", "--yes")
				return true
			},
			mended: func() {
				c.must("repair", "snapshots", "--yes")
				c.must("prune", "--max-unused", "0", "--grace", "0") // nobody brings the originals back
			},
			forgets: true,
		},
		{
			name: "repair from the copy", args: heal,
			prepare: func() bool {
				day()
				c.mustCopy("undelete", "--all")
				c.must(toCopy...)
				packs := c.names("packs/")
				for _, i := range c.rng.Perm(len(packs))[:min(len(packs), 1+c.rng.IntN(3))] {
					c.damage(packs[i], c.rng.IntN(2) == 0)
				}
				if manifests := c.names("snapshots/"); c.rng.IntN(3) == 0 {
					c.damage(manifests[c.rng.IntN(len(manifests))], true)
				}
				return true
			},
			mended: func() { c.flipped = true; c.must(heal...) }, // all of them come back
		},
	}
}

// tidy forgets most of many snapshots, so that a turn takes no longer the later it comes.
func (c *crashes) tidy() {
	if len(c.there) > 6 {
		c.keep("3")
		c.mustCopy("forget", "--keep-last", "3", "--prune", "--max-unused", "0", "--grace", "0")
	}
}

// keep makes a snapshot, and forgets all but the last complete ones.
func (c *crashes) keep(last string) {
	c.edit()
	c.backup()
	for id := range c.partial {
		c.must("forget", id)
	}
	c.partial = nil
	c.must("forget", "--keep-last", last, "--prune", "--max-unused", "0", "--grace", "0")
	c.there = c.ids(c.must)
}
