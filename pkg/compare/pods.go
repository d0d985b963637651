package compare

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// podFields are the fields of a pod that decide on its rights. A kind that an operator defines may have some of them
// next to others of its own.
var podFields = []string{
	"containers", "initContainers", "ephemeralContainers", "volumes", "hostNetwork", "hostPID", "hostIPC", "hostUsers",
	"shareProcessNamespace", "securityContext", "serviceAccountName", "serviceAccount", "automountServiceAccountToken", "runtimeClassName",
}

// foundPod is the specification of a pod in an object.
type foundPod struct {
	corev1.PodSpec
	annotations map[string]any
	// problems are the fields that cannot be read.
	problems []string
}

// findPods returns the pods of an object by where they are: of all kinds that make pods, those of operators too.
func findPods(object map[string]any) map[string]*foundPod {
	found := map[string]*foundPod{}
	walkPods(object, "", nil, found)
	return found
}

func walkPods(at any, path string, annotations map[string]any, found map[string]*foundPod) {
	switch value := at.(type) {
	case []any:
		for i, item := range value {
			walkPods(item, fmt.Sprintf("%s[%d]", path, i), nil, found)
		}
	case map[string]any:
		if isPod(value) {
			found[path] = readPod(value, annotations)
		}
		metadata, _ := value["metadata"].(map[string]any)
		own, _ := metadata["annotations"].(map[string]any)
		for key, child := range value {
			if found[path] != nil && slices.Contains(podFields, key) {
				continue // read above
			}
			of := map[string]any(nil)
			if key == "spec" {
				of = own
			}
			walkPods(child, strings.TrimPrefix(path+"."+key, "."), of, found)
		}
	}
}

// isPod reports whether a mapping has the containers of a pod.
func isPod(value map[string]any) bool {
	for _, field := range []string{"containers", "initContainers"} {
		list, _ := value[field].([]any)
		for _, item := range list {
			container, is := item.(map[string]any)
			if !is {
				break
			}
			if container["image"] != nil || container["name"] != nil {
				return true
			}
		}
	}
	return false
}

// readPod reads the fields that can be read, so that one which is not a pod's own does not hide the others.
func readPod(value map[string]any, annotations map[string]any) *foundPod {
	pod := &foundPod{annotations: annotations}
	readable := map[string]any{}
	for _, field := range podFields {
		part, is := value[field]
		if !is || part == nil {
			continue
		}
		if _, err := readTyped[corev1.PodSpec](map[string]any{field: part}); err != nil {
			pod.problems = append(pod.problems, fmt.Sprintf("%s cannot be read: %v", field, err))
			continue
		}
		readable[field] = part
	}
	pod.PodSpec, _ = readTyped[corev1.PodSpec](readable) // each part was read before
	return pod
}

// rights are what a pod may do, by what they are about. What is not in it has the level that Kubernetes gives a pod which
// says nothing.
type rights map[string]right

// right is a level, of which a higher one is more.
type right struct {
	level    int
	severity RiskLevel
	// text says what the pod may do; of a limited right, what it may do when that is no longer limited.
	text string
}

// The levels of a right.
const (
	limited = -1 // the pod gives up what it would have
	usual   = 0
	more    = 1
)

// lookAtPods finds the pods that may do more than before.
func (f *riskFinder) lookAtPods() {
	was, now := findPods(f.change.Before), findPods(f.change.After)
	for _, at := range slices.Sorted(maps.Keys(now)) {
		pod := now[at]
		before, isKnown := was[at]
		if !isKnown {
			before = &foundPod{}
		}
		for _, problem := range pod.problems {
			if !slices.Contains(before.problems, problem) {
				f.addRisk(Critical, AreaWorkload, "%s: %s", at, problem)
			}
		}
		f.compareRights(podRights(before), podRights(pod))
		if isKnown {
			f.compareAccounts(before, pod)
		}
		containers, current := containersOf(before), containersOf(pod)
		for _, name := range sortedNames(current) {
			c := current[name]
			was := containers[name]
			if was == nil { // under another name, it would have had what its pod says
				was = &container{corev1.Container{Name: c.Name}, c.kind}
			}
			f.compareContainers(containerRights(before, was), containerRights(pod, c), c)
		}
	}
	f.compareFlags()
}

// compareRights adds what is more in the second than in the first.
func (f *riskFinder) compareRights(was, now rights) {
	for _, about := range slices.Sorted(maps.Keys(mergeRights(was, now))) {
		after := now[about]
		if before := was[about]; after.level > before.level {
			if after.text == "" {
				after = before // what it says of giving that up no more
			}
			f.addRisk(after.severity, AreaWorkload, "%s", after.text)
		}
	}
}

// compareContainers is compareRights for a container. One that drops all capabilities drops each.
func (f *riskFinder) compareContainers(was, now rights, c *container) {
	drops := c.kind + " " + c.Name + " drop "
	if all, is := now[drops+"ALL"]; is {
		for about := range was {
			if strings.HasPrefix(about, drops) {
				now[about] = all
			}
		}
	}
	f.compareRights(was, now)
}

