// Thinline serves a folder over S3, WebDAV or SFTP behind a line of a given answer time and bandwidth, until its standard
// input ends. It prints one JSON object a line: where the server is, then, for each line on standard input, what went over
// the line so far.
//
// It is a program of its own because it links rclone's servers, whose memory would count in the peaks that wtsnap-bench
// measures.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage/rclone/rclonetest"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest/line"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "thinline:", err)
		os.Exit(1)
	}
}

func run() error {
	kind := flag.String("kind", "s3", "`protocol`: s3, webdav or sftp")
	latency := flag.Duration("latency", 300*time.Millisecond, "answer `time` of the line")
	up := flag.Int64("up", 1e6, "`bytes` a second to the server, 0 for no limit")
	down := flag.Int64("down", 1e6, "`bytes` a second from the server, 0 for no limit")
	flag.Parse()
	if flag.NArg() != 1 {
		return errors.New("usage: thinline [flags] DIR")
	}
	server, err := rclonetest.Start(context.Background(), rclonetest.Kind(*kind), flag.Arg(0))
	if err != nil {
		return err
	}
	l, err := line.New(server.Addr, line.Options{Latency: *latency, Up: *up, Down: *down})
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(map[string]string{"addr": l.Addr(), "direct": server.Addr, "spec": rclonetest.Spec(rclonetest.Kind(*kind), l.Addr())}); err != nil {
		return err
	}
	for ask := bufio.NewScanner(os.Stdin); ask.Scan(); {
		t := l.Traffic()
		if err := out.Encode(map[string]int64{"up": t.Up, "down": t.Down, "connections": int64(t.Connections)}); err != nil {
			return err
		}
	}
	return errors.Join(l.Close(), server.Stop())
}
