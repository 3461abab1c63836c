package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

// The kinds of values that flags take beyond those of package cli. Each is a flag.Value; an environment variable goes
// through the same Set.

// value makes a flag.Value of a function that reads one.
type value[T any] struct {
	v     T
	set   bool
	parse func(string) (T, error)
	text  string
}

func newValue[T any](parse func(string) (T, error)) *value[T] { return &value[T]{parse: parse} }

// Set reads a value.
func (v *value[T]) Set(s string) error {
	got, err := v.parse(s)
	if err != nil {
		return err
	}
	v.v, v.set, v.text = got, true, s
	return nil
}

// check refuses what Set would.
func (v *value[T]) check(s string) error {
	_, err := v.parse(s)
	return err
}

// String returns what was read.
func (v *value[T]) String() string { return v.text }

// get returns the value of the flag called name.
func get[T any](c *cli.Context, name string) (v T, set bool) {
	if g, ok := c.Generic(name).(*value[T]); ok && g.set {
		return g.v, true
	}
	return v, false
}

// parseSize reads a number of bytes: 4096, 10MiB, 1.5GB. A K, M, G or T alone is binary, as in most tools.
func parseSize(s string) (int64, error) {
	text := strings.TrimSpace(s)
	if n := len(text); n > 1 && strings.ContainsRune("kKmMgGtT", rune(text[n-1])) {
		text += "iB"
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size: write 4096, 500MiB or 2G", s)
	}
	return int64(n), nil
}

// parsePercent reads 5 or 5%.
func parsePercent(s string) (float64, error) {
	f, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(s), "%"), 64)
	if err != nil || !(f >= 0 && f <= 100) {
		return 0, fmt.Errorf("%q is no share: write a percentage from 0%% to 100%%", s)
	}
	return f, nil
}

// A subset is what --read-data-subset takes: a share of the packs, or a part of all.
type subset struct {
	share       float64
	part, parts int
}

// parseSubset reads 5% or 2/7.
func parseSubset(s string) (subset, error) {
	if part, parts, ok := strings.Cut(s, "/"); ok {
		n, err1 := strconv.Atoi(part)
		m, err2 := strconv.Atoi(parts)
		if err1 != nil || err2 != nil || n < 1 || m < n || m > 65536 {
			return subset{}, fmt.Errorf("%q is no part: write 2/7 for the second of seven", s)
		}
		return subset{part: n, parts: m}, nil
	}
	f, err := parsePercent(s)
	if err != nil || f == 0 || !strings.HasSuffix(s, "%") {
		return subset{}, fmt.Errorf("%q is no subset: write 5%%, or 2/7 for the second of seven parts", s)
	}
	return subset{share: f / 100}, nil
}

// parseCount reads how many snapshots a rule keeps.
func parseCount(s string) (int, error) {
	if s == "all" || s == "unlimited" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < -1 {
		return 0, fmt.Errorf("%q is no number: write how many to keep, or all", s)
	}
	return n, nil
}

// parseWhen reads a point in time; an operation time of a MongoDB, 1700000000.12, is one as well.
func parseWhen(s string) (time.Time, error) {
	if t, ok := parseOpTime(s); ok {
		return t.Time(), nil
	}
	return snapshot.ParseTime(s, time.Now())
}

func parseSince(s string) (time.Time, error) { return snapshot.ParseSince(s, time.Now()) }

// parseOpTime reads seconds since 1970 and a counter.
func parseOpTime(s string) (t snapshot.Timestamp, ok bool) {
	seconds, counter, ok := strings.Cut(strings.TrimSpace(s), ".")
	n, err := strconv.ParseUint(seconds, 10, 32)
	i, err2 := strconv.ParseUint(counter, 10, 32)
	return snapshot.Timestamp{T: uint32(n), I: uint32(i)}, ok && err == nil && err2 == nil && len(seconds) >= 9
}

// parseUntil reads a time to come: a point in time, or how long from now.
func parseUntil(s string) (time.Time, error) {
	now := time.Now()
	if span, err := snapshot.ParseDuration(s); err == nil {
		return now.AddDate(0, span.Months, span.Days).Add(span.Time), nil
	}
	t, err := snapshot.ParseTime(s, now)
	if err != nil {
		return t, fmt.Errorf("%q is no time to come: write 30d, 1y or 2027-01-31", s)
	}
	if !t.After(now) {
		return t, fmt.Errorf("%q lies in the past", s)
	}
	return t, nil
}

func parseProgress(s string) (string, error) {
	switch s {
	case "auto", "bar", "plain", "json", "none":
		return s, nil
	}
	return "", fmt.Errorf("%q is no kind of progress: write auto, bar, plain, json or none", s)
}

func parsePositive(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is no number from 1 on", s)
	}
	return n, nil
}
