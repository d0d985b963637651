package deploy

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

// An inventory is a line for each resource, "APIVERSION KIND NAMESPACE/NAME", with nothing
// before the slash for what has no namespace. A long one is compressed: annotations have room
// for 256 KiB.
const (
	inventoryPlain = 64 << 10
	inventoryLimit = 16 << 20
	inventoryGzip  = "gzip:"
)

func encodeInventory(resources []ResourceID) string {
	var text strings.Builder
	for _, r := range resources {
		fmt.Fprintf(&text, "%s %s %s/%s\n", r.APIVersion, r.Kind, r.Namespace, r.Name)
	}
	if text.Len() <= inventoryPlain {
		return text.String()
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, text.String()) // to memory
	_ = z.Close()
	return inventoryGzip + base64.StdEncoding.EncodeToString(packed.Bytes())
}

// readInventory is for what others may have changed: it gives what is well-formed.
func readInventory(text string) ([]ResourceID, error) {
	if packed, is := strings.CutPrefix(text, inventoryGzip); is {
		data, err := base64.StdEncoding.DecodeString(packed)
		if err != nil {
			return nil, err
		}
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		plain, err := io.ReadAll(io.LimitReader(z, inventoryLimit))
		if err != nil {
			return nil, err
		}
		text = string(plain)
	}
	var all []ResourceID
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("invalid line %q", line)
		}
		namespace, name, found := strings.Cut(fields[2], "/")
		if !found {
			return nil, fmt.Errorf("invalid line %q", line)
		}
		all = append(all, ResourceID{APIVersion: fields[0], Kind: fields[1], Namespace: namespace, Name: name})
	}
	return all, nil
}
