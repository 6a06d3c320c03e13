//! Addresses, arguments and configuration files of the cluster's components.

use std::{fmt, net::Ipv4Addr};

use serde_json::{Value, json};

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const SERVICES: &str = "10.96.0.0/16";
/// The Service of the cluster DNS.
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The cache on each node.
pub const NODE_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);
pub const API_SERVER: &str = "https://10.77.0.11:6443";

/// A node by its number, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeName(pub u8);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "node{}", self.0)
    }
}

impl NodeName {
    pub fn has_control_plane(self) -> bool {
        self.0 == 1
    }

    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 10 + self.0)
    }

    /// Of its pods.
    pub fn pods(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    /// The name of its network namespace.
    pub fn netns(self) -> String {
        format!("gregor-{self}")
    }

    /// The name of its cgroup, in the root of each hierarchy.
    pub fn cgroup(self) -> String {
        format!("gregor-e2e-{self}")
    }
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments
        .iter()
        .map(|&argument| argument.to_owned())
        .collect()
}

pub fn etcd() -> Vec<String> {
    strings(&[
        "--data-dir=/run/etcd",
        "--unsafe-no-fsync",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
    ])
}

/// Where the kubelet of each node has its configuration.
pub const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";

/// What the API server writes of gregor's requests, a line each.
pub const AUDIT_LOG: &str = "audit.log";

/// gregor's requests alone, when they begin and when they end.
pub fn audit_file() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "Metadata", "users": ["system:serviceaccount:kube-system:gregor"] },
            { "level": "None" },
        ],
    })
}

pub fn api_server(pki: &str, audit_policy: &str, logs: &str) -> Vec<String> {
    let mut arguments = strings(&[
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
    ]);
    arguments.extend([
        format!("--audit-policy-file={audit_policy}"),
        format!("--audit-log-path={logs}/{AUDIT_LOG}"),
        format!("--advertise-address={}", NodeName(1).address()),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--tls-cert-file={pki}/apiserver.crt"),
        format!("--tls-private-key-file={pki}/apiserver.key"),
        format!("--client-ca-file={pki}/ca.crt"),
        format!("--kubelet-client-certificate={pki}/apiserver-kubelet.crt"),
        format!("--kubelet-client-key={pki}/apiserver-kubelet.key"),
        format!("--kubelet-certificate-authority={pki}/ca.crt"),
        format!("--service-account-key-file={pki}/sa.pub"),
        format!("--service-account-signing-key-file={pki}/sa.key"),
    ]);
    arguments
}

pub fn controller_manager(pki: &str) -> Vec<String> {
    let mut arguments = strings(&[
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        // Without them nothing becomes ready, or only after many seconds.
        "--use-service-account-credentials",
        // After the API server was killed, controllers may see leases again only half a minute later: with the default period
        // they take nodes for lost that are not, and the cluster's DNS loses its endpoints.
        "--node-monitor-grace-period=180s",
        "--kube-api-qps=500",
        "--kube-api-burst=500",
    ]);
    arguments.extend([
        format!("--kubeconfig={pki}/controller-manager.kubeconfig"),
        format!("--root-ca-file={pki}/ca.crt"),
        format!("--service-account-private-key-file={pki}/sa.key"),
        format!("--cluster-signing-cert-file={pki}/ca.crt"),
        format!("--cluster-signing-key-file={pki}/ca.key"),
    ]);
    arguments
}

pub fn scheduler(pki: &str) -> Vec<String> {
    let mut arguments = strings(&["--bind-address=127.0.0.1", "--leader-elect=false"]);
    arguments.push(format!("--kubeconfig={pki}/scheduler.kubeconfig"));
    arguments
}

pub fn kubelet(node: &NodeName, pki: &str, config: &str) -> Vec<String> {
    vec![
        format!("--config={config}"),
        format!("--kubeconfig={pki}/{node}.kubeconfig"),
        format!("--hostname-override={node}"),
        format!("--node-ip={}", node.address()),
    ]
}

pub fn kubelet_file(node: NodeName, pki: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", node.cgroup()),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": format!("{pki}/ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": format!("{pki}/{node}.crt"),
        "tlsPrivateKeyFile": format!("{pki}/{node}.key"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [NODE_LOCAL],
        "resolvConf": "/etc/resolv.conf",
        "failSwapOn": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        // ConfigMaps are looked at again this often.
        "syncFrequency": "2s",
        "volumePluginDir": "/run/volume-plugins",
    })
}

pub fn proxy_file(node: NodeName, pki: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": "10.244.0.0/16",
        "clientConnection": { "kubeconfig": format!("{pki}/proxy.kubeconfig") },
        "hostnameOverride": node.to_string(),
        "bindAddress": "0.0.0.0",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        // The machine's own limits stay as they are.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
    })
}

pub fn cni_file(node: NodeName) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "e2e",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-ipam",
                    "ranges": [[{ "subnet": node.pods() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// `pause` is the image of sandboxes.
pub fn containerd_file(pause: &str, runc: &str) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Where CAP_SYS_RESOURCE is missing, runc cannot write a negative oom_score_adj, and no sandbox would start.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/run/cni/net.d"
"#
    )
}
