package images

import (
	"slices"
	"strings"
	"sync"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// nameLabel is how much a name says of its value: a field's key, a flag, a variable.
type nameLabel int

const (
	unlabelled nameLabel = iota
	unrelated            // a part or a property of an image: a tag, a pull policy
	location             // where images are: a registry or a repository
	mentions             // has to do with images: IMAGE_AGENT, imageK8S
	denotes              // is an image, or several: image, sidecarImage, RELATED_IMAGE_AGENT
)

// The ends of names, in lower case.
var (
	referenceWords = []string{"references", "reference", "refs", "ref", "names", "name", "urls", "url", "uris", "uri"}
	locationEnds   = indexEnds("registry", "registries", "repository", "repositories", "repo", "repos", "hub", "prefix", "base")
	propertyEnds   = indexEnds(
		"tag", "version", "digest", "sha", "sha256", "size", "dir", "directory", "path", "file", "format", "type", "mode",
		"count", "width", "height", "timeout", "interval", "endpoint", "addr", "address", "port", "service", "class",
		"quality", "ttl", "enabled", "id",
	)
	policyWords = []string{"pull", "policy", "secret"}
)

// endIndex are words by their last letters.
type endIndex [1 << 7][]string

// indexEnds returns a function that gives an index of words, which it makes when it is first called.
func indexEnds(words ...string) func() *endIndex {
	return sync.OnceValue(func() *endIndex {
		var index endIndex
		for _, word := range words {
			last := word[len(word)-1]
			index[last] = append(index[last], word)
		}
		return &index
	})
}

// isEndOf reports whether a name ends in one of the words.
func (e *endIndex) isEndOf(name string) bool {
	if name == "" || name[len(name)-1] >= byte(len(e)) {
		return false
	}
	return slices.ContainsFunc(e[name[len(name)-1]], func(word string) bool { return strings.HasSuffix(name, word) })
}

// labelOf reads a name.
func labelOf(name string) nameLabel { return labelOfLower(strings.ToLower(name)) }

// labelOfLower reads a name in lower case.
func labelOfLower(name string) nameLabel {
	name = spellOut(name)
	speaks := strings.Contains(name, "image")
	switch {
	case containsAny(name, policyWords), propertyEnds().isEndOf(name), propertyEnds().isEndOf(strings.TrimSuffix(name, "s")):
		return unrelated
	case locationEnds().isEndOf(name):
		if speaks {
			return location
		}
		return unrelated
	case !speaks:
		return unlabelled
	case namesImage(name):
		return denotes
	}
	return mentions
}

// spellOut writes image for the words img and imgs of a name in lower case.
func spellOut(name string) string {
	if !strings.Contains(name, "img") {
		return name
	}
	return shortWord.Get().ReplaceAllString(name, "${1}image${2}")
}

var shortWord = lazyregexp.New(`(^|[._-])img(s?(?:$|[._-]))`)

func containsAny(name string, words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(name, w) })
}

// cutWord cuts the first of some words that a name ends in, and what joins it to the rest.
func cutWord(name string, words ...string) (rest string, ok bool) {
	for _, w := range words {
		if rest, ok := strings.CutSuffix(name, w); ok {
			return strings.TrimRight(rest, "._-"), true
		}
	}
	return name, false
}

// namesImage reports whether a name in lower case is that of an image, or of several.
func namesImage(name string) bool {
	if strings.HasPrefix(name, "related_image_") || strings.HasPrefix(name, "related_images_") {
		return true
	}
	name, _ = cutWord(name, referenceWords...)
	_, ok := cutWord(name, "images", "image")
	return ok
}

// isImageKey reports whether a name is that of an image.
func isImageKey(name string) bool { return labelOf(name) == denotes }

// knownName is what a name of a field says.
type knownName struct {
	label nameLabel
	// isPlural is set if it is the name of several images.
	isPlural bool
	// The part of a reference that the field holds, as roleOf has it.
	of     string
	role   partRole
	isPart bool
}

// knownNames are the names of a file that have been read: most come many times.
type knownNames map[string]knownName

// maxKnownNames is how many of them are kept.
const maxKnownNames = 10_000

func (n knownNames) readName(name string) knownName {
	known, ok := n[name]
	if !ok {
		lower := strings.ToLower(name)
		known.label = labelOfLower(lower)
		known.isPlural = known.label == denotes && strings.HasSuffix(lower, "s") && !strings.HasSuffix(lower, "8s")
		known.of, known.role, known.isPart = roleOfLower(lower)
		if len(n) < maxKnownNames {
			n[name] = known
		}
	}
	return known
}

// haveRepository reports whether a key of a mapping is called as one that holds a repository, or all of a reference.
func (n knownNames) haveRepository(mapping *yaml.Node) bool {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		name := n.readName(resolveAlias(mapping.Content[i]).Value)
		if name.isPart && (name.role == repository || name.role == whole) {
			return true
		}
	}
	return false
}

// placeLabel is the nearest label on the way to a value.
type placeLabel struct {
	label    nameLabel
	isPlural bool
	steps    int // from the name that says it, or from the root
}

// nearestLabel returns what the nearest name says that says something.
func (w *imageWalker) nearestLabel(at *documentPlace) (near placeLabel) {
	switch {
	case at.up == nil:
		return near
	case at.isLabeled:
		return at.said
	case at.isItem:
		near = w.nearestLabel(at.up)
		near.steps++
	case w.schema && schemaWords[at.key]:
		near = w.nearestLabel(at.up)
	default:
		if name := w.scope.names.readName(at.key); name.label != unlabelled {
			near = placeLabel{label: name.label, isPlural: name.isPlural}
		} else {
			near = w.nearestLabel(at.up)
			near.steps++
		}
	}
	at.said, at.isLabeled = near, true
	return near
}

