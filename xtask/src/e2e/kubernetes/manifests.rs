//! Manifests of what the cluster has besides gregor: its DNS, and the tenants.

use super::{
    config::{CLUSTER_DNS, NODE_LOCAL},
    images::{COREDNS, GLIBC, MUSL},
};

/// A broker's name as its client has it.
pub const BROKER: &str = "lkc-1.eu-west-1.aws.private.kafka.managed";
/// The address for a tenant without an endpoint of its own.
pub const PUBLIC: &str = "203.0.113.7";
/// A name that no rule matches, and its address.
pub const FOREIGN: &str = "outside.example.org";
pub const FOREIGN_ADDRESS: &str = "192.0.2.55";

/// Namespaces with a Service, and the addresses of what it leads to.
pub const TENANTS: [(&str, &[&str]); 2] = [
    ("foo", &["10.10.1.11", "10.10.2.11"]),
    ("bar", &["10.20.1.21"]),
];
/// Where names of the form `mN.…` have the address 10.30.0.N.
pub const MOVES: &str = "moves.example";
/// A name that exists and has no address.
pub const EMPTY: &str = "empty.example";
/// A namespace without one.
pub const STRANGER: &str = "baz";

/// CoreDNS as Deployment behind the Service, and as a cache on each node with NodeLocal's Corefile.
pub fn dns() -> String {
    let endpoints: String = TENANTS
        .iter()
        .map(|(tenant, addresses)| {
            let answers: String = addresses
                .iter()
                .map(|address| format!("        answer \"{{{{ .Name }}}} 60 IN A {address}\"\n"))
                .collect();
            format!(
                "      template IN A {tenant}.endpoints.example {{\n{answers}      }}\n      template IN ANY {tenant}.endpoints.example {{\n        rcode NOERROR\n      }}\n"
            )
        })
        .collect();
    format!(
        r#"apiVersion: v1
kind: ServiceAccount
metadata: {{name: coredns, namespace: kube-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: "system:coredns"}}
rules:
- {{apiGroups: [""], resources: [services, pods, namespaces], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: "system:coredns"}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:coredns"}}
subjects: [{{kind: ServiceAccount, name: coredns, namespace: kube-system}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: coredns, namespace: kube-system}}
data:
  cluster: |
    cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {{
      errors
      ready :8181
      kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
      }}
    }}
    .:53 {{
      errors
{endpoints}      template IN A {MOVES} {{
        match "^m(?P<n>[0-9]+)[.]"
        answer "{{{{ .Name }}}} 60 IN A 10.30.0.{{{{ .Group.n }}}}"
      }}
      template IN ANY {MOVES} {EMPTY} {{
        rcode NOERROR
      }}
      template IN A private.kafka.managed {{
        answer "{{{{ .Name }}}} 60 IN A {PUBLIC}"
      }}
      template IN ANY private.kafka.managed {{
        rcode NOERROR
      }}
      template IN A {FOREIGN} {{
        answer "{{{{ .Name }}}} 60 IN A {FOREIGN_ADDRESS}"
      }}
      template IN ANY {FOREIGN} {{
        rcode NOERROR
      }}
      template ANY ANY {{
        rcode NXDOMAIN
      }}
    }}
  node: |
    cluster.local:53 {{
      errors
      cache {{
        success 9984 30
        denial 9984 5
      }}
      bind {NODE_LOCAL}
      forward . {CLUSTER_DNS} {{
        force_tcp
      }}
    }}
    .:53 {{
      errors
      cache 30
      bind {NODE_LOCAL}
      forward . {CLUSTER_DNS} {{
        force_tcp
      }}
    }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: coredns, namespace: kube-system}}
spec:
  selector: {{matchLabels: {{k8s-app: kube-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: kube-dns}}}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      priorityClassName: system-cluster-critical
      terminationGracePeriodSeconds: 1
      containers:
      - name: coredns
        image: {COREDNS}
        imagePullPolicy: Never
        args: [-conf, /etc/coredns/cluster]
        readinessProbe: {{httpGet: {{port: 8181, path: /ready}}, periodSeconds: 1}}
        volumeMounts: [{{name: config, mountPath: /etc/coredns}}]
      volumes: [{{name: config, configMap: {{name: coredns}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {CLUSTER_DNS}
  selector: {{k8s-app: kube-dns}}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: node-local-dns, namespace: kube-system}}
spec:
  selector: {{matchLabels: {{k8s-app: node-local-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: node-local-dns}}}}
    spec:
      hostNetwork: true
      dnsPolicy: Default
      priorityClassName: system-node-critical
      tolerations: [{{operator: Exists}}]
      terminationGracePeriodSeconds: 1
      containers:
      - name: coredns
        image: {COREDNS}
        imagePullPolicy: Never
        args: [-conf, /etc/coredns/node]
        volumeMounts: [{{name: config, mountPath: /etc/coredns}}]
      volumes: [{{name: config, configMap: {{name: coredns}}}}]
"#
    )
}

/// The tenants, the stranger, and in each of their namespaces a pod of each kind on each node.
pub fn tenants() -> String {
    let mut text = String::new();
    for (tenant, _) in TENANTS {
        text.push_str(&namespace(tenant));
        text.push_str(&format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: kafka-upstream, namespace: {tenant}}}
spec: {{type: ExternalName, externalName: {tenant}.endpoints.example}}
"
        ));
    }
    text.push_str(&namespace(STRANGER));
    text
}

fn namespace(name: &str) -> String {
    let mut text = format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    for (kind, image) in [("glibc", GLIBC), ("musl", MUSL)] {
        text.push_str(&format!(
            "---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {kind}, namespace: {name}}}
spec:
  selector: {{matchLabels: {{app: {kind}}}}}
  template:
    metadata: {{labels: {{app: {kind}}}}}
    spec:
{}",
            pod(image)
        ));
    }
    text
}

/// Many pods of a tenant.
pub fn crowd(tenant: &str, replicas: usize) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: crowd, namespace: {tenant}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: crowd}}}}
  template:
    metadata: {{labels: {{app: crowd}}}}
    spec:
{}",
        pod(GLIBC)
    )
}

/// The specification of a pod that waits to be used. Its resolver appends its namespace to names of up to six dots.
fn pod(image: &str) -> String {
    format!(
        "      terminationGracePeriodSeconds: 0
      automountServiceAccountToken: false
      dnsConfig: {{options: [{{name: ndots, value: \"7\"}}]}}
      containers:
      - {{name: pod, image: {image}, imagePullPolicy: Never}}
"
    )
}
