{{/*
Every object is named vethwall, whatever the release is named: a cluster has one, and helm refuses a second.
Labels by which the agents' pods are found can not change between versions.
*/}}
{{- define "vethwall.selector" -}}
app.kubernetes.io/name: vethwall
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "vethwall.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "vethwall.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "vethwall.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* k3s says who it is in its version (v1.33.4+k3s1); MicroK8s does not. */}}
{{- define "vethwall.platform" -}}
{{- if ne .Values.platform "auto" }}{{ .Values.platform }}
{{- else if contains "+k3s" .Capabilities.KubeVersion.Version }}k3s
{{- else }}generic
{{- end }}
{{- end }}

{{/*
The directories of the node that the agent needs, at the same paths as there, so that what the runtime tells of them holds
inside too. They are those that agent/src/chain/places.rs and agent/src/cri look for; what the configuration names comes
instead.
*/}}
{{- define "vethwall.directories" -}}
{{- $at := dict "generic" (dict
      "conf" "/etc/cni/net.d" "bin" "/opt/cni/bin" "run" (list "/run/containerd" "/run/crio"))
    "k3s" (dict
      "conf" "/var/lib/rancher/k3s/agent/etc/cni/net.d" "bin" "/var/lib/rancher/k3s/data" "run" (list "/run/k3s/containerd"))
    "microk8s" (dict
      "conf" "/var/snap/microk8s/current/args/cni-network" "bin" "/var/snap/microk8s/current/opt/cni/bin"
      "run" (list "/var/snap/microk8s/common/run")) }}
{{- $usual := get $at (include "vethwall.platform" .) }}
{{- $config := .Values.config }}
conf: {{ $config.cniConfDir | default $usual.conf }}
bin: {{ $config.cniBinDir | default $usual.bin }}
{{- $socket := $config.criSocket | default "auto" | trimPrefix "unix://" }}
{{- if eq $socket "auto" }}
run: {{ $usual.run | toJson }}
{{- else if eq $socket "none" }}
run: []
{{- else }}
run: {{ list (dir $socket) | toJson }}
{{- end }}
{{- end }}

{{/* Volumes of the node's directories, and where they are mounted. */}}
{{- define "vethwall.volumes" -}}
{{- $at := include "vethwall.directories" . | fromYaml -}}
- name: config
  configMap:
    name: {{ .configMap | default "vethwall" }}
- name: bpffs
  hostPath: {path: /sys/fs/bpf, type: Directory}
- name: run
  hostPath: {path: /run/vethwall, type: DirectoryOrCreate}
- name: flannel
  hostPath: {path: /run/flannel, type: DirectoryOrCreate}
- name: cni-results
  hostPath: {path: {{ .Values.config.cniCache | default "/var/lib/cni/results" | dir }}, type: DirectoryOrCreate}
- name: cni-conf
  hostPath: {path: {{ $at.conf }}, type: DirectoryOrCreate}
- name: cni-bin
  hostPath: {path: {{ $at.bin }}, type: DirectoryOrCreate}
{{- range $i, $path := $at.run }}
- name: runtime-{{ $i }}
  hostPath: {path: {{ $path }}, type: DirectoryOrCreate}
{{- end }}
{{- end }}

{{/*
What the plugin's installation needs, and asking the runtime where that is. The mounts of all containers are below a runtime's
directory: what ends on the node must end in our container too.
*/}}
{{- define "vethwall.installMounts" -}}
{{- $at := include "vethwall.directories" . | fromYaml -}}
- {name: config, mountPath: /etc/vethwall, readOnly: true}
- {name: cni-conf, mountPath: {{ $at.conf }}}
- {name: cni-bin, mountPath: {{ $at.bin }}}
{{- range $i, $path := $at.run }}
- {name: runtime-{{ $i }}, mountPath: {{ $path }}, mountPropagation: HostToContainer}
{{- end }}
{{- end }}

{{- define "vethwall.mounts" -}}
{{ include "vethwall.installMounts" . }}
- {name: bpffs, mountPath: /sys/fs/bpf, mountPropagation: HostToContainer}
- {name: run, mountPath: /run/vethwall}
- {name: flannel, mountPath: /run/flannel, readOnly: true}
- {name: cni-results, mountPath: {{ .Values.config.cniCache | default "/var/lib/cni/results" | dir }}, readOnly: true}
{{- end }}

{{/* Of every container: root without rights, but for those named. */}}
{{- define "vethwall.securityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsUser: 0
runAsGroup: 0
capabilities:
  drop: [ALL]
  {{- with .add }}
  add: {{ toJson . }}
  {{- end }}
{{- with .root.Values.seLinuxOptions }}
seLinuxOptions: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "vethwall.capabilities" -}}
{{ concat (list "BPF" "NET_ADMIN" "PERFMON") .Values.extraCapabilities | uniq | toJson }}
{{- end }}

{{/* AppArmor's usual profile forbids writing below /sys/fs. The field came with 1.30. */}}
{{- define "vethwall.podSecurityContext" -}}
seccompProfile: {type: RuntimeDefault}
{{- if semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version }}
appArmorProfile: {type: Unconfined}
{{- end }}
{{- end }}

{{- define "vethwall.oldAppArmor" -}}
{{- if not (semverCompare ">=1.30-0" .root.Capabilities.KubeVersion.Version) }}
{{- range .containers }}
container.apparmor.security.beta.kubernetes.io/{{ . }}: unconfined
{{- end }}
{{- end }}
{{- end }}

{{/* Who may run on every node, whatever its state. */}}
{{- define "vethwall.scheduling" -}}
hostNetwork: true
dnsPolicy: Default
priorityClassName: {{ .Values.priorityClassName }}
{{- with .Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
nodeSelector:
  kubernetes.io/os: linux
  {{- with .Values.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end }}
