//! Makes the adapters from the configuration: the real world behind every port.
//!
//! Called by [`super::run`] once. Nothing here waits for a server: an agent whose Vault or cluster is
//! away starts, and `/readyz` says what is missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use deploy::pace::Paced;
use deploy::ports::Cluster;
use deploy::ports::SecretsError;
use deploy::secret::FingerprintKey;
use deploy::secret::Secret;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use proto::error::Problem;
use proto::health::OwnIdentity;

use super::Chore;
use super::Parts;
use super::Probe;
use super::StartError;
use crate::auth::AuthError;
use crate::auth::Authenticator;
use crate::auth::IssuerSettings;
use crate::auth::Presented;
use crate::auth::TokenFacts;
use crate::auth::VaultTrust;
use crate::auth::Which;
use crate::clock::SystemClock;
use crate::clock::random;
use crate::cluster::ClusterSettings;
use crate::cluster::Kube;
use crate::config::Config;
use crate::git::Repositories;
use crate::gitlab::Statuses;
use crate::http::Identity;
use crate::http::brain::Identify;
use crate::registries::Registries;
use crate::render::Programs;
use crate::render::Rendering;
use crate::vault::IdentitySettings;
use crate::vault::IdentityStatus;
use crate::vault::Vault;
use crate::vault::VaultSettings;

/// Makes all of them.
pub(super) async fn parts(config: &Config) -> Result<Parts, StartError> {
    let key = FingerprintKey::new(random().map_err(|source| StartError::Kernel {
        what: "randomness",
        source,
    })?);
    let key = Arc::new(key);
    let clock = Arc::new(SystemClock);
    let vault = Arc::new(vault(config, &clock, Keeps::Token)?);
    let authenticator = Arc::new(authenticator(config, &vault, &clock)?);
    let mut probes = vec![
        probe("issuer", &authenticator, |part| {
            async move { part.ready().await }.boxed()
        }),
        probe("vault", &vault, |part| {
            async move { part.health().await }.boxed()
        }),
    ];
    let mut chores = Vec::new();
    if config.vault.identity.is_some() {
        probes.push(probe("vault identity", &vault, |part| {
            async move { part.identity_ready().await }.boxed()
        }));
        let kept = Arc::clone(&vault);
        chores.push(Chore {
            name: "vault identity",
            run: Box::new(move |stop| kept.keep_identity(stop).boxed()),
        });
    }
    let asked = Arc::clone(&vault);
    let identity: Identity = Arc::new(move || asked.identity_status().map(told));
    let base = config.state_dir.join("render");
    let programs = Programs::new(
        config.render.helm.clone(),
        config.render.kubectl.clone(),
        config.render.charts_ca_file.as_deref(),
        &base,
    )
    .map_err(|source| setup("rendering".to_owned(), source))?;
    let git = Repositories::new(config.git.clone(), &config.state_dir.join("git"))
        .map_err(|source| setup("git".to_owned(), source))?;
    let registries = config.registries.clone();
    let registry = Registries::new(registries.ca_file.as_deref(), registries.addresses)
        .map_err(|source| setup("registries".to_owned(), source))?;
    let mut renderers = BTreeMap::new();
    let mut clusters = BTreeMap::new();
    for (name, cluster) in &config.clusters {
        let settings = ClusterSettings {
            name: name.to_string(),
            kubeconfig: cluster.kubeconfig.clone(),
            context: cluster.context.clone(),
            timeout: cluster.timeout,
            fingerprint_key: Arc::clone(&key),
        };
        let kube = Kube::connect(settings)
            .await
            .map_err(|source| setup(format!("cluster.{name}"), source))?;
        let kube = Arc::new(kube);
        probes.push(probe(&format!("cluster:{name}"), &kube, |part| {
            async move { part.health().await }.boxed()
        }));
        // One pace for all runs of a cluster.
        let paced: Arc<dyn Cluster> = Arc::new(Paced::new(kube));
        clusters.insert(name.clone(), paced);
        let rendering = Rendering::new(
            programs.clone(),
            cluster.kubeconfig.clone(),
            cluster.context.clone(),
        );
        renderers.insert(name.clone(), Arc::new(rendering) as _);
    }
    let statuses = config.gitlab.as_ref().map(Statuses::new).transpose();
    let statuses = statuses.map_err(|source| setup("gitlab".to_owned(), source))?;
    Ok(Parts {
        statuses: statuses.map(Arc::new),
        secrets: vault,
        clusters,
        renderers,
        git: Arc::new(git),
        registry: Arc::new(registry),
        identify: identify(authenticator),
        key,
        clock,
        identity,
        probes,
        chores,
    })
}

