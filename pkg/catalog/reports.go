package catalog

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// The predicate types of reports of vulnerabilities, and of what is said about these.
const (
	typeCosignVuln  = "https://cosign.sigstore.dev/attestation/vuln/v1"
	typeInTotoVulns = "https://in-toto.io/attestation/vulns/"
	typeOpenVEX     = "https://openvex.dev/ns"
)

// isReport reports whether the predicates of a type are read for vulnerabilities.
func isReport(predicateType string) bool {
	return predicateType == typeCosignVuln || strings.HasPrefix(predicateType, typeInTotoVulns) || isVEX(predicateType)
}

func isVEX(predicateType string) bool {
	return predicateType == typeOpenVEX || strings.HasPrefix(predicateType, typeOpenVEX+"/")
}

// listReports returns the reports that are attached to a version and to its images, and marks what OpenVEX documents
// say of their findings.
func (r *placeReader) listReports(v *result.CatalogVersion, claims []sign.Claim) []result.CatalogReport {
	trusted := map[sign.Object]bool{}
	if v.Verdict != nil && v.Verdict.Signatures != nil {
		for _, s := range v.Verdict.Signatures.Attestations {
			trusted[s.Object] = true
		}
	}
	m := &reportMaker{reports: []result.CatalogReport{}, statuses: map[string][]*vexClaim{}, left: maxVersionFindings, room: &r.findingRoom, steps: maxSteps}
	m.addReports("", v.Digest, claims, trusted)
	seen := map[string]bool{}
	for _, b := range v.Bundles {
		for _, image := range b.Images {
			known := r.images.known[image.Digest]
			if known == nil || seen[image.Digest] {
				continue
			}
			seen[image.Digest] = true
			m.addReports(image.Reference, image.Digest, known.Attached, nil)
		}
	}
	m.markStatuses()
	return m.reports
}

// The limits on findings that are kept. All are counted.
const (
	maxVersionFindings = 20_000    // of a version
	maxFindingBytes    = 256 << 20 // of all versions in memory
	memoryPerFinding   = 160
	// maxStatements is how many OpenVEX statements are read of a version, and maxSteps how many of their products are
	// compared with findings.
	maxStatements = 20_000
	maxSteps      = 20_000_000
)

// reportMaker collects reports.
type reportMaker struct {
	reports []result.CatalogReport
	// statuses are what OpenVEX documents say of vulnerabilities, by the id.
	statuses map[string][]*vexClaim
	// left is how many more findings of the version are kept, and room how many bytes those of all versions may take.
	left int
	room *int64
	// statementCount counts OpenVEX statements, and steps is how many more products are compared.
	statementCount, steps int
}

// addReports adds the reports among what is attached to a version, or to an image of it: those of trusted signers first, which
// others then cannot take the place of. The same predicate counts once, since most are there in two forms.
func (m *reportMaker) addReports(subject, digest string, claims []sign.Claim, trusted map[sign.Object]bool) {
	claims = slices.Clone(claims)
	slices.SortStableFunc(claims, func(a, b sign.Claim) int { return cmp.Compare(btoi(trusted[b.Object]), btoi(trusted[a.Object])) })
	read := map[[sha256.Size]byte]bool{}
	for _, c := range claims {
		sum := sha256.Sum256(c.Predicate)
		if !isReport(c.PredicateType) || read[sum] {
			continue
		}
		read[sum] = true
		if isVEX(c.PredicateType) {
			m.addStatuses(subject, digest, c, trusted[c.Object])
			continue
		}
		report := readReport(c)
		report.Subject, report.Digest, report.By, report.Verified = subject, digest, DescribeClaimant(c), trusted[c.Object]
		m.keepFindings(&report)
		m.reports = append(m.reports, report)
	}
}

// keepFindings drops the findings of a report for which there is no room, and says so. They stay counted.
func (m *reportMaker) keepFindings(report *result.CatalogReport) {
	kept := 0
	for _, f := range report.Findings {
		size := int64(memoryPerFinding + len(f.ID) + len(f.Package) + len(f.Version) + len(f.Fixed) + len(f.Title) + len(f.Image))
		if m.left == 0 || size > *m.room {
			report.Problem = fmt.Sprintf("only the first %d of its %d findings are shown", kept, len(report.Findings))
			break
		}
		m.left--
		*m.room -= size
		kept++
	}
	if kept < len(report.Findings) {
		report.Findings = slices.Clone(report.Findings[:kept]) // so that the others go
	}
}

// DescribeClaimant returns who claims to have signed.
func DescribeClaimant(c sign.Claim) string {
	switch {
	case c.Subject != "" && c.Issuer != "":
		return c.Subject + " (" + c.Issuer + ")"
	case c.Subject != "":
		return c.Subject
	case c.KeyID != "":
		return "key " + c.KeyID
	}
	return "a key that is not recorded"
}

// scanReport is what is read of a predicate: cosign's and in-toto's envelopes, and the reports of Trivy and Grype in them,
// or on their own.
type scanReport struct {
	Scanner *struct {
		URI     string
		Version string
		Result  json.RawMessage
	}
	Metadata struct {
		ScanStartedOn, ScanFinishedOn time.Time
	}
}

