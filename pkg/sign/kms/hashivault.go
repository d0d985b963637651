//go:build !no_hashivault

package kms

import _ "github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
