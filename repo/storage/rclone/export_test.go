package rclone

// Forget lets the next Open start with another configuration file.
func Forget() {
	theMu.Lock()
	defer theMu.Unlock()
	theProcess = nil
}
