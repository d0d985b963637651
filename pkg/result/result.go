// Package result is what commands print with -o json, as Go types: decode a command's standard output into
// the type of its verb, [Build] for krtpkg build. [Schema] returns the JSON schema of a verb's result, which
// is generated from these types and their comments.
//
// The promise: fields are added, and neither removed nor given another meaning. Ignore fields that you do not
// know. The same thing has the same field in every result: name, version and digest are those of the thing
// that the object is about, reference is where it is, with its digest; bundle is the name of the bundle that
// something belongs to; arrays are in the plural, and numbers of things end in Count, Items or Bytes.
//
// A command that fails prints a result too, with [Error] in it, and as much of the rest as it knows.
package result

import (
	"embed"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Outcome is part of every result.
type Outcome struct {
	// Error is why the command failed. It is absent if the exit code is 0.
	Error *Error `json:"error,omitempty"`
}

// SetError makes the result that of a command that failed.
func (o *Outcome) SetError(err *Error) { o.Error = err }

// Error is why a command failed.
type Error struct {
	// Code is one word for the kind of failure, a constant of type [Code].
	Code Code `json:"code"`
	// ExitCode is that of the command.
	ExitCode int `json:"exitCode"`
	// Message is what people read.
	Message string `json:"message"`
	// Hint is what to type or to do about it.
	Hint string `json:"hint,omitempty"`
	// Object is what it is about: a reference, a file, a registry, a tag.
	Object string `json:"object,omitempty"`
}

// Code is a kind of failure.
type Code string

// The codes. The exit code says less: it is 1 for most.
const (
	Failed           Code = "failed" // none of the others
	Usage            Code = "usage"
	Interrupted      Code = "interrupted"
	Changes          Code = "changes" // --exit-code was given, and there are changes
	NotFound         Code = "notFound"
	Incomplete       Code = "incomplete"    // something that a version needs is missing
	AbsentVolumes    Code = "absentVolumes" // volumes of an archive are missing
	AbsentBase       Code = "absentBase"    // the version that an archive builds on is missing
	Damaged          Code = "damaged"       // content does not match its digest
	Unsigned         Code = "unsigned"
	Unverified       Code = "unverified"   // no signature by a trusted signer
	Refused          Code = "refused"      // the trust policy refuses it
	StaleChannel     Code = "staleChannel" // the newest promotion of a channel has expired or is too old
	TooYoung         Code = "tooYoung"     // signatures are younger than the trust policy requires, or without a proof of their time
	RenamedTag       Code = "renamedTag"   // the tag names another version than was signed
	OtherName        Code = "otherName"    // the repository held another runtime before
	Altered          Code = "altered"      // a runtime has other manifests for a controller than its bundles
	Ambiguous        Code = "ambiguous"
	SourceChanged    Code = "sourceChanged"
	Moved            Code = "moved"    // upstream moved since it was locked
	Unpinned         Code = "unpinned" // a source has no pin
	Suspects         Code = "suspects" // strings that look like images and are not decided on
	TemplateRunaway  Code = "templateRunaway"
	OverMemory       Code = "overMemory"
	TooMuchAttached  Code = "tooMuchAttached"
	ForeignArchive   Code = "foreignArchive"
	ArchiveOrder     Code = "archiveOrder"
	Unauthorized     Code = "unauthorized"
	Forbidden        Code = "forbidden"
	RateLimited      Code = "rateLimited"
	RegistryFailed   Code = "registryFailed"
	Unreachable      Code = "unreachable"
	AbsentRepository Code = "absentRepository"
	ImmutableTag     Code = "immutableTag"
	IncompleteIndex  Code = "incompleteIndex" // the registry takes no index with holes
	DiskFull         Code = "diskFull"
	Locked           Code = "locked"         // another apply is at work on the cluster
	ForeignObjects   Code = "foreignObjects" // what others made would be deleted
	Owned            Code = "owned"          // another app owns a resource
	Downgrade        Code = "downgrade"      // what is there is newer, or another build of the version
	MovedTag         Code = "movedTag"       // a tag would move to something other than a newer version
	OtherArchive     Code = "otherArchive"   // a file holds other versions
	Findings         Code = "findings"       // a look at the cluster found what is wrong
	UnfitRegistry    Code = "unfitRegistry"
	RefusedReceipts  Code = "refusedReceipts" // forged, altered, replayed or of another cluster
	AbsentReceipts   Code = "absentReceipts"  // missing or old
)

// Result is a result of a verb.
type Result interface{ SetError(*Error) }

// verbs are the results by verb; some share one.
var verbs = map[string]func() Result{
	"apply":            func() Result { return new(Apply) },
	"attest":           func() Result { return new(Attach) },
	"attestation list": func() Result { return new(Attestations) },
	"build":            func() Result { return new(Build) },
	"check":            func() Result { return new(Check) },
	"copy":             func() Result { return new(Transfer) },
	"delete":           func() Result { return new(Apply) },
	"delta":            func() Result { return new(Delta) },
	"diff":             func() Result { return new(Diff) },
	"doctor":           func() Result { return new(Doctor) },
	"export":           func() Result { return new(Transfer) },
	"files get":        func() Result { return new(Files) },
	"files list":       func() Result { return new(Files) },
	"graph":            func() Result { return new(Graph) },
	"history":          func() Result { return new(History) },
	"images":           func() Result { return new(Images) },
	"import":           func() Result { return new(Transfer) },
	"inspect":          func() Result { return new(Inspect) },
	"layers":           func() Result { return new(Layers) },
	"layers check":     func() Result { return new(LayersCheck) },
	"list":             func() Result { return new(List) },
	"outdated":         func() Result { return new(Moves) },
	"plan":             func() Result { return new(Plan) },
	"promote":          func() Result { return new(Promote) },
	"prune":            func() Result { return new(Prune) },
	"push":             func() Result { return new(Transfer) },
	"receipts verify":  func() Result { return new(Receipts) },
	"rollback":         func() Result { return new(Apply) },
	"sign":             func() Result { return new(Attach) },
	"status":           func() Result { return new(Status) },
	"tag":              func() Result { return new(Tag) },
	"tree":             func() Result { return new(Inspect) },
	"trust show":       func() Result { return new(Trust) },
	"update":           func() Result { return new(Moves) },
	"verify":           func() Result { return new(Verify) },
	"version":          func() Result { return new(Version) },
}

// Verbs returns the verbs that have a result, sorted.
func Verbs() []string { return slices.Sorted(maps.Keys(verbs)) }

// New returns an empty result of a verb, to decode into; nil for a verb without.
func New(verb string) Result {
	if make := verbs[verb]; make != nil {
		return make()
	}
	return nil
}

//go:generate go test -run TestSchemasAreCurrent -update .

//go:embed schema
var schemas embed.FS

// Schema returns the JSON schema (2020-12) of a verb's result.
func Schema(verb string) ([]byte, error) {
	result := New(verb)
	if result == nil {
		return nil, fmt.Errorf("%q has no result in JSON: want one of %s", verb, strings.Join(Verbs(), ", "))
	}
	return schemas.ReadFile("schema/" + schemaName(result) + ".json")
}

// EventSchema returns the JSON schema of a [progress.Record].
func EventSchema() ([]byte, error) { return schemas.ReadFile("schema/event.json") }

// schemaName returns what the schema of a result is called: its type, in lower case.
func schemaName(result Result) string { return strings.ToLower(reflect.TypeOf(result).Elem().Name()) }
