{{/* The pods of a worker. */}}

{{/* Longest start: the engine's own bound and what surrounds it; seconds. */}}
{{- define "baton.startSeconds" -}}
{{- $engine := first (fromJson .settings).workers | dig "engine" dict -}}
{{- add (ceil (get $engine "boot_timeout_s" | default 60)) 120 -}}
{{- end -}}

{{- define "baton.workerResources" -}}
{{- $devices := dict -}}
{{- if gt (int .pool.gpu.count) 0 }}{{ $_ := set $devices .pool.gpu.resource (int .pool.gpu.count) }}{{ end -}}
{{- if .pool.rdma.resource }}{{ $_ := set $devices .pool.rdma.resource (int .pool.rdma.count) }}{{ end -}}
{{- $devices = dict "requests" $devices "limits" $devices -}}
{{- mergeOverwrite (deepCopy .pool.resources) (deepCopy $devices) | toYaml -}}
{{- end -}}

{{/* A pod of a worker: the worker itself, or of one that spans machines the part on one of them. */}}
{{- define "baton.workerPod" -}}
{{- $gpu := gt (int .pool.gpu.count) 0 -}}
{{- $control := eq .pool.engine "simulated" -}}
{{- $image := ternary .root.Values.images.control (ternary .root.Values.images.gpu .root.Values.images.cpu $gpu) $control -}}
{{- with .pool.image }}
{{- if or .repository .tag .digest }}
{{- $image = dict "repository" (.repository | default $image.repository) "tag" .tag "digest" .digest }}
{{- end }}
{{- end -}}
{{- $reference := include "baton.image" (dict "root" .root "image" $image) -}}
metadata:
  labels: {{- merge (include "baton.selector" . | fromYaml) .pool.labels | toYaml | nindent 4 }}
  annotations: {{- merge (dict "checksum/settings" (sha256sum .settings)) .pool.annotations | toYaml | nindent 4 }}
spec:
  {{- include "baton.podSpec" . | nindent 2 }}
  {{- with .pool.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  # At SIGTERM a worker leaves the fleet, finishes what runs and keeps what it handed over until it is pulled.
  terminationGracePeriodSeconds: {{ add .pool.drainTimeoutSeconds 30 }}
  {{- include "baton.waitForModels" (dict "root" .root "models" (list .model) "image" $reference) | nindent 2 }}
  containers:
    - name: worker
      image: {{ $reference }}
      imagePullPolicy: {{ .root.Values.images.pullPolicy }}
      command: [baton]
      args:
        - worker
        - --settings=/etc/baton/settings/worker.json
        - --set=workers.0.worker_id=$(POD_NAME)
        - --set=workers.0.engine.side_channel_host=$(POD_IP)
        - --set=link.advertised_host=$(POD_IP)
        {{- if gt (int .pool.nodes) 1 }}
        # Set by the LeaderWorkerSet controller (0.6 or later).
        - --set=workers.0.engine.nodes.rank=$(LWS_WORKER_INDEX)
        - --set=workers.0.engine.nodes.leader_host=$(LWS_LEADER_ADDRESS)
        {{- end }}
      env: {{- include "baton.env" . | nindent 8 }}
      ports:
        - {name: link, containerPort: 7000}
        - {name: metrics, containerPort: 9090}
      startupProbe:
        httpGet: {path: /health/ready, port: metrics}
        periodSeconds: 5
        failureThreshold: {{ div (include "baton.startSeconds" . | int) 5 }}
      # The worker itself asks its engine every second whether it still steps, and ends when it does not.
      livenessProbe:
        httpGet: {path: /health/live, port: metrics}
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /health/ready, port: metrics}
        timeoutSeconds: 5
      resources: {{- include "baton.workerResources" . | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      securityContext: {{- include "baton.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: shared-memory, mountPath: /dev/shm}
        {{- include "baton.mounts" . | nindent 8 }}
  volumes:
    - name: shared-memory
      emptyDir: {medium: Memory, sizeLimit: {{ .pool.sharedMemory }}}
    {{- include "baton.volumes" . | nindent 4 }}
{{- end -}}
