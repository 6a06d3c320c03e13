{{- define "gregor.labels" -}}
app.kubernetes.io/name: gregor
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "gregor.selector" -}}
app.kubernetes.io/name: gregor
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gregor.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "gregor" $name) }}{{ $name = printf "%s-gregor" $name }}{{ end -}}
{{ $name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Of what is in no namespace: releases in two namespaces do not share it. */}}
{{- define "gregor.clusterName" -}}
{{ printf "%s-%s" .Release.Namespace (include "gregor.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Whether it asks the API server for pods. */}}
{{- define "gregor.watchesPods" -}}
{{- if and (has "kubernetes" .Values.identity.sources) (not .Values.detach) }}true{{ end -}}
{{- end }}

{{/* Whether it asks the API server for namespaces: where a rule selects them by labels. */}}
{{- define "gregor.watchesNamespaces" -}}
{{- $found := false -}}
{{- if .Values.config -}}
{{- $found = regexMatch "(?m)^\\s*(namespaces\\s*=\\s*\\{|\\[rule\\.namespaces\\])" .Values.config -}}
{{- else -}}
{{- range .Values.rules -}}
{{- if kindIs "map" .namespaces }}{{ $found = true }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if and $found .Values.kubernetes.watch (not .Values.detach) }}true{{ end -}}
{{- end }}

{{/* In TOML: a word, a list, or a table of labels. */}}
{{- define "gregor.listOrLabels" -}}
{{- if kindIs "map" . -}}
{{- $labels := . -}}
{ {{ range $index, $label := keys $labels | sortAlpha }}{{ if $index }}, {{ end }}{{ $label | toRawJson }} = {{ get $labels $label | toRawJson }}{{ end }} }
{{- else -}}
{{ . | toRawJson }}
{{- end -}}
{{- end }}

{{/* Whether it reads the results of the CNI. */}}
{{- define "gregor.readsResults" -}}
{{- if and (has "cni" .Values.identity.sources) (not .Values.detach) }}true{{ end -}}
{{- end }}

{{/* Whether it speaks to the API server. */}}
{{- define "gregor.watches" -}}
{{- if or (and .Values.kubernetes.watch (not .Values.detach)) (include "gregor.watchesPods" .) }}true{{ end -}}
{{- end }}

{{- define "gregor.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* Addresses of caches on the node, by preset. */}}
{{- define "gregor.nodeServers" -}}
{{- $table := dict
  "nodelocal" (list "169.254.20.10")
  "aks" (list "169.254.10.11" "169.254.10.10")
  "gke" (list "169.254.20.10" "169.254.169.254")
  "eks" (list "169.254.20.10")
  "eks-auto" (list "169.254.20.10")
  "service" (list) -}}
{{- get $table .Values.preset | toJson -}}
{{- end }}

{{/* The Service's addresses where nobody says them and nothing can be looked up: the provider's defaults, if it has any. */}}
{{- define "gregor.serviceServers" -}}
{{- $table := dict "aks" (list "10.0.0.10") "eks" (list "172.20.0.10" "10.100.0.10") "eks-auto" (list "172.20.0.10" "10.100.0.10") -}}
{{- $found := list -}}
{{- with lookup "v1" "Service" "kube-system" "kube-dns" -}}
{{- $found = .spec.clusterIPs | default (list .spec.clusterIP) -}}
{{- end -}}
{{- .Values.clusterDNS | default $found | default (get $table .Values.preset) | default list | toJson -}}
{{- end }}

{{- define "gregor.servers" -}}
{{- $servers := .Values.servers -}}
{{- if and (not $servers) (eq .Values.preset "auto") -}}
{{- $servers = concat (list "auto") .Values.clusterDNS -}}
{{- else if not $servers -}}
{{- $servers = concat (include "gregor.nodeServers" . | fromJsonArray) (include "gregor.serviceServers" . | fromJsonArray) | uniq -}}
{{- end -}}
{{- if not $servers -}}
{{- fail "no address to intercept: set clusterDNS to that of `kubectl -n kube-system get service kube-dns`" -}}
{{- end -}}
{{- $servers | toJson -}}
{{- end }}

{{/* Whether each node learns servers. */}}
{{- define "gregor.learns" -}}
{{- if and (has "auto" (include "gregor.servers" . | fromJsonArray)) (not .Values.detach) -}}
{{- if not (or .Values.kubernetes.watch .Values.kubernetes.kubeletConfig) -}}
{{- fail "servers: auto takes kubernetes.kubeletConfig or kubernetes.watch to learn them from" -}}
{{- end -}}
true
{{- end -}}
{{- end }}

{{/* The kubelet's configuration, where it is to be read. */}}
{{- define "gregor.kubeletConfig" -}}
{{- if include "gregor.learns" . }}{{ .Values.kubernetes.kubeletConfig }}{{ end -}}
{{- end }}

{{- define "gregor.kubeletConfigDir" -}}
{{- if include "gregor.kubeletConfig" . }}{{ .Values.kubernetes.kubeletConfigDir }}{{ end -}}
{{- end }}

{{- define "gregor.listen" -}}
{{- $address := .Values.metrics.address -}}
{{- if contains ":" $address }}{{ $address = printf "[%s]" $address }}{{ end -}}
{{ $address }}:{{ int .Values.metrics.port }}
{{- end }}

{{/* What each container has. */}}
{{- define "gregor.container" -}}
image: {{ include "gregor.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  readOnlyRootFilesystem: true
  {{- if .Values.privileged }}
  privileged: true
  {{- else }}
  privileged: false
  allowPrivilegeEscalation: false
  capabilities:
    drop: ["ALL"]
    add:
      {{- range .Values.capabilities }}
      - {{ . }}
      {{- end }}
      {{- if .Values.detach }}
      - SYS_ADMIN # open links by their ids
      {{- end }}
  {{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  # The whole directory, never a subPath: a subPath mount does not see changes.
  - name: config
    mountPath: /etc/gregor
    readOnly: true
  - name: run
    mountPath: /run/gregor
  # Programs, links and answers outlive the pod here.
  - name: bpffs
    mountPath: /sys/fs/bpf
    mountPropagation: HostToContainer
  {{- if include "gregor.readsResults" . }}
  - name: cni-results
    mountPath: {{ .Values.identity.cniResults }}
    readOnly: true
  {{- end }}
  {{- with include "gregor.kubeletConfig" . }}
  # The file alone: its directory has the pods' volumes.
  - name: kubelet-config
    mountPath: {{ . }}
    readOnly: true
  {{- end }}
  {{- with include "gregor.kubeletConfigDir" . }}
  - name: kubelet-config-dir
    mountPath: {{ . }}
    readOnly: true
  {{- end }}
{{- end }}

{{/* The profile of AppArmor as the annotation of Kubernetes before 1.30; empty later, and where there is none. */}}
{{- define "gregor.apparmorByAnnotation" -}}
{{- if semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version -}}
{{- with .Values.appArmorProfile -}}
{{- if eq .type "Localhost" -}}
localhost/{{ .localhostProfile }}
{{- else if eq .type "RuntimeDefault" -}}
runtime/default
{{- else -}}
unconfined
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
