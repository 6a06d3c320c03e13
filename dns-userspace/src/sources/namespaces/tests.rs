//! The watch of namespaces against a server that answers as scripted.

use std::{collections::VecDeque, io, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures::{StreamExt as _, stream};
use kube::Config;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::sources::client;

enum Reply {
    Status(u16),
    List(Vec<Value>),
    /// Events, after which the connection ends or stays open.
    Watch(Vec<Value>, bool),
}

#[derive(Clone, Default)]
struct Server {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    /// What was asked for, and in which form.
    asked: Arc<Mutex<Vec<String>>>,
}

async fn answer(State(server): State<Server>, uri: Uri, headers: HeaderMap) -> Response {
    let accept = headers["accept"].to_str().unwrap();
    server.asked.lock().unwrap().push(format!("{uri} {accept}"));
    let reply = server.replies.lock().unwrap().pop_front();
    match reply {
        Some(Reply::Status(code)) => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "as scripted", "reason": "", "code": code,
            });
            (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
        }
        Some(Reply::List(items)) => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": { "resourceVersion": "10" }, "items": items,
        })
        .to_string()
        .into_response(),
        Some(Reply::Watch(events, stays)) => {
            let lines = events
                .into_iter()
                .map(|event| Ok::<_, io::Error>(Bytes::from(format!("{event}\n"))));
            let lines = stream::iter(lines.collect::<Vec<_>>());
            if stays {
                Body::from_stream(lines.chain(stream::pending())).into_response()
            } else {
                Body::from_stream(lines).into_response()
            }
        }
        None => std::future::pending().await,
    }
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": { "name": name, "labels": labels, "resourceVersion": "11" },
    })
}

fn event(kind: &str, object: Value) -> Value {
    json!({ "type": kind, "object": object })
}

fn gold() -> Labels {
    Labels::from([("tier".to_owned(), vec!["gold".to_owned()])])
}

async fn client_of(replies: Vec<Reply>) -> (Client, Server) {
    let server = Server {
        replies: Arc::new(Mutex::new(replies.into())),
        ..Server::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .fallback(get(answer))
        .with_state(server.clone());
    tokio::spawn(axum::serve(listener, router).into_future());
    let config = Config::new(format!("http://{address}").parse().unwrap());
    (client::of_config(&config).unwrap(), server)
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
    let (client, server) = client_of(vec![
        Reply::List(vec![namespace("foo", json!({ "tier": "gold" }))]),
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
    let asked = server.asked.lock().unwrap().clone();
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
    let (client, _) = client_of(vec![
        Reply::Status(403),
        Reply::List(vec![namespace("foo", json!({ "tier": "gold" }))]),
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
    let listed = || Reply::List(vec![namespace("foo", json!({ "tier": "gold" }))]);
    let (client, _) = client_of(vec![listed(), Reply::Status(403)]).await;
    let labelled = ask(client.clone(), vec![gold()]).await.unwrap();
    assert_eq!(labelled.of(&gold()), Some(&["foo".to_owned()].into()));
    assert!(ask(client, vec![gold()]).await.is_err());
}
