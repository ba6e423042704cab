//! Which endpoint a method and a path mean. Paths are compared literally.
//!
//! Called by [`super::guard`]. Nothing is decoded or normalized: `%2e`, `//` and a trailing slash
//! name nothing. A known path with another method is told apart from an unknown path.

use http::Method;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use proto::ids::RunId;
use proto::ids::dns_subdomain;
use proto::managed::SecretName;

/// Where apps are.
const APPS: &str = "/v1/apps/";
/// Where the operator finds Secrets that are kept fresh.
const MANAGED: &str = "/v1/managed/";

/// Which socket a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// For jobs.
    Jobs,
    /// For the operator.
    Admin,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /ping`
    Ping,
    /// `GET /version`
    Version,
    /// `GET /openapi.json`
    OpenApi,
    /// `GET /v1/whoami`
    WhoAmI,
    /// `POST /v1/deploys`
    Submit,
    /// `GET /v1/deploys`
    List,
    /// `GET /v1/deploys/{id}`
    Show(RunId),
    /// `GET /v1/deploys/{id}/events`
    Events(RunId),
    /// `GET /v1/deploys/{id}/result`
    Outcome(RunId),
    /// `POST /v1/deploys/{id}/cancel`
    Cancel(RunId),
    /// `POST /v1/rollbacks`
    Rollback,
    /// `GET /v1/apps/{cluster}/{namespace}/{name}`
    App(AppName),
    /// `POST /v1/secrets`
    ApplySecrets,
    /// `GET /v1/secrets`
    Secrets,
    /// `POST /v1/secrets/changed`
    SecretsChanged,
    /// `POST /v1/secrets/rotate`
    RotateSecret,
    /// `POST /v1/secrets/forget`
    ForgetSecret,
    /// `POST /v1/values`
    Values,
    /// `GET /livez`
    Livez,
    /// `GET /readyz`
    Readyz,
    /// `GET /metrics`
    Metrics,
    /// `GET /v1/status`
    Status,
    /// `POST /v1/drain`
    Drain,
    /// `GET /v1/managed`
    Managed,
    /// `GET /v1/managed/{cluster}/{namespace}/{name}`
    ManagedOne(SecretName),
    /// `POST /v1/managed/{cluster}/{namespace}/{name}/rotate`
    RotateManaged(SecretName),
}

/// Which app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppName {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: DeployName,
}

impl AppName {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let (cluster, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            cluster: cluster.parse().ok()?,
            namespace: namespace.parse().ok()?,
            name: name.parse().ok()?,
        })
    }
}

/// Reads a Secret's cluster, namespace and name, and what follows them.
fn secret(path: &str) -> Option<(SecretName, Option<&str>)> {
    let mut parts = path.splitn(4, '/');
    let (cluster, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    dns_subdomain(name).ok()?;
    let secret = SecretName {
        cluster: Some(cluster.parse().ok()?),
        namespace: Some(namespace.parse().ok()?),
        name: name.to_owned(),
    };
    Some((secret, parts.next()))
}

/// Why there is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// No such path on this socket.
    Path,
    /// The path takes only these methods.
    Method {
        /// The value of `Allow`.
        allow: &'static str,
    },
}

/// Finds the endpoint.
///
/// # Errors
/// No such path, or not this method.
pub fn find(socket: Socket, method: &Method, path: &str) -> Result<Endpoint, Miss> {
    let found = match path {
        "/ping" => get(method, Endpoint::Ping),
        "/version" => get(method, Endpoint::Version),
        "/openapi.json" => get(method, Endpoint::OpenApi),
        _ => match socket {
            Socket::Jobs => job(method, path)?,
            Socket::Admin => admin(method, path)?,
        },
    };
    found.map_err(|allow| Miss::Method { allow })
}

type Found = Result<Endpoint, &'static str>;

fn job(method: &Method, path: &str) -> Result<Found, Miss> {
    Ok(match path {
        "/v1/whoami" => get(method, Endpoint::WhoAmI),
        "/v1/deploys" if *method == Method::POST => Ok(Endpoint::Submit),
        "/v1/deploys" if *method == Method::GET => Ok(Endpoint::List),
        "/v1/deploys" => Err("GET, POST"),
        "/v1/rollbacks" => post(method, Endpoint::Rollback),
        "/v1/secrets" if *method == Method::POST => Ok(Endpoint::ApplySecrets),
        "/v1/secrets" if *method == Method::GET => Ok(Endpoint::Secrets),
        "/v1/secrets" => Err("GET, POST"),
        "/v1/secrets/changed" => post(method, Endpoint::SecretsChanged),
        "/v1/secrets/rotate" => post(method, Endpoint::RotateSecret),
        "/v1/secrets/forget" => post(method, Endpoint::ForgetSecret),
        "/v1/values" => post(method, Endpoint::Values),
        _ if path.starts_with(APPS) => {
            let app = path.strip_prefix(APPS).and_then(AppName::parse);
            get(method, Endpoint::App(app.ok_or(Miss::Path)?))
        }
        _ => {
            let rest = path.strip_prefix("/v1/deploys/").ok_or(Miss::Path)?;
            let (id, leaf) = rest
                .split_once('/')
                .map_or((rest, None), |(id, leaf)| (id, Some(leaf)));
            let id: RunId = id.parse().map_err(|_malformed| Miss::Path)?;
            match leaf {
                None => get(method, Endpoint::Show(id)),
                Some("events") => get(method, Endpoint::Events(id)),
                Some("result") => get(method, Endpoint::Outcome(id)),
                Some("cancel") => post(method, Endpoint::Cancel(id)),
                Some(_) => return Err(Miss::Path),
            }
        }
    })
}

fn admin(method: &Method, path: &str) -> Result<Found, Miss> {
    Ok(match path {
        "/livez" => get(method, Endpoint::Livez),
        "/readyz" => get(method, Endpoint::Readyz),
        "/metrics" => get(method, Endpoint::Metrics),
        "/v1/status" => get(method, Endpoint::Status),
        "/v1/drain" => post(method, Endpoint::Drain),
        "/v1/managed" => get(method, Endpoint::Managed),
        _ => {
            let named = path.strip_prefix(MANAGED).and_then(secret);
            match named.ok_or(Miss::Path)? {
                (secret, None) => get(method, Endpoint::ManagedOne(secret)),
                (secret, Some("rotate")) => post(method, Endpoint::RotateManaged(secret)),
                (_, Some(_)) => return Err(Miss::Path),
            }
        }
    })
}

fn get(method: &Method, endpoint: Endpoint) -> Found {
    if *method == Method::GET {
        Ok(endpoint)
    } else {
        Err("GET")
    }
}

fn post(method: &Method, endpoint: Endpoint) -> Found {
    if *method == Method::POST {
        Ok(endpoint)
    } else {
        Err("POST")
    }
}

impl Endpoint {
    /// Returns the route as metrics and the OpenAPI document name it.
    #[must_use]
    pub const fn route(&self) -> &'static str {
        match self {
            Self::Ping => "/ping",
            Self::Version => "/version",
            Self::OpenApi => "/openapi.json",
            Self::WhoAmI => "/v1/whoami",
            Self::Submit | Self::List => "/v1/deploys",
            Self::Show(_) => "/v1/deploys/{id}",
            Self::Events(_) => "/v1/deploys/{id}/events",
            Self::Outcome(_) => "/v1/deploys/{id}/result",
            Self::Cancel(_) => "/v1/deploys/{id}/cancel",
            Self::Rollback => "/v1/rollbacks",
            Self::App(_) => "/v1/apps/{cluster}/{namespace}/{name}",
            Self::ApplySecrets | Self::Secrets => "/v1/secrets",
            Self::SecretsChanged => "/v1/secrets/changed",
            Self::RotateSecret => "/v1/secrets/rotate",
            Self::ForgetSecret => "/v1/secrets/forget",
            Self::Values => "/v1/values",
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Status => "/v1/status",
            Self::Drain => "/v1/drain",
            Self::Managed => "/v1/managed",
            Self::ManagedOne(_) => "/v1/managed/{cluster}/{namespace}/{name}",
            Self::RotateManaged(_) => "/v1/managed/{cluster}/{namespace}/{name}/rotate",
        }
    }

    /// Returns the query parameters that it takes.
    #[must_use]
    pub const fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::Submit => &["dry_run", "plan", "promote"],
            Self::ApplySecrets => &["dry_run"],
            Self::List => &["limit", "after"],
            Self::Events(_) => &["since"],
            Self::Outcome(_) => &["wait"],
            Self::Readyz => &["verbose"],
            Self::Ping
            | Self::Version
            | Self::OpenApi
            | Self::WhoAmI
            | Self::Show(_)
            | Self::Cancel(_)
            | Self::Rollback
            | Self::App(_)
            | Self::Secrets
            | Self::SecretsChanged
            | Self::RotateSecret
            | Self::ForgetSecret
            | Self::Values
            | Self::Livez
            | Self::Metrics
            | Self::Status
            | Self::Drain
            | Self::Managed
            | Self::ManagedOne(_)
            | Self::RotateManaged(_) => &[],
        }
    }

    /// Says whether it is answered without the client header: what probes and scrapers ask for.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        match self {
            Self::Ping
            | Self::Version
            | Self::OpenApi
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::Status => true,
            Self::WhoAmI
            | Self::Submit
            | Self::List
            | Self::Show(_)
            | Self::Events(_)
            | Self::Outcome(_)
            | Self::Cancel(_)
            | Self::Rollback
            | Self::App(_)
            | Self::ApplySecrets
            | Self::Secrets
            | Self::SecretsChanged
            | Self::RotateSecret
            | Self::ForgetSecret
            | Self::Values
            | Self::Drain
            | Self::Managed
            | Self::ManagedOne(_)
            | Self::RotateManaged(_) => false,
        }
    }

    /// Says whether a request may have a body.
    #[must_use]
    pub const fn takes_body(&self) -> bool {
        matches!(
            self,
            Self::Submit
                | Self::Rollback
                | Self::ApplySecrets
                | Self::SecretsChanged
                | Self::RotateSecret
                | Self::ForgetSecret
                | Self::Values
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "r0123456789abcdef0123456789abcdef";

    #[test]
    fn paths_are_literal() {
        for path in [
            "/",
            "",
            "*",
            "/ping/",
            "//ping",
            "/v1//deploys",
            "/v1/%64eploys",
            "/v1/deploys/",
            "/V1/deploys",
            "/v1/deploys/../whoami",
            "/v1/deploys/r1",
            "/v1/deploys/r0123456789abcdef0123456789abcdef/",
            "/v1/deploys/r0123456789abcdef0123456789abcdef/events/",
            "/v1/rollbacks/",
            "/v1/apps",
            "/v1/apps/demo/flask",
            "/v1/apps/demo/flask/app/",
            "/v1/apps/demo/flask/app/1",
            "/v1/apps/demo/%66lask/app",
            "/v1/secrets/",
            "/v1/secrets/shop-db",
            "/v1/managed",
            "/v1/reload",
            "/metrics",
        ] {
            assert_eq!(
                find(Socket::Jobs, &Method::GET, path),
                Err(Miss::Path),
                "{path}"
            );
        }
    }

    #[test]
    fn methods_are_told_apart_from_paths() {
        let method = |allow| Err(Miss::Method { allow });
        let find = |method, path: &str| find(Socket::Jobs, &method, path);
        assert_eq!(find(Method::PUT, "/v1/deploys"), method("GET, POST"));
        assert_eq!(find(Method::HEAD, "/ping"), method("GET"));
        assert_eq!(
            find(Method::GET, &format!("/v1/deploys/{ID}/cancel")),
            method("POST")
        );
        assert_eq!(find(Method::GET, "/v1/rollbacks"), method("POST"));
        assert_eq!(find(Method::GET, "/v1/values"), method("POST"));
        assert_eq!(find(Method::POST, "/v1/apps/demo/flask/app"), method("GET"));
        assert_eq!(find(Method::DELETE, "/v1/secrets"), method("GET, POST"));
        for leaf in ["changed", "rotate", "forget"] {
            let path = format!("/v1/secrets/{leaf}");
            assert_eq!(find(Method::GET, &path), method("POST"), "{path}");
        }
    }

    #[test]
    fn a_managed_secret_is_named_by_three_parts() {
        let find = |method, path: &str| find(Socket::Admin, &method, path);
        let secret = SecretName {
            cluster: Some("demo".parse().expect("a name")),
            namespace: Some("flask".parse().expect("a name")),
            name: "db.main".to_owned(),
        };
        let path = "/v1/managed/demo/flask/db.main";
        let one = Endpoint::ManagedOne(secret.clone());
        assert_eq!(find(Method::GET, path), Ok(one));
        let rotate = format!("{path}/rotate");
        let asked = Endpoint::RotateManaged(secret);
        assert_eq!(find(Method::POST, &rotate), Ok(asked));
        let method = |allow| Err(Miss::Method { allow });
        assert_eq!(find(Method::GET, &rotate), method("POST"));
        assert_eq!(find(Method::POST, path), method("GET"));
        for path in [
            "/v1/managed/",
            "/v1/managed/demo/flask",
            "/v1/managed/demo/flask/",
            "/v1/managed/demo/flask/DB",
            "/v1/managed/demo/flask/db/",
            "/v1/managed/demo/flask/db/forget",
            "/v1/managed/demo/flask/db/rotate/",
        ] {
            assert_eq!(find(Method::GET, path), Err(Miss::Path), "{path}");
        }
    }

    #[test]
    fn the_sockets_have_their_own_paths() {
        assert_eq!(
            find(Socket::Admin, &Method::GET, "/livez"),
            Ok(Endpoint::Livez)
        );
        assert_eq!(
            find(Socket::Admin, &Method::GET, "/v1/deploys"),
            Err(Miss::Path)
        );
        assert_eq!(
            find(Socket::Admin, &Method::GET, "/ping"),
            Ok(Endpoint::Ping)
        );
        let id = ID.parse().expect("an id");
        let path = format!("/v1/deploys/{ID}/events");
        assert_eq!(
            find(Socket::Jobs, &Method::GET, &path),
            Ok(Endpoint::Events(id))
        );
    }
}
