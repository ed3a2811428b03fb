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
  tolerations: {{ toJson .Values.gpu.tolerations }}
prepareResources: {{ toJson .Values.prepareResources }}
allowedServiceAccounts: {{ toJson .Values.allowedServiceAccounts }}
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
