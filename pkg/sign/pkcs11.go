//go:build pkcs11key

package sign

const hasPKCS11 = true
