//! From a bundle to permitted work: unpack, read, authorize, and the engine's run as a closure.
//!
//! Made by [`super::Bound::build`], called by `http` through the [`Brain`]. Everything that can be
//! decided without Vault is decided here, so that the caller learns it from the POST itself; the
//! cluster is only asked how it serves kinds that are not built in.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy::authorize;
use deploy::authorize::Permit;
use deploy::backoff::Patience;
use deploy::binding;
use deploy::bundle;
use deploy::bundle::Packing;
use deploy::engine;
use deploy::engine::Elsewhere;
use deploy::engine::Tools;
use deploy::history::store;
use deploy::history::store::Place;
use deploy::log::RunLog;
use deploy::object::Gvk;
use deploy::object::Resource;
use deploy::policy::Policy;
use deploy::ports::Clock;
use deploy::ports::Cluster;
use deploy::ports::Git;
use deploy::ports::Login;
use deploy::ports::Ports;
use deploy::ports::Registry;
use deploy::ports::Renderer;
use deploy::ports::Secrets;
use deploy::principal::Principal;
use deploy::register::Home;
use deploy::report;
use deploy::request;
use deploy::request::Request;
use deploy::secret::FingerprintKey;
use deploy::secret::Secret;
use futures::FutureExt;
use proto::app::App;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use proto::report::Mode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::gitlab::Herald;
use crate::gitlab::Known;
use crate::gitlab::Statuses;
use crate::http::brain::Asked;
use crate::http::brain::Brain;
use crate::http::brain::Identify;
use crate::http::brain::Named;
use crate::http::brain::Prepared;
use crate::http::brain::Wish;
use crate::http::brain::denied;
use crate::http::brain::invalid;
use crate::http::route::AppName;
use crate::runs::RunTools;
use crate::runs::Work;

/// How long a caller waits for what an app has while the cluster is away.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// What is needed to judge and run a submission.
#[derive(Clone)]
pub(super) struct Intake {
    pub(super) policy: Arc<Policy>,
    pub(super) secrets: Arc<dyn Secrets>,
    pub(super) clusters: BTreeMap<ClusterName, Arc<dyn Cluster>>,
    pub(super) renderers: BTreeMap<ClusterName, Arc<dyn Renderer>>,
    pub(super) git: Arc<dyn Git>,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) key: Arc<FingerprintKey>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: bundle::Limits,
    /// The name under which others find this agent.
    pub(super) agent: String,
    /// Where the agents note which Secrets they keep fresh; unset where this one keeps none.
    pub(super) home: Option<Home>,
    /// Tells GitLab about runs; unset: nobody does.
    pub(super) statuses: Option<Arc<Statuses>>,
}

/// The tokens that a run may use.
pub(super) struct Tokens {
    pub(super) id_token: Option<Secret>,
    pub(super) vault_token: Option<Secret>,
}

impl Tokens {
    fn duplicate(&self) -> Self {
        let copy = |token: &Option<Secret>| token.as_ref().map(Secret::duplicate);
        Self {
            id_token: copy(&self.id_token),
            vault_token: copy(&self.vault_token),
        }
    }
}

fn unknown(cluster: &ClusterName) -> Problem {
    let detail = format!("this agent knows no cluster named {cluster}");
    Problem::new(Code::SpecInvalid, detail).hint("name a configured cluster")
}

impl Intake {
    /// Makes the brain of the sockets.
    pub(super) fn brain(self, identify: Identify) -> Brain {
        let admitting = Arc::clone(&self.policy);
        let explaining = Arc::clone(&self.policy);
        let preparing = Arc::new(self);
        let looking = Arc::clone(&preparing);
        let resuming = Arc::clone(&preparing);
        let exposing = Arc::clone(&preparing);
        Brain {
            identify,
            admit: Arc::new(move |who, decision| authorize::admit(&admitting, who, decision)),
            explain: Arc::new(move |who| authorize::explain(&explaining, who)),
            prepare: Arc::new(move |asked| Arc::clone(&preparing).prepare(asked).boxed()),
            look: Arc::new(move |who, app, decision| {
                Arc::clone(&looking).look(who, app, decision).boxed()
            }),
            expose: Arc::new(move |asked| Arc::clone(&exposing).expose(asked).boxed()),
            resume: Arc::new(move |cut, began| resuming.resume(cut, began)),
        }
    }

