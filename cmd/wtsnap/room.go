package main

import (
	"context"
	"fmt"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/snapshot"
)

const (
	// leastRoom is what a backup should find in any case: the packs that are on their way at a time, and an index.
	leastRoom = 64 << 20
	// roomEvery is how often it is looked whether the room will do, and roomSample how much must have been uploaded for
	// that to mean anything.
	roomEvery  = 15 * time.Second
	roomSample = 64 << 20
	// roomWait bounds the question, which nothing depends on.
	roomWait = 20 * time.Second
)

// free asks the storage how many more bytes it has room for; storage.Unknown where it does not say.
func (a *app) free(ctx context.Context) int64 {
	ctx, cancel := context.WithTimeout(ctx, roomWait)
	defer cancel()
	free, err := a.backend.counts.Free(ctx)
	if err != nil {
		return storage.Unknown // what is asked next says what is wrong
	}
	a.room.Store(free + 1)
	return free
}

// watchRoom warns while a backup goes on, once, if the storage will not have room for it as far as that can be told. The
// function that it returns ends it.
func (a *app) watchRoom(p *snapshot.Progress) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		free := a.free(a.ctx)
		if free == storage.Unknown {
			return
		}
		tick := time.NewTicker(roomEvery)
		defer tick.Stop()
		for {
			if text := roomWarning(free, p.Transferred.Load(), p.Bytes.Load(), p.TotalBytes.Load()); text != "" {
				a.warn(text)
				return
			}
			select {
			case <-tick.C:
			case <-over:
				return
			}
		}
	}()
	return func() { close(over); <-done }
}

// roomWarning says what is wrong with the room, or "". free is what there was before anything was uploaded; done of total
// bytes of the sources have been dealt with, which took so many bytes uploaded: the rest will take as much in proportion.
func roomWarning(free, uploaded, done, total int64) string {
	switch {
	case free < leastRoom:
		return fmt.Sprintf("the storage has room for %s only", size(free))
	case uploaded < roomSample || done <= 0 || total <= done:
		return ""
	}
	more := int64(float64(uploaded) / float64(done) * float64(total-done))
	if left := max(free-uploaded, 0); more > left {
		return fmt.Sprintf("about %s more are to be uploaded, and the storage has room for %s: this run will fail when it is full, "+
			"and what it has uploaded until then is used by the next one", size(more), size(left))
	}
	return ""
}

// roomForRepack says that there is too little room to write packs anew before the old ones are removed, or "".
func roomForRepack(free, bytes int64) string {
	if bytes == 0 || free == storage.Unknown || free > bytes+leastRoom {
		return ""
	}
	return fmt.Sprintf("about %s are to be written anew before anything is freed, and the storage has room for %s: "+
		"--max-repack-size %s writes less, and removes what nothing needs all the same", size(bytes), size(free), fmt.Sprintf("%dMiB", max(free/2>>20, 1)))
}
