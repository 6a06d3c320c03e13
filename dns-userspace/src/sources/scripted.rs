//! An API server that answers as scripted, for tests: failures that a real one does not give on demand.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures::{StreamExt as _, stream};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::client;

/// What the server says to one request.
pub enum Reply {
    Status(u16),
    /// A list.
    List(Value),
    /// Events, after which the connection stays open, or ends.
    Watch(Vec<Value>, bool),
}

/// What was asked for.
pub struct Request {
    /// Path and query.
    pub uri: String,
    /// The form, empty where any will do.
    pub accept: String,
}

#[derive(Clone, Default)]
pub struct Server {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// One with these replies, in their order, and a client of it. A request without a reply waits.
    pub async fn start(replies: Vec<Reply>) -> (Client, Server) {
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

    /// Of each request so far.
    pub fn asked(&self, text: impl Fn(&Request) -> String) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(text).collect()
    }
}

async fn answer(State(server): State<Server>, uri: Uri, headers: HeaderMap) -> Response {
    server.asked.lock().unwrap().push(Request {
        uri: uri.to_string(),
        accept: headers
            .get("accept")
            .map_or_else(String::new, |accept| accept.to_str().unwrap().to_owned()),
    });
    let reply = server.replies.lock().unwrap().pop_front();
    match reply {
        Some(Reply::Status(code)) => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "as scripted", "reason": "", "code": code,
            });
            let code = StatusCode::from_u16(code).unwrap();
            (code, status.to_string()).into_response()
        }
        Some(Reply::List(list)) => list.to_string().into_response(),
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

pub fn list(kind: &str, version: u32, items: &[Value]) -> Reply {
    let api = if kind == "PartialObjectMetadataList" {
        "meta.k8s.io/v1"
    } else {
        "v1"
    };
    Reply::List(json!({
        "kind": kind, "apiVersion": api,
        "metadata": { "resourceVersion": version.to_string() }, "items": items,
    }))
}

pub fn event(kind: &str, object: Value) -> Value {
    json!({ "type": kind, "object": object })
}
