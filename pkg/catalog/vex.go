package catalog

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// vexDocument is an OpenVEX document (openvex.dev/ns/v0.2.0; in v0.0.1 vulnerabilities, products and subcomponents are texts).
type vexDocument struct {
	Timestamp  time.Time
	Statements []vexStatement
}

type vexStatement struct {
	Vulnerability vexName
	Products      []vexProduct
	Subcomponents []vexProduct
	Status        string
	Justification string
	Timestamp     time.Time
}

// vexName is the name of a vulnerability.
type vexName string

func (n *vexName) UnmarshalJSON(data []byte) error {
	var named struct{ Name string }
	if bytes.HasPrefix(data, []byte(`"`)) {
		return json.Unmarshal(data, (*string)(n))
	}
	err := json.Unmarshal(data, &named)
	*n = vexName(named.Name)
	return err
}

// vexProduct is a product, or a component of one.
type vexProduct struct {
	ID            string `json:"@id"`
	Identifiers   map[string]string
	Hashes        map[string]string
	Subcomponents []vexProduct
	// names are its identifiers without what percent signs encode.
	names []string
}

func (p *vexProduct) UnmarshalJSON(data []byte) error {
	type plain vexProduct
	var err error
	if bytes.HasPrefix(data, []byte(`"`)) {
		err = json.Unmarshal(data, &p.ID)
	} else {
		err = json.Unmarshal(data, (*plain)(p))
	}
	p.names = []string{p.ID}
	for _, name := range p.Identifiers {
		p.names = append(p.names, name)
	}
	for i, name := range p.names {
		name, _, _ = strings.Cut(name, "?") // as where it comes from
		if decoded, failed := url.PathUnescape(name); failed == nil {
			name = decoded
		}
		p.names[i] = name
	}
	return err
}

// hasDigest reports whether a product is an image, or a version, of a digest.
func (p *vexProduct) hasDigest(digest string) bool {
	algorithm, encoded, _ := strings.Cut(digest, ":")
	if algorithm == "sha256" && strings.EqualFold(p.Hashes["sha-256"], encoded) {
		return true
	}
	return slices.ContainsFunc(p.names, func(name string) bool {
		isImage := !strings.HasPrefix(name, "pkg:") || strings.HasPrefix(name, "pkg:oci/") || strings.HasPrefix(name, "pkg:docker/")
		return isImage && digest != "" && strings.HasSuffix(name, "@"+digest)
	})
}

// distributionTypes are the types of package URLs whose namespace is a distribution, which scanners leave out.
var distributionTypes = []string{"deb", "rpm", "apk", "alpm"}

// isPackage reports whether a component is a package that a scanner found (package-url/purl-spec).
func (p *vexProduct) isPackage(f *result.CatalogFinding) bool {
	return slices.ContainsFunc(p.names, func(name string) bool {
		rest, is := strings.CutPrefix(name, "pkg:")
		if !is {
			return false
		}
		kind, rest, _ := strings.Cut(rest, "/")
		version := ""
		if i := strings.LastIndex(rest, "@"); i > 0 {
			rest, version = rest[:i], rest[i+1:]
		}
		switch i := strings.LastIndex(rest, "/"); {
		case slices.Contains(distributionTypes, kind):
			rest = rest[i+1:]
		case kind == "maven" && i >= 0:
			rest = rest[:i] + ":" + rest[i+1:]
		}
		return f.Package != "" && rest == f.Package && (version == "" || strings.TrimPrefix(version, "v") == strings.TrimPrefix(f.Version, "v"))
	})
}

// vexClaim is what one claim says of a vulnerability.
type vexClaim struct {
	vexStatement
	// digest is what it is attached to, and isRoot is set for a version, whose images are meant too.
	digest  string
	isRoot  bool
	by      string
	trusted bool
}

// isClaimOf reports whether a claim is of a finding in a report that is attached to a digest. Without products it is of what
// it is attached to. One that cannot be told to be of the finding is not.
func (m *reportMaker) isClaimOf(c *vexClaim, digest string, f *result.CatalogFinding) bool {
	if m.steps -= 1 + len(c.Products); m.steps < 0 {
		return false
	}
	hasPackage := func(all []vexProduct) bool {
		m.steps -= len(all)
		return len(all) == 0 || slices.ContainsFunc(all, func(p vexProduct) bool { return p.isPackage(f) })
	}
	if !hasPackage(c.Subcomponents) {
		return false
	}
	if len(c.Products) == 0 {
		return c.isRoot || c.digest == digest
	}
	return slices.ContainsFunc(c.Products, func(p vexProduct) bool {
		isMeant := (c.isRoot || c.digest == digest) && p.hasDigest(digest) || c.isRoot && p.hasDigest(c.digest)
		return isMeant && hasPackage(p.Subcomponents)
	})
}

// compareClaims puts the claim first that counts: one of a trusted signer, of the image rather than of the version, the latest.
func compareClaims(a, b *vexClaim) int {
	return cmp.Or(cmp.Compare(btoi(b.trusted), btoi(a.trusted)), cmp.Compare(btoi(a.isRoot), btoi(b.isRoot)), b.Timestamp.Compare(a.Timestamp))
}

// addStatuses reads an OpenVEX document that is attached to a digest; subject is empty for a version.
func (m *reportMaker) addStatuses(subject, digest string, c sign.Claim, trusted bool) {
	addProblem := func(problem string) {
		m.reports = append(m.reports, result.CatalogReport{Subject: subject, Digest: digest, By: DescribeClaimant(c), Verified: trusted, Findings: []result.CatalogFinding{}, Problem: problem})
	}
	var document vexDocument
	if c.Problem != "" || json.Unmarshal(c.Predicate, &document) != nil {
		addProblem("the OpenVEX document cannot be read")
		return
	}
	for i, s := range document.Statements {
		if m.statementCount == maxStatements {
			addProblem(fmt.Sprintf("%d statements of the OpenVEX document are not shown: of a version %d are", len(document.Statements)-i, maxStatements))
			return
		}
		m.statementCount++
		if s.Vulnerability == "" || s.Status == "" {
			continue
		}
		if s.Timestamp.IsZero() {
			s.Timestamp = document.Timestamp
		}
		id := string(s.Vulnerability)
		m.statuses[id] = append(m.statuses[id], &vexClaim{s, digest, subject == "", DescribeClaimant(c), trusted})
	}
}

// markStatuses tells of each finding what the claim says that counts.
func (m *reportMaker) markStatuses() {
	for _, claims := range m.statuses {
		slices.SortStableFunc(claims, compareClaims)
	}
	for i := range m.reports {
		report := &m.reports[i]
		for k := range report.Findings {
			f := &report.Findings[k]
			claims := m.statuses[f.ID]
			at := slices.IndexFunc(claims, func(c *vexClaim) bool { return m.isClaimOf(c, report.Digest, f) })
			if m.steps < 0 {
				report.Problem = cmp.Or(report.Problem, "what OpenVEX documents say of its findings is not shown: they name too many products")
				return
			}
			if at < 0 {
				continue
			}
			f.Status, f.StatusBy, f.StatusVerified = claims[at].Status, claims[at].by, claims[at].trusted
			if why := claims[at].Justification; why != "" {
				f.Status += ": " + why
			}
		}
	}
}
