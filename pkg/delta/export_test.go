package delta

var (
	Candidates = candidates
	CompressTo = compressTo
)
