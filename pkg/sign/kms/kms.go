// Package kms links the key management services that [krtpkg.dev/krtpkg/pkg/sign.OpenSigner]
// can reach: awskms://, azurekms://, gcpkms:// and hashivault://. A library that wants one of
// them imports that provider of Sigstore's alone; a program is built without one with the tags
// no_awskms, no_azurekms, no_gcpkms and no_hashivault.
package kms
