//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockJob keeps a job from running twice at once on this machine. The lock ends with the process.
func lockJob(dir, name string) (unlock func(), err error) {
	path := filepath.Join(dir, "job-"+name+".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting the job %s: %w", name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		since := ""
		if info, serr := f.Stat(); serr == nil {
			since = " since " + when(info.ModTime())
		}
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &statusError{exitBusy, "starting the job " + name + ": it is running already" + since, "wait for it, or look at what it does", nil}
		}
		return nil, fmt.Errorf("starting the job %s: locking %s: %w", name, path, err)
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // only for the message above
	return func() { _ = f.Close() }, nil
}

// endGroup makes the end of a command's context end what the command has started as well.
func endGroup(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 5 * time.Second
}
