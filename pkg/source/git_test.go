package source_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"krtpkg.dev/krtpkg/pkg/source"
)

// repository is a git repository that the real git makes and serves.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) *repository {
	t.Helper()
	r := &repository{t, filepath.Join(t.TempDir(), "repo")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("init", "-q", "-b", "main")
	return r
}

func gitEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE=1700000000 +0000",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=1700000000 +0000"}
}

func (r *repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", args...)
	cmd.Dir, cmd.Env = r.dir, gitEnv()
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repository) write(name, data string) {
	r.t.Helper()
	file := filepath.Join(r.dir, filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(data), 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

// commit commits all there is and says the commit's id.
func (r *repository) commit() string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "m")
	return r.git("rev-parse", "HEAD")
}

const gitURL = "https://git.example/.git"

// serve makes a fetcher that gets [gitURL] from a server of the repository with a setting, and
// counts the bytes that it sends.
func (r *repository) serve(setting string) (*source.Fetcher, *atomic.Int64) {
	r.t.Helper()
	key, value, _ := strings.Cut(setting, "=")
	sent := new(atomic.Int64)
	backend := &cgi.Handler{
		Path:   filepath.Join(r.git("--exec-path"), "git-http-backend"),
		Env:    append(gitEnv(), "GIT_PROJECT_ROOT="+r.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0="+key, "GIT_CONFIG_VALUE_0="+value),
		Logger: log.New(io.Discard, "", 0), Stderr: io.Discard,
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if user, token, ok := request.BasicAuth(); ok && user+token != "usertoken" || strings.HasPrefix(request.URL.Path, "/private") && !ok {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		request.URL.Path = strings.TrimPrefix(request.URL.Path, "/private")
		backend.ServeHTTP(counting{w, sent}, request)
	}))
	r.t.Cleanup(server.Close)
	return &source.Fetcher{Client: server.Client(), Mirrors: []source.Mirror{{Prefix: "https://git.example", Replacement: server.URL}}}, sent
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// local makes a fetcher that gets [gitURL] from a folder.
func local(dir string) *source.Fetcher {
	return &source.Fetcher{Mirrors: []source.Mirror{{Prefix: gitURL, Replacement: dir}}}
}

func TestGit(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	r.write("deploy/a.yaml", "a: 1")
	r.write("deploy/README.md", "readme")
	r.write("shared/b.yaml", "b: 1")
	link(t, "../shared/b.yaml", filepath.Join(r.dir, "deploy", "link.yaml"))
	old := r.commit()
	r.git("tag", "light")
	// What is no longer part of the tree makes the difference between all and one commit.
	var noise bytes.Buffer
	for i := range 20_000 {
		noise.Write(fmt.Appendf(nil, "%x", sha256.Sum256(fmt.Append(nil, i))))
	}
	r.write("noise", noise.String())
	r.commit()
	r.git("rm", "-q", "noise")
	// Long enough that the next ones are deltas.
	long := strings.Repeat("long: line\n", 1000)
	r.write("deploy/a.yaml", long+"a: 2")
	middle := r.commit()
	r.write("deploy/a.yaml", long+"a: 3")
	tagged := r.commit()
	r.git("tag", "-a", "-m", "m", "annotated")
	r.git("tag", "-a", "-m", "m", "nested", "annotated")
	r.git("checkout", "-q", "-b", "other")
	r.write("deploy/a.yaml", long+"a: 4")
	branch := r.commit()
	r.git("checkout", "-q", "main")
	r.write("x", "x")
	head := r.commit()
	r.git("checkout", "-q", "--detach")
	lost := r.commit()
	r.git("checkout", "-q", "main")
	r.git("gc", "-q")

	want := map[string]string{old: "a: 1", middle: "a: 2", tagged: "a: 3", branch: "a: 4", head: "a: 3"}
	refs := map[string]string{
		"HEAD": head, "refs/heads/main": head, "refs/heads/other": branch,
		"refs/tags/light": old, "refs/tags/annotated": tagged, "refs/tags/nested": tagged,
	}
	for _, c := range []struct {
		name    string
		fetcher func() (*source.Fetcher, *atomic.Int64)
		whole   int // how many of the commits take all of the repository
		lost    bool
	}{
		{"any commit", func() (*source.Fetcher, *atomic.Int64) { return r.serve("uploadpack.allowAnySHA1InWant=true") }, 0, true},
		{"reachable commits", func() (*source.Fetcher, *atomic.Int64) { return r.serve("uploadpack.allowReachableSHA1InWant=true") }, 0, false},
		{"tips alone", func() (*source.Fetcher, *atomic.Int64) { return r.serve("uploadpack.allowReachableSHA1InWant=false") }, 1, false},
		{"folder", func() (*source.Fetcher, *atomic.Int64) { return local(r.dir), new(atomic.Int64) }, 0, true},
		{"bare", func() (*source.Fetcher, *atomic.Int64) { return local("file://" + r.dir + "/.git"), new(atomic.Int64) }, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			fetcher, sent := c.fetcher()
			whole := 0
			for commit, data := range want {
				before := sent.Load()
				got, err := fetcher.FetchCommit(t.Context(), gitURL, commit, source.Pick{Root: "deploy"})
				if err != nil {
					t.Fatal(err)
				}
				if sent.Load()-before > 100_000 {
					whole++
				}
				files := contents(got)
				if !slices.Equal(paths(got), []string{"a.yaml", "link.yaml"}) || !strings.HasSuffix(files["a.yaml"], data) || files["link.yaml"] != "b: 1" {
					t.Errorf("got %q", paths(got))
				}
				listed := sum(sum(files["a.yaml"]) + "  a.yaml\n" + sum(files["link.yaml"]) + "  link.yaml\n")
				if got.Commit != commit || got.SHA256 != listed {
					t.Errorf("got %s %s", got.Commit, got.SHA256)
				}
			}
			if whole != c.whole {
				t.Errorf("%d commits took all of the repository, want %d", whole, c.whole)
			}
			got, err := fetcher.ListRefs(t.Context(), gitURL)
			if err != nil || !maps.Equal(got, refs) {
				t.Errorf("got %v, %v", got, err)
			}
			if _, err := fetcher.FetchCommit(t.Context(), gitURL, lost, source.Pick{Root: "deploy"}); c.lost != (err == nil) {
				t.Errorf("the commit that no branch has: %v", err)
			}
		})
	}
}

