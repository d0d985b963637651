//go:build !no_awskms

package kms

import _ "github.com/sigstore/sigstore/pkg/signature/kms/aws"
