// Wtread lists the snapshots of a repository, or writes one as a tar archive to standard output. It is the second
// reader of docs/reader, and shares no code with wtsnap.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/whole-tale/wtsnap/docs/reader"
)

func main() {
	repo := flag.String("r", "", "the repository's `folder`; of a remote one, copy it with rclone first")
	password := flag.String("p", "", "the `file` with the password, or the key file")
	packs := flag.Bool("packs", false, "find blobs by the packs alone, without the index")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: wtread -r FOLDER -p FILE            list the snapshots\n"+
			"       wtread -r FOLDER -p FILE ID > TAR   write the snapshot whose id begins with ID, or \"latest\"\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *repo == "" || *password == "" || flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*repo, *password, *packs, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "wtread:", err)
		os.Exit(1)
	}
}

func run(repo, file string, packs bool, id string) error {
	password, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	r, err := reader.Open(repo, strings.TrimRight(string(password), "\r\n"))
	if err != nil {
		return err
	}
	snapshots, err := r.Snapshots()
	if err != nil {
		return err
	}
	if id == "" {
		for _, s := range snapshots {
			fmt.Printf("%s  %s  %s  complete: %t\n", s.ID(), s.Time.Format("2006-01-02T15:04:05Z07:00"), s.Instance, s.Complete)
		}
		return nil
	}
	load := r.LoadIndex
	if packs {
		load = r.LoadDirectories
	}
	if err := load(); err != nil {
		return err
	}
	for i := len(snapshots) - 1; i >= 0; i-- {
		if s := snapshots[i]; strings.HasPrefix(s.ID(), id) || id == "latest" && s.Complete {
			out := bufio.NewWriterSize(os.Stdout, 1<<20)
			if err := r.WriteTar(out, s); err != nil {
				return err
			}
			return out.Flush()
		}
	}
	return fmt.Errorf("no snapshot's id begins with %q", id)
}
