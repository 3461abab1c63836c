// Package pages unmaps what a program's start has read of its own file.
//
// The initialisation of some 650 packages, most of them rclone's backends, touches a little everywhere in 80 MB of code and
// constants, and the kernel maps what lies around it: some 70 MiB count as this process's memory, of which a backup needs
// half. They are clean pages of a file: they stay in the kernel's cache as long as that has room, and those that are needed
// again come back from there.
package pages

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// span is a range of addresses.
type span struct{ from, to uintptr }

// unwritten returns the mappings of a file in smaps (proc_pid_smaps(5)) that hold nothing but what the file does: those that
// cannot be written, and never were. A linker that relocates constants writes them before it protects them.
func unwritten(smaps io.Reader, file string) (spans []span, err error) {
	var s span
	ours, clean := false, false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		fields := strings.Fields(line)
		if len(fields) >= 5 && strings.Contains(fields[0], "-") { // the head of a mapping
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &s.from, &s.to); err != nil {
				return nil, fmt.Errorf("understanding %q: %w", line, err)
			}
			_, name, _ := strings.Cut(line, "/")
			ours, clean = "/"+name == file && !strings.Contains(fields[1], "w"), false
			continue
		}
		switch {
		case !ours || len(fields) < 2:
		case fields[0] == "Anonymous:" && fields[1] == "0":
			clean = true
		case fields[0] == "Swap:" && fields[1] == "0" && clean: // behind Anonymous
			spans = append(spans, s)
		}
	}
	return spans, lines.Err()
}
