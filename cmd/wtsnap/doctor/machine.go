package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whole-tale/wtsnap/repo/storage/cache"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// readSample is how many entries of a source are opened.
const readSample = 2000

// Source examines a source that a backup would save. Databases and streams are not asked.
func Source(ctx context.Context, spec *snapshot.SourceSpec, excluded func(rel string, isDir bool) bool) (out Findings) {
	name := "source " + spec.Label
	if spec.Guard.MountPoint != "" {
		mounted, err := localfs.IsMountPoint(spec.Guard.MountPoint)
		switch {
		case err != nil:
			out.Problem(Sources, ExitGuard, fmt.Sprintf("%s: the file system expected at %q: %v", name, spec.Guard.MountPoint, err), "mount it")
		case !mounted:
			out.Problem(Sources, ExitGuard, fmt.Sprintf("%s: no file system is mounted at %q", name, spec.Guard.MountPoint), "mount it")
		}
	}
	if spec.Guard.Sentinel != "" {
		if _, err := os.Lstat(filepath.Join(spec.Path, spec.Guard.Sentinel)); err != nil {
			out.Problem(Sources, ExitGuard, fmt.Sprintf("%s: its sentinel file %q: %v", name, spec.Guard.Sentinel, plainError(err)), "is it the right folder? make the file if it is")
		}
	}
	if spec.Kind == snapshot.SourceMongo || spec.Kind == snapshot.SourceStdin || spec.Kind == snapshot.SourceTar && spec.Path == "-" {
		out.Add(Sources, Note, name+" ("+spec.Path+") is no folder: whether it can be read shows when it is saved", "")
		return out
	}
	if _, err := os.Stat(spec.Path); err != nil {
		out.Problem(Sources, ExitFailed, fmt.Sprintf("%s: %q: %v", name, spec.Path, plainError(err)), "correct the configuration, or bring the folder back")
		return out
	}
	seen, refused := sample(ctx, spec.Path, excluded)
	switch {
	case refused > 0:
		out.Problem(Sources, ExitFailed, fmt.Sprintf("%s: %d of the first %d entries of %q cannot be read by this user", name, refused, seen, spec.Path),
			"run it as root, or give the service CAP_DAC_READ_SEARCH (install-timer does)")
	case seen == 0:
		out.Add(Sources, Warning, fmt.Sprintf("%s: %q is empty", name, spec.Path), "is its file system mounted? expect-mount and sentinel notice that")
	case len(out) == 0:
		text := fmt.Sprintf("%s: %q can be read", name, spec.Path)
		if seen == readSample {
			text += fmt.Sprintf(" (the first %d entries)", seen)
		}
		out.Add(Sources, OK, text, "")
	}
	if spec.Guard == (snapshot.Guard{}) {
		if onOwn, err := localfs.IsMountPoint(spec.Path); err == nil && onOwn {
			out.Add(Sources, Note, fmt.Sprintf("%s is a file system of its own, and nothing says so", name),
				fmt.Sprintf("expect-mount = %q refuses a night on which it is not mounted", spec.Path))
		}
	}
	return out
}

func plainError(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// sample opens the first entries below a path, breadth first as far as WalkDir allows, and counts those that may not be read.
func sample(ctx context.Context, root string, excluded func(string, bool) bool) (seen, refused int) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil || seen >= readSample {
			return fs.SkipAll
		}
		if err != nil { // of a folder that could not be listed
			if errors.Is(err, fs.ErrPermission) {
				refused++
			}
			return nil
		}
		if path != root {
			if rel, err := filepath.Rel(root, path); err == nil && excluded != nil && excluded(rel, d.IsDir()) {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			seen++
		}
		if d.Type().IsRegular() {
			if path == root {
				seen++
			}
			if unix.Access(path, unix.R_OK) != nil {
				refused++
			}
		}
		return nil
	})
	return seen, refused
}

// Secret examines who may read a file that holds a password. Whoever reads it says whether that can be done.
func Secret(area, what, path string) (out Findings) {
	fi, err := os.Stat(path)
	if err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0 && !below(path, os.Getenv("CREDENTIALS_DIRECTORY")) {
		out.Add(area, Warning, fmt.Sprintf("%s %q can be read by others (mode %04o)", what, path, fi.Mode().Perm()), "chmod 600 "+path)
	}
	return out
}

func below(path, dir string) bool { return dir != "" && strings.HasPrefix(path, dir+"/") }

// cacheRead is how much of a cache is compared with its checksums.
const cacheRead = 64 << 20

// CacheFolder examines the folders of a cache.
func CacheFolder(dir string, dirs []string, most int64, size func(int64) string) (out Findings) {
	if err := writable(dir); err != nil {
		out.Add(Cache, Warning, fmt.Sprintf("the cache %q cannot be written (%v): everything is read from the remote each time", dir, plainError(err)),
			"make it writable, or name another with --cache-dir")
		return out
	}
	var sum cache.Surveyed
	for _, d := range dirs {
		s, err := cache.Survey(d, cacheRead/int64(len(dirs)))
		if err != nil {
			out.Add(Cache, Warning, fmt.Sprintf("the cache %q cannot be read: %v", d, plainError(err)), "delete it: it is made anew")
			return out
		}
		sum.Files, sum.Bytes, sum.Checked = sum.Files+s.Files, sum.Bytes+s.Bytes, sum.Checked+s.Checked
		sum.Damaged = append(sum.Damaged, s.Damaged...)
	}
	text := fmt.Sprintf("the cache %q holds %s in %d files (at most %s)", dir, size(sum.Bytes), sum.Files, size(most))
	if n := len(sum.Damaged); n > 0 {
		out.Add(Cache, Warning, fmt.Sprintf("%s; %d of %d that were read are damaged: they are read from the remote again", text, n, sum.Checked),
			"look at the disk (dmesg, smartctl)")
		return out
	}
	out.Add(Cache, OK, text, "")
	return out
}

