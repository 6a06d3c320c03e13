//! The other end of the control socket: asks a running gregor for its status, or what becomes of queries.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::UnixStream,
    time::timeout,
};

use super::status::Status;
use crate::monitor::{Filter, Line};

const PATIENCE: Duration = Duration::from_secs(5);
/// A node with thousands of interfaces and rules stays far below.
const MAX_REPLY: u64 = 64 << 20;

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

/// Asks the gregor whose control socket is at `path`.
pub async fn fetch_status(path: &Path) -> Result<Status, ClientError> {
    let (line, body) = fetch(path, "/status").await?;
    let strange = |what: String| ClientError::Strange(path.to_owned(), what);
    expect_ok(line.as_bytes()).map_err(strange)?;
    serde_json::from_slice(&body).map_err(|error| strange(error.to_string()))
}

/// Asks it for a page of text: `/healthz` or `/readyz`.
pub async fn fetch_page(path: &Path, page: &str) -> Result<Page, ClientError> {
    let (line, body) = fetch(path, page).await?;
    Ok(Page {
        is_ok: expect_ok(line.as_bytes()).is_ok(),
        text: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// The status line and the body.
async fn fetch(path: &Path, page: &str) -> Result<(String, Vec<u8>), ClientError> {
    let mut stream = connect(path).await?;
    let mut reply = Vec::new();
    timeout(PATIENCE, async {
        request(&mut stream, page).await?;
        stream.take(MAX_REPLY).read_to_end(&mut reply).await
    })
    .await
    .map_err(|_| ClientError::Hangs(path.to_owned()))?
    .map_err(|error| ClientError::Strange(path.to_owned(), error.to_string()))?;

    let head = reply
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(|| ClientError::Strange(path.to_owned(), "no HTTP".to_owned()))?;
    let line = reply.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    let line = String::from_utf8_lossy(line).into_owned();
    Ok((line, reply.split_off(head + 4)))
}

/// What becomes of queries, line by line as it happens.
pub struct Monitor {
    lines: Lines<BufReader<UnixStream>>,
    path: PathBuf,
}

impl Monitor {
    /// Begins to watch; whatever happens after this has returned is told.
    pub async fn open(path: &Path, filter: &Filter) -> Result<Monitor, ClientError> {
        let strange = |what: String| ClientError::Strange(path.to_owned(), what);
        let filter =
            serde_urlencoded::to_string(filter).map_err(|error| strange(error.to_string()))?;
        let mut stream = connect(path).await?;
        let opened = timeout(PATIENCE, async {
            request(&mut stream, &format!("/monitor?{filter}")).await?;
            let mut lines = BufReader::new(stream).lines();
            let status = lines.next_line().await?.unwrap_or_default();
            while lines
                .next_line()
                .await?
                .is_some_and(|line| !line.is_empty())
            {}
            // The first line says that watching has begun.
            if expect_ok(status.as_bytes()).is_ok() {
                lines.next_line().await?;
            }
            io::Result::Ok((status, lines))
        });
        let (status, lines) = opened
            .await
            .map_err(|_| ClientError::Hangs(path.to_owned()))?
            .map_err(|error| strange(error.to_string()))?;
        expect_ok(status.as_bytes()).map_err(strange)?;
        Ok(Monitor {
            lines,
            path: path.to_owned(),
        })
    }

    /// The next line, as sent and as read; `None` when gregor has ended.
    pub async fn next(&mut self) -> Result<Option<(String, Line)>, ClientError> {
        let strange = |what: String| ClientError::Strange(self.path.clone(), what);
        loop {
            // Nothing for long is no gregor that runs: it says something every second.
            let Ok(line) = timeout(PATIENCE, self.lines.next_line()).await else {
                return Err(ClientError::Hangs(self.path.clone()));
            };
            let Some(text) = line.map_err(|error| strange(error.to_string()))? else {
                return Ok(None);
            };
            if !text.is_empty() {
                let line = serde_json::from_str(&text);
                return Ok(Some((
                    text,
                    line.map_err(|error| strange(error.to_string()))?,
                )));
            }
        }
    }
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

/// HTTP/1.0: no chunks, and the end of the stream is the end of the reply.
async fn request(stream: &mut UnixStream, page: &str) -> io::Result<()> {
    let request = format!("GET {page} HTTP/1.0\r\nhost: gregor\r\n\r\n");
    stream.write_all(request.as_bytes()).await
}

fn expect_ok(line: &[u8]) -> Result<(), String> {
    if line.split(|byte| *byte == b' ').nth(1) == Some(b"200") {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(line).into_owned())
    }
}
