// Package quiet keeps rclone from making a folder in the user's home, and from
// complaining on standard error where there is no home, as soon as it is linked
// into a program.
//
// rclone looks for its configuration while the program starts, and prepares a
// place for one unless RCLONE_CONFIG is set. Go initialises packages in the order
// of their import paths as soon as what they import is ready; this one imports
// nothing but os, so it comes before rclone, which needs much that sorts later.
// A test in the parent package holds this.
package quiet

import "os"

const variable = "RCLONE_CONFIG"

var set = prepare()

func prepare() bool {
	if _, ok := os.LookupEnv(variable); ok {
		return false
	}
	return os.Setenv(variable, "") == nil
}

// Over takes the variable out of the environment again, for the processes that
// this one starts.
func Over() bool {
	if set {
		return os.Unsetenv(variable) == nil
	}
	return true
}
