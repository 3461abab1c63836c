//go:build !linux

package measure

func bytesRead(int) int64 { return -1 }
