{{/* Names do not depend on the release: the operator's Lease, the runner's account and the pools' Deployments have fixed names too. */}}
{{- define "videojob.name" -}}videojob-operator{{- end }}
{{- define "videojob.uninstallName" -}}videojob-uninstall{{- end }}

{{- define "videojob.selectorLabels" -}}
app.kubernetes.io/name: videojob
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of an object; the argument is a dict of the root context and the component. */}}
{{- define "videojob.labels" -}}
app.kubernetes.io/name: videojob
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Reference of an image; the argument is a dict of the root context and the image's values. */}}
{{- define "videojob.image" -}}
{{- with .image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.root.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "videojob.operatorImage" -}}
{{ include "videojob.image" (dict "root" . "image" .Values.image) }}
{{- end }}

{{/* What restricted Pod Security requires of a pod, and of a container. */}}
{{- define "videojob.podSecurityContext" -}}
runAsNonRoot: true
{{- if eq .Values.userIDs "Fixed" }}
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "videojob.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Keeps an object when the release goes. */}}
{{- define "videojob.keep" -}}
helm.sh/resource-policy: keep
{{- end }}

{{/*
Annotations of an object of our own kinds. Helm refuses a release with kinds that the cluster does not serve yet. So a first
installation makes these objects in a hook, after the CRDs, marked as the release's own; from then on they are ordinary
objects of it. "never" is no policy of Helm's: nothing deletes them.
*/}}
{{- define "videojob.customResourceAnnotations" -}}
{{ include "videojob.keep" . }}
{{- if not (.Capabilities.APIVersions.Has "videojob.dev/v1alpha1") }}
meta.helm.sh/release-name: {{ .Release.Name | quote }}
meta.helm.sh/release-namespace: {{ .Release.Namespace | quote }}
helm.sh/hook: post-install,post-upgrade
helm.sh/hook-delete-policy: never
{{- end }}
{{- end }}

{{/* Whether this release brings the CRDs. */}}
{{- define "videojob.installsCrds" -}}
{{- if and .Values.crds.install (not .Values.namespaced.enabled) }}true{{ end }}
{{- end }}

{{/* Where alerts and dashboards link to for runbooks. */}}
{{- define "videojob.runbooks" -}}
{{- with .Values.monitoring.runbookBaseUrl }}{{ trimSuffix "/" . }}/{{ end }}docs/runbooks
{{- end }}
