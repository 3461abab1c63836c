package tool

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
)

func one(args ...string) []Command { return []Command{{Args: args}} }

// beside runs commands in the folder that holds the source, so that snapshots hold relative paths.
func beside(j Job, commands []Command) []Command {
	for i := range commands {
		commands[i].Dir = filepath.Dir(j.Source)
	}
	return commands
}

func wtsnap() *Tool {
	return &Tool{
		Options: "defaults",
		env: func(j Job) []string {
			return []string{"WTSNAP_REPO=" + j.Repo, "WTSNAP_PASSWORD=" + password, "WTSNAP_INSTANCE=bench",
				"WTSNAP_CACHE_DIR=" + j.Cache}
		},
		commands: func(j Job) []Command {
			switch j.Step {
			case Init:
				return one("init")
			case Backup:
				return one("backup", "--json", j.Label()+"="+j.Source)
			case Restore:
				return one("restore", "--json", "latest:"+j.Label(), "--to", j.Target)
			case RestorePart:
				return one("restore", "--json", "latest:"+j.Label()+"/"+j.Part, "--to", j.Target)
			case Check:
				return one("check", "--json", "--read-data")
			}
			return one("forget", "--json", "--keep-last", "1", "--prune", "--grace", "0")
		},
		restored: func(j Job) string { return j.Target },
		figures:  wtsnapFigures,
	}
}

// nested is where programs restore to that keep the path of the source.
func nested(j Job) string {
	if j.Step == RestorePart {
		return filepath.Join(j.Target, j.Label(), j.Part)
	}
	return filepath.Join(j.Target, j.Label())
}

func restic() *Tool {
	return &Tool{
		Options: "defaults (zstd since 0.14)",
		env: func(j Job) []string {
			return []string{"RESTIC_REPOSITORY=" + j.Repo, "RESTIC_PASSWORD=" + password, "RESTIC_CACHE_DIR=" + j.Cache}
		},
		commands: func(j Job) []Command {
			switch j.Step {
			case Init:
				return one("init", "-q")
			case Backup:
				return beside(j, one("backup", "-q", "--host", "bench", j.Label()))
			case Restore:
				return one("restore", "-q", "latest", "--target", j.Target)
			case RestorePart:
				return one("restore", "-q", "latest", "--target", j.Target, "--include", "/"+j.Label()+"/"+j.Part)
			case Check:
				return one("check", "-q", "--read-data")
			}
			return one("forget", "-q", "--keep-last", "1", "--prune")
		},
		restored: nested,
	}
}

// borg's own default compression is lz4; zstd,3 is what it is compared with elsewhere, and stores less.
func borg() *Tool {
	archive := func(j Job) string { return "::night" + strconv.Itoa(j.Number) }
	return &Tool{
		Options: "repokey-blake2, compression zstd,3 (its default lz4 stores more)",
		env: func(j Job) []string {
			return []string{"BORG_REPO=" + j.Repo, "BORG_PASSPHRASE=" + password, "BORG_BASE_DIR=" + j.Cache,
				"BORG_CACHE_DIR=" + filepath.Join(j.Cache, "cache")}
		},
		commands: func(j Job) []Command {
			var commands []Command
			switch j.Step {
			case Init:
				return one("init", "-e", "repokey-blake2")
			case Backup:
				return beside(j, one("create", "--compression", "zstd,3", archive(j), j.Label()))
			case Restore:
				commands = one("extract", archive(j))
			case RestorePart:
				commands = one("extract", archive(j), j.Label()+"/"+j.Part)
			case Check:
				return one("check", "--verify-data")
			default:
				return append(one("prune", "--keep-last", "1"), one("compact")...)
			}
			commands[0].Dir = j.Target
			commands[0].Accept = []int{1} // a warning: the comparison with the source tells what of
			return commands
		},
		restored: nested,
		// The server's own index and hints lie beside the segments; a client does not send them.
		internal: func(path string) bool {
			for _, prefix := range []string{"index.", "hints.", "integrity."} {
				if strings.HasPrefix(path, prefix) {
					return true
				}
			}
			return false
		},
	}
}

func kopia() *Tool {
	roots := map[string]string{} // the newest snapshot's root object of each repository
	return &Tool{
		Options: "compression zstd",
		env: func(j Job) []string {
			return []string{"KOPIA_PASSWORD=" + password, "KOPIA_CONFIG_PATH=" + filepath.Join(j.Cache, "repository.config"),
				"KOPIA_CACHE_DIRECTORY=" + filepath.Join(j.Cache, "cache"), "KOPIA_LOG_DIR=" + filepath.Join(j.Cache, "log"),
				"KOPIA_CHECK_FOR_UPDATES=false", "KOPIA_USE_KEYRING=false"}
		},
		commands: func(j Job) []Command {
			switch j.Step {
			case Init:
				return append(one("repository", "create", "filesystem", "--path", j.Repo),
					one("policy", "set", "--global", "--compression", "zstd")...)
			case Backup:
				return one("snapshot", "create", "--json", j.Source)
			case Restore:
				return one("restore", roots[j.Repo], j.Target)
			case RestorePart:
				return one("restore", roots[j.Repo]+"/"+j.Part, j.Target)
			case Check:
				return one("snapshot", "verify", "--verify-files-percent", "100")
			}
			return []Command{
				{Args: []string{"policy", "set", "--global", "--keep-latest", "1", "--keep-hourly", "0", "--keep-daily", "0",
					"--keep-weekly", "0", "--keep-monthly", "0", "--keep-annual", "0"}},
				{Args: []string{"snapshot", "expire", "--all", "--delete"}},
				{Args: []string{"maintenance", "run", "--full", "--safety", "none"}},
			}
		},
		learn: func(j Job, output []byte) {
			var snapshot struct{ RootEntry struct{ Obj string } }
			if j.Step == Backup && json.Unmarshal(output, &snapshot) == nil {
				roots[j.Repo] = snapshot.RootEntry.Obj
			}
		},
		restored: func(j Job) string { return j.Target },
	}
}

func rustic() *Tool {
	return &Tool{
		Options: "defaults",
		env: func(j Job) []string {
			return []string{"RUSTIC_REPOSITORY=" + j.Repo, "RUSTIC_PASSWORD=" + password, "RUSTIC_CACHE_DIR=" + j.Cache,
				"RUSTIC_NO_PROGRESS=true"}
		},
		commands: func(j Job) []Command {
			switch j.Step {
			case Init:
				return one("init")
			case Backup:
				return beside(j, one("backup", j.Label()))
			case Restore:
				return one("restore", "latest:"+j.Label(), j.Target)
			case RestorePart:
				return one("restore", "latest:"+j.Label()+"/"+j.Part, j.Target)
			case Check:
				return one("check", "--read-data")
			}
			return one("forget", "--keep-last", "1", "--prune", "--instant-delete")
		},
		restored: func(j Job) string { return j.Target },
	}
}
