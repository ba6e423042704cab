//! One HTTP exchange with an API server, as the agent itself or as an actor.
//!
//! Called by the rest of [`super`]. One client serves all actors, so connections are shared; who
//! acts is decided per request by [`As`], which no call can leave out. An API server that has just
//! started denies everything until it has loaded its roles, so a denial soon after trouble, or by a
//! server that is not ready, is no answer. Invariants: every call is bounded in time and length; an
//! actor without a name is refused instead of becoming the agent.

use std::error::Error;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::Instant;

use deploy::principal::Actor;

/// An answer longer than this is not one of ours.
const ANSWER_LIMIT: usize = 64 << 20;

/// How long after trouble a denial is doubted.
const YOUNG: Duration = Duration::from_secs(10);

/// Who acts.
#[derive(Debug, Clone, Copy)]
pub(super) enum As<'a> {
    /// The agent itself: discovery and health only.
    Agent,
    /// An actor, by impersonation.
    Actor(&'a Actor),
}

/// What came back.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// The status.
    pub(super) status: u16,
    /// What the server asked to wait.
    pub(super) retry_after_seconds: Option<u64>,
    /// The body.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Says whether the status is a success.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection came about: the request surely had no effect.
    NotSent {
        /// In words.
        reason: String,
    },
    /// The request left and no whole answer came.
    Cut {
        /// In words.
        reason: String,
    },
    /// The request cannot be written down.
    Unbuildable {
        /// Why.
        reason: &'static str,
    },
}

impl Fault {
    /// A denial that is doubted: it had no effect, and may be another answer soon.
    pub(super) fn young() -> Self {
        Self::NotSent {
            reason: "it has just come back and may not have loaded its roles".to_owned(),
        }
    }
}

/// How much of a body is kept.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keep {
    /// All of it.
    All,
    /// The last bytes.
    Tail(usize),
}

/// A client for one API server.
#[derive(Clone)]
pub(super) struct Wire {
    client: kube::Client,
    timeout: Duration,
    /// When the server was last away or failing; of all clones.
    trouble: Arc<Mutex<Option<Instant>>>,
}

impl Wire {
    /// Wraps kube's client.
    pub(super) fn new(client: kube::Client, timeout: Duration) -> Self {
        Self {
            client,
            timeout,
            trouble: Arc::default(),
        }
    }

    /// Sends a request and reads its answer within the timeout.
    pub(super) async fn send(
        &self,
        who: As<'_>,
        request: http::request::Builder,
        body: Bytes,
        keep: Keep,
    ) -> Result<Answer, Fault> {
        let sent = self.exchange(who, request, body, keep).await;
        match &sent {
            Err(Fault::NotSent { .. } | Fault::Cut { .. }) => self.note_trouble(),
            Ok(answer) if answer.status >= 500 => self.note_trouble(),
            // Nothing that is denied has an effect.
            Ok(answer) if answer.status == 403 && self.doubts_denials().await => {
                return Err(Fault::young());
            }
            Ok(_) | Err(Fault::Unbuildable { .. }) => {}
        }
        sent
    }

    /// Says whether a denial may be that of a server that has just started.
    pub(super) async fn doubts_denials(&self) -> bool {
        let trouble = *self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_some_and(|since| since.elapsed() < YOUNG) {
            return true;
        }
        let request = Request::get("/readyz");
        let ready = self
            .exchange(As::Agent, request, Bytes::new(), Keep::Tail(0))
            .await;
        let doubted = !ready.is_ok_and(|answer| answer.is_success());
        if doubted {
            self.note_trouble();
        }
        doubted
    }

    fn note_trouble(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    async fn exchange(
        &self,
        who: As<'_>,
        request: http::request::Builder,
        body: Bytes,
        keep: Keep,
    ) -> Result<Answer, Fault> {
        let mut request =
            request
                .body(Body::from(body))
                .map_err(|_no_detail| Fault::Unbuildable {
                    reason: "the request has no valid address",
                })?;
        dress(request.headers_mut(), who)?;
        let exchange = async {
            let response = self.client.send(request).await.map_err(|e| lost(&e))?;
            read(response, keep).await
        };
        tokio::time::timeout(self.timeout, exchange)
            .await
            // Connecting has a shorter limit of its own, so the request has left by now.
            .unwrap_or_else(|_elapsed| {
                Err(Fault::Cut {
                    reason: "timed out".to_owned(),
                })
            })
    }

    /// Returns a client that acts as an actor, for kube's watcher.
    pub(super) fn client_as(&self, actor: &Actor) -> Result<kube::Client, Fault> {
        let mut headers = HeaderMap::new();
        dress(&mut headers, As::Actor(actor))?;
        let client = self.client.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let client = client.clone();
            request.headers_mut().extend(headers.clone());
            async move { client.send(request).await }
        });
        Ok(kube::Client::new(service, "default"))
    }
}

