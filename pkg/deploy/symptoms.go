package deploy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// What is read of the cluster to say why something failed.
const (
	symptomTime   = 5 * time.Second
	symptomPods   = 3
	symptomEvents = 3
	symptomLines  = 5
	symptomBytes  = 16 << 10
)

// symptoms returns what pods of an app that are not ready say, with the last of their events and
// logs; and the last warnings about resources that were waited for. That something cannot be
// read is not an error: there is one already.
func (s *session) symptoms(ctx context.Context, app string, waiting []Waiting) []string {
	c := s.cluster
	ctx, cancel := context.WithTimeout(ctx, symptomTime)
	defer cancel()
	selector := c.selectorOf(ctx, app)
	if selector == "" {
		return nil
	}
	options := metav1.ListOptions{LabelSelector: selector}
	pods, err := c.client.CoreV1().Pods("").List(apiserver.WithoutLogs(ctx), options)
	if err != nil {
		pods, err = c.client.CoreV1().Pods(c.namespace).List(apiserver.WithoutLogs(ctx), options)
	}
	if err != nil {
		return nil
	}
	var found []string
	sick := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return podReason(&p) == "" })
	for _, p := range sick[:min(len(sick), symptomPods)] {
		found = append(found, fmt.Sprintf("pod %s/%s: %s", p.Namespace, p.Name, podReason(&p)))
		found = append(found, c.events(ctx, p.Namespace, "involvedObject.uid="+string(p.UID))...)
		found = append(found, c.logs(ctx, &p)...)
	}
	if more := len(sick) - symptomPods; more > 0 {
		found = append(found, fmt.Sprintf("and %d more pods", more))
	}
	if len(sick) > 0 {
		return found
	}
	// There may be no pod at all: a quota or an admission webhook stops them, which is told of
	// what was to make them.
	if slices.ContainsFunc(waiting, func(w Waiting) bool { return strings.HasPrefix(w.Resource, "namespace/") }) {
		found = append(found, s.unavailable(ctx)...)
	}
	for _, w := range waiting[:min(len(waiting), symptomPods)] {
		what, namespace, _ := strings.Cut(w.Resource, " namespace: ")
		kind, name, _ := strings.Cut(strings.Fields(what + " ")[0], "/")
		found = append(found, s.conditions(ctx, w.Resource)...)
		if namespace == "" {
			continue
		}
		found = append(found, c.events(ctx, namespace, "type=Warning,involvedObject.name="+name)...)
		if kind != "deployment" {
			continue
		}
		sets, err := c.client.AppsV1().ReplicaSets(namespace).List(apiserver.WithoutLogs(ctx), options)
		if err != nil {
			continue
		}
		for _, r := range sets.Items {
			if strings.HasPrefix(r.Name, name+"-") && r.Spec.Replicas != nil && r.Status.Replicas < *r.Spec.Replicas {
				found = append(found, c.events(ctx, namespace, "type=Warning,involvedObject.uid="+string(r.UID))...)
			}
		}
	}
	return found
}

// unavailable returns the API groups that do not answer: Kubernetes does not finish deleting a namespace until
// it knows that it holds no resource of any group.
func (s *session) unavailable(ctx context.Context) []string {
	if _, err := s.servedKinds(ctx); err != nil {
		return nil
	}
	var found []string
	for gv, err := range s.engine.served.failedGroups() {
		found = append(found, fmt.Sprintf("  API group %s does not answer, which keeps namespaces from ending: %s", gv, records.ShortenReason(err.Error())))
	}
	slices.Sort(found)
	return found
}

// conditions returns those of a resource that say no, and why.
func (s *session) conditions(ctx context.Context, resource string) []string {
	object := s.liveObject(ctx, resource)
	if object == nil {
		return nil
	}
	bad := "False"
	if object.GetKind() == "Namespace" {
		bad = "True" // they are about what keeps it from ending
	}
	var found []string
	all, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, one := range all {
		condition, _ := one.(map[string]any)
		message, _ := condition["message"].(string)
		if condition["status"] == bad && message != "" {
			found = append(found, fmt.Sprintf("  condition %v: %s", condition["type"], records.ShortenReason(message)))
		}
	}
	return found
}

// selectorOf returns the label that kapp gives an app's resources; "" if the app is not there.
func (c *Cluster) selectorOf(ctx context.Context, app string) string {
	for _, name := range []string{app, app + kapp.AppSuffix} {
		cm, err := c.configMaps().Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
		if err != nil {
			continue
		}
		if meta, err := kapp.NewAppMetaFromData(cm.Data); err == nil {
			return meta.LabelKey + "=" + meta.LabelValue
		}
	}
	return ""
}

// podReason returns why a pod is not ready; "" if it is, or is done.
func podReason(p *corev1.Pod) string {
	if p.Status.Phase == corev1.PodSucceeded || p.DeletionTimestamp != nil {
		return ""
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil && w.Reason != "" && w.Reason != "PodInitializing" && w.Reason != "ContainerCreating" {
			return strings.TrimSuffix(fmt.Sprintf("container %s: %s: %s", s.Name, w.Reason, w.Message), ": ")
		}
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			return fmt.Sprintf("container %s ended with exit code %d (%s)", s.Name, t.ExitCode, t.Reason)
		}
	}
	for _, condition := range p.Status.Conditions {
		if condition.Status == corev1.ConditionFalse && condition.Message != "" {
			return fmt.Sprintf("%s: %s", condition.Reason, condition.Message)
		}
	}
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return ""
		}
	}
	return "phase " + string(p.Status.Phase)
}

// events returns the last of an object.
func (c *Cluster) events(ctx context.Context, namespace, selector string) []string {
	list, err := c.client.CoreV1().Events(namespace).List(apiserver.WithoutLogs(ctx), metav1.ListOptions{FieldSelector: selector, Limit: 100})
	if err != nil {
		return nil
	}
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { return eventTime(&a).Compare(eventTime(&b)) })
	items := list.Items[max(0, len(list.Items)-symptomEvents):]
	said := make([]string, len(items))
	for i, e := range items {
		said[i] = fmt.Sprintf("  event: %s: %s", e.Reason, records.ShortenReason(e.Message))
	}
	return said
}

func eventTime(e *corev1.Event) time.Time {
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}

// logs returns the last lines of the container that is not ready.
func (c *Cluster) logs(ctx context.Context, p *corev1.Pod) []string {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		started := s.State.Running != nil || s.State.Terminated != nil || s.RestartCount > 0
		if s.Ready || !started {
			continue
		}
		lines := int64(symptomLines)
		limit := int64(symptomBytes)
		body, err := c.client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
			Container: s.Name, TailLines: &lines, LimitBytes: &limit, Previous: s.State.Waiting != nil && s.RestartCount > 0,
		}).Stream(apiserver.WithoutLogs(ctx))
		if err != nil {
			return nil
		}
		data, _ := io.ReadAll(io.LimitReader(body, symptomBytes))
		body.Close()
		var said []string
		for scanner := bufio.NewScanner(bytes.NewReader(data)); scanner.Scan(); {
			said = append(said, fmt.Sprintf("  log of %s: %s", s.Name, records.ShortenReason(scanner.Text())))
		}
		return said
	}
	return nil
}
