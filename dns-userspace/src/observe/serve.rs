//! The pages over HTTP, and the status over a unix socket that only root may open.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{self, Query, State},
    http::{StatusCode, header::CONTENT_TYPE as CONTENT_TYPE_HEADER},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use tokio::net::{TcpListener, UnixListener};

use super::{
    metrics::{CONTENT_TYPE, render},
    status::{Status, Vital},
};
use crate::{
    monitor::{self, Filter, Subscription},
    sources::ServiceStatus,
};

/// The source of the pages: one snapshot per request.
pub trait Source: Send + Sync + 'static {
    fn status(&self) -> Status;
    /// The state for probes, which must not wait for anything.
    fn vital(&self) -> Vital {
        self.status().vital()
    }
    /// What another source than DNS knows of a target; `None` for what is no name.
    fn target(&self, _target: &str) -> Option<ServiceStatus> {
        None
    }
    /// `NAMESPACE/NAME` of the pod behind an interface, where that is known.
    fn pod(&self, _index: u32) -> Option<String> {
        None
    }
    /// The outcomes of queries from now on.
    fn monitor(&self) -> Subscription;
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "cannot listen on {address} for /metrics: {error}; set [metrics] listen to a free address"
    )]
    Pages {
        address: SocketAddr,
        error: io::Error,
    },
    #[error(
        "another gregor answers at {0}; stop it first, or give this one another --control path"
    )]
    InUse(PathBuf),
    #[error("cannot make the control socket {path}: {error}; give a writable path with --control")]
    Control { path: PathBuf, error: io::Error },
}

/// `/metrics`, `/healthz`, `/readyz`.
pub fn pages(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(source)
}

/// `/status`, `/target/NAME`, `/monitor`, and for probes `/healthz` and `/readyz`.
pub fn control(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/target/{name}", get(target))
        .route("/monitor", get(monitor))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(source)
}

/// Listens for the pages.
pub async fn bind_pages(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| ServeError::Pages { address, error })
}

/// Listens on a unix socket of mode 0600 at `path`, in the place of one that a dead process left behind, or a living one where
/// this one `takes_over`.
pub fn bind_control(path: &Path, takes_over: bool) -> Result<UnixListener, ServeError> {
    if !takes_over && std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServeError::InUse(path.to_owned()));
    }
    let fail = |error| ServeError::Control {
        path: path.to_owned(),
        error,
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(fail)?;
    }
    // Made under another name and moved when its mode is right: no process can open it in between.
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&aside).map_err(fail)?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&aside, path))
        .map_err(|error| {
            let _ = std::fs::remove_file(&aside);
            fail(error)
        })?;
    Ok(listener)
}

/// Serves until `stop` is ready.
pub async fn serve<L>(
    listener: L,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

async fn monitor(State(source): State<Arc<dyn Source>>, Query(filter): Query<Filter>) -> Response {
    let name = |index| {
        let name = nix::net::if_::if_indextoname(index).ok()?;
        name.into_string().ok()
    };
    let subscription = source.monitor();
    let pod = move |index| source.pod(index);
    let lines = monitor::lines(subscription, filter, name, pod);
    (
        [(CONTENT_TYPE_HEADER, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

async fn status(State(source): State<Arc<dyn Source>>) -> Response {
    match aside(move || source.status()).await {
        Ok(status) => Json(status).into_response(),
        Err(code) => code.into_response(),
    }
}

async fn target(
    State(source): State<Arc<dyn Source>>,
    extract::Path(name): extract::Path<String>,
) -> Response {
    match source.target(&name) {
        Some(known) => Json(known).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn metrics(State(source): State<Arc<dyn Source>>) -> Response {
    match aside(move || render(source.status())).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE_HEADER, CONTENT_TYPE)], text).into_response(),
        Ok(Err(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(code) => code.into_response(),
    }
}

/// Runs what takes the longer the more answers there are on a thread of its own, so that no worker waits for it.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StatusCode> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn healthz(State(source): State<Arc<dyn Source>>) -> (StatusCode, String) {
    match source.vital().unhealthy() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn readyz(State(source): State<Arc<dyn Source>>) -> (StatusCode, String) {
    let missing = source.vital().not_ready();
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{}\n", missing.join("\n")),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;
    use crate::observe::{ClientError, fetch_status, metrics::tests as page};

    struct Fixed(Mutex<Status>);

    impl Source for Fixed {
        fn status(&self) -> Status {
            self.0.lock().unwrap().clone()
        }

        fn monitor(&self) -> Subscription {
            Arc::new(monitor::Hub::default()).subscribe()
        }
    }

    async fn get(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn the_three_pages() {
        let source = Arc::new(Fixed(Mutex::new(Status::default())));
        let listener = bind_pages("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, pages(source.clone()), async {
            let _ = stopped.await;
        }));

        let (head, body) = get(address, "/readyz").await;
        assert!(head.starts_with("HTTP/1.0 503"), "{head}");
        assert!(body.contains("no configuration is loaded"), "{body}");
        assert!(get(address, "/healthz").await.0.starts_with("HTTP/1.0 200"));

        *source.0.lock().unwrap() = page::full();
        let (head, body) = get(address, "/readyz").await;
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        assert_eq!(body, "ready\n");
        let (head, body) = get(address, "/metrics").await;
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        assert!(head.contains(CONTENT_TYPE), "{head}");
        page::lint(&body);
        assert!(get(address, "/status").await.0.starts_with("HTTP/1.0 404"));

        source.0.lock().unwrap().heartbeat_age_seconds = Some(99.0);
        let (head, body) = get(address, "/healthz").await;
        assert!(head.starts_with("HTTP/1.0 503"), "{head}");
        assert!(body.contains("99 s"), "{body}");

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn the_control_socket_is_private_and_replaces_a_dead_one() {
        let directory = std::env::temp_dir().join(format!("gregor-control-{}", std::process::id()));
        let path = directory.join("deep/gregor.sock");
        let source = Arc::new(Fixed(Mutex::new(page::full())));

        assert!(matches!(
            fetch_status(&path).await,
            Err(ClientError::NotRunning { .. })
        ));
        // What a killed process leaves: a socket without a listener.
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

        let listener = bind_control(&path, false).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let entries = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(entries, 1, "nothing is left beside it");
        let server = tokio::spawn(serve(listener, control(source), std::future::pending()));

        assert_eq!(fetch_status(&path).await.unwrap(), page::full());
        let error = bind_control(&path, false).unwrap_err().to_string();
        assert!(error.contains("another gregor"), "{error}");

        server.abort();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_a_remedy() {
        let first = bind_pages("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind_pages(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("[metrics] listen"), "{error}");
    }
}
