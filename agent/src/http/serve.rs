//! The accept loop of one socket and the life of each connection.
//!
//! Started by `app` as a supervised task per socket. Bounds: connections in all and per peer process
//! (then 503 with Retry-After), time for a head, idle time, and the time that is left once the agent
//! stops. A panic in a handler is an `internal` problem on that one request.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures::FutureExt;
use http::Request;
use http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use proto::error::Code;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Site;
use super::answer::Refusal;
use super::handle;
use super::listener::BoundSocket;
use super::pulse::Guarded;
use super::pulse::Pulse;
use super::pulse::Watched;
use super::route::Socket;
use crate::config::HttpLimits;

/// How often the time of a connection is checked.
const TICK: Duration = Duration::from_millis(250);
/// What a connection has to end its answer once the agent stops.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// So many connections over the limit are told so; those beyond are just closed.
const TOLD: usize = 64;
/// How long the loop rests when the process is out of file descriptors.
const REST: Duration = Duration::from_millis(100);

/// Accepts until the agent stops, then waits until its connections are done.
pub async fn serve(socket: BoundSocket, kind: Socket, site: Arc<Site>) {
    let stop = site.lifecycle.stopped();
    let doors = Arc::new(Doors::default());
    let tracker = TaskTracker::new();
    loop {
        // Losing an accept loses no connection, the backlog keeps it; the token stays cancelled.
        let accepted = tokio::select! {
            accepted = socket.listener().accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let place = doors.enter(peer(&stream), &site.limits);
                let Some(place) = place else {
                    site.metrics.connection_refused();
                    continue;
                };
                let connection = connection(stream, place, kind, Arc::clone(&site), stop.clone());
                drop(tracker.spawn(connection));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
    drop(socket);
    tracker.close();
    tracker.wait().await;
}

/// Returns the pid of the peer; 0 where it is not visible from here.
fn peer(stream: &UnixStream) -> i32 {
    let credentials = stream.peer_cred();
    credentials.ok().and_then(|found| found.pid()).unwrap_or(0)
}

async fn connection(
    stream: UnixStream,
    place: Place,
    kind: Socket,
    site: Arc<Site>,
    stop: CancellationToken,
) {
    let pulse = Pulse::first();
    let io = TokioIo::new(Watched::new(stream, pulse.clone()));
    site.metrics.connection_opened();
    let served = service_fn(|request| answer(request, kind, place.is_over, &site, &pulse));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(site.limits.headers + 1)
        .max_buf_size(site.limits.header_bytes + (16 << 10))
        .serve_connection(io, served);
    watch(connection, &pulse, &site.limits, &stop).await;
    site.metrics.connection_closed();
    drop(place);
}

/// Drives a connection until it ends, its time is over, or the agent stops.
async fn watch<S>(
    connection: http1::Connection<TokioIo<Watched>, S>,
    pulse: &Pulse,
    limits: &HttpLimits,
    stop: &CancellationToken,
) where
    S: hyper::service::Service<Request<Incoming>, Response = Response<Guarded>, Error = Infallible>,
{
    let mut connection = std::pin::pin!(connection);
    let mut tick = tokio::time::interval(TICK);
    let mut end: Option<Instant> = None;
    loop {
        // The connection keeps its own state between polls; a lost tick comes again; the token
        // stays cancelled and is looked at once.
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            _ = tick.tick() => {
                if pulse.is_over(limits) || end.is_some_and(|end| Instant::now() >= end) {
                    return;
                }
            }
            () = stop.cancelled(), if end.is_none() => {
                end = Some(Instant::now() + LAST_WORDS);
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn answer(
    request: Request<Incoming>,
    kind: Socket,
    is_over: bool,
    site: &Arc<Site>,
    pulse: &Pulse,
) -> impl Future<Output = Result<Response<Guarded>, Infallible>> + use<> {
    pulse.served();
    let path = request.uri().path().to_owned();
    let pulse = pulse.clone();
    let site = Arc::clone(site);
    async move {
        let answer = if is_over {
            Refusal::new(Code::Unavailable, "too many connections are open")
                .hint("close connections, or try again in a while")
                .close()
                .answer(&path)
        } else {
            // The handler's state is its own; what it shares is changed by whole operations only.
            let handled = AssertUnwindSafe(handle(request, kind, site)).catch_unwind();
            handled.await.unwrap_or_else(|_panic| {
                tracing::error!(path, "a handler panicked");
                Refusal::new(Code::Internal, "the agent made a mistake on this request")
                    .close()
                    .answer(&path)
            })
        };
        Ok(answer.map(|body| Guarded::new(body, pulse)))
    }
}

/// Counts who is in.
#[derive(Debug, Default)]
struct Doors {
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    told: usize,
    by_peer: HashMap<i32, usize>,
}

/// A place inside; dropping it frees it.
#[derive(Debug)]
struct Place {
    doors: Arc<Doors>,
    peer: i32,
    /// Whether it is over the limit, there only to be told so.
    is_over: bool,
}

impl Doors {
    fn with<T>(&self, act: impl FnOnce(&mut Inside) -> T) -> T {
        // Counters are changed together under the lock and nothing in between can panic.
        act(&mut self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a place; none when even telling is too much.
    fn enter(self: &Arc<Self>, peer: i32, limits: &HttpLimits) -> Option<Place> {
        let is_over = self.with(|inside| {
            let of_peer = inside.by_peer.get(&peer).copied().unwrap_or(0);
            let is_over =
                inside.all >= limits.connections || of_peer >= limits.connections_per_process;
            if !is_over {
                inside.all += 1;
                inside.by_peer.insert(peer, of_peer + 1);
            } else if inside.told < TOLD {
                inside.told += 1;
            } else {
                return None;
            }
            Some(is_over)
        })?;
        Some(Place {
            doors: Arc::clone(self),
            peer,
            is_over,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.doors.with(|inside| {
            if self.is_over {
                inside.told -= 1;
                return;
            }
            inside.all -= 1;
            if let Some(of_peer) = inside.by_peer.get_mut(&self.peer) {
                *of_peer -= 1;
                if *of_peer == 0 {
                    inside.by_peer.remove(&self.peer);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_cannot_take_every_place() {
        let limits = HttpLimits {
            connections: 3,
            connections_per_process: 2,
            ..HttpLimits::default()
        };
        let doors = Arc::new(Doors::default());
        let enter = |peer| doors.enter(peer, &limits).expect("told at least");
        let first = enter(1);
        let _second = enter(1);
        assert!(enter(1).is_over);
        let _other = enter(2);
        assert!(enter(3).is_over);
        drop(first);
        assert!(!enter(3).is_over);
    }

    #[test]
    fn telling_is_bounded_too() {
        let limits = HttpLimits {
            connections: 0,
            ..HttpLimits::default()
        };
        let doors = Arc::new(Doors::default());
        let told: Vec<_> = (0..TOLD).map(|_| doors.enter(1, &limits)).collect();
        assert!(told.iter().all(Option::is_some));
        assert!(doors.enter(1, &limits).is_none());
    }
}