// nativeReport is a report of a scanner: Trivy's (aquasecurity.github.io/trivy, "json") or Grype's.
type nativeReport struct {
	// Trivy.
	CreatedAt    time.Time
	ArtifactName string
	Results      []struct {
		Vulnerabilities []struct{ VulnerabilityID, PkgName, InstalledVersion, FixedVersion, Severity, Title string }
	}
	// Grype.
	Matches []struct {
		Vulnerability struct {
			ID, Severity, Description string
			Fix                       struct{ Versions []string }
		}
		Artifact struct{ Name, Version string }
	}
	Descriptor struct {
		Name, Version string
		Timestamp     string
	}
	Source struct{ Target json.RawMessage }
}

// errUnknownReport is the error of a report in a form that is not known.
var errUnknownReport = errors.New("the form of the report is not known: krtpkg attestation show prints it")

// readReport reads an attested report.
func readReport(c sign.Claim) result.CatalogReport {
	report := result.CatalogReport{Findings: []result.CatalogFinding{}}
	if err := parseReport(c, &report); err != nil {
		report.Problem = err.Error()
	}
	slices.SortStableFunc(report.Findings, func(a, b result.CatalogFinding) int {
		return cmp.Or(cmp.Compare(severityRank(a.Severity), severityRank(b.Severity)), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package))
	})
	for _, f := range report.Findings {
		switch f.Severity {
		case "critical":
			report.CriticalCount++
		case "high":
			report.HighCount++
		case "medium":
			report.MediumCount++
		case "low":
			report.LowCount++
		default:
			report.UnknownCount++
		}
	}
	return report
}

func parseReport(c sign.Claim, report *result.CatalogReport) error {
	if c.Problem != "" {
		return errors.New(c.Problem)
	}
	var scan scanReport
	if err := json.Unmarshal(c.Predicate, &scan); err != nil {
		return fmt.Errorf("the report cannot be read: %w", err)
	}
	native := c.Predicate
	report.Time = latestTime(scan.Metadata.ScanStartedOn, scan.Metadata.ScanFinishedOn)
	if scan.Scanner != nil {
		report.Scanner = strings.TrimSpace(scan.Scanner.URI + " " + scan.Scanner.Version)
		native = scan.Scanner.Result
		if parseInTotoResult(native, report) {
			return nil
		}
	}
	var n nativeReport
	if err := json.Unmarshal(native, &n); err != nil {
		return fmt.Errorf("the report cannot be read: %w", err)
	}
	switch {
	case n.Results != nil || n.ArtifactName != "":
		readTrivy(&n, report)
	case n.Matches != nil:
		readGrype(&n, report)
	default:
		return errUnknownReport
	}
	return nil
}

func latestTime(times ...time.Time) (latest time.Time) {
	for _, t := range times {
		if t.After(latest) {
			latest = t.UTC()
		}
	}
	return latest
}

// parseInTotoResult reads the list of findings that in-toto's predicate has (in-toto attestation, vulns v0.1 and v0.2).
func parseInTotoResult(native json.RawMessage, report *result.CatalogReport) bool {
	var list []struct {
		ID       string
		Severity []struct{ Method, Score string }
	}
	if json.Unmarshal(native, &list) != nil || list == nil {
		return false // null is not a list of nothing
	}
	for _, one := range list {
		f := result.CatalogFinding{ID: one.ID, Severity: "unknown"}
		for _, s := range one.Severity {
			if named := normalizeSeverity(s.Score); named != "unknown" {
				f.Severity = named
			}
		}
		report.Findings = append(report.Findings, f)
	}
	return true
}

func readTrivy(n *nativeReport, report *result.CatalogReport) {
	report.Scanner = cmp.Or(report.Scanner, "Trivy")
	report.Time = latestTime(report.Time, n.CreatedAt)
	for _, part := range n.Results {
		for _, v := range part.Vulnerabilities {
			report.Findings = append(report.Findings, result.CatalogFinding{
				ID: v.VulnerabilityID, Severity: normalizeSeverity(v.Severity), Package: v.PkgName, Version: v.InstalledVersion,
				Fixed: v.FixedVersion, Title: v.Title, Image: imageName(n.ArtifactName),
			})
		}
	}
}

func readGrype(n *nativeReport, report *result.CatalogReport) {
	report.Scanner = cmp.Or(report.Scanner, strings.TrimSpace("Grype "+n.Descriptor.Version))
	if at, err := time.Parse(time.RFC3339, n.Descriptor.Timestamp); err == nil {
		report.Time = latestTime(report.Time, at)
	}
	var target struct{ UserInput string }
	_ = json.Unmarshal(n.Source.Target, &target) // of a folder it is a text
	for _, match := range n.Matches {
		report.Findings = append(report.Findings, result.CatalogFinding{
			ID: match.Vulnerability.ID, Severity: normalizeSeverity(match.Vulnerability.Severity), Package: match.Artifact.Name, Version: match.Artifact.Version,
			Fixed: strings.Join(match.Vulnerability.Fix.Versions, ", "), Title: match.Vulnerability.Description, Image: imageName(target.UserInput),
		})
	}
}

// imageName returns the name of an image as people write it, or the text that names something else.
func imageName(text string) string { return images.FamiliarName(text) }

// severities are the names of severities, the most severe first.
var severities = []string{"critical", "high", "medium", "low", "unknown"}

func severityRank(severity string) int { return slices.Index(severities, severity) }

// normalizeSeverity returns one of severities for what scanners write.
func normalizeSeverity(text string) string {
	text = strings.ToLower(text)
	switch {
	case text == "negligible":
		return "low"
	case text == "moderate":
		return "medium"
	case slices.Contains(severities, text):
		return text
	}
	return "unknown"
}
