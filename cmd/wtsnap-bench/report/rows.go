package report

// row is a line of the table: less is better in all of them.
type row struct {
	title  string
	corpus string
	step   Step
	unit   string // s, MB, MiB
	of     func(Sample) float64
	goal   float64 // the share of the yardstick that wtsnap shall not exceed, 0 for none
	yard   string  // the yardstick: best (of the peers), bound, or a peer's name
}

const (
	best      = "best"
	withBound = "bound"
)

func wall(s Sample) float64    { return s.Wall }
func cpu(s Sample) float64     { return s.User + s.System }
func peak(s Sample) float64    { return float64(s.Peak) }
func stored(s Sample) float64  { return float64(s.Stored) }
func written(s Sample) float64 { return float64(s.Written) }
func read(s Sample) float64    { return float64(s.Read) }

// rows lists what the table shows, with the goals of the design.
func rows() []row {
	return []row{
		{"first backup, homes", "homes", FirstBackup, "s", wall, 0.70, best},
		{"– CPU", "homes", FirstBackup, "s", cpu, 0, best},
		{"– peak memory", "homes", FirstBackup, "MiB", peak, 0, best},
		{"– stored", "homes", FirstBackup, "MB", stored, 1.00, "borg"},
		{"unchanged night, homes", "homes", UnchangedNight, "s", wall, 0.50, best},
		{"– CPU", "homes", UnchangedNight, "s", cpu, 0, best},
		{"– uploaded", "homes", UnchangedNight, "MB", written, 0, best},
		{"changed night, homes", "homes", Night, "s", wall, 0, best},
		{"– CPU", "homes", Night, "s", cpu, 0, best},
		{"– peak memory", "homes", Night, "MiB", peak, 0, best},
		{"– uploaded", "homes", Night, "MB", written, 1.20, withBound},
		{"restore before the nights, homes", "homes", FirstRestore, "s", wall, 0, best},
		{"restore after them, homes", "homes", Restore, "s", wall, 0.70, "restic"},
		{"– CPU", "homes", Restore, "s", cpu, 0, best},
		{"– peak memory", "homes", Restore, "MiB", peak, 0, best},
		{"restore of one home of twelve", "homes", RestorePart, "s", wall, 0.50, best},
		{"– read", "homes", RestorePart, "MB", read, 0, best},
		{"check, every byte read", "homes", Check, "s", wall, 0.70, "restic"},
		{"– CPU", "homes", Check, "s", cpu, 0, best},
		{"forget all but one, prune", "homes", Prune, "s", wall, 1.00, "kopia"},
		{"– rewritten", "homes", Prune, "MB", written, 0, best},
		{"– stored after it", "homes", Prune, "MB", stored, 0, best},
		{"first backup, dump", "dump", FirstBackup, "s", wall, 0.75, best},
		{"– CPU", "dump", FirstBackup, "s", cpu, 0, best},
		{"– peak memory", "dump", FirstBackup, "MiB", peak, 0, best},
		{"– stored", "dump", FirstBackup, "MB", stored, 0, best},
		{"unchanged night, dump", "dump", UnchangedNight, "s", wall, 0, best},
		{"changed night, dump", "dump", Night, "s", wall, 0, best},
		{"– CPU", "dump", Night, "s", cpu, 0, best},
		{"– uploaded", "dump", Night, "MB", written, 1.20, withBound},
		{"restore before the nights, dump", "dump", FirstRestore, "s", wall, 0, best},
		{"restore after them, dump", "dump", Restore, "s", wall, 0, best},
		{"forget all but one, prune, dump", "dump", Prune, "s", wall, 0, best},
		{"– rewritten", "dump", Prune, "MB", written, 0, best},
	}
}
