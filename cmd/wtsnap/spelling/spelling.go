// Package spelling guesses what a mistyped word was meant to be.
package spelling

import "strings"

// Nearest returns the known word that looks most like a mistyped one, or "".
func Nearest(word string, known []string) string {
	best, least := "", 1+len(word)/3
	for _, k := range known {
		if len(k) < 2 {
			continue
		}
		d := distance(word, k)
		if d > 0 && len(word) > 2 && strings.HasPrefix(k, word) {
			d = 1
		}
		if d <= least {
			best, least = k, d-1
		}
	}
	return best
}

// distance is the number of letters to insert, remove, change or swap with their neighbour (optimal string alignment).
func distance(a, b string) int {
	var before, last, row []int
	for j := range len(b) + 1 {
		last = append(last, j)
	}
	for i := range len(a) {
		row = []int{i + 1}
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			d := min(row[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			row = append(row, d)
		}
		before, last = last, row
	}
	return last[len(b)]
}
