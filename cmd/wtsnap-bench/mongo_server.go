package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// mongoServer is the program mongotestd at work: a server for tests, in memory.
type mongoServer struct {
	URI     string
	Address string // host:port

	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startMongo starts a server with what a folder of mongodump's holds; "" is an empty server. It listens at an address, so
// that it is the member that was read last time, or with "" at any. It keeps no oplog, which would hold every document a
// second time.
func startMongo(ctx context.Context, program, load, address string) (*mongoServer, error) {
	args := []string{"-no-oplog"}
	if address != "" {
		args = append(args, "-listen", address)
	}
	if load != "" {
		args = append(args, "-load", load)
	}
	s := &mongoServer{cmd: exec.CommandContext(ctx, program, args...)}
	s.cmd.Stderr, s.cmd.WaitDelay = os.Stderr, 10*time.Second
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	s.out = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if s.URI, err = s.answer(); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	_, s.Address, _ = strings.Cut(s.URI, "://")
	s.Address, _, _ = strings.Cut(s.Address, "/")
	return s, nil
}

// answer reads a line that the program printed.
func (s *mongoServer) answer() (string, error) {
	if !s.out.Scan() {
		return "", errors.Join(errors.New("mongotestd ended"), s.out.Err())
	}
	return s.out.Text(), nil
}

// cpu is the processor time that the server has taken so far, in seconds.
func (s *mongoServer) cpu() (float64, error) {
	if _, err := io.WriteString(s.in, "\n"); err != nil {
		return 0, err
	}
	line, err := s.answer()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(line, 64)
}

func (s *mongoServer) stop() error { return errors.Join(s.in.Close(), s.cmd.Wait()) }

// mongoTools finds the folder with MongoDB's tools and the tests' server: the one given, the one of the tests, or the one
// that make builds beside ours.
func mongoTools(given string) (string, error) {
	dirs := []string{given}
	if given == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		dirs = []string{os.Getenv("WTSNAP_MONGO_TOOLS"), filepath.Join(filepath.Dir(self), "..", "build", "mongo")}
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		found := 0
		for _, name := range []string{"mongodump", "mongorestore", "mongotestd"} {
			if exists(filepath.Join(dir, name)) {
				found++
			}
		}
		if found == 3 {
			return filepath.Abs(dir)
		}
	}
	return "", fmt.Errorf("mongodump, mongorestore and mongotestd are not in %q: make build/mongo/built, or -mongo-tools", dirs[len(dirs)-1])
}
