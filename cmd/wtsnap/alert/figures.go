package alert

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
)

// Figures are what monitors want to know of the last steps of each kind, whichever run they were of.
type Figures struct {
	Backup *BackupFigures `json:"backup,omitempty"`
	Check  *CheckFigures  `json:"check,omitempty"`
	Drill  *DrillFigures  `json:"drill,omitempty"`
	Copies []CopyFigures  `json:"copies,omitempty"` // by repository, sorted
	Tokens []TokenFigures `json:"tokens,omitempty"`
	Free   *int64         `json:"free_bytes,omitempty"` // of the storage, as of the last backup
}

// BackupFigures are those of the last backup that made a snapshot.
type BackupFigures struct {
	Time     time.Time `json:"time"`
	Complete bool      `json:"complete"`
	Uploaded int64     `json:"uploaded_bytes"`
	Read     int64     `json:"read_bytes"`
}

// CheckFigures are those of the last check that was done to its end.
type CheckFigures struct {
	Time     time.Time `json:"time"`
	Problems int       `json:"problems"`
	Read     int64     `json:"read_bytes"`
}

// DrillFigures are those of the last drill that was done to its end.
type DrillFigures struct {
	Time       time.Time `json:"time"`
	Mismatches int64     `json:"mismatches"`
	Units      int       `json:"units"`
	Overdue    int       `json:"overdue"`
	Bytes      int64     `json:"bytes"`
}

// CopyFigures are those of the last copy into a repository that was done to its end.
type CopyFigures struct {
	Repository string    `json:"repository"` // its name in the configuration
	Time       time.Time `json:"time"`
	Uploaded   int64     `json:"uploaded_bytes"`
	Missing    int       `json:"missing"` // snapshots that are damaged, or left for the next time
}

// TokenFigures say when a credential ends; a zero time: that is not known.
type TokenFigures struct {
	Remote string    `json:"remote"`
	Dies   time.Time `json:"dies,omitzero"`
}

// note takes what the documents of a run's steps say.
func (f *Figures) note(r *job.Report) {
	for _, s := range r.Steps {
		if s.Doc == nil {
			continue
		}
		switch command, where := config.SplitStep(s.Name); {
		case command == "copy":
			f.noteCopy(where, r.End, s.Doc)
		case where != "": // of the steps in other repositories there are no figures
		case command == "backup":
			var d struct {
				Snapshot string `json:"snapshot"`
				Complete bool   `json:"complete"`
				Bytes    struct {
					Read     int64 `json:"read"`
					Uploaded int64 `json:"uploaded"`
				} `json:"bytes"`
			}
			if json.Unmarshal(s.Doc, &d) == nil && d.Snapshot != "" {
				f.Backup = &BackupFigures{r.End, d.Complete, d.Bytes.Uploaded, d.Bytes.Read}
			}
		case command == "check":
			var d struct {
				Problems []json.RawMessage `json:"problems"`
				Read     int64             `json:"bytes_read"`
			}
			if json.Unmarshal(s.Doc, &d) == nil && d.Problems != nil {
				f.Check = &CheckFigures{r.End, len(d.Problems), d.Read}
			}
		case command == "drill":
			var d struct {
				Report *struct {
					Bad      int64 `json:"bad"`
					Bytes    int64 `json:"bytes"`
					Coverage struct {
						Units   int               `json:"units"`
						Overdue []json.RawMessage `json:"overdue"`
					} `json:"coverage"`
				} `json:"report"`
			}
			if json.Unmarshal(s.Doc, &d) == nil && d.Report != nil {
				f.Drill = &DrillFigures{r.End, d.Report.Bad, d.Report.Coverage.Units, len(d.Report.Coverage.Overdue), d.Report.Bytes}
			}
		}
	}
}

// noteCopy takes what the document of a copy into a repository says.
func (f *Figures) noteCopy(repository string, end time.Time, doc json.RawMessage) {
	var d struct {
		Counts *struct {
			Damaged int `json:"damaged"`
			Left    int `json:"left"`
		} `json:"counts"`
		Bytes struct {
			Uploaded int64 `json:"uploaded"`
		} `json:"bytes"`
	}
	if json.Unmarshal(doc, &d) != nil || d.Counts == nil {
		return
	}
	c := CopyFigures{repository, end, d.Bytes.Uploaded, d.Counts.Damaged + d.Counts.Left}
	at, there := slices.BinarySearchFunc(f.Copies, repository, func(c CopyFigures, name string) int { return strings.Compare(c.Repository, name) })
	if there {
		f.Copies[at] = c
	} else {
		f.Copies = slices.Insert(f.Copies, at, c)
	}
}
