//! The other end of the control socket: asks a running gregor for its status, or the outcomes of queries.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{
    AsyncBufReadExt as _, TryStreamExt as _,
    stream::{BoxStream, StreamExt as _},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::HOST,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use super::status::Status;
use crate::{
    monitor::{Filter, Line},
    sources::ServiceStatus,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// The status of a node with thousands of interfaces and rules is far smaller.
const MAX_REPLY: usize = 64 << 20;

/// No status.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no gregor answers at {path} ({error}); is `gregor run` up, and with the same --control path?"
    )]
    NotRunning { path: PathBuf, error: io::Error },
    #[error("not allowed to open {0}; run as root")]
    Forbidden(PathBuf),
    #[error(
        "the gregor at {0} does not answer within 5 s; `gregor detach --all` takes its programs off"
    )]
    Hangs(PathBuf),
    #[error("what answers at {0} is not this version of gregor: {1}")]
    Strange(PathBuf, String),
}

/// A page of the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Whether the status code was 200.
    pub is_ok: bool,
    pub text: String,
}

/// Asks the gregor whose control socket is at `path` what another source than DNS knows of a target.
pub async fn fetch_target(path: &Path, target: &str) -> Result<ServiceStatus, ClientError> {
    let reply = get(path, &format!("/target/{target}")).await?;
    expect_ok(path, &reply)?;
    let body = whole(path, reply).await?;
    serde_json::from_slice(&body).map_err(|error| strange(path, error))
}

/// Asks the gregor whose control socket is at `path`.
pub async fn fetch_status(path: &Path) -> Result<Status, ClientError> {
    let reply = get(path, "/status").await?;
    expect_ok(path, &reply)?;
    let body = whole(path, reply).await?;
    serde_json::from_slice(&body).map_err(|error| strange(path, error))
}

/// Asks it for a page of text: `/healthz` or `/readyz`.
pub async fn fetch_page(path: &Path, page: &str) -> Result<Page, ClientError> {
    let reply = get(path, page).await?;
    Ok(Page {
        is_ok: reply.status() == StatusCode::OK,
        text: String::from_utf8_lossy(&whole(path, reply).await?).into_owned(),
    })
}

/// The outcomes of queries, line by line as they happen.
pub struct Monitor {
    lines: BoxStream<'static, io::Result<String>>,
    path: PathBuf,
}

impl Monitor {
    /// Connects; every query after this has returned is reported.
    pub async fn open(path: &Path, filter: &Filter) -> Result<Monitor, ClientError> {
        let filter = serde_urlencoded::to_string(filter).map_err(|error| strange(path, error))?;
        let reply = get(path, &format!("/monitor?{filter}")).await?;
        expect_ok(path, &reply)?;
        let bytes = reply.into_body().into_data_stream();
        let bytes = bytes.map_err(io::Error::other).into_async_read();
        let mut lines = bytes.lines().boxed();
        // The first line shows that the subscription is active.
        within(path, lines.try_next()).await?;
        Ok(Monitor {
            lines,
            path: path.to_owned(),
        })
    }

    /// The next line, as sent and as read; `None` when gregor has ended.
    pub async fn next(&mut self) -> Result<Option<(String, Line)>, ClientError> {
        // The server sends an empty line every second; silence means that it hangs.
        while let Some(text) = within(&self.path, self.lines.try_next()).await? {
            if !text.is_empty() {
                let line = serde_json::from_str(&text);
                let line = line.map_err(|error| strange(&self.path, error))?;
                return Ok(Some((text, line)));
            }
        }
        Ok(None)
    }
}

/// The header of a reply. With HTTP/1.0 the end of the connection is the end of the body, also when gregor is killed.
async fn get(path: &Path, page: &str) -> Result<Response<Incoming>, ClientError> {
    let stream = connect(path).await?;
    let request = Request::get(page)
        .version(Version::HTTP_10)
        .header(HOST, "gregor")
        .body(Empty::<Bytes>::new())
        .map_err(|error| strange(path, error))?;
    within(path, async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        sender.send_request(request).await
    })
    .await
}

async fn whole(path: &Path, reply: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(reply.into_body(), MAX_REPLY).collect();
    Ok(within(path, body).await?.to_bytes())
}

async fn connect(path: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(path).await.map_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            ClientError::Forbidden(path.to_owned())
        } else {
            ClientError::NotRunning {
                path: path.to_owned(),
                error,
            }
        }
    })
}

async fn within<T, E: fmt::Display>(
    path: &Path,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, ClientError> {
    let answer = timeout(PATIENCE, answer).await;
    answer
        .map_err(|_| ClientError::Hangs(path.to_owned()))?
        .map_err(|error| strange(path, error))
}

fn expect_ok(path: &Path, reply: &Response<Incoming>) -> Result<(), ClientError> {
    match reply.status() {
        StatusCode::OK => Ok(()),
        status => Err(strange(path, status)),
    }
}

fn strange(path: &Path, what: impl fmt::Display) -> ClientError {
    ClientError::Strange(path.to_owned(), what.to_string())
}