func mergeRights(a, b rights) rights {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func (f *riskFinder) compareAccounts(was, now *foundPod) {
	before := cmp.Or(was.ServiceAccountName, was.DeprecatedServiceAccount, "default")
	after := cmp.Or(now.ServiceAccountName, now.DeprecatedServiceAccount, "default")
	if before != after {
		f.addRisk(Notable, AreaWorkload, "runs as service account %s, was %s", after, before)
	}
	if before, after := was.RuntimeClassName, now.RuntimeClassName; before != nil && (after == nil || *after != *before) {
		text := "the usual runtime"
		if after != nil {
			text = "runtime class " + *after
		}
		f.addRisk(Notable, AreaWorkload, "runs in %s, was runtime class %s", text, *before)
	}
}

// container is a container of any kind, with its place in the pod.
type container struct {
	corev1.Container
	kind string
}

// containersOf returns the containers of a pod by their kinds and names.
func containersOf(pod *foundPod) map[string]*container {
	all := map[string]*container{}
	add := func(kind string, c corev1.Container) { all[kind+" "+c.Name] = &container{c, kind} }
	for _, c := range pod.InitContainers {
		add("init container", c)
	}
	for _, c := range pod.Containers {
		add("container", c)
	}
	for _, c := range pod.EphemeralContainers {
		add("ephemeral container", corev1.Container(c.EphemeralContainerCommon))
	}
	return all
}

func sortedNames(containers map[string]*container) []string {
	return slices.Sorted(maps.Keys(containers))
}

// podRights returns what all containers of a pod share.
func podRights(pod *foundPod) rights {
	r := rights{}
	for _, flag := range []struct {
		is   bool
		text string
	}{
		{pod.HostNetwork, "uses the network of its node (hostNetwork)"},
		{pod.HostPID, "sees the processes of its node (hostPID)"},
		{pod.HostIPC, "shares the memory of its node's processes (hostIPC)"},
	} {
		if flag.is {
			r[flag.text] = right{more, Critical, flag.text}
		}
	}
	if pod.HostUsers != nil && !*pod.HostUsers {
		r["hostUsers"] = right{limited, Notable, "its users are those of its node (hostUsers is no longer false)"}
	}
	if pod.ShareProcessNamespace != nil && *pod.ShareProcessNamespace {
		r["shareProcessNamespace"] = right{more, Notable, "its containers see each other's processes (shareProcessNamespace)"}
	}
	if pod.AutomountServiceAccountToken != nil && !*pod.AutomountServiceAccountToken {
		r["token"] = right{limited, Notable, "gets a token of its service account (automountServiceAccountToken is no longer false)"}
	}
	for _, v := range pod.Volumes {
		addVolumeRights(r, pod, v)
	}
	if s := pod.SecurityContext; s != nil {
		for _, ctl := range s.Sysctls {
			text := fmt.Sprintf("sets sysctl %s", ctl.Name)
			r[text] = right{more, Notable, text}
		}
		if s.WindowsOptions != nil && s.WindowsOptions.HostProcess != nil && *s.WindowsOptions.HostProcess {
			r["hostProcess"] = right{more, Critical, "runs on its Windows node itself (hostProcess)"}
		}
	}
	return r
}

// addVolumeRights adds what a volume gives access to.
func addVolumeRights(r rights, pod *foundPod, v corev1.Volume) {
	if v.HostPath != nil {
		text := fmt.Sprintf("mounts %s of its node (hostPath)", v.HostPath.Path)
		level := more
		if isReadOnly(pod, v.Name) {
			text += ", to read"
		} else {
			level++
		}
		key := "hostPath " + v.HostPath.Path
		if r[key].level < level {
			r[key] = right{level, Critical, text}
		}
	}
	if v.Projected == nil {
		return
	}
	for _, source := range v.Projected.Sources {
		if source.ServiceAccountToken != nil {
			text := fmt.Sprintf("mounts a token of its service account for audience %s", cmp.Or(source.ServiceAccountToken.Audience, "of the API server"))
			r[text] = right{more, Notable, text}
		}
	}
}

// isReadOnly reports whether all containers mount a volume only to read.
func isReadOnly(pod *foundPod, volume string) bool {
	for _, c := range containersOf(pod) {
		for _, m := range c.VolumeMounts {
			if m.Name == volume && !m.ReadOnly {
				return false
			}
		}
	}
	return true
}

// containerRights returns what one container may do.
func containerRights(pod *foundPod, c *container) rights {
	r := rights{}
	name := c.kind + " " + c.Name
	set := func(about string, level int, severity RiskLevel, format string, args ...any) {
		r[name+" "+about] = right{level, severity, name + " " + fmt.Sprintf(format, args...)}
	}
	for _, p := range c.Ports {
		if p.HostPort != 0 {
			set(fmt.Sprint("port ", p.HostPort), more, Notable, "listens on port %d of its node", p.HostPort)
		}
	}
	for _, d := range c.VolumeDevices {
		set("device "+d.Name, more, Notable, "has volume %s as a device", d.Name)
	}
	s := c.SecurityContext
	if s == nil {
		s = &corev1.SecurityContext{}
	}
	isTrue := func(b *bool) bool { return b != nil && *b }
	isFalse := func(b *bool) bool { return b != nil && !*b }
	if isTrue(s.Privileged) {
		set("privileged", more, Critical, "is privileged")
	}
	if isFalse(s.AllowPrivilegeEscalation) {
		set("escalation", limited, Critical, "may gain rights (allowPrivilegeEscalation is no longer false)")
	} else if isTrue(s.AllowPrivilegeEscalation) {
		set("escalation", usual, Critical, "may gain rights (allowPrivilegeEscalation)")
	}
	if isTrue(s.ReadOnlyRootFilesystem) {
		set("root file system", limited, Notable, "may write to its root file system (readOnlyRootFilesystem is no longer true)")
	}
	if s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount {
		set("procMount", more, Critical, "sees all of /proc (procMount: Unmasked)")
	}
	if w := s.WindowsOptions; w != nil && isTrue(w.HostProcess) {
		set("hostProcess", more, Critical, "runs on its Windows node itself (hostProcess)")
	}
	if s.Capabilities != nil {
		for _, added := range s.Capabilities.Add {
			set("capability "+string(added), more, Critical, "has capability %s", added)
		}
		for _, dropped := range s.Capabilities.Drop {
			set("drop "+string(dropped), limited, Critical, "no longer drops capability %s", dropped)
		}
	}
	setUser(pod, s, set)
	setProfiles(pod, c, s, set)
	return r
}

// setUser sets whether a container runs as root: with a user or not, as its own or its pod's settings say.
func setUser(pod *foundPod, s *corev1.SecurityContext, set func(string, int, RiskLevel, string, ...any)) {
	user, nonRoot := s.RunAsUser, s.RunAsNonRoot
	if p := pod.SecurityContext; p != nil {
		user, nonRoot = cmp.Or(user, p.RunAsUser), cmp.Or(nonRoot, p.RunAsNonRoot)
	}
	switch {
	case user != nil && *user == 0:
		set("user", more, Critical, "runs as root (runAsUser: 0)")
	case user != nil || nonRoot != nil && *nonRoot:
		set("user", limited, Critical, "may run as root (runAsNonRoot and runAsUser no longer keep it from that)")
	}
}

// setProfiles sets what of the kernel a container is kept from.
func setProfiles(pod *foundPod, c *container, s *corev1.SecurityContext, set func(string, int, RiskLevel, string, ...any)) {
	seccomp, apparmor, selinux := s.SeccompProfile, s.AppArmorProfile, s.SELinuxOptions
	if p := pod.SecurityContext; p != nil {
		seccomp, apparmor, selinux = cmp.Or(seccomp, p.SeccompProfile), cmp.Or(apparmor, p.AppArmorProfile), cmp.Or(selinux, p.SELinuxOptions)
	}
	switch {
	case seccomp == nil:
	case seccomp.Type == corev1.SeccompProfileTypeUnconfined:
		set("seccomp", more, Critical, "has no seccomp profile (Unconfined)")
	default:
		set("seccomp", limited, Notable, "no longer has seccomp profile %s", seccomp.Type)
	}
	old, _ := pod.annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name].(string)
	if apparmor != nil && apparmor.Type == corev1.AppArmorProfileTypeUnconfined || apparmor == nil && old == corev1.DeprecatedAppArmorBetaProfileNameUnconfined {
		set("AppArmor", more, Critical, "has no AppArmor profile (Unconfined)")
	} else if apparmor != nil || old != "" {
		set("AppArmor", limited, Notable, "no longer has an AppArmor profile")
	}
	if selinux != nil && selinux.Type != "" {
		set("SELinux "+selinux.Type, more, Notable, "runs with SELinux type %s", selinux.Type)
	}
}

// powerFlags are fields by which kinds of operators have them make pods with more rights.
var powerFlags = []string{"privileged", "hostNetwork", "hostPID", "hostIPC", "allowPrivilegeEscalation"}

// compareFlags finds such flags outside of pods that were not set before.
func (f *riskFinder) compareFlags() {
	was, now := map[string]bool{}, map[string]bool{}
	findFlags(f.change.Before, "", was)
	findFlags(f.change.After, "", now)
	for _, at := range slices.Sorted(maps.Keys(now)) {
		if !was[at] {
			f.addRisk(Critical, AreaWorkload, "sets %s: true", at)
		}
	}
}

func findFlags(at any, path string, found map[string]bool) {
	switch value := at.(type) {
	case []any:
		for i, item := range value {
			findFlags(item, fmt.Sprintf("%s[%d]", path, i), found)
		}
	case map[string]any:
		isRead := isPod(value)
		for key, child := range value {
			if isRead && slices.Contains(podFields, key) {
				continue // lookAtPods finds what these say
			}
			below := strings.TrimPrefix(path+"."+key, ".")
			if child == true && slices.Contains(powerFlags, key) {
				found[below] = true
			}
			findFlags(child, below, found)
		}
	}
}
