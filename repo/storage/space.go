package storage

import "context"

// Unknown is a number of bytes that the backend does not tell.
const Unknown = -1

// A Spacer is a storage that may know how much room it has.
type Spacer interface {
	// Free returns how many more bytes can be stored, as far as the backend tells, or Unknown. It asks the backend at
	// most once, and takes no part in storing: an error means as little as Unknown.
	Free(ctx context.Context) (int64, error)
}