    async fn prepare(self: Arc<Self>, asked: Asked) -> Result<Prepared, Problem> {
        let Asked {
            identity,
            wish,
            mode,
            decision,
        } = asked;
        let request = match wish {
            Wish::Bundle {
                body,
                packing,
                named,
            } => self.unpacked(body, packing, named, mode).await?,
            Wish::Revision(asked) => request::rollback(asked).map_err(invalid)?,
        };
        let served = self.served(&request).await?;
        let tokens = Tokens {
            id_token: identity.id_token,
            vault_token: identity.vault_token,
        };
        let permit = authorize::authorize(
            &self.policy,
            identity.principal,
            request,
            &served,
            &decision,
        )
        .map_err(denied)?;
        let adapters = self
            .clusters
            .get(permit.cluster())
            .zip(self.renderers.get(permit.cluster()));
        let Some((cluster, renderer)) = adapters else {
            return Err(unknown(permit.cluster()));
        };
        let elsewhere = self.elsewhere(&permit, &tokens).map_err(|p| *p)?;
        let herald = self.herald(
            permit.principal(),
            mode,
            (&permit.request().spec.name, permit.namespace()),
            Known::No,
        );
        Ok(Prepared {
            herald,
            name: permit.request().spec.name.clone(),
            cluster: permit.cluster().clone(),
            namespace: permit.namespace().clone(),
            work: self.work(
                permit,
                (tokens, elsewhere),
                Arc::clone(cluster),
                Arc::clone(renderer),
            ),
        })
    }

    /// Makes what tells GitLab about a run.
    pub(super) fn herald(
        &self,
        principal: &Principal,
        mode: Mode,
        (name, namespace): (&DeployName, &Namespace),
        known: Known,
    ) -> Option<Herald> {
        let statuses = self.statuses.as_ref()?;
        statuses.herald(principal, mode, (name.as_str(), namespace.as_str()), known)
    }

    /// Finds the way to the environment that a promotion takes its images from.
    fn elsewhere(
        &self,
        permit: &Permit,
        tokens: &Tokens,
    ) -> Result<Option<Elsewhere>, Box<Problem>> {
        let Some(origin) = permit.origin() else {
            return Ok(None);
        };
        let cluster = self.clusters.get(origin.cluster());
        let cluster = cluster.ok_or_else(|| Box::new(unknown(origin.cluster())))?;
        Ok(Some(Elsewhere {
            cluster: Arc::clone(cluster),
            login: login(origin.vault_role(), tokens.duplicate()),
        }))
    }

    async fn unpacked(
        &self,
        body: Bytes,
        packing: Packing,
        named: Named,
        mode: Mode,
    ) -> Result<Request, Problem> {
        let limits = self.limits;
        // Parsing is pure computing of up to a second: not on a worker that answers requests.
        let parsed = tokio::task::spawn_blocking(move || {
            let mut bundle = bundle::unpack(&body, packing, &limits)?;
            let binding = binding::take(&mut bundle, named.plan.as_deref())?;
            let request = match &named.promote {
                Some(path) => request::promotion(&bundle, path, mode),
                None => request::read(&bundle, mode),
            };
            request.map(|request| Request { binding, ..request })
        });
        let lost = |_| Problem::new(Code::Internal, "the bundle could not be read");
        parsed.await.map_err(lost)?.map_err(invalid)
    }

