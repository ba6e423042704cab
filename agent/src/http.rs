//! The two sockets: HTTP/1.1 with JSON, strict on the way in, truthful on the way out.
//!
//! `app` binds with [`listener`] and runs [`serve`] for each socket; [`handle`] is the one way from
//! a request to an answer: [`guard`] checks the head, [`route`] names the endpoint, [`deploys`], [`apps`],
//! [`secrets`], [`values`] and [`admin`] answer. Invariant: no handler owns a run; a request that is dropped changes nothing
//! that was accepted.

pub mod admin;
pub mod answer;
pub mod brain;
pub mod deploys;
pub mod apps;
pub mod guard;
pub mod joblog;
pub mod listener;
pub mod pulse;
pub mod query;
pub mod route;
pub mod secrets;
pub mod serve;
pub mod stream;
pub mod values;

use std::sync::Arc;

use deploy::ports::Clock;
use http::Request;
use http::StatusCode;
use http::request::Parts;
use hyper::body::Incoming;
use proto::API_VERSION;
use proto::health::OwnIdentity;
use proto::report::Version;

use self::answer::Answer;
use self::answer::Refusal;
use self::answer::full;
use self::answer::json;
use self::brain::Brain;
use self::guard::Call;
use self::route::Endpoint;
use self::route::Socket;
use crate::config::HttpLimits;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::rotation::Rotation;
use crate::runs::Runs;

/// The interface, as tools read it.
const OPENAPI: &str = include_str!("http/openapi.json");

/// How the agent's own login to Vault stands; unset for an agent without one.
pub type Identity = Arc<dyn Fn() -> Option<OwnIdentity> + Send + Sync>;

/// Everything that handlers need.
pub struct Site {
    /// Who, may they, what.
    pub brain: Brain,
    /// The runs.
    pub runs: Runs,
    /// The desk of Secrets that are kept fresh; unset where this agent keeps none.
    pub rotation: Option<Rotation>,
    /// The hash of the policy.
    pub policy: String,
    /// How the agent's own login to Vault stands.
    pub identity: Identity,
    /// What blocks.
    pub readiness: Readiness,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Drain and stop.
    pub lifecycle: Lifecycle,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Sizes and times.
    pub limits: HttpLimits,
}

/// Answers one request.
pub async fn handle(request: Request<Incoming>, socket: Socket, site: Arc<Site>) -> Answer {
    let (head, body) = request.into_parts();
    let mut route = "none";
    let answered = match guard::check(socket, &head, &site.limits) {
        Ok(call) => {
            route = call.endpoint.route();
            dispatch(call, &head, body, &site).await
        }
        Err(refusal) => Err(refusal),
    };
    let answer = answered.unwrap_or_else(|refusal| {
        site.metrics.denial(refusal.problem.code);
        tracing::debug!(
            code = refusal.problem.code.word(),
            route,
            decision = refusal.problem.decision_id,
            "refused"
        );
        refusal.answer(head.uri.path())
    });
    site.metrics.request(route, answer.status().as_u16());
    answer
}

async fn dispatch(
    call: Call,
    head: &Parts,
    body: Incoming,
    site: &Site,
) -> Result<Answer, Refusal> {
    let Call { endpoint, query } = call;
    let headers = &head.headers;
    match endpoint {
        Endpoint::Ping => Ok(full(StatusCode::OK, "text/plain; charset=utf-8", "pong\n")),
        Endpoint::Version => Ok(json(StatusCode::OK, &version())),
        Endpoint::OpenApi => Ok(full(StatusCode::OK, "application/json", OPENAPI)),
        Endpoint::WhoAmI => deploys::whoami(site, headers).await,
        Endpoint::Submit => deploys::submit(site, headers, &query, body).await,
        Endpoint::List => deploys::list(site, headers, &query).await,
        Endpoint::Show(id) => deploys::show(site, headers, &id).await,
        Endpoint::Events(id) => deploys::events(site, headers, &query, &id).await,
        Endpoint::Outcome(id) => deploys::outcome(site, headers, &query, &id).await,
        Endpoint::Cancel(id) => deploys::cancel(site, headers, &id).await,
        Endpoint::Rollback => apps::rollback(site, headers, body).await,
        Endpoint::App(app) => apps::show(site, headers, app).await,
        Endpoint::ApplySecrets => secrets::apply(site, headers, &query, body).await,
        Endpoint::Secrets => secrets::list(site, headers).await,
        Endpoint::SecretsChanged => secrets::changed(site, headers, body).await,
        Endpoint::RotateSecret => secrets::rotate(site, headers, body).await,
        Endpoint::ForgetSecret => secrets::forget(site, headers, body).await,
        Endpoint::Values => values::values(site, headers, body).await,
        Endpoint::Livez => Ok(admin::livez()),
        Endpoint::Readyz => Ok(admin::readyz(site)),
        Endpoint::Metrics => admin::metrics(site),
        Endpoint::Status => Ok(admin::status(site)),
        Endpoint::Drain => Ok(admin::drain(site)),
        Endpoint::Managed => admin::managed(site),
        Endpoint::ManagedOne(name) => admin::managed_one(site, &name),
        Endpoint::RotateManaged(name) => admin::managed_rotate(site, &name),
    }
}

fn version() -> Version {
    Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: vec![API_VERSION.to_owned()],
        attestation: "none".to_owned(),
    }
}

#[cfg(test)]
mod tests;
