//! The listener for `/metrics`, `/healthz` and `/readyz`.
//!
//! `ottla serve` binds it (by default on loopback) and runs `serve` as one task until told to stop. It only reads, and
//! it must not become a way to hurt the broker: a request's head is at most 64 KiB and must arrive within 2 s, a
//! connection carries one request and lives at most 12 s, connections and pages in memory are counted. Requests beyond
//! these bounds wait or are closed; the broker's own listeners share nothing with this one but the process.
//!
//! Invariant: when `serve` has returned, no task of it is left.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, SAMPLE_EVERY};

/// What the broker says about itself.
pub trait HealthSource: Send + Sync {
    /// `Ok` once requests are served; until then, and while stopping, why not, in one line.
    fn ready(&self) -> Result<(), String>;
}

/// Bounds on what clients of this listener can take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections served at once; further ones wait in the backlog.
    connections: usize,
    /// Pages of `/metrics` in memory at once: each may have megabytes.
    pages: usize,
    /// Bytes of a request's head.
    head_bytes: usize,
    /// From the start of the connection to the end of the head.
    head_time: Duration,
    /// The life of a connection.
    connection_time: Duration,
    /// From the stop signal to the end of the last answer.
    grace: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    pages: 2,
    head_bytes: 64 * 1024,
    head_time: Duration::from_secs(2),
    // Prometheus gives up after 10 s.
    connection_time: Duration::from_secs(12),
    grace: Duration::from_millis(500),
};

/// How often the request quantiles forget; see `Metrics::fade_quantiles`.
const FADE_EVERY: Duration = Duration::from_secs(60);
/// After a failed accept (out of file descriptors, say), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest piece of a page handed to the connection at once.
const PIECE_BYTES: usize = 32 * 1024;

/// Binds the listener; port 0 takes a free port. The address is the one that was bound.
pub async fn bind(address: impl ToSocketAddrs) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Serves until `stop` is cancelled, then lets answers that have begun end, for half a second at most.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    state: Arc<dyn HealthSource>,
    stop: CancellationToken,
) {
    serve_within(LIMITS, listener, metrics, state, stop).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    metrics: Metrics,
    state: Arc<dyn HealthSource>,
    stop: CancellationToken,
) {
    let site = Arc::new(Site {
        metrics,
        state,
        pages: Arc::new(Semaphore::new(limits.pages)),
    });
    let mut connections = JoinSet::new();
    let mut fade = interval(FADE_EVERY);
    let mut sample = interval(SAMPLE_EVERY);
    let mut accept_failed = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = fade.tick() => site.metrics.fade_quantiles(),
            _ = sample.tick() => site.metrics.sample_idle(),
            Some(ended) = connections.join_next() => site.note_panic(ended.err()),
            accepted = listener.accept(), if connections.len() < limits.connections => {
                match accepted {
                    Ok((stream, _)) => {
                        accept_failed = false;
                        let stop = stop.clone();
                        connections.spawn(serve_connection(limits, stream, site.clone(), stop));
                    }
                    Err(error) => {
                        // One line per row of failures.
                        if !std::mem::replace(&mut accept_failed, true) {
                            tracing::warn!(%error, "metrics listener cannot accept");
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
    drop(listener);
    let drained = timeout(limits.grace, async {
        while let Some(ended) = connections.join_next().await {
            site.note_panic(ended.err());
        }
    });
    if drained.await.is_err() {
        connections.shutdown().await;
    }
}

/// One connection with one request.
async fn serve_connection(
    limits: Limits,
    stream: TcpStream,
    site: Arc<Site>,
    stop: CancellationToken,
) {
    let service = service_fn(|request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes)
        .keep_alive(false)
        // A client that closes its sending side after the request still gets the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let deadline = pin!(sleep(limits.connection_time));
    // How it ended is the client's affair: cut off, malformed, too slow.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = deadline => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Bounded by the grace of `serve_within`.
            let _ = connection.await;
        }
    }
}

/// What the requests share.
struct Site {
    metrics: Metrics,
    state: Arc<dyn HealthSource>,
    pages: Arc<Semaphore>,
}

impl Site {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Page> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return plain(
                StatusCode::NOT_FOUND,
                "not found: /metrics, /healthz, /readyz\n",
            );
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match path {
            "/metrics" => self.metrics_page().await,
            "/readyz" => match self.state.ready() {
                Ok(()) => plain(StatusCode::OK, "ready\n"),
                Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            _ => plain(StatusCode::OK, "ok\n"),
        }
    }

    async fn metrics_page(&self) -> Response<Page> {
        // Waits for an earlier page to be sent; the connection's deadline bounds the wait.
        let Ok(permit) = self.pages.clone().acquire_owned().await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
        };
        let metrics = self.metrics.clone();
        // A page takes milliseconds to write, and its sources may take locks.
        match tokio::task::spawn_blocking(move || metrics.render()).await {
            Ok(text) => {
                let mut response = plain(StatusCode::OK, text);
                response.body_mut().permit = Some(permit);
                let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, version);
                response
            }
            Err(error) => {
                self.note_panic(Some(error));
                plain(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the page could not be written\n",
                )
            }
        }
    }

    fn note_panic(&self, error: Option<tokio::task::JoinError>) {
        if let Some(error) = error.filter(tokio::task::JoinError::is_panic) {
            self.metrics.panicked();
            tracing::error!(%error, "metrics listener panicked");
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Page> {
    let mut response = Response::new(Page {
        left: text.into(),
        permit: None,
    });
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// An answer's body. Given out in pieces, so that the permit lives until nearly all is on its way.
struct Page {
    left: Bytes,
    permit: Option<OwnedSemaphorePermit>,
}

impl Body for Page {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.left.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
