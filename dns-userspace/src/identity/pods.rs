//! The pods of this node, as the API server lists and watches them.

use std::sync::mpsc::Sender;

use k8s_openapi::api::core::v1;
use kube::{Api, Client, ResourceExt as _};

use super::{
    facts::{Pod, PodKey, PodReport},
    input::Input,
};
use crate::sources::{
    ErrorReason,
    watch::{Query, Said, Sink, watch},
};

/// Has the hash of its manifest, which the CNI is told as the UID of a static pod.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// Watches the pods of a node for as long as it is polled. What is known stays while the API server is away.
pub async fn follow(client: Client, node: String, inputs: Sender<Input>) {
    let query = Query {
        api: Api::<v1::Pod>::all(client),
        fields: fields(&node),
        labels: String::new(),
        name: "the pods of this node".to_owned(),
        otherwise: "what is known of them stays until the API server says more",
    };
    watch(query, Watched { inputs }).await;
}

/// The field selector of a node's pods.
pub fn fields(node: &str) -> String {
    format!("spec.nodeName={node}")
}

struct Watched {
    inputs: Sender<Input>,
}

impl Watched {
    fn send(&self, input: Input) {
        // An error says that gregor ends.
        let _ = self.inputs.send(input);
    }
}

impl Sink<v1::Pod> for Watched {
    fn said(&self, said: Said<v1::Pod>) {
        self.send(match said {
            Said::Listed(pods) => Input::Pods(PodReport::Listed(pods.iter().map(read).collect())),
            Said::Applied(pod) => Input::Pods(PodReport::Applied(read(&pod))),
            Said::Deleted(pod) => Input::Pods(PodReport::Deleted(read(&pod).key)),
            Said::Nothing => Input::Api(None),
        });
    }

    fn failed(&self, reason: ErrorReason, error: &str) {
        if reason != ErrorReason::Gone {
            self.send(Input::Api(Some(error.to_owned())));
        }
    }
}

