{{/*
What operator, runner and uninstall job may do, by where it is: in the namespaces of jobs, in what has no namespace, and in the
release's own namespace. This is the only place where rules are written: manifests/rbac and manifests/install.yaml are rendered
from the chart (`make generate`).
*/}}
{{- define "videojob.rules.operator.jobs" -}}
# patch sets and removes the finalizer, delete is for ttlSecondsAfterFinished.
- apiGroups: [videojob.dev]
  resources: [videojobs]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [videojob.dev]
  resources: [videoqueues]
  verbs: [get, list, watch]
- apiGroups: [videojob.dev]
  resources: [videojobs/status, videoqueues/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}

{{- define "videojob.rules.operator.cluster" -}}
- apiGroups: [videojob.dev]
  resources: [videomodels, gpupools]
  verbs: [get, list, watch]
- apiGroups: [videojob.dev]
  resources: [gpupools/status]
  verbs: [patch]
{{- end }}

{{- define "videojob.rules.operator.system" -}}
# Heartbeats of replicas; patch asks a replica to drain. Creating, for leader election, cannot be restricted to a name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, patch]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [videojob-operator]
  verbs: [update]
# Credentials of stores, to remove the files of deleted jobs: by the name that a pool gives, never listed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# The certificate authority of a store, by the name that a pool gives, never listed; and the list of files that could not be removed.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [videojob-orphans]
  verbs: [patch]
# Managed pools. Pods are read for what keeps them from running, and patched with their deletion cost.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
{{- end }}

{{- define "videojob.rules.runner.jobs" -}}
- apiGroups: [videojob.dev]
  resources: [videojobs]
  verbs: [get, list, watch]
- apiGroups: [videojob.dev]
  resources: [videojobs/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}

{{- define "videojob.rules.runner.cluster" -}}
- apiGroups: [videojob.dev]
  resources: [videomodels, gpupools]
  verbs: [get, list, watch]
{{- end }}

{{- define "videojob.rules.runner.system" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update, patch]
# Credentials and certificate authority of the pool's store, by name.
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get]
{{- end }}

{{- define "videojob.rules.team" -}}
# People of a team with an operator of its own. status as well: nobody can give the operator a right that he lacks himself.
- apiGroups: [videojob.dev]
  resources: [videojobs, videojobs/status, videoqueues, videoqueues/status]
  verbs: [get, list, watch, create, update, patch, delete, deletecollection]
{{- end }}

{{- define "videojob.rules.uninstall.jobs" -}}
# patch takes off the finalizer; get reads a job that somebody else changes meanwhile.
- apiGroups: [videojob.dev]
  resources: [videojobs]
  verbs: [get, list, patch]
{{- end }}

{{- define "videojob.rules.uninstall.system" -}}
# The operator's own, and those of the pools.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- end }}

{{/* A Role or ClusterRole and its binding. The argument: root, kind, name, account, component, rules, annotations. */}}
{{- define "videojob.role" -}}
{{- $namespaced := eq .kind "Role" }}
{{- if .rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ .name }}
  {{- if $namespaced }}
  namespace: {{ .root.Release.Namespace | quote }}
  {{- end }}
  labels:
    {{- include "videojob.labels" . | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
rules:
  {{- .rules | nindent 2 }}
{{- end }}
{{- if .account }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ .binding | default .name }}
  {{- if $namespaced }}
  namespace: {{ .root.Release.Namespace | quote }}
  {{- end }}
  labels:
    {{- include "videojob.labels" . | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .account | quote }}
    namespace: {{ .root.Release.Namespace | quote }}
{{- end }}
{{- end }}