/// Writes down who acts.
fn dress(headers: &mut HeaderMap, who: As<'_>) -> Result<(), Fault> {
    let As::Actor(actor) = who else {
        return Ok(());
    };
    let value = |text: &str| {
        if text.is_empty() {
            return Err(Fault::Unbuildable {
                reason: "an actor's name or group is empty",
            });
        }
        HeaderValue::from_str(text).map_err(|_no_detail| Fault::Unbuildable {
            reason: "an actor's name or group cannot be sent",
        })
    };
    headers.insert("impersonate-user", value(&actor.user)?);
    for group in &actor.groups {
        headers.append("impersonate-group", value(group)?);
    }
    Ok(())
}

async fn read(response: Response<Body>, keep: Keep) -> Result<Answer, Fault> {
    let status = response.status().as_u16();
    let retry_after_seconds = response
        .headers()
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut body = Vec::new();
    let mut frames = response.into_body().into_data_stream();
    while let Some(frame) = frames.next().await {
        body.extend_from_slice(&frame.map_err(|e| lost(&e))?);
        match keep {
            Keep::All if body.len() > ANSWER_LIMIT => {
                return Err(Fault::Cut {
                    reason: "the answer is too long".to_owned(),
                });
            }
            // Twice the length, so that the copying stays linear.
            Keep::Tail(limit) if body.len() > 2 * limit => {
                body.drain(..body.len() - limit);
            }
            Keep::All | Keep::Tail(_) => {}
        }
    }
    if let Keep::Tail(limit) = keep {
        body.drain(..body.len().saturating_sub(limit));
    }
    Ok(Answer {
        status,
        retry_after_seconds,
        body,
    })
}

/// Classifies a fault by the first layer that knows whether a connection came about.
fn lost(error: &kube::Error) -> Fault {
    if matches!(error, kube::Error::Auth(_)) {
        // Its text may hold what an exec plugin printed.
        return Fault::NotSent {
            reason: "the agent's own credentials cannot be had".to_owned(),
        };
    }
    let mut source: &(dyn Error + 'static) = error;
    let mut unconnected = false;
    while let Some(next) = source.source() {
        source = next;
        unconnected |= source
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect);
    }
    let reason: String = source.to_string().chars().take(200).collect();
    if unconnected {
        Fault::NotSent { reason }
    } else {
        Fault::Cut { reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(user: &str, groups: &[&str]) -> Actor {
        Actor {
            user: user.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        }
    }

    #[test]
    fn an_actor_is_written_into_headers() {
        let mut headers = HeaderMap::new();
        let actor = actor("gitlab:ci_job:7", &["gitlab:ci_job", "gitlab:project:4"]);
        assert_eq!(dress(&mut headers, As::Actor(&actor)), Ok(()));
        let groups: Vec<&HeaderValue> = headers.get_all("impersonate-group").iter().collect();
        assert_eq!(headers["impersonate-user"], "gitlab:ci_job:7");
        assert_eq!(groups, ["gitlab:ci_job", "gitlab:project:4"]);
    }

    #[test]
    fn an_actor_without_a_name_never_becomes_the_agent() {
        for bad in [
            actor("", &[]),
            actor("x", &[""]),
            actor("x\ny", &[]),
            actor("x", &["g\r\nimpersonate-group: system:masters"]),
        ] {
            assert!(dress(&mut HeaderMap::new(), As::Actor(&bad)).is_err());
        }
    }

    /// Accepts one connection and ends it after the request's first bytes.
    async fn cutting_server() -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut start = [0; 16];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut start).await
        });
        address
    }

    fn wire_to(address: std::net::SocketAddr) -> Wire {
        let url = format!("http://{address}");
        let mut config = kube::Config::new(url.parse().expect("an address makes a URL"));
        config.default_retry = false;
        let client = kube::Client::try_from(config).expect("a plain client");
        Wire::new(client, Duration::from_secs(30))
    }

    async fn patched(address: std::net::SocketAddr) -> Result<Answer, Fault> {
        let request = Request::patch("/api/v1/namespaces/a/configmaps/b");
        let body = Bytes::from_static(b"{}");
        wire_to(address)
            .send(As::Agent, request, body, Keep::All)
            .await
    }

    #[tokio::test]
    async fn a_connection_that_ends_after_the_request_is_cut() {
        let address = cutting_server().await;
        assert!(matches!(patched(address).await, Err(Fault::Cut { .. })));
    }

    #[tokio::test]
    async fn a_refused_connection_is_not_sent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        drop(listener);
        let Err(Fault::NotSent { reason }) = patched(address).await else {
            panic!("nobody listens there");
        };
        assert!(reason.contains("refused"), "{reason}");
    }

    #[tokio::test]
    async fn the_end_of_a_long_body_is_kept() {
        let text: Vec<u8> = (0..100u8).collect();
        let response = Response::new(Body::from(text));
        let answer = read(response, Keep::Tail(3))
            .await
            .expect("a body in memory");
        assert_eq!(answer.body, [97, 98, 99]);
    }
}
