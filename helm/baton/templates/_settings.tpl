{{/*
Settings files of the programs, as JSON: what values pass through, and over it what follows from the
cluster's shape. What only a pod knows, its name and address, is in its arguments.
*/}}

{{- define "baton.natsHosts" -}}
{{- $name := printf "%s-nats" (include "baton.fullname" .) -}}
{{- range $i := until (int .Values.nats.replicas) }}{{ if $i }},{{ end }}{{ $name }}-{{ $i }}.{{ $name }}{{ end -}}
{{- end -}}

{{/* Names by which gateways are called inside the cluster. */}}
{{- define "baton.gatewayHosts" -}}
{{- $name := printf "%s-gateway" (include "baton.fullname" .) -}}
{{ $name }},{{ $name }}.{{ .Release.Namespace }},{{ $name }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{- define "baton.natsUrl" -}}
{{- if not .Values.nats.enabled -}}
{{ required "nats.url: needed when nats.enabled is false" .Values.nats.url }}
{{- else -}}
{{- $scheme := ternary "tls" "nats" .Values.tls.nats.enabled -}}
{{- range $i, $host := splitList "," (include "baton.natsHosts" .) }}{{ if $i }},{{ end }}{{ $scheme }}://{{ $host }}:4222{{ end -}}
{{- end -}}
{{- end -}}

{{- define "baton.busSettings" -}}
{{- $nats := .Values.nats -}}
{{- $bus := dict
  "url" (include "baton.natsUrl" .)
  "namespace" (printf "%s-%s" .Release.Namespace (include "baton.fullname" .) | trunc 63 | trimSuffix "-")
  "replicas" (int $nats.replicas) -}}
{{- if $nats.password.name -}}
{{- $_ := set $bus "user" $nats.user -}}
{{- $_ := set $bus "password_env" "BATON_NATS_PASSWORD" -}}
{{- end -}}
{{- if $nats.credentials.name -}}
{{- $_ := set $bus "credentials_file" (printf "/etc/baton/credentials/%s" $nats.credentials.key) -}}
{{- end -}}
{{- if .Values.tls.nats.enabled -}}
{{- $_ := set $bus "tls" (dict
  "ca_file" "/etc/baton/tls/nats/ca.crt"
  "cert_file" "/etc/baton/tls/nats/tls.crt"
  "key_file" "/etc/baton/tls/nats/tls.key") -}}
{{- end -}}
{{- mergeOverwrite (dict "connect_timeout_s" 60) (deepCopy (.Values.settings.bus | default dict)) $bus | toJson -}}
{{- end -}}

{{/* A worker listens on every interface and advertises its pod's address. */}}
{{- define "baton.linkSettings" -}}
{{- $link := dict "host" "0.0.0.0" "port" 7000 -}}
{{- if .Values.tls.links.enabled -}}
{{- $_ := set $link "tls" (dict
  "certificate_file" "/etc/baton/tls/links/tls.crt"
  "key_file" "/etc/baton/tls/links/tls.key"
  "authority_file" "/etc/baton/tls/links/ca.crt"
  "server_name" "workers.baton.internal") -}}
{{- end -}}
{{- mergeOverwrite (deepCopy (.Values.settings.link | default dict)) $link | toJson -}}
{{- end -}}

{{/* Where a model's files are, of: dict "root" $ "model" MODEL. */}}
{{- define "baton.modelFolder" -}}
{{- $source := .model.source | default dict -}}
{{- if .model.folder -}}
{{ .model.folder }}
{{- else if $source.hub -}}
{{- if not .root.Values.modelCache.enabled -}}
{{- fail (printf "modelCache.enabled: needed to load model %s from %s" .model.name $source.hub) -}}
{{- end -}}
{{ .root.Values.modelCache.mountPath }}/{{ .model.name }}/{{ required (printf "models: %s: source.revision: name a commit or tag" .model.name) $source.revision }}
{{- else -}}
/opt/baton/models/baton-tiny
{{- end -}}
{{- end -}}

