//! The other end of the control socket: asks a running gregor for its status.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::status::Status;

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

/// Asks the gregor whose control socket is at `path`.
pub async fn fetch_status(path: &Path) -> Result<Status, ClientError> {
    let mut stream = UnixStream::connect(path).await.map_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            ClientError::Forbidden(path.to_owned())
        } else {
            ClientError::NotRunning {
                path: path.to_owned(),
                error,
            }
        }
    })?;
    let mut reply = Vec::new();
    timeout(PATIENCE, async {
        // HTTP/1.0: no chunks, and the end of the stream is the end of the reply.
        stream
            .write_all(b"GET /status HTTP/1.0\r\nhost: gregor\r\n\r\n")
            .await?;
        stream.take(MAX_REPLY).read_to_end(&mut reply).await
    })
    .await
    .map_err(|_| ClientError::Hangs(path.to_owned()))?
    .map_err(|error| ClientError::Strange(path.to_owned(), error.to_string()))?;

    let strange = |what: String| ClientError::Strange(path.to_owned(), what);
    let head = reply
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(|| strange("no HTTP".to_owned()))?;
    if reply.split(|byte| *byte == b' ').nth(1) != Some(b"200") {
        let line = reply.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
        return Err(strange(String::from_utf8_lossy(line).into_owned()));
    }
    serde_json::from_slice(&reply[head + 4..]).map_err(|error| strange(error.to_string()))
}
