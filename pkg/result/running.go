package result

// RunningImage is an image that pods on a cluster run, with those that run it for the same reason.
type RunningImage struct {
	// Image is what the pods name, and Digest what runs as the nodes report it; absent until it is pulled.
	Image  string `json:"image"`
	Digest string `json:"digest,omitempty"`
	// Findings are notLocked (no lock of what is applied has it), otherDigest (the lock has another digest for the
	// name) and elsewhere (the name is not of a registry that something was applied from). They are empty for an
	// image that runs as it was locked.
	Findings []string `json:"findings"`
	// Locked is the digest that the lock has.
	Locked string `json:"locked,omitempty"`
	// Runtime and Bundle are whose lock has it or, for one that no lock has, whose resource it is.
	Runtime string `json:"runtime,omitempty"`
	Bundle  string `json:"bundle,omitempty"`
	// Cluster is the context of the kubeconfig, with --contexts.
	Cluster string `json:"cluster,omitempty"`
	// Owner is the resource that made the pods: the last of the owners of the first.
	Owner string `json:"owner"`
	// Settle is what makes the next build of the bundle lock it: a field of its definition with an entry.
	Settle string `json:"settle,omitempty"`
	// Containers are those that run it.
	Containers []RunningContainer `json:"containers"`
}

// RunningContainer is a container of a pod, or a volume that is an image.
type RunningContainer struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Name      string `json:"name"`
	// Kind is container, init container, ephemeral container or image volume.
	Kind string `json:"kind"`
	// Owners are the owner of the pod, the owner of that, and so on.
	Owners []string `json:"owners"`
}
