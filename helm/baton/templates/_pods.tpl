{{/* What all pods share: identity, security, scheduling, volumes. */}}

{{/* Of: dict "root" $ "pods" VALUES "class" "control" or "worker", "account" NAME of an account whose token is used, and what baton.selector takes. */}}
{{- define "baton.podSpec" -}}
serviceAccountName: {{ .account | default (include "baton.fullname" .root) }}
automountServiceAccountToken: {{ not (empty .account) }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- $class := ternary (printf "%s-%s" (include "baton.fullname" .root) .class) "" .root.Values.priorityClasses.enabled }}
{{- with .pods.priorityClassName | default $class }}
priorityClassName: {{ . }}
{{- end }}
{{- with .pods.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .pods.topologySpread }}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "baton.selector" . | fromYaml)) }}
topologySpreadConstraints:
  {{- range .pods.topologySpread }}
  - {{ merge (deepCopy .) $selector | toJson }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "baton.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Of: dict "root" $ "pods" VALUES. */}}
{{- define "baton.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- {name: HOME, value: /tmp}
{{- with .root.Values.nats.password }}
{{- if .name }}
- name: BATON_NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ required "nats.password.key: needed with nats.password.name" .key }}}}
{{- end }}
{{- end }}
{{- with .pods.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Files that a program reads, of: dict "root" $ "config" NAME "edge" BOOL "links" BOOL "models" BOOL "tmp" SIZE. */}}
{{- define "baton.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: config, mountPath: /etc/baton/settings, readOnly: true}
{{- if .root.Values.tls.nats.enabled }}
- {name: nats-tls, mountPath: /etc/baton/tls/nats, readOnly: true}
{{- end }}
{{- if and .edge .root.Values.tls.edge.enabled }}
- {name: edge-tls, mountPath: /etc/baton/tls/edge, readOnly: true}
{{- if .root.Values.tls.edge.clientSecretName }}
- {name: clients, mountPath: /etc/baton/tls/clients, readOnly: true}
{{- end }}
{{- end }}
{{- if and .links .root.Values.tls.links.enabled }}
- {name: links-tls, mountPath: /etc/baton/tls/links, readOnly: true}
{{- end }}
{{- if .root.Values.nats.credentials.name }}
- {name: credentials, mountPath: /etc/baton/credentials, readOnly: true}
{{- end }}
{{- if and .models .root.Values.modelCache.enabled }}
- {name: models, mountPath: {{ .root.Values.modelCache.mountPath }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "baton.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .tmp | default "1Gi" }}}
- name: config
  configMap: {name: {{ .config }}}
{{- if .root.Values.tls.nats.enabled }}
- name: nats-tls
  secret: {secretName: {{ include "baton.certificate" (dict "root" .root "hop" "nats") }}, defaultMode: 0440}
{{- end }}
{{- if and .edge .root.Values.tls.edge.enabled }}
- name: edge-tls
  secret: {secretName: {{ include "baton.certificate" (dict "root" .root "hop" "edge") }}, defaultMode: 0440}
{{- with .root.Values.tls.edge.clientSecretName }}
- name: clients
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}], defaultMode: 0440}
{{- end }}
{{- end }}
{{- if and .links .root.Values.tls.links.enabled }}
- name: links-tls
  secret: {secretName: {{ include "baton.certificate" (dict "root" .root "hop" "links") }}, defaultMode: 0440}
{{- end }}
{{- if .root.Values.nats.credentials.name }}
- name: credentials
  secret: {secretName: {{ .root.Values.nats.credentials.name }}, defaultMode: 0440}
{{- end }}
{{- if and .models .root.Values.modelCache.enabled }}
- name: models
  persistentVolumeClaim: {claimName: {{ .root.Values.modelCache.existingClaim | default (printf "%s-models" (include "baton.fullname" .root)) }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Waits until the loading job has put its mark, of: dict "root" $ "models" MODELS "image" REFERENCE. */}}
{{- define "baton.waitForModels" -}}
{{- $folders := list -}}
{{- range .models -}}
{{- if (.source | default dict).hub -}}
{{- $folders = append $folders (include "baton.modelFolder" (dict "root" $.root "model" .)) -}}
{{- end -}}
{{- end -}}
{{- if $folders }}
initContainers:
  - name: wait-for-models
    image: {{ .image }}
    imagePullPolicy: {{ .root.Values.images.pullPolicy }}
    command: [sh, -c, 'for folder; do until [ -e "$folder/.loaded" ]; do sleep 2; done; done', wait-for-models]
    args: {{ $folders | toJson }}
    resources:
      requests: {cpu: 10m, memory: 16Mi}
      limits: {memory: 64Mi}
    terminationMessagePolicy: FallbackToLogsOnError
    securityContext: {{- include "baton.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: {{ .root.Values.modelCache.mountPath }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "baton.disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels: {{- include "baton.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "baton.selector" . | nindent 6 }}
{{- end -}}
