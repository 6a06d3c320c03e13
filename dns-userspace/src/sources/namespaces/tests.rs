//! The watch of namespaces against a server that answers as scripted.

use serde_json::{Value, json};

use super::*;
use crate::sources::scripted::{Reply, Server, event, list};

fn namespace(name: &str, labels: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": { "name": name, "labels": labels, "resourceVersion": "11" },
    })
}

fn gold() -> Labels {
    Labels::from([("tier".to_owned(), vec!["gold".to_owned()])])
}

fn listed(items: &[Value]) -> Reply {
    list("PartialObjectMetadataList", 10, items)
}

fn names(selected: &Selected) -> Option<String> {
    let names = selected.labelled.of(&gold())?.iter();
    Some(names.map(String::as_str).collect::<Vec<_>>().join(" "))
}

async fn until(said: &mut latest::Receiver<Selected>, what: &str, so: impl Fn(&Selected) -> bool) {
    let waited = timeout(Duration::from_secs(60), async {
        while !so(&said.borrow()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: {:?}", said.borrow());
}

#[tokio::test]
async fn labels_are_asked_for_alone_and_what_is_known_stays_while_the_server_is_away() {
    let (client, server) = Server::start(vec![
        listed(&[namespace("foo", json!({ "tier": "gold" }))]),
        Reply::Watch(
            vec![
                event("ADDED", namespace("bar", json!({ "tier": "gold" }))),
                // The server selects by label: one that has lost it looks deleted.
                event("DELETED", namespace("foo", json!({}))),
            ],
            false,
        ),
        Reply::Status(500),
    ])
    .await;
    let (selected, mut said) = latest::channel(Selected::nothing("not heard yet"));
    let watch = tokio::spawn(follow(client, vec![gold()], selected));
    until(&mut said, "the changes", |selected| {
        names(selected).as_deref() == Some("bar")
    })
    .await;
    until(&mut said, "the failure", |selected| {
        selected.error.is_some()
    })
    .await;
    assert_eq!(names(&said.borrow()).as_deref(), Some("bar"));
    let status = said.borrow().status(&[gold()], Instant::now());
    assert!(status.age_seconds.is_some(), "{status:?}");
    let asked = server.asked(|request| format!("{} {}", request.uri, request.accept));
    for (number, watches) in [(0, false), (1, true)] {
        let asked = &asked[number];
        assert!(asked.starts_with("/api/v1/namespaces?"), "{asked}");
        assert!(
            asked.contains("labelSelector=tier+in+%28gold%29"),
            "{asked}"
        );
        assert!(asked.contains("as=PartialObjectMetadata"), "{asked}");
        assert_eq!(asked.contains("watch=true"), watches, "{asked}");
    }
    watch.abort();
}

#[tokio::test]
async fn without_the_right_nothing_is_known_until_there_is_one() {
    let (client, _) = Server::start(vec![
        Reply::Status(403),
        listed(&[namespace("foo", json!({ "tier": "gold" }))]),
        Reply::Watch(vec![], true),
    ])
    .await;
    let (selected, mut said) = latest::channel(Selected::nothing("not heard yet"));
    let watch = tokio::spawn(follow(client, vec![gold()], selected));
    until(&mut said, "it is refused", |selected| {
        selected.error.as_deref() == Some("as scripted (403)")
    })
    .await;
    assert_eq!(names(&said.borrow()), None);
    until(&mut said, "it is allowed", |selected| {
        names(selected).as_deref() == Some("foo") && selected.error.is_none()
    })
    .await;
    watch.abort();
}

#[tokio::test]
async fn a_command_asks_once() {
    let list = || listed(&[namespace("foo", json!({ "tier": "gold" }))]);
    let (client, _) = Server::start(vec![list(), Reply::Status(403)]).await;
    let labelled = ask(client.clone(), vec![gold()]).await.unwrap();
    assert_eq!(labelled.of(&gold()), Some(&["foo".to_owned()].into()));
    assert!(ask(client, vec![gold()]).await.is_err());
}
