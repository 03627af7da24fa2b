{{/*
Objects are named for what they are, not for the release: there is one agent per node, the policies
hold for the whole cluster, and sqlrepctl finds the agents by their labels.
*/}}
{{- define "sqlrep.labels" -}}
app.kubernetes.io/name: sqlrep
app.kubernetes.io/part-of: sqlrep
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "sqlrep.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* "true" where the cluster is to have the policies that mend pods and Deployments. */}}
{{- define "sqlrep.mends" -}}
{{- $wanted := toString .Values.admission.policies -}}
{{- $has := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
{{- if or (eq $wanted "true") (and (eq $wanted "auto") $has) -}}true{{- end -}}
{{- end -}}

{{/*
The objects of a file that kustomize uses too (../shared), in the release's namespace and with its
labels. Takes a list: the root context, the file's name.
*/}}
{{- define "sqlrep.shared" -}}
{{- $root := index . 0 -}}
{{- $text := $root.Files.Get (printf "shared/%s" (index . 1)) | required (printf "shared/%s is missing" (index . 1)) -}}
{{- $text = regexReplaceAll "(?m)^( *)namespace: sqlrep$" $text (printf "${1}namespace: %s" $root.Release.Namespace) -}}
{{- range splitList "\n---\n" $text }}
{{- $object := fromYaml . -}}
{{- $_ := set $object.metadata "labels" (merge (fromYaml (include "sqlrep.labels" $root)) ($object.metadata.labels | default dict)) }}
---
{{ toYaml $object }}
{{- end }}
{{- end -}}