    /// Reads what an app has, as the caller, for whoever may deploy to its namespace.
    async fn look(
        self: Arc<Self>,
        principal: Principal,
        app: AppName,
        decision: String,
    ) -> Result<App, Problem> {
        let AppName {
            cluster,
            namespace,
            name,
        } = app;
        let actor = authorize::look(&self.policy, &principal, &cluster, &namespace, &decision)
            .map_err(denied)?;
        let nothing = || {
            Problem::new(
                Code::NotFound,
                format!("nothing is recorded of {name} in {namespace}"),
            )
            .hint("an app has a history once its first deploy has begun to write")
        };
        let port = self.clusters.get(&cluster).ok_or_else(nothing)?;
        let place = Place {
            cluster: &**port,
            actor: &actor,
            namespace: namespace.as_str(),
            app: name.as_str(),
        };
        let log = RunLog::new(Arc::clone(&self.clock));
        let patience = Patience {
            deadline: Instant::now() + LOOK_TIME,
            stop: &CancellationToken::new(),
            log: &log,
            seed: 1,
        };
        let past = store::read(place, &patience).await;
        let past = past.map_err(|error| report::of_history(&error))?;
        if past.version.is_none() {
            return Err(nothing());
        }
        Ok(past.told(name, cluster, namespace))
    }

    /// Makes the engine's run of a permit.
    fn work(
        &self,
        permit: Permit,
        (tokens, elsewhere): (Tokens, Option<Elsewhere>),
        cluster: Arc<dyn Cluster>,
        renderer: Arc<dyn Renderer>,
    ) -> Work {
        let secrets = Arc::clone(&self.secrets);
        let git = Arc::clone(&self.git);
        let registry = Arc::clone(&self.registry);
        let clock = Arc::clone(&self.clock);
        let key = Arc::clone(&self.key);
        let agent = self.agent.clone();
        let home = self.home.clone();
        let login = login(permit.vault_role(), tokens);
        Box::new(move |run: RunTools| {
            async move {
                let ports = Ports {
                    secrets,
                    cluster,
                    renderer,
                    git,
                    registry,
                    clock,
                    journal: run.journal,
                };
                let tools = Tools {
                    id: run.id,
                    ports: &ports,
                    log: &run.log,
                    key: &key,
                    stop: run.stop,
                    end: run.end,
                    audience: &run.audience,
                    agent: &agent,
                    home: home.as_ref(),
                };
                engine::promote(permit, login, elsewhere, tools).await
            }
            .boxed()
        })
    }

    /// Asks the cluster how it serves the kinds of a request that are not built in.
    pub(super) async fn served(&self, request: &Request) -> Result<Vec<Resource>, Problem> {
        let mut served = Vec::new();
        let foreign: BTreeSet<&Gvk> = request
            .objects
            .iter()
            .map(|object| &object.id.gvk)
            .filter(|gvk| !is_built_in(&gvk.group))
            .collect();
        let Some(cluster) = self.target(request).filter(|_| !foreign.is_empty()) else {
            return Ok(served);
        };
        for gvk in foreign {
            match cluster.resource(gvk).await {
                Ok(resource) => served.push(resource),
                // A kind that this very bundle defines is not served yet: the decision is the
                // authorizer's, with what the bundle says.
                Err(error) if !error.class().is_transient() => {}
                Err(error) => {
                    tracing::warn!(%error, %gvk, "the cluster does not say how it serves a kind");
                    let detail = format!("the cluster did not say how it serves {gvk}");
                    return Err(
                        Problem::new(Code::Unavailable, detail).hint("try again in a while")
                    );
                }
            }
        }
        Ok(served)
    }

    /// Finds the cluster that a request is for, as far as that is clear before the decision.
    fn target(&self, request: &Request) -> Option<&Arc<dyn Cluster>> {
        match &request.spec.cluster {
            Some(name) => self.clusters.get(name),
            None if self.clusters.len() == 1 => self.clusters.values().next(),
            None => None,
        }
    }
}

/// Says whether the API server itself has the kinds of a group.
fn is_built_in(group: &str) -> bool {
    matches!(group, "" | "apps" | "batch" | "autoscaling" | "policy") || group.ends_with(".k8s.io")
}

/// Chooses how the run gets its Vault token: a passed one reads, else the id_token is traded.
pub(super) fn login(role: Option<&str>, tokens: Tokens) -> Option<Login> {
    if let Some(token) = tokens.vault_token {
        return Some(Login::Passed { token });
    }
    let role = role?.to_owned();
    let token = tokens.id_token?;
    Some(Login::Jwt { token, role })
}
