//go:build !no_gcpkms

package kms

import _ "github.com/sigstore/sigstore/pkg/signature/kms/gcp"
