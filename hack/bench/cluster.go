package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/imagetest"
)

// What is put onto the cluster: so many bundles of so many resources.
const (
	clusterBundles   = 50
	clusterResources = 20
)

// benchCluster measures an apply of 1,000 resources on a real control plane, another that changes
// nothing, and their deletion, next to kapp with the same manifests: as one app, and as an app for
// each bundle, one after the other. kapp looks as often as krtpkg does for what is ready, twice a
// second. Each bundle has a namespace of its own.
func benchCluster(ctx context.Context, b *bench) (err error) {
	b.rounds = min(b.rounds, 3)
	kapp, err := hack.BuildProgram(ctx, "tools/kapp")
	if err != nil {
		return err
	}
	control, err := clustertest.Run(ctx, b.filePath("control"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.Stop()) }()
	if err := os.Setenv("KUBECONFIG", control.Kubeconfig); err != nil {
		return err
	}
	config, err := control.RESTConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := b.prepareCluster(); err != nil {
		return err
	}
	fmt.Printf("%s, %d cores, %s; %d resources in %d bundles on a control plane of the same machine, pods played by KWOK; medians of %d rounds in turn.\n\n",
		runtime.Version(), runtime.NumCPU(), processorName(), clusterBundles*clusterResources, clusterBundles, b.rounds)
	fmt.Println("| job | program | wall | CPU | peak memory | requests | wall / krtpkg |")
	fmt.Println("|---|---|---|---|---|---|---|")
	apply := "exec " + b.krtpkg + " apply -q --key " + b.filePath("cosign.pub") + " oci:" + b.filePath("dist") + ":1.0.0 --yes --skip-check images -n %s >/dev/null"
	deploy := kapp + " deploy -y -n %s --wait-check-interval 500ms"
	remove := kapp + " delete -y -n %s --wait-check-interval 500ms"
	each := "for i in " + b.filePath("all") + "/*; do %s >/dev/null || exit 1; done"
	programs := []struct{ name, short, apply, remove string }{
		{"krtpkg", "krtpkg", apply, "exec " + b.krtpkg + " delete -q edge --yes -n %s >/dev/null"},
		{"kapp, one app", "one", "exec " + deploy + " -a all -f " + b.filePath("all") + " >/dev/null", "exec " + remove + " -a all >/dev/null"},
		{fmt.Sprintf("kapp, %d apps one after the other", clusterBundles), "many",
			strings.Replace(each, "%s", deploy+" -a $(basename $i) -f $i", 1), strings.Replace(each, "%s", remove+" -a $(basename $i)", 1)},
	}
	jobs := []string{"apply 1,000 resources", "the same again", "delete"}
	figures := make([][]measured, len(jobs))
	for i := range figures {
		figures[i] = make([]measured, len(programs))
	}
	for round := range b.rounds {
		for i, p := range programs {
			namespace := fmt.Sprintf("%s-%d", p.short, round)
			if err := newNamespace(ctx, client, namespace); err != nil {
				return err
			}
			for job, command := range []string{p.apply, p.apply, p.remove} {
				command = strings.ReplaceAll(command, "%s", namespace)
				if err := b.runOnce(ctx, []string{"sh", "-c", command}, &figures[job][i]); err != nil {
					return err
				}
			}
		}
	}
	for job, name := range jobs {
		for i, p := range programs {
			printRow(name, p.name, figures[job][i], fmt.Sprintf("%.2f", float64(medianOf(figures[job][i].wall))/float64(medianOf(figures[job][0].wall))))
		}
	}
	return nil
}

func newNamespace(ctx context.Context, client kubernetes.Interface, name string) error {
	_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}

// prepareCluster writes and builds the runtime. Its manifests are what kapp gets, too.
func (b *bench) prepareCluster() error {
	const image = "ghcr.io/bench/app:1.0"
	if err := imagetest.FillLayout(b.filePath("img"), image); err != nil {
		return err
	}
	files, bundles := map[string]string{}, []string{}
	for n := range clusterBundles {
		name := fmt.Sprintf("bundle-%02d", n)
		var docs strings.Builder
		fmt.Fprintf(&docs, "apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n---\n", name)
		fmt.Fprintf(&docs, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: %[1]s, namespace: %[1]s}\nspec:\n  selector: {matchLabels: {app: %[1]s}}\n  template:\n    metadata: {labels: {app: %[1]s}}\n    spec: {containers: [{name: app, image: %[2]q}]}\n", name, image)
		fmt.Fprintf(&docs, "---\napiVersion: v1\nkind: Service\nmetadata: {name: %[1]s, namespace: %[1]s}\nspec: {selector: {app: %[1]s}, ports: [{port: 80}]}\n", name)
		fmt.Fprintf(&docs, "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %[1]s, namespace: %[1]s}\n", name)
		fmt.Fprintf(&docs, "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: %[1]s, namespace: %[1]s}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n", name)
		for i := range clusterResources - 5 {
			fmt.Fprintf(&docs, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %[1]s-%02[2]d, namespace: %[1]s}\ndata: {a: %[3]q}\n", name, i, strings.Repeat("settings ", 50))
		}
		files["all/"+name+"/all.yaml"] = docs.String()
		files["def/"+name+"/all.yaml"] = docs.String()
		files["def/"+name+"/bundle.yaml"] = fmt.Sprintf("{apiVersion: krtpkg.dev/v1alpha1, kind: Bundle, metadata: {name: %s, version: 1.0.0}, spec: {layer: %d, sources: [{file: all.yaml}]}}\n", name, 1+n/10)
		bundles = append(bundles, "{path: "+name+"}")
	}
	files["def/runtime.yaml"] = "{apiVersion: krtpkg.dev/v1alpha1, kind: Runtime, metadata: {name: edge, version: 1.0.0}, spec: {bundles: [" + strings.Join(bundles, ", ") + "]}}\n"
	for name, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(b.filePath(name)), 0o755), os.WriteFile(b.filePath(name), []byte(text), 0o644)); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"keygen", "-q"},
		{"build", "-q", "-f", "def", "--image-mirror", "*=oci:" + b.filePath("img")},
		{"sign", "-q", "--key", "cosign.key", "oci:dist:1.0.0"},
	} {
		if err := b.mustRun(b.krtpkg, args...); err != nil {
			return err
		}
	}
	return nil
}
