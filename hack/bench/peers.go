package main

import (
	"fmt"
	"strings"
)

// program is one that does a job. Its commands are for a shell.
type program struct {
	name    string
	command func(way) string
	// before writes what the command finds among the archives into its folder, once, unmeasured;
	// nil where there is nothing to write.
	before func(way) string
}

// way is where a command reads and writes: the addresses of two registries, a folder that is
// empty, and one with what the programs of a job read.
type way struct{ source, target, dir, archives string }

// root is the bundle in the source, with the closure of all images.
const root = "krt/bench:1.0.0"

// each is a command for every image and the bundle, which most peers take one by one.
func (c *carry) each(command func(image string) string) string {
	var all []string
	for _, image := range append([]string{root}, c.images...) {
		all = append(all, command(image))
	}
	return strings.Join(all, " && ")
}

// archive is the file for one image in a folder.
func archive(dir, image string) string {
	return dir + "/" + strings.NewReplacer("/", "-", ":", "-").Replace(image) + ".tar"
}

func (c *carry) regctl(w way, args ...string) string {
	command := c.tools["regctl"]
	for _, host := range []string{w.source, w.target} {
		if host != "" {
			command += fmt.Sprintf(" --host reg=%s,tls=disabled", host)
		}
	}
	return command + " image " + strings.Join(args, " ")
}

func (c *carry) copies() []program {
	return []program{
		{name: "floor", command: func(w way) string {
			return fmt.Sprintf("%s -floor %s -from %s/v2/krt/bench -to %s/v2/krt/bench", c.self, c.floor, w.source, w.target)
		}},
		{name: "krtpkg", command: func(w way) string {
			return fmt.Sprintf("%s copy -q %s/%s %s/krt/bench", c.krtpkg, w.source, root, w.target)
		}},
		{name: "imgpkg", command: func(w way) string {
			return fmt.Sprintf("%s copy -b %s/%s --to-repo %s/krt/bench --registry-insecure", c.tools["imgpkg"], w.source, root, w.target)
		}},
		{name: "oras", command: func(w way) string {
			return fmt.Sprintf("%s cp -r --no-tty --from-plain-http --to-plain-http %s/%s %s/%[3]s", c.tools["oras"], w.source, root, w.target)
		}},
		{name: "crane, each", command: func(w way) string {
			return c.each(func(image string) string {
				return fmt.Sprintf("%s copy --insecure %s/%s %s/%[3]s", c.tools["crane"], w.source, image, w.target)
			})
		}},
		{name: "regctl, each", command: func(w way) string {
			return c.each(func(image string) string {
				return c.regctl(w, "copy", w.source+"/"+image, w.target+"/"+image)
			})
		}},
		{name: "skopeo, each", command: func(w way) string {
			return c.each(func(image string) string {
				return fmt.Sprintf("skopeo --insecure-policy copy -q --all --src-tls-verify=false --dest-tls-verify=false docker://%s/%s docker://%s/%[2]s", w.source, image, w.target)
			})
		}},
		{name: "skopeo's library, each", command: func(w way) string {
			return c.each(func(image string) string {
				return fmt.Sprintf("%s docker://%s/%s docker://%s/%[3]s", c.tools["skopeo"], w.source, image, w.target)
			})
		}},
	}
}

func (c *carry) exports() []program {
	return []program{
		{name: "krtpkg", command: func(w way) string {
			return fmt.Sprintf("%s export -q %s/%s %s/krtpkg.tar", c.krtpkg, w.source, root, w.dir)
		}},
		{name: "imgpkg", command: func(w way) string {
			return fmt.Sprintf("%s copy -b %s/%s --to-tar %s/imgpkg.tar --registry-insecure", c.tools["imgpkg"], w.source, root, w.dir)
		}},
		{name: "oras and tar", command: func(w way) string {
			return fmt.Sprintf("%s cp -r --no-tty --from-plain-http %s/%s --to-oci-layout %[4]s/l:1.0.0 && tar -C %[4]s/l -cf %[4]s/oras.tar . && rm -r %[4]s/l", c.tools["oras"], w.source, root, w.dir)
		}},
		{name: "skopeo, a file each", command: func(w way) string {
			return c.each(func(image string) string {
				return fmt.Sprintf("skopeo --insecure-policy copy -q --all --src-tls-verify=false docker://%s/%s oci-archive:%s:1.0", w.source, image, archive(w.dir, image))
			})
		}},
		{name: "skopeo's library, a file each", command: func(w way) string {
			return c.each(func(image string) string {
				return fmt.Sprintf("%s docker://%s/%s oci-archive:%s:1.0", c.tools["skopeo"], w.source, image, archive(w.dir, image))
			})
		}},
	}
}

func (c *carry) imports() []program {
	exports := c.exports()
	return []program{
		{name: "krtpkg", before: exports[0].command, command: func(w way) string {
			return fmt.Sprintf("%s import -q %s/krtpkg.tar %s/krt/bench", c.krtpkg, w.archives, w.target)
		}},
		{name: "imgpkg", before: exports[1].command, command: func(w way) string {
			return fmt.Sprintf("%s copy --tar %s/imgpkg.tar --to-repo %s/krt/bench --registry-insecure", c.tools["imgpkg"], w.archives, w.target)
		}},
		{name: "oras, krtpkg's file", command: func(w way) string {
			return fmt.Sprintf("%s cp -r --no-tty --from-oci-layout %s/krtpkg.tar:1.0.0 --to-plain-http %s/%s", c.tools["oras"], w.archives, w.target, root)
		}},
		{name: "regctl, a file each", before: func(w way) string {
			return c.each(func(image string) string {
				return c.regctl(w, "export", w.source+"/"+image, archive(w.dir, image))
			})
		}, command: func(w way) string {
			return c.each(func(image string) string {
				return c.regctl(w, "import", w.target+"/"+image, archive(w.archives, image))
			})
		}},
	}
}