fn read(pod: &v1::Pod) -> Pod {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let uid = match pod.annotations().get(STATIC_UID) {
        Some(uid) => Some(uid.clone()),
        None => pod.uid(),
    };
    let all = status.and_then(|status| status.pod_ips.as_ref());
    let one = status.and_then(|status| status.pod_ip.as_ref());
    let texts = all.into_iter().flatten().map(|ip| &ip.ip).chain(one);
    let mut addresses = Vec::new();
    for address in texts.filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Pod {
        key: PodKey {
            namespace: pod.namespace().unwrap_or_default(),
            pod: pod.name_any(),
            uid: uid.unwrap_or_default(),
        },
        labels: pod.labels().clone(),
        addresses,
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
        is_finished: matches!(phase, Some("Succeeded" | "Failed")),
        is_deleted: pod.metadata.deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex, mpsc::channel},
        time::Duration,
    };

    use axum::{
        Router,
        body::{Body, Bytes},
        http::Uri,
        response::{IntoResponse as _, Response},
        routing::get,
    };
    use futures::{StreamExt as _, stream};
    use kube::Config;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;
    use crate::sources::client;

    /// A list, then a watch with one change, which stays open.
    fn answer(uri: &Uri) -> Response {
        let pod = |version: &str, tier: &str| {
            json!({
                "kind": "Pod", "apiVersion": "v1",
                "metadata": {
                    "name": "web-0", "namespace": "foo", "uid": "1", "resourceVersion": version,
                    "labels": { "tier": tier },
                },
                "spec": { "containers": [] },
                "status": { "phase": "Running", "podIP": "10.0.0.5" },
            })
        };
        if !uri.to_string().contains("watch=true") {
            let list: Value = json!({
                "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "10" },
                "items": [pod("7", "silver")],
            });
            return list.to_string().into_response();
        }
        let events = [
            json!({ "type": "MODIFIED", "object": pod("11", "gold") }),
            json!({ "type": "DELETED", "object": pod("12", "gold") }),
        ];
        let lines = events.map(|event| Ok::<_, io::Error>(Bytes::from(format!("{event}\n"))));
        Body::from_stream(stream::iter(lines).chain(stream::pending())).into_response()
    }

    #[tokio::test]
    async fn the_pods_of_this_node_are_listed_and_watched() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::clone(&asked);
        let router = Router::new().fallback(get(move |uri: Uri| {
            log.lock().unwrap().push(uri.to_string());
            let response = answer(&uri);
            async { response }
        }));
        tokio::spawn(axum::serve(listener, router).into_future());
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let (inputs, told) = channel();
        let client = client::of_config(&config).unwrap();
        let task = tokio::spawn(follow(client, "node-7".to_owned(), inputs));
        let tier = |pod: &Pod| pod.labels["tier"].clone();
        let reports = tokio::task::spawn_blocking(move || {
            let mut reports = Vec::new();
            while reports.len() < 3 {
                match told.recv_timeout(Duration::from_secs(60)).unwrap() {
                    Input::Pods(PodReport::Listed(pods)) => {
                        reports.push(format!("listed {} {}", pods.len(), tier(&pods[0])));
                    }
                    Input::Pods(PodReport::Applied(pod)) => {
                        reports.push(format!("applied {}", tier(&pod)));
                    }
                    Input::Pods(PodReport::Deleted(key)) => {
                        reports.push(format!("deleted {}", key.pod));
                    }
                    Input::Api(error) => assert_eq!(error, None),
                    other => panic!("{other:?}"),
                }
            }
            reports
        });
        let reports = reports.await.unwrap();
        assert_eq!(
            reports,
            ["listed 1 silver", "applied gold", "deleted web-0"]
        );
        task.abort();
        let asked = asked.lock().unwrap();
        for request in asked.iter() {
            assert!(request.starts_with("/api/v1/pods?"), "{request}");
            assert!(
                request.contains("fieldSelector=spec.nodeName%3Dnode-7"),
                "{request}"
            );
        }
        assert!(asked.len() >= 2);
    }

    fn pod(status: serde_json::Value, change: impl FnOnce(&mut serde_json::Value)) -> Pod {
        let mut pod = json!({
            "metadata": { "name": "web-0", "namespace": "foo", "uid": "1", "labels": { "a": "b" } },
            "spec": { "containers": [] }, "status": status,
        });
        change(&mut pod);
        read(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn pods_are_read_as_the_kubelet_reports_them() {
        let running = json!({
            "phase": "Running", "podIP": "10.0.0.5",
            "podIPs": [{ "ip": "10.0.0.5" }, { "ip": "fd00::5" }],
        });
        let read = pod(running.clone(), |_| {});
        assert_eq!(
            (&*read.key.namespace, &*read.key.pod, &*read.key.uid),
            ("foo", "web-0", "1")
        );
        assert_eq!(read.labels["a"], "b");
        let expected: [std::net::IpAddr; 2] = [[10, 0, 0, 5].into(), "fd00::5".parse().unwrap()];
        assert_eq!(read.addresses, expected);
        assert!(!read.host_network && !read.is_finished && !read.is_deleted);

        let deleted = pod(running.clone(), |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        assert!(deleted.is_deleted);
        let host = pod(running.clone(), |pod| {
            pod["spec"]["hostNetwork"] = json!(true)
        });
        assert!(host.host_network);
        let fixed = pod(running, |pod| {
            pod["metadata"]["annotations"] = json!({ STATIC_UID: "hash" });
        });
        assert_eq!(fixed.key.uid, "hash");
        for (phase, finished) in [
            ("Pending", false),
            ("Unknown", false),
            ("Succeeded", true),
            ("Failed", true),
        ] {
            let read = pod(json!({ "phase": phase }), |_| {});
            assert_eq!(read.is_finished, finished, "{phase}");
            assert!(read.addresses.is_empty());
        }
    }
}