{{- define "baton.edgeSettings" -}}
{{- $edge := dict "host" "0.0.0.0" "http_port" 8000 "grpc_port" 8001 "metrics_port" 9090 -}}
{{- if .Values.tls.edge.enabled -}}
{{- $tls := dict
  "certificate_file" "/etc/baton/tls/edge/tls.crt"
  "key_file" "/etc/baton/tls/edge/tls.key" -}}
{{- if .Values.tls.edge.clientSecretName -}}
{{- $_ := set $tls "client_authority_file" "/etc/baton/tls/clients/ca.crt" -}}
{{- end -}}
{{- $_ := set $edge "tls" $tls -}}
{{- end -}}
{{- mergeOverwrite (deepCopy (.Values.settings.edge | default dict)) $edge | toJson -}}
{{- end -}}

{{- define "baton.gatewaySettings" -}}
{{- $models := list -}}
{{- range .Values.models -}}
{{- $models = append $models (dict "name" .name "folder" (include "baton.modelFolder" (dict "root" $ "model" .))) -}}
{{- end -}}
{{- $own := dict
  "models" $models
  "bus" (include "baton.busSettings" . | fromJson)
  "edge" (include "baton.edgeSettings" . | fromJson)
  "conductor" (mergeOverwrite (dict "drain_timeout_s" 60) (deepCopy (.Values.settings.conductor | default dict)))
  "router" (.Values.settings.router | default dict)
  "link" (omit (include "baton.linkSettings" . | fromJson) "host" "port")
  "log_format" .Values.settings.log_format -}}
{{- if .Values.router.enabled -}}
{{- $_ := set $own "router_address" (printf "%s-router:8002" (include "baton.fullname" .)) -}}
{{- end -}}
{{- $own | toJson -}}
{{- end -}}

{{- define "baton.routerSettings" -}}
{{- dict
  "address" "0.0.0.0:8002"
  "bus" (include "baton.busSettings" . | fromJson)
  "router" (.Values.settings.router | default dict)
  "link" (include "baton.linkSettings" . | fromJson)
  "metrics_port" 9090
  "log_format" .Values.settings.log_format | toJson -}}
{{- end -}}

{{/* Names of the pools that the planner scales, as a list. */}}
{{- define "baton.plannedPools" -}}
{{- $names := list -}}
{{- if .Values.planner.enabled }}{{ range .Values.planner.pools }}{{ $names = append $names .name }}{{ end }}{{ end -}}
{{- $names | toJson -}}
{{- end -}}

{{- define "baton.plannerSettings" -}}
{{- $roles := dict -}}
{{- $resources := dict -}}
{{- range .Values.pools -}}
{{- $pool := include "baton.pool" (dict "root" $ "pool" .) | fromJson -}}
{{- $_ := set $roles .name $pool.role -}}
{{- $_ := set $resources .name (ternary "leaderworkerset" "deployment" (gt (int $pool.nodes) 1)) -}}
{{- end -}}
{{- $workloads := list -}}
{{- range required "planner.pools: name what the planner scales" (.Values.planner.pools | default nil) -}}
{{- $role := get $roles .name -}}
{{- if not (has $role (list "prefill" "decode")) -}}
{{- fail (printf "planner.pools: %s: must be a pool of role prefill or decode" .name) -}}
{{- end -}}
{{- $name := printf "%s-%s" (include "baton.fullname" $) .name -}}
{{- $workloads = append $workloads (dict "phase" $role "name" $name "kind" (.kind | default "default") "resource" (get $resources .name)) -}}
{{- end -}}
{{- $lease := dict "name" (printf "%s-planner" (include "baton.fullname" .)) -}}
{{- $observe := dict -}}
{{- if .Values.planner.prometheusUrl -}}
{{- $observe = dict "source" "prometheus" "url" .Values.planner.prometheusUrl "selector" (include "baton.series" .) -}}
{{- else if gt (int .Values.gateway.replicas) 1 -}}
{{- fail "planner.prometheusUrl: needed with several gateways, since a Service leads to any one of them" -}}
{{- else -}}
{{- $url := printf "http://%s-gateway-metrics:9090/metrics" (include "baton.fullname" .) -}}
{{- $observe = dict "source" "gateways" "urls" (list $url) "bus" (include "baton.busSettings" . | fromJson) -}}
{{- end -}}
{{- $targets := dict "ttft_s" (dig "router" "ttft_target_s" 0.5 .Values.settings) "tpot_s" (dig "router" "tpot_target_s" 0.03 .Values.settings) -}}
{{- $planner := mergeOverwrite (dict "targets" $targets "limits" (dict "flips" false)) (deepCopy .Values.planner.settings) -}}
{{- $turns := dict -}}
{{- if dig "limits" "flips" false $planner -}}
{{- $turns = dict "bus" (include "baton.busSettings" . | fromJson) -}}
{{- end -}}
{{- merge $turns (dict
  "planner" $planner
  "observe" $observe
  "target" (dict "target" "kubernetes" "namespace" .Release.Namespace "workloads" $workloads "lease" $lease)
  "decisions_file" "/tmp/decisions.jsonl"
  "metrics_host" "0.0.0.0"
  "metrics_port" 9090
  "log_format" .Values.settings.log_format) | toJson -}}
{{- end -}}