// writable makes a file in a folder, which is made where it is missing, and removes it.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".wtsnap-doctor-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// leastSkew is what a clock may be off: times of files and snapshots have nothing finer to lose by it.
const leastSkew = 5 * time.Minute

// ClockSkew examines by how much this machine's clock is ahead; known says that somebody told.
func ClockSkew(skew time.Duration, known bool, whose string) (out Findings) {
	ahead := "ahead of"
	if skew < 0 {
		ahead = "behind"
	}
	switch {
	case !known:
		out.Add(Clock, Note, "the storage does not tell its time, so this machine's clock was not compared", "")
	case skew.Abs() > leastSkew:
		out.Problem(Clock, ExitFailed, fmt.Sprintf("this machine's clock is %s %s %s", skew.Abs().Round(time.Second), ahead, whose),
			"set it (timedatectl set-ntp true): snapshots would have wrong times, and tokens and signatures are refused")
	default:
		out.Add(Clock, OK, "this machine's clock agrees with "+whose+" within 5 minutes", "")
	}
	return out
}

// A Systemctl runs systemd's program and returns what it prints.
type Systemctl func(ctx context.Context, args ...string) (string, error)

// A Scheduled is a job that has a schedule.
type Scheduled struct {
	Job     string
	Every   time.Duration // the longest time between two runs
	LastRun time.Time     // as remembered here; zero: none
}

// JobTimer examines whether something starts a job: its systemd timer is enabled and has a next run, or it ran lately.
func JobTimer(ctx context.Context, ctl Systemctl, j Scheduled, now time.Time) (out Findings) {
	timer := "wtsnap-" + j.Job + ".timer"
	job := "job " + j.Job
	late := !j.LastRun.IsZero() && j.Every > 0 && now.Sub(j.LastRun) > 3*j.Every/2
	ran := "it has not run here yet"
	if !j.LastRun.IsZero() {
		ran = "it last ran " + Ago(now.Sub(j.LastRun)) + " ago"
	}
	if late {
		out.Problem(Timer, ExitLate, fmt.Sprintf("%s is due every %s, and %s", job, hours(j.Every), ran), "journalctl -u wtsnap-"+j.Job+".service; wtsnap run "+j.Job)
	}
	if ctl == nil {
		if !late {
			out.Add(Timer, Note, "there is no systemd here, so what starts "+job+" cannot be seen; "+ran, "wtsnap daemon, or cron, must be running")
		}
		return out
	}
	enabled, err := ctl(ctx, "is-enabled", timer)
	enabled = strings.TrimSpace(enabled)
	if err != nil && enabled == "" {
		enabled = "not-found"
	}
	switch {
	case enabled == "not-found" && !j.LastRun.IsZero() && !late:
		out.Add(Timer, Note, job+" has no systemd timer; "+ran+", so something else starts it", "")
		return out
	case enabled != "enabled" && enabled != "enabled-runtime":
		out.Problem(Timer, ExitLate, fmt.Sprintf("%s has a schedule, and nothing starts it: %s is %s", job, timer, enabled), "wtsnap install-timer "+j.Job)
		return out
	case enabled == "enabled-runtime":
		out.Problem(Timer, ExitLate, timer+" is enabled until the next boot only", "wtsnap install-timer "+j.Job)
		return out
	}
	text, err := ctl(ctx, "show", "--property=NextElapseUSecRealtime,ActiveState", timer)
	shown := properties(text)
	next := shown["NextElapseUSecRealtime"]
	switch {
	case err != nil:
		out.Problem(Timer, ExitLate, fmt.Sprintf("looking at %s: %v", timer, err), "systemctl status "+timer)
	case next == "" || next == "0":
		out.Problem(Timer, ExitLate, fmt.Sprintf("%s is enabled, but has no next run (it is %s)", timer, shown["ActiveState"]), "systemctl start "+timer)
	case !late:
		out.Add(Timer, OK, fmt.Sprintf("%s: %s is enabled, and due %s; %s", job, timer, next, ran), "")
	}
	return out
}

// properties reads what systemctl show prints.
func properties(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[key] = value
		}
	}
	return out
}

func hours(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return d.Round(time.Minute).String()
}

// FindSystemctl returns nil where the machine does not run systemd. A unit that is not enabled makes systemctl fail and
// say so.
func FindSystemctl() Systemctl {
	program, err := exec.LookPath("systemctl")
	if err != nil {
		return nil
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return nil
	}
	return func(ctx context.Context, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, program, args...).Output()
		return string(out), err
	}
}
