//! `/metrics`, `/healthz` and `/readyz` over HTTP.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sqlrep_pipeline::Fleet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::health::Pulse;
use crate::metrics::{self, Snapshot};

/// Scrapers and the kubelet: a few connections.
const CONNECTIONS_MAX: usize = 32;

/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one connection may last, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(5);

/// After a failed accept (no descriptors left) the next is tried this much later.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What the pages are made from.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    /// The flow; none while the agent stands by.
    pub(crate) fleet: Arc<OnceLock<Fleet>>,
    /// Whether the agent lives.
    pub(crate) pulse: Pulse,
}

/// Serves the pages until `stop`.
pub(crate) async fn serve(listener: TcpListener, pages: Pages, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            match listener.accept().await {
                Ok((socket, _)) => {
                    let (pages, stop) = (pages.clone(), stop.clone());
                    tokio::spawn(async move {
                        let _permit = permit;
                        tokio::select! {
                            () = stop.cancelled() => {}
                            _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection(socket, pages)) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(err = %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accept => {}
    }
}

async fn connection(socket: TcpStream, pages: Pages) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &pages);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), answer)
        .await;
    if let Err(error) = served {
        tracing::trace!(err = %error, "a connection for metrics broke");
    }
}

fn respond(method: &Method, path: &str, pages: &Pages) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => match pages.fleet.get() {
            Some(fleet) => (
                StatusCode::OK,
                metrics::CONTENT_TYPE,
                metrics::render(&Snapshot::of(fleet)),
            ),
            None => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "the agent has not begun yet",
            ),
        },
        (&Method::GET | &Method::HEAD, "/healthz") => {
            if pages.pulse.is_alive() {
                plain(StatusCode::OK, "alive")
            } else {
                plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the agent's main loop hangs",
                )
            }
        }
        (&Method::GET | &Method::HEAD, "/readyz") => match pages.pulse.missing() {
            None => plain(StatusCode::OK, "ready"),
            Some(missing) => plain(StatusCode::SERVICE_UNAVAILABLE, missing),
        },
        (&Method::GET | &Method::HEAD, _) => plain(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz",
        ),
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = kind.parse().expect("a constant that is a header value");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn plain(status: StatusCode, text: &str) -> (StatusCode, &'static str, String) {
    (status, "text/plain; charset=utf-8", format!("{text}\n"))
}