{{/* A pool with its defaults, of: dict "root" $ "pool" POOL. */}}
{{- define "baton.pool" -}}
{{- mergeOverwrite (deepCopy .root.Values.poolDefaults) (deepCopy .pool) | toJson -}}
{{- end -}}

{{/* The engine of a pool, of: dict "root" $ "pool" POOL-WITH-DEFAULTS "model" MODEL. */}}
{{- define "baton.engineSettings" -}}
{{- $pool := .pool -}}
{{- if eq $pool.engine "simulated" -}}
{{- if gt (int $pool.nodes) 1 }}{{ fail (printf "pools: %s: nodes: a simulated engine needs no second machine" $pool.name) }}{{ end -}}
{{- mergeOverwrite (dict "lease_s" 30) $pool.simulated (dict "kind" "simulated") | toJson -}}
{{- else -}}
{{- $engine := dict "lease_s" 30 "boot_timeout_s" 300 -}}
{{- if gt (int $pool.gpu.count) 0 -}}
{{- $_ := required (printf "pools: %s: vllm.performance: with GPUs, name a preset or give numbers measured on this engine" $pool.name) $pool.vllm.performance -}}
{{- $engine = dict
  "lease_s" 30
  "boot_timeout_s" 1800
  "dtype" "auto"
  "kv_cache_bytes" nil
  "enforce_eager" false
  "step_tokens_max" 8192
  "sequences_max" 256
  "ucx_transports" ""
  "tensor_parallel_size" (mul $pool.gpu.count $pool.nodes) -}}
{{- end -}}
{{- $own := dict
  "kind" "vllm"
  "model" (include "baton.modelFolder" (dict "root" .root "model" .model))
  "model_name" .model.name
  "side_channel_port" 5600 -}}
{{- if gt (int $pool.nodes) 1 -}}
{{- $_ := set $own "nodes" (dict "count" (int $pool.nodes) "leader_port" 29501) -}}
{{- end -}}
{{- mergeOverwrite $engine $pool.vllm $own | toJson -}}
{{- end -}}
{{- end -}}

{{- define "baton.workerSettings" -}}
{{- $engine := include "baton.engineSettings" . | fromJson -}}
{{- $phases := dict "prefill" (list "prefill") "decode" (list "decode") "both" (list "decode" "prefill") -}}
{{- $worker := mergeOverwrite (deepCopy .pool.worker) (dict
  "model" .model.name
  "engine" $engine
  "phases" (index $phases .pool.role)
  "prefill" (.root.Values.settings.prefill | default dict)) -}}
{{- if ne .pool.engine "vllm" -}}
{{- $_ := set $worker "warm_up_tokens" 0 -}}
{{- end -}}
{{- if le (int .pool.drainTimeoutSeconds) (int $engine.lease_s) -}}
{{- fail (printf "pools: %s: drainTimeoutSeconds (%v) must be above the engine's lease_s (%v): a worker that ends keeps what it handed over until then" .pool.name .pool.drainTimeoutSeconds $engine.lease_s) -}}
{{- end -}}
{{- dict
  "workers" (list $worker)
  "bus" (include "baton.busSettings" .root | fromJson)
  "link" (include "baton.linkSettings" .root | fromJson)
  "drain_timeout_s" (int .pool.drainTimeoutSeconds)
  "metrics_port" 9090
  "log_format" .root.Values.settings.log_format | toJson -}}
{{- end -}}
