package main

import (
	"errors"
	"slices"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/doctor"
	"github.com/whole-tale/wtsnap/repo"
)

// furtherRepositories examines, in short, the repositories that jobs of the configuration use beside the one of this run.
func (x *examination) furtherRepositories(readOnly bool) {
	if x.config == nil {
		return
	}
	var names []string
	for _, job := range sortedKeys(x.config.Jobs) {
		j := x.config.Jobs[job]
		for _, name := range append([]string{j.Repository}, j.Others()...) {
			if name != "" && "@"+name != x.repoName && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for _, name := range names {
		x.furtherRepository(name, readOnly)
	}
}

func (x *examination) furtherRepository(name string, readOnly bool) {
	problem := func(area string, err error) {
		code := exitCode(x.ctx, err)
		if isUsage(err) {
			code = exitUsage
		}
		x.found.Problem(area, code, "@"+name+": "+message(err), cmpOr(hint(err), "wtsnap -r @"+name+" init --new-key-file FILE makes it; docs/operations.md: A second copy"))
	}
	p, err := x.furtherPlace(name)
	if err != nil {
		problem(doctor.Configuration, err)
		return
	}
	if p.file != "" {
		x.found = append(x.found, doctor.Secret(doctor.Password, "the password file of @"+name, p.file)...)
	}
	b, err := x.openPlace(p.spec, cmpOr(p.rclone, x.g.rcloneConfig))
	if err != nil {
		problem(doctor.Remote, err)
		return
	}
	defer b.close(x.ctx)
	probe := doctor.Probe
	if readOnly {
		probe = doctor.Look
	}
	probed := probe(x.ctx, b.Storage)
	for _, f := range probed.Findings {
		f.Text = shownRepo(p.spec) + " (@" + name + "): " + f.Text
		x.found = append(x.found, f)
	}
	if !probed.Reached {
		return
	}
	password, ask, err := copyTarget.opener(x.app, p.spec, p.file, p.command, "")
	if err != nil {
		problem(doctor.Password, err)
		return
	}
	_, err = repo.Open(x.ctx, b.Storage, repo.OpenOptions{Password: password, Ask: ask, Cached: b.cached, Near: b.remote == nil})
	switch {
	case errors.Is(err, repo.ErrNoRepository):
		x.found.Problem(doctor.Repository, exitNoRepository, "there is no repository at "+shownRepo(p.spec)+" (@"+name+") yet",
			"wtsnap -r @"+name+" init makes one; docs/operations.md: A second copy")
	case errors.Is(err, repo.ErrWrongPassword):
		x.found.Problem(doctor.Password, exitPassword, "the password does not open the repository @"+name, hint(err))
	case err != nil:
		problem(doctor.Repository, err)
	default:
		x.found.Add(doctor.Password, doctor.OK, "the password opens the repository @"+name, "")
	}
}
