package bundletest

import (
	"fmt"
	"slices"
	"strings"
)

// siteValues are what a site has to say, by the names of bundles.
var siteValues = map[string]string{
	"acr-login":                      "{server: site.azurecr.io, username: a-name, password: a-password}",
	"amazon-rds-login":               "{username: shop, password: a-password}",
	"amazon-sqs-queue":               `{url: "https://sqs.example.org/queue", accessKey: a-name, secretKey: a-key}`,
	"anchore-inventory":              "{password: a-password}",
	"aqua-enforcer":                  "{token: a-token}",
	"artifact-hub":                   "{db: {host: postgres.example, password: a-password}, hub: {server: {cookie: {hashKey: 0123456789abcdef}, csrf: {authKey: 0123456789abcdef}}}}",
	"auth0-client":                   "{clientID: an-id, clientSecret: a-secret}",
	"avi-kubernetes-operator":        "{username: a-name, password: a-password, cluster: a-cluster, networks: [a-network]}",
	"aws-efs-csi-driver":             "{fileSystemID: fs-0}",
	"aws-iam-roles":                  "{nodeRole: a-role}",
	"aws-x-ray-collector":            "{accessKey: a-name, secretKey: a-key}",
	"azure-ad-client":                "{clientID: an-id, clientSecret: a-secret}",
	"azure-blob-container":           "{account: an-account, key: a-key}",
	"azure-cloud-config":             "{tenantID: a-tenant, subscriptionID: a-subscription, resourceGroup: a-group}",
	"azure-database-login":           "{username: shop, password: a-password}",
	"azure-dns-credentials":          "{tenantID: a-tenant, subscriptionID: a-subscription, resourceGroup: a-group, clientID: an-id, clientSecret: a-secret}",
	"azure-service-bus-namespace":    "{serviceBus: a-name, connection: a-connection}",
	"chartmuseum":                    "{password: a-password}",
	"cloudflare-credentials":         "{token: a-token}",
	"datadog-collector":              "{apiKey: a-key}",
	"docker-hub-login":               "{username: a-name, password: a-token}",
	"drone":                          `{rpcSecret: a-secret, clientID: an-id, clientSecret: a-secret, server: "https://git.example.org"}`,
	"dynatrace-collector":            "{token: a-token}",
	"ecr-login":                      "{server: 0.dkr.ecr.eu-central-1.amazonaws.com, password: a-password}",
	"gcp-pd-csi-driver":              `{serviceAccountKey: "{}"}`,
	"gcp-service-account":            `{project: a-project, serviceAccountKey: "{}"}`,
	"github-actions-runners":         `{appID: "1", installationID: "2", privateKey: a-key}`,
	"github-deploy-key":              "{privateKey: a-key}",
	"gitlab-runner":                  "{token: a-token}",
	"google-artifact-registry-login": `{password: "{}"}`,
	"google-cloud-build-deployer":    "{user: builds@example.org}",
	"google-cloud-dns-credentials":   `{serviceAccountKey: "{}"}`,
	"google-cloud-identity-client":   "{clientID: an-id, clientSecret: a-secret}",
	"google-cloud-sql-login":         "{username: shop, password: a-password}",
	"google-cloud-storage-bucket":    `{serviceAccountKey: "{}"}`,
	"google-observability-account":   `{project: a-project, serviceAccountKey: "{}"}`,
	"google-pub-sub-topic":           `{project: a-project, topic: a-topic, serviceAccountKey: "{}"}`,
	"harbor":                         harborValues,
	"honeycomb-refinery":             "{apiKey: a-key}",
	"infoblox-credentials":           "{host: infoblox.example.org, username: a-name, password: a-password}",
	"jenkins":                        "{adminPassword: a-password}",
	"krtpkg-gate":                    gateValues,
	"linkerd":                        "{trustAnchor: {certificate: a-certificate, key: a-key}}",
	"neuvector":                      "{adminPassword: a-password}",
	"new-relic-collector":            "{licenseKey: a-key}",
	"okta-client":                    "{clientID: an-id, clientSecret: a-secret, administrators: admins}",
	"openstack-trove-database":       "{username: shop, password: a-password}",
	"plastic-scm-login":              "{username: a-name, password: a-password}",
	"route-53-credentials":           "{accessKey: a-name, secretKey: a-key}",
	"s3-bucket":                      "{accessKey: a-name, secretKey: a-key}",
	"snyk-monitor":                   "{integrationID: an-id, token: a-token}",
	"storj-bucket":                   "{accessKey: a-name, secretKey: a-key}",
	"swift-container":                "{credentialID: an-id, credentialSecret: a-secret}",
	"sysdig-access-key":              "{accessKey: a-key}",
	"velero":                         "{accessKey: a-name, secretKey: a-key}",
	"vsphere-cloud-provider":         "{thumbprint: a-thumbprint, username: a-name, password: a-password}",
}

const harborValues = `
  externalURL: https://registry.example
  expose: {ingress: {hosts: {core: registry.example}}}
  trivy: {skipUpdate: true, offlineScan: true}
  database: {internal: {password: a-password}}
  adminPassword: a-password
  secret: 0123456789abcdef0123456789abcdef
  registryLogin: {password: a-password, htpasswd: "harbor_registry_user:$2y$05$hash"}
  tls: {certificate: a-certificate, key: a-key}
  token: {certificate: a-certificate, key: a-key}`

// gateValues have a whole policy, of a key that nobody has.
const gateValues = `
  upstream: registry.example/krt
  policy: |
    apiVersion: krtpkg.dev/v1alpha1
    kind: TrustPolicy
    authorities:
    - name: release
      key: |
        -----BEGIN PUBLIC KEY-----
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDEvbhd68oUsPR5V12YDvBjv5QLyt
        usQ/aiXMBpCekNqTPo+3G6G1KeC+ACVMZK9J/t/I/5OmrLSHPnZ7+/l4FQ==
        -----END PUBLIC KEY-----
    rules:
    - match: ["registry.example/krt/**"]`

// SiteValues returns a file of values with what a site has to say to bundles, as far as they ask.
func SiteValues(names ...string) string {
	var text strings.Builder
	for _, name := range slices.Sorted(slices.Values(names)) {
		if values, asks := siteValues[name]; asks {
			fmt.Fprintf(&text, "%s: %s\n", name, values)
		}
	}
	return text.String()
}
