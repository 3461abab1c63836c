//go:build !(linux || darwin || freebsd)

package cache

// Free tells nothing on this system.
func Free(dir string) (int64, bool) { return 0, false }
