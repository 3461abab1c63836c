// Package measure runs a program and tells what it used, and what a folder gained meanwhile.
//
// A program is started by a small process made for it alone: Linux counts the memory of the process that starts another
// into the peak of the started one, and the benchmark itself is large.
package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Usage is what a program used.
type Usage struct {
	Wall   float64 `json:"wall"`   // seconds
	User   float64 `json:"user"`   // seconds of all cores
	System float64 `json:"system"` // seconds of all cores
	Peak   int64   `json:"peak"`   // resident bytes
	Read   int64   `json:"read"`   // bytes returned by read calls of any file, -1 where the system does not tell (outside Linux)
}

// Add puts a second program's usage after the first one's.
func (u Usage) Add(v Usage) Usage {
	sum := Usage{Wall: u.Wall + v.Wall, User: u.User + v.User, System: u.System + v.System, Peak: max(u.Peak, v.Peak), Read: -1}
	if u.Read >= 0 && v.Read >= 0 {
		sum.Read = u.Read + v.Read
	}
	return sum
}

// Command is a program to run.
type Command struct {
	Args []string // the program first
	Dir  string
	Env  []string // all of it: nothing is inherited
}

// ExitError is a program that ended with a status other than 0.
type ExitError struct {
	Status int
	Stderr string // its last part
}

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d: %s", e.Status, e.Stderr) }

// outcome travels from the small process to Run.
type outcome struct {
	Usage  Usage
	Status int
	Error  string
}

// Run runs a command to its end and returns its standard output. helper is the program, with its first arguments, that
// calls Helper with the arguments that follow. With an *ExitError the usage and the output are valid.
func Run(ctx context.Context, helper []string, command Command) (Usage, []byte, error) {
	results, child, err := os.Pipe()
	if err != nil {
		return Usage{}, nil, err
	}
	defer results.Close()
	args := append(append([]string{}, helper...), command.Args...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Dir, cmd.Env, cmd.ExtraFiles = command.Dir, command.Env, []*os.File{child}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Start()
	child.Close()
	if err != nil {
		return Usage{}, nil, err
	}
	report, readErr := io.ReadAll(results)
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		return Usage{}, nil, ctx.Err()
	}
	var o outcome
	if err := errors.Join(readErr, waitErr, json.Unmarshal(report, &o)); err != nil {
		return Usage{}, nil, fmt.Errorf("measure %s: %w: %s", command.Args[0], err, tail(stderr.Bytes()))
	}
	if o.Error != "" {
		return Usage{}, nil, errors.New(o.Error)
	}
	if o.Status != 0 {
		return o.Usage, stdout.Bytes(), &ExitError{Status: o.Status, Stderr: tail(stderr.Bytes())}
	}
	return o.Usage, stdout.Bytes(), nil
}

func tail(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[max(len(b)-2000, 0):])
}

// Helper runs a program, waits for it and reports to Run. It is the whole work of its process.
func Helper(args []string) error {
	report := os.NewFile(3, "report")
	if report == nil || len(args) == 0 {
		return errors.New("measure: started by hand")
	}
	syscall.CloseOnExec(3)
	return json.NewEncoder(report).Encode(run(args))
}

func run(args []string) outcome {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return outcome{Error: err.Error()}
	}
	stop := passSignals(cmd.Process)
	read := bytesRead(cmd.Process.Pid) // waits for the end
	err := cmd.Wait()
	wall := time.Since(started)
	stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return outcome{Error: err.Error()}
	}
	state := cmd.ProcessState
	usage := state.SysUsage().(*syscall.Rusage)
	peak := int64(usage.Maxrss)
	if runtime.GOOS != "darwin" {
		peak <<= 10 // in KiB elsewhere
	}
	return outcome{Status: state.ExitCode(), Usage: Usage{Wall: wall.Seconds(), User: state.UserTime().Seconds(),
		System: state.SystemTime().Seconds(), Peak: peak, Read: read}}
}
