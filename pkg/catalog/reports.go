package catalog

import (
	"bytes"
	"cmp"
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
	m := &reportMaker{reports: []result.CatalogReport{}, statuses: map[string][2]string{}}
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

// reportMaker collects reports.
type reportMaker struct {
	reports []result.CatalogReport
	// statuses are what OpenVEX documents say of vulnerabilities, and who says so, by the subject and the id.
	statuses map[string][2]string
}

// addReports adds the reports among what is attached to a version, or to an image of it. The same predicate counts once, since
// most are there in two forms.
func (m *reportMaker) addReports(subject, digest string, claims []sign.Claim, trusted map[sign.Object]bool) {
	var read [][]byte
	for _, c := range claims {
		if !isReport(c.PredicateType) || slices.ContainsFunc(read, func(other []byte) bool { return bytes.Equal(other, c.Predicate) }) {
			continue
		}
		read = append(read, c.Predicate)
		if isVEX(c.PredicateType) {
			m.addStatuses(subject, c)
			continue
		}
		report := readReport(c)
		report.Subject, report.Digest, report.By, report.Verified = subject, digest, DescribeClaimant(c), trusted[c.Object]
		m.reports = append(m.reports, report)
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

// addStatuses reads an OpenVEX document (openvex.dev/ns/v0.2.0).
func (m *reportMaker) addStatuses(subject string, c sign.Claim) {
	var document struct {
		Statements []struct {
			Vulnerability json.RawMessage
			Status        string
			Justification string
		}
	}
	if json.Unmarshal(c.Predicate, &document) != nil {
		m.reports = append(m.reports, result.CatalogReport{Subject: subject, By: DescribeClaimant(c), Findings: []result.CatalogFinding{}, Problem: "the OpenVEX document cannot be read"})
		return
	}
	for _, s := range document.Statements {
		var named struct{ Name string }
		var id string
		if json.Unmarshal(s.Vulnerability, &named) != nil {
			_ = json.Unmarshal(s.Vulnerability, &id) // as in version 0.0.1
		}
		status := s.Status
		if s.Justification != "" {
			status += ": " + s.Justification
		}
		if id = cmp.Or(named.Name, id); id != "" && status != "" {
			m.statuses[subject+" "+id] = [2]string{status, DescribeClaimant(c)}
		}
	}
}

// markStatuses says of each finding what was said of it: for its image, or for the version as a whole.
func (m *reportMaker) markStatuses() {
	for i := range m.reports {
		report := &m.reports[i]
		for k := range report.Findings {
			f := &report.Findings[k]
			status, said := m.statuses[report.Subject+" "+f.ID]
			if !said {
				status = m.statuses[" "+f.ID]
			}
			f.Status, f.StatusBy = status[0], status[1]
		}
	}
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
	if json.Unmarshal(native, &list) != nil {
		return false
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