// labelAt returns what the names on the way to a value say of it, the nearest first: images is said
// of each item of its list and of each value of its mapping.
func (w *imageWalker) labelAt(at *documentPlace) nameLabel {
	near := w.nearestLabel(at)
	switch {
	case near.label == unlabelled && near.steps <= 1:
		return w.label
	case near.label == unlabelled:
		return min(w.label, mentions)
	case near.steps == 0 || near.label == denotes && near.isPlural && near.steps == 1:
		return near.label
	}
	return min(near.label, mentions)
}

// schemaWords stand between a property and what a schema says of its values.
var schemaWords = map[string]bool{"default": true, "enum": true, "properties": true, "items": true, "additionalProperties": true, "const": true}

// registryHosts are hosts that hold images and nothing else: what lies there is one without a
// tag too.
var registryHosts = lazyregexp.New(`^(?:docker\.io|index\.docker\.io|registry-1\.docker\.io|quay\.io|ghcr\.io|gcr\.io|(?:us|eu|asia|mirror|k8s|marketplace)\.gcr\.io|[a-z0-9-]+-docker\.pkg\.dev|nvcr\.io|mcr\.microsoft\.com|[a-z0-9]+\.azurecr\.io|public\.ecr\.aws|[0-9]{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?|cr\.[a-z0-9.-]+\.[a-z]+|registry\.[a-z0-9.-]+\.[a-z]+|icr\.io|[a-z]+\.icr\.io)(?::[0-9]+)?/`)

// inRegistry reports whether a text is a repository of a host that holds nothing but images.
func inRegistry(text string) bool { return registryHosts.MatchString(text) && isRepository(text) }

// hasHost reports whether a reference names its registry.
func hasHost(text string) bool {
	host, _, isPath := strings.Cut(text, "/")
	return isPath && (strings.ContainsAny(host, ".:") || host == "localhost")
}

// isComplete reports whether a text is a reference with a tag or a digest.
func isComplete(text string) bool {
	return isWord(text) && !isRepository(text) && !isToDo(text[strings.LastIndexByte(text, ':')+1:])
}

// isToDo reports whether a tag is a note of what will be filled in, as in TAG_OF_THE_RELEASE.
func isToDo(tag string) bool { return toDo.MatchString(tag) }

var toDo = lazyregexp.New(`^[A-Z]+_[A-Z_]+$`)

// judgeValue decides on a value that a name speaks of. A tag is never guessed: what has none is
// looked at by people, and so is what is not a reference where there should be one.
func judgeValue(said nameLabel, text string) (State, bool) {
	switch {
	case said < location || text == "":
	case said == location:
		return Suspect, isWord(text) && strings.Contains(text, "/") && (isComplete(text) || hasHost(text))
	case isComplete(text) && said == denotes:
		return Image, true
	case isComplete(text):
		return Suspect, !isFull(text) // which says enough without a name
	case isWord(text):
		return Suspect, said == denotes && !isConstant(text) || inRegistry(text)
	case said == denotes:
		return Suspect, isPlaceholder(text)
	}
	return "", false
}

// judgeInText decides on a word of a text. A text has words of every kind: without a tag, it
// takes a path at least.
func judgeInText(said nameLabel, text string) (State, bool) {
	switch {
	case said == unlabelled:
		return Suspect, true
	case isWord(text):
		state, ok := judgeValue(said, text)
		return state, ok && (isComplete(text) || strings.Contains(text, "/"))
	}
	// A part of it is put in later, and a part of it is there.
	rest := variable.Get().ReplaceAllString(text, "")
	return Suspect, said == denotes && rest != text && strings.Contains(rest, "/") && lettered.MatchString(rest)
}

var (
	// variable is what something else is put in the place of: by shells and Kubernetes, by Go
	// templates, by sed.
	variable = lazyregexp.New(`\{\{[^{}]*\}\}|\$\{[^{}]*\}|\$\([^()]*\)|\$[A-Za-z_][A-Za-z0-9_]*|%\{[^{}]*\}%?|%[A-Z_]+%|<[A-Za-z_-]+>`)
	// elsewhere begins what is not an image that a registry holds: a URL, a path, a colour.
	elsewhere = lazyregexp.New(`^(?:[a-z]+:|[./#~-])`)
	// lettered is a text with a word in it.
	lettered = lazyregexp.New(`[A-Za-z]{2}`)
	constant = lazyregexp.New(`^(?:true|false|yes|no|on|off|null|none|[0-9.]+)$`)
)

// isPlaceholder reports whether a text could have been written where an image is filled in later.
func isPlaceholder(text string) bool {
	rest := variable.Get().ReplaceAllString(text, "")
	return len(text) < 256 && !strings.ContainsAny(rest, " \t\r\n") && (!elsewhere.MatchString(text) || isPointer(text)) &&
		!isConstant(text) && !isPicture(text) && strings.Trim(text, plainJunk) != ""
}

func isConstant(text string) bool { return constant.MatchString(strings.ToLower(text)) }

// plainJunk are characters that make no word.
const plainJunk = " \t{}[]()<>|,;:'\"*/-_.=@"
