// Package parity lets files heal: it adds Reed-Solomon parity to a file, finds what of it is damaged, and restores
// that. It knows nothing of what is in the file.
//
// [NewGeometry] decides how content and parity stand in a file, [Write] writes the parity behind the content,
// [Open] reads such a file and heals what it reads; [Reader.Survey] tells what is damaged, and what of it can be
// healed. [WriteSet] and [OpenSet] do the same over several files, of which whole ones can be lost.
//
// Damage is holes: sectors that read as zeros or cannot be read, and bytes that changed. Bytes that were inserted or
// removed in the middle cannot be healed. Parity comes from outside like all else: its numbers are bounded, and what it
// restores has to be checked by who knows what it should be. The code is the one of polynomials over GF(2^8) modulo
// x^8+x^4+x^3+x^2+1, with shard i of a stripe at point i+1; checksums are CRC-32C, numbers big-endian.
package parity
