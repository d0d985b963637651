//go:build !no_azurekms

package kms

import _ "github.com/sigstore/sigstore/pkg/signature/kms/azure"
