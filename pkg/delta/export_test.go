package delta

var (
	Candidates     = candidates
	ZstdCandidates = zstdCandidates
	CompressTo     = compressTo
)
