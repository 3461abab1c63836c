// Package reader is a second reader of wtsnap's repositories, written from docs/format.md alone: it shares no code with
// wtsnap, and is as short as it can be. It is there for two reasons. It keeps the page honest: the tests let it read
// what wtsnap wrote, and a page that leaves something out shows. And it is what is left if wtsnap should ever be lost:
// it needs this folder, the repository as a folder, and the password.
//
// It reads what is undamaged, in memory, one frame after the other. It does not write, look for damage, or hurry.
package reader