/// How the agent's own login stands, for the operator.
fn told(status: IdentityStatus) -> OwnIdentity {
    let IdentityStatus {
        method,
        since,
        next_renewal,
        ttl_seconds,
        ends,
        renewable: _,
        last_error,
    } = status;
    let text = |time: jiff::Timestamp| format!("{time:.0}");
    OwnIdentity {
        method: method.to_owned(),
        since: since.map(text),
        next_renewal: next_renewal.map(text),
        expires_in_seconds: ttl_seconds,
        ends: ends.map(text),
        last_error,
    }
}

fn setup(part: String, source: impl std::error::Error + Send + Sync + 'static) -> StartError {
    StartError::Adapter {
        part,
        source: Box::new(source),
    }
}

/// Whether the agent's own token is kept for the next process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    /// In the state folder.
    Token,
    /// Nowhere: it is ended by who logged in for it.
    Nothing,
}

/// Makes the adapter of Vault.
pub(super) fn vault(
    config: &Config,
    clock: &Arc<SystemClock>,
    keeps: Keeps,
) -> Result<Vault, StartError> {
    let settings = VaultSettings {
        address: config.vault.address.clone(),
        ca_file: config.vault.ca_file.clone(),
        jwt_mount: config.vault.jwt_mount.clone(),
        namespace: config.vault.namespace.clone(),
        timeout: config.vault.timeout,
    };
    let unusable = |source| setup("vault".to_owned(), source);
    let vault = Vault::new(settings).map_err(unusable)?;
    let Some(identity) = config.vault.identity.clone() else {
        return Ok(vault);
    };
    let unlucky = |source| StartError::Kernel {
        what: "randomness",
        source,
    };
    let own = IdentitySettings {
        identity,
        state_dir: (keeps == Keeps::Token).then(|| config.state_dir.clone()),
        clock: Arc::clone(clock) as _,
        ticket: random().map_err(unlucky)?,
        jitter: u64::from_be_bytes(random().map_err(unlucky)?),
    };
    vault.with_identity(own).map_err(unusable)
}

fn authenticator(
    config: &Config,
    vault: &Arc<Vault>,
    clock: &Arc<SystemClock>,
) -> Result<Authenticator, StartError> {
    let issuer = &config.issuer;
    let settings = IssuerSettings {
        issuer: issuer.url.clone(),
        audience: issuer.audience.clone(),
        extra_audiences: issuer.extra_audiences.clone(),
        max_age: issuer.max_age,
        leeway: issuer.leeway,
        ca_file: issuer.ca_file.clone(),
        pinned_jwks: issuer.pinned_jwks.clone(),
    };
    let vault = Arc::clone(vault);
    let trust = VaultTrust {
        lookup: Arc::new(move |token| look_up(Arc::clone(&vault), token)),
        trusted_mounts: config.vault.trusted_mounts.clone(),
    };
    let clock = Arc::clone(clock);
    Authenticator::new(settings, trust, clock)
        .map_err(|source| setup("the issuer".to_owned(), source))
}

/// Asks Vault what a passed token is.
fn look_up(vault: Arc<Vault>, token: &Secret) -> BoxFuture<'_, Result<TokenFacts, AuthError>> {
    async move {
        let found = vault
            .lookup_self(token)
            .await
            .map_err(|error| refusal(&error))?;
        Ok(TokenFacts {
            policies: found.policies,
            metadata: found.meta,
            path: found.path,
            period: found.period_seconds.unwrap_or(0),
            orphan: found.orphan,
            ttl: found.ttl_seconds,
            token_type: found.kind,
        })
    }
    .boxed()
}

fn refusal(error: &SecretsError) -> AuthError {
    match error {
        SecretsError::Unavailable { .. }
        | SecretsError::Unanswered { .. }
        | SecretsError::Unexpected { .. } => AuthError::Unavailable {
            which: Which::VaultToken,
            problem: "Vault does not answer the agent".to_owned(),
        },
        SecretsError::LoginRefused { .. }
        | SecretsError::Forbidden { .. }
        | SecretsError::Missing { .. }
        | SecretsError::VersionGone { .. }
        | SecretsError::DataPrefix { .. } => AuthError::VaultRefused {
            problem: "is not known to Vault, or has ended".to_owned(),
        },
    }
}

fn identify(authenticator: Arc<Authenticator>) -> Identify {
    Arc::new(move |presented: Presented| {
        let authenticator = Arc::clone(&authenticator);
        async move {
            let told =
                |error: AuthError| Problem::new(error.code(), error.to_string()).hint(error.hint());
            authenticator.identify(presented).await.map_err(told)
        }
        .boxed()
    })
}

fn probe<P: Send + Sync + 'static>(
    name: &str,
    part: &Arc<P>,
    ask: fn(Arc<P>) -> BoxFuture<'static, Result<(), String>>,
) -> Probe {
    let part = Arc::clone(part);
    Probe {
        name: name.to_owned(),
        ask: Arc::new(move || ask(Arc::clone(&part))),
    }
}
