module krtpkg.dev/krtpkg/hack/resident/krtpkg

go 1.26.0
