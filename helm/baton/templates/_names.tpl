{{/* Names and labels. */}}

{{- define "baton.fullname" -}}
{{- if contains "baton" .Release.Name -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-baton" (.Release.Name | trunc 24 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods, of: dict "root" $ "component" TEXT, "poolName" NAME for workers of one pool. */}}
{{- define "baton.selector" -}}
app.kubernetes.io/name: baton
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- if .poolName }}
baton/pool: {{ .poolName }}
{{- end }}
{{- end -}}

{{- define "baton.labels" -}}
{{ include "baton.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Image reference, of: dict "root" $ "image" IMAGE. */}}
{{- define "baton.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Name of the Secret with a hop's certificate, of: dict "root" $ "hop" NAME. */}}
{{- define "baton.certificate" -}}
{{- $hop := index .root.Values.tls .hop -}}
{{- if $hop.secretName -}}
{{ $hop.secretName }}
{{- else if $hop.issuer | default .root.Values.tls.issuer -}}
{{ include "baton.fullname" .root }}-{{ .hop }}-tls
{{- else -}}
{{- fail (printf "tls.%s.secretName: name a Secret, or give tls.issuer for cert-manager" .hop) -}}
{{- end -}}
{{- end -}}
