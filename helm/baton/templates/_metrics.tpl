{{/* Selects the metrics of this release in PromQL. */}}
{{- define "baton.series" -}}
namespace="{{ .Release.Namespace }}",pod=~"{{ include "baton.fullname" . }}-.*"
{{- end -}}
