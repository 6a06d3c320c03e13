//! The watch against a server that answers as scripted: failures that a real API server does not give on demand.

use std::{sync::OnceLock, time::Duration};

use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::*;
use crate::{
    model::{Known, Targets as _},
    sources::{
        ApiStatus, ClusterDomain,
        scripted::{Reply, Server, event, list},
        selectors,
    },
};

fn service(version: u32, namespace: &str, external: &str) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": "up", "namespace": namespace, "uid": "1", "resourceVersion": version.to_string(),
        },
        "spec": { "type": "ExternalName", "externalName": external },
    })
}

fn bookmark(version: u32) -> Value {
    let metadata = json!({ "resourceVersion": version.to_string() });
    let object = json!({ "kind": "Service", "apiVersion": "v1", "metadata": metadata });
    event("BOOKMARK", object)
}

fn listed(version: u32, items: &[Value]) -> Reply {
    list("ServiceList", version, items)
}

struct Lab {
    server: Server,
    services: Arc<SharedServices>,
    watch: JoinHandle<()>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Lab {
    async fn new(replies: Vec<Reply>) -> Lab {
        Lab::of("up.{namespace}.svc.cluster.local", replies).await
    }

    /// Watches the Services that rules with this target lead to.
    async fn of(cname: &str, replies: Vec<Reply>) -> Lab {
        let (client, server) = Server::start(replies).await;
        let domain = ClusterDomain::default();
        let selectors = selectors([cname], &domain);
        let services = Arc::new(SharedServices::new(domain, selectors.clone()));
        let watch = tokio::spawn(follow(client, selectors[0].clone(), services.clone()));
        Lab {
            server,
            services,
            watch,
        }
    }

    fn known(&self, namespace: &str) -> Known {
        static DOMAIN: OnceLock<ClusterDomain> = OnceLock::new();
        let domain = DOMAIN.get_or_init(ClusterDomain::default);
        self.services
            .find(&domain.target_of(namespace, "up").unwrap())
    }

    async fn until(&self, what: &str, so: impl Fn(&Lab, &ApiStatus) -> bool) {
        let waited = timeout(Duration::from_secs(60), async {
            while !so(self, &self.services.status()) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        let waited = waited.await;
        assert!(waited.is_ok(), "{what}: {:?}", self.services.status());
    }

    fn asked(&self) -> Vec<String> {
        self.server.asked(|request| request.uri.clone())
    }
}

fn to(external: &str) -> Known {
    Known::Alias(alias(external).unwrap())
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_and_lists_again_when_that_is_gone() {
    let lab = Lab::new(vec![
        listed(
            10,
            &[
                service(7, "foo", "A.example"),
                service(8, "bar", "b.example"),
            ],
        ),
        Reply::Watch(
            vec![
                event("MODIFIED", service(11, "foo", "c.example")),
                bookmark(20),
            ],
            false,
        ),
        Reply::Status(410),
        listed(30, &[service(11, "foo", "c.example")]),
        Reply::Watch(
            vec![event("DELETED", service(31, "foo", "c.example"))],
            true,
        ),
    ])
    .await;
    lab.until("all is watched", |lab, _| lab.asked().len() == 5)
        .await;
    lab.until("what was missed is known", |lab, _| {
        lab.known("bar") == Known::Absent && lab.known("foo") == Known::Absent
    })
    .await;
    let status = lab.services.status();
    assert_eq!((status.lists, status.errors["gone"]), (2, 1));
    // The connection ended at once, which the server does not do.
    assert_eq!(status.errors["connection"], 1);
    assert_eq!((status.connected, status.error), (1, None));

    let asked = lab.asked();
    let has = |number: usize, parts: &[&str]| {
        for part in parts {
            assert!(
                asked[number].contains(part),
                "{part} not in {}",
                asked[number]
            );
        }
    };
    let fields = "fieldSelector=metadata.name%3Dup";
    has(
        0,
        &[
            "/api/v1/services?",
            fields,
            "resourceVersion=0",
            "NotOlderThan",
        ],
    );
    has(
        1,
        &[
            "watch=true",
            fields,
            "resourceVersion=10",
            "allowWatchBookmarks=true",
        ],
    );
    has(2, &["watch=true", "resourceVersion=20"]);
    has(3, &["resourceVersion=20", "NotOlderThan"]);
    assert!(!asked[3].contains("watch=true"), "{}", asked[3]);
    has(4, &["watch=true", "resourceVersion=30"]);
}

#[tokio::test]
async fn an_event_with_410_begins_anew() {
    let gone = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410,
    });
    let lab = Lab::new(vec![
        listed(10, &[service(7, "foo", "a.example")]),
        Reply::Watch(vec![event("ERROR", gone)], true),
        listed(20, &[service(17, "foo", "b.example")]),
        Reply::Watch(vec![], true),
    ])
    .await;
    lab.until("the new list counts", |lab, status| {
        lab.known("foo") == to("b.example") && status.connected == 1
    })
    .await;
    assert_eq!(lab.services.status().errors["gone"], 1);
}

#[tokio::test]
async fn without_a_role_nothing_is_known_until_there_is_one() {
    let lab = Lab::new(vec![
        Reply::Status(403),
        Reply::Status(401),
        listed(10, &[service(7, "foo", "a.example")]),
        Reply::Watch(vec![], true),
    ])
    .await;
    lab.until("it is refused", |_, status| status.errors["forbidden"] == 1)
        .await;
    assert_eq!(lab.known("foo"), Known::Nothing);
    let status = lab.services.status();
    if status.errors["unauthorized"] == 0 {
        assert_eq!(status.error.as_deref(), Some("as scripted (403)"));
        assert_eq!(status.age_seconds, None);
    }
    lab.until("it is allowed", |lab, status| {
        lab.known("foo") == to("a.example") && status.error.is_none()
    })
    .await;
    assert_eq!(lab.services.status().errors["unauthorized"], 1);
}

#[tokio::test]
async fn a_server_that_goes_away_leaves_the_last_state() {
    let lab = Lab::new(vec![
        listed(10, &[service(7, "foo", "a.example")]),
        Reply::Watch(vec![], false),
        Reply::Status(500),
    ])
    .await;
    lab.until("it is lost", |_, status| status.errors["server"] == 1)
        .await;
    let status = lab.services.status();
    assert_eq!(status.connected, 0);
    assert!(status.age_seconds.is_some());
    assert_eq!(lab.known("foo"), to("a.example"));
}

#[tokio::test]
async fn annotations_of_every_external_name_are_claims() {
    let claiming = |version: u32, namespace: &str, names: &str| {
        let mut service = service(version, namespace, "a.example");
        service["metadata"]["annotations"] = json!({ NAMES_ANNOTATION: names, "other": "x" });
        service["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:10Z");
        service
    };
    let lab = Lab::of(
        "{any}.{namespace}.svc.cluster.local",
        vec![
            listed(
                10,
                &[
                    claiming(7, "foo", "*.a.example"),
                    service(8, "baz", "b.example"),
                ],
            ),
            Reply::Watch(
                vec![
                    event("ADDED", claiming(11, "bar", "*.b.example")),
                    event("MODIFIED", claiming(12, "foo", "*.c.example")),
                    event("MODIFIED", service(13, "baz", "c.example")),
                    event("DELETED", claiming(14, "bar", "*.b.example")),
                ],
                true,
            ),
        ],
    )
    .await;
    assert_eq!(lab.services.claims(), None);
    lab.until("all of it is read", |lab, _| {
        lab.known("bar") == Known::Nothing && lab.known("baz") == to("c.example")
    })
    .await;
    lab.until("the deletion is read", |lab, _| {
        lab.services.claims().unwrap_or_default().len() == 1
    })
    .await;
    let expected = Claimant {
        namespace: "foo".to_owned(),
        service: "up".to_owned(),
        uid: "1".to_owned(),
        created: 1_767_225_610,
        names: "*.c.example".to_owned(),
        is_cut: false,
    };
    assert_eq!(lab.services.claims().unwrap(), [expected]);
    assert!(
        lab.asked()[0].contains("fieldSelector=spec.type%3DExternalName"),
        "{:?}",
        lab.asked()
    );
}

#[test]
fn services_are_read_as_dns_has_them() {
    let read = |kind: &str, external: Option<&str>| {
        let service = json!({
            "metadata": { "name": "up", "namespace": "foo" },
            "spec": { "type": kind, "externalName": external },
        });
        super::read(serde_json::from_value(service).unwrap()).kind
    };
    let alias = |text| Kind::Alias(super::alias(text).unwrap());
    assert_eq!(read("ExternalName", Some("A.Example.")), alias("a.example"));
    assert_eq!(read("ExternalName", Some("10.0.0.1")), alias("10.0.0.1"));
    for (kind, external) in [
        ("ExternalName", None),
        ("ExternalName", Some("")),
        ("ExternalName", Some(".")),
        ("ExternalName", Some("a..b")),
        ("ClusterIP", None),
        ("ClusterIP", Some("a.example")),
    ] {
        assert_eq!(read(kind, external), Kind::Other, "{kind} {external:?}");
    }
}
