{{/* The operator's configuration file, as tunesmith_operator/config.py reads it. */}}
{{- define "tunesmith.config" -}}
namespaces: {{ toJson .Values.watchNamespaces }}
trainerImage: {{ include "tunesmith.image" (dict "image" .Values.trainerImage "root" .) | quote }}
imagePullPolicy: {{ .Values.trainerImage.pullPolicy }}
imagePullSecrets: {{ toJson .Values.trainerImage.pullSecrets }}
s3: {{ toJson .Values.s3 }}
gpu:
  resourceName: {{ .Values.gpu.resourceName | quote }}
  types:
    {{- toYaml .Values.gpuTypes | nindent 4 }}
  memoryGiB: {{ toJson .Values.gpuMemoryGiB }}
  tolerations: {{ toJson .Values.gpu.tolerations }}
  runtimeClassName: {{ .Values.gpu.runtimeClassName | quote }}
caBundle: {{ toJson .Values.caBundle }}
trainerPods: {{ toJson .Values.trainerPods }}
workVolume: {{ toJson .Values.workVolume }}
prepareResources: {{ toJson .Values.prepareResources }}
allowedServiceAccounts: {{ toJson .Values.allowedServiceAccounts }}
serving:
  {{- include "tunesmith.servingConfig" . | nindent 2 }}
kueue: {{ toJson .Values.kueue }}
leaderElection:
  enabled: true
  leaseName: {{ include "tunesmith.fullname" . }}
  namespace: {{ .Release.Namespace }}
  leaseDurationSeconds: {{ .Values.leaderElection.leaseDurationSeconds }}
  renewDeadlineSeconds: {{ .Values.leaderElection.renewDeadlineSeconds }}
  retryPeriodSeconds: {{ .Values.leaderElection.retryPeriodSeconds }}
workers: {{ int .Values.workers }}
resyncSeconds: {{ int .Values.resyncSeconds }}
progressSeconds: {{ .Values.progressSeconds }}
probePort: 8080
logLevel: {{ .Values.log.level }}
{{- end -}}

{{- define "tunesmith.servingConfig" -}}
{{- $serving := .Values.serving -}}
image: {{ include "tunesmith.image" (dict "image" .Values.image "root" .) | quote }}
imagePullPolicy: {{ $serving.pullPolicy }}
imagePullSecrets: {{ toJson $serving.pullSecrets }}
engineImages:
{{- range $name, $image := $serving.engineImages }}
  {{ $name }}: {{ include "tunesmith.image" (dict "image" $image "root" $) | quote }}
{{- end }}
router:
  image: {{ include "tunesmith.image" (dict "image" $serving.router.image "root" .) | quote }}
  replicas: {{ int $serving.router.replicas }}
  resources: {{ toJson $serving.router.resources }}
  agentResources: {{ toJson $serving.router.agentResources }}
  agentNamespace: {{ ternary .Release.Namespace "" $serving.router.networkPolicy | quote }}
  pods: {{ toJson $serving.router.pods }}
  keyFile: {{ include "tunesmith.routerKeyPath" . }}/key
sidecarResources: {{ toJson $serving.sidecarResources }}
fetchResources: {{ toJson $serving.fetchResources }}
sharedMemory: {{ $serving.sharedMemory }}
preStopSeconds: {{ int $serving.preStopSeconds }}
drainSeconds: {{ int $serving.drainSeconds }}
pods: {{ toJson $serving.pods }}
modelsVolume: {{ toJson $serving.modelsVolume }}
{{- end -}}

{{/* Where the operator finds the secret that routers' tokens are derived from. */}}
{{- define "tunesmith.routerKeyPath" -}}
/etc/tunesmith-router
{{- end -}}

{{- define "tunesmith.routerKeyName" -}}
{{- default (printf "%s-router-key" (include "tunesmith.fullname" . | trunc 52 | trimSuffix "-")) .Values.serving.router.keySecret -}}
{{- end -}}