// A name and a token of a mirror's URL log in, and are in no error.
func TestGitLogsIn(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	r.write("a.yaml", "a: 1")
	commit := r.commit()
	fetcher, _ := r.serve("a.b=c")
	server := fetcher.Mirrors[0].Replacement
	for user, works := range map[string]bool{"user:token@": true, "user:wrong@": false, "secret-token@": false, "": false} {
		fetcher.Mirrors[0].Replacement = strings.Replace(server, "://", "://"+user, 1) + "/private"
		_, err := fetcher.FetchCommit(t.Context(), gitURL, commit, source.Pick{})
		_, failed := fetcher.ListRefs(t.Context(), gitURL)
		for _, err := range []error{err, failed} {
			if works != (err == nil) {
				t.Errorf("%s: %v", user, err)
			}
			if err != nil && (strings.Contains(err.Error(), "wrong") || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "authentication required")) {
				t.Errorf("%s: %v", user, err)
			}
		}
	}
}

func TestGitRefuses(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	r.write("plain/a.yaml", "a: 1")
	r.write("lfs/a.yaml", "version https://git-lfs.github.com/spec/v1\noid sha256:"+sum("")+"\nsize 1\n")
	r.write("mixed/a.yaml", "a: 1")
	r.write("mixed/sub/x", "")
	for name, to := range map[string]string{"out/a.yaml": "../../etc/a.yaml", "absolute/a.yaml": "/etc/a.yaml", "nowhere/a.yaml": "b.yaml", "folder/a": "../plain", "submodule/a.yaml": "../mixed/module"} {
		r.write(filepath.Dir(name)+"/b.json", "{}")
		link(t, to, filepath.Join(r.dir, filepath.FromSlash(name)))
	}
	r.git("add", "-A")
	r.git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",mixed/module")
	r.git("commit", "-q", "-m", "m")
	commit := r.git("rev-parse", "HEAD")
	tree := r.git("rev-parse", "HEAD^{tree}")
	for _, c := range []struct {
		name, url, commit string
		pick              source.Pick
		want              string
	}{
		{"submodule", gitURL, commit, source.Pick{Root: "mixed"}, "mixed/module is a submodule, which is not fetched: add it as a separate source, or exclude it"},
		{"submodule that is excluded", gitURL, commit, source.Pick{Root: "mixed", Exclude: []string{"module"}}, ""},
		{"submodule whose files are excluded", gitURL, commit, source.Pick{Root: "mixed", Exclude: []string{"module/**"}}, ""},
		{"submodule where nothing is included", gitURL, commit, source.Pick{Root: "mixed", Include: []string{"*.yaml"}}, ""},
		{"submodule that is included", gitURL, commit, source.Pick{Root: "mixed", Include: []string{"m*/*.yaml"}}, "mixed/module is a submodule"},
		{"submodule elsewhere", gitURL, commit, source.Pick{Root: "plain"}, ""},
		{"link to a submodule", gitURL, commit, source.Pick{Root: "submodule"}, `entry "submodule/a.yaml" is not a regular file`},
		{"file of Git LFS", gitURL, commit, source.Pick{Root: "lfs"}, "lfs/a.yaml is stored in Git LFS, not in the repository: exclude it, or add it as a separate source"},
		{"link out", gitURL, commit, source.Pick{Root: "out"}, "out/a.yaml is a link that leads out of the tree"},
		{"absolute link", gitURL, commit, source.Pick{Root: "absolute"}, "absolute/a.yaml is a link that leads out of the tree"},
		{"link to nothing", gitURL, commit, source.Pick{Root: "nowhere"}, "nowhere/a.yaml is a link that leads to a missing file"},
		{"link to a folder", gitURL, commit, source.Pick{Root: "folder"}, "folder/a is a link to a folder"},
		{"no such root", gitURL, commit, source.Pick{Root: "deploy"}, "folder deploy not found: folders at the top are absolute, folder, lfs, mixed, nowhere, out, plain, submodule"},
		{"no such commit", gitURL, strings.Repeat("1", 40), source.Pick{}, "commit not found"},
		{"no commit", gitURL, tree, source.Pick{}, "commit not found"},
		{"a branch", gitURL, "main", source.Pick{}, "want the full id of a commit, 40 hexadecimal digits"},
		{"a short id", gitURL, commit[:8], source.Pick{}, "want the full id of a commit"},
		{"SHA-256", gitURL, commit + commit[:24], source.Pick{}, "SHA-256 repositories are not supported"},
		{"no such repository", "https://git.example/none", commit, source.Pick{}, "repository not found"},
		{"http", "http://git.example/x", commit, source.Pick{}, "only https and ssh are allowed"},
		{"git", "git://git.example/x", commit, source.Pick{}, "only https and ssh are allowed"},
		{"file", "file:///tmp", commit, source.Pick{}, "only https and ssh are allowed"},
		{"path", "/tmp", commit, source.Pick{}, "only https and ssh are allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fetcher, _ := r.serve("uploadpack.allowAnySHA1InWant=true")
			_, err := fetcher.FetchCommit(t.Context(), c.url, c.commit, c.pick)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "git "+c.url)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// A repository that gives an object under another's id is found out.
func TestGitObjectsAreChecked(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"HEAD", "HEAD^{tree}", "HEAD:a.yaml"} {
		r := newRepository(t)
		r.write("a.yaml", "a: 1")
		commit := r.commit()
		id := r.git("rev-parse", what)
		file := filepath.Join(r.dir, ".git", "objects", id[:2], id[2:])
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		z, err := zlib.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		object, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		object[len(object)-1] ^= 1
		var tampered bytes.Buffer
		w := zlib.NewWriter(&tampered)
		if _, err := w.Write(object); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), os.Remove(file), os.WriteFile(file, tampered.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
		_, err = local(r.dir).FetchCommit(t.Context(), gitURL, commit, source.Pick{})
		var wrong *source.DigestError
		if !errors.As(err, &wrong) || wrong.Want != id {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// What a server sends in place of a pack is an error, and one that is too busy is asked again.
func TestGitServersThatFail(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	r.write("a.yaml", "a: 1")
	commit := r.commit()
	for _, c := range []struct {
		name   string
		broken func(asked int, path string) string
		want   string
	}{
		{"busy once", func(asked int, _ string) string { return map[bool]string{asked == 1: "busy"}[true] }, ""},
		{"nonsense for refs", func(int, string) string { return "nonsense" }, "invalid pkt-len"},
		{"nonsense for a pack", func(_ int, path string) string {
			return map[bool]string{strings.HasSuffix(path, "git-upload-pack"): "0008NAK\n0009\x01PACK"}[true]
		}, "empty packfile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fetcher, _ := r.serve("a.b=c")
			asked := 0
			inner := fetcher.Client.Transport
			fetcher.Client.Transport = trip(func(request *http.Request) (*http.Response, error) {
				asked++
				switch body := c.broken(asked, request.URL.Path); body {
				case "":
					return inner.RoundTrip(request)
				case "busy":
					return (&responses{answers: []any{503}}).RoundTrip(request)
				default:
					return (&responses{answers: []any{body}}).RoundTrip(request)
				}
			})
			_, err := fetcher.FetchCommit(t.Context(), gitURL, commit, source.Pick{})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

type trip func(*http.Request) (*http.Response, error)

func (t trip) RoundTrip(request *http.Request) (*http.Response, error) { return t(request) }
