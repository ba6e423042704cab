//! The map of Quaymaster: what the parts are, how a request flows, what must stay true.
//!
//! Quaymaster is a long-lived agent beside a GitLab Runner. A CI job hands it a token and a bundle
//! over a unix socket. The agent fetches secrets from Vault or OpenBao, writes them as Kubernetes
//! Secrets, applies the manifests as the job (by impersonation), watches the rollout, and tells the
//! job the truth. No cluster credential enters the job, and no secret value but those that the operator's rule
//! gives to jobs (`expose`).
//!
//! # How one request flows
//!
//! ```text
//! job ── HTTP/1.1 over a unix socket ──▶ http      limits, routes, problems
//!                                         │
//!                                         ▼
//!                                        auth      who is this?       → Principal
//!                                         ▼
//!                      deploy::{bundle, request}   what is asked?     → Request
//!                                         ▼
//!                              deploy::authorize   may they?          → Permit     (unforgeable)
//!                                         ▼
//!                                        runs      one tracked task a run, journal, idempotency
//!                                         ▼
//!                                deploy::engine    the story of one run:
//!                                  render          which objects?     (kustomization, chart)
//!                                  check::access   does RBAC agree?
//!                                  lock            is it our turn?    (one run per app)
//!                                  history, prune  what is there?     (revisions, leftovers, brake)
//!                                  resolve         which values?      → Draft, later ResolvedSecrets
//!                                  plan            what changes?      → Plan       (printable)
//!                                  check::dry_run  would the server take it?
//!                                  saved           is it what was reviewed?
//!                                  apply, release  do it              → Applied
//!                                  flux            change the branch, wait for Flux
//!                                  watch           did it work?       → Outcome
//!                                  engine::back    if not: put the last revision back, and watch it
//!                                  prune           delete what is not wanted any more
//!                                  report          tell it            → proto::report
//! ```
//!
//! Rotation is no second path: [`rotation`] asks [`deploy::rotate`] what is due in the Secrets that specs
//! want kept fresh, and submits runs of [`deploy::engine::rotate`] for the project that owns them:
//!
//! ```text
//! rotation  register, Secrets' metadata, versions and leases ──▶ deploy::rotate   what is due?
//!                                                                  ▼
//!                                              authorize, lock, resolve, plan, check, apply as above
//!                                                                  ▼
//!                                              restart what uses the changed keys, watch,
//!                                              end the old credential, or put the values of before back
//! ```
//!
//! A command of a job that needs a value itself gets it by a short way, without run, journal or cluster:
//!
//! ```text
//! job ── POST /v1/values ──▶ http ──▶ auth ──▶ deploy::authorize::expose ──▶ deploy::expose ──▶ the answer
//! ```
//!
//! # Crates
//!
//! * `proto`: wire types, ids, events, problems. Serde only.
//! * `deploy`: the brain. Decides everything, touches nothing but its ports ([`deploy::ports`]).
//! * `agent` (this crate, binary `quaymasterd`): adapters and the process.
//! * `client` (binary `quaymaster`): what a job runs. No TLS, knows `proto` only.
//! * `tests`: the stand (real servers), scenarios, benchmarks, repository checks.
//!
//! # Modules of this crate
//!
//! * the process: [`args`], [`config`], [`telemetry`], [`metrics`], [`readiness`], [`lifecycle`], [`clock`];
//! * ports of the brain: [`vault`] (and in its folder `identity` the agent's own login), [`cluster`],
//!   [`registries`] (images; charts are fetched with its requests), [`render`] (Helm and kustomize) and
//!   [`git`], which run programs as confined children ([`child`]), [`journal`];
//! * what [`vault`], [`registries`] and [`auth`] have in common as HTTP clients: [`outbound`];
//! * the way in: [`auth`], [`http`], [`runs`]; the way back to GitLab: [`gitlab`], which posts commit statuses;
//! * the daemon: [`rotation`], with the desk at which `http` asks about Secrets that are kept fresh;
//! * [`app`] puts all of it together.
//!
//! # State
//!
//! The cluster holds what concerns an app: its lock (a Lease), its revisions and inventory (ConfigMaps,
//! [`deploy::history`]), and Helm's own records. A Secret that is kept fresh carries its own record
//! ([`deploy::managed`]); the agents' namespace holds the register of all of them and who is alive
//! ([`deploy::register`]). The journal on disk holds what concerns a run of this agent, and the tokens that
//! it made for credentials and that are in no Secret yet. The agent's own token in Vault is kept beside
//! it, so that a restart costs no credential.
//!
//! # Invariants
//!
//! 1. A stage takes the proof of the stage before: no plan without a [`deploy::authorize::Permit`],
//!    no write without a [`deploy::plan::Plan`], no verdict without [`deploy::apply::Applied`].
//! 2. Objects are decided on after parsing, and the very same objects are applied.
//! 3. Secret values have one type, [`deploy::secret::Secret`], revealed in [`vault`], [`cluster`],
//!    [`registries`] and [`git`], which send it, in [`gitlab`], which sends the agent's own, in [`auth`], which
//!    verifies a token, and where a job gets a value that its rule exposes (`app::values`); everything else
//!    that leaves towards the job passes [`deploy::redact`].
//! 4. Every outgoing call is bounded. A timed-out write is unknown: look first, then decide.
//! 5. A run outlives its connection and is never dropped half way: it is cancelled between writes.
//! 6. Before a run writes, the journal says so; after a kill the run goes on, or tells how far it came.
//! 7. One run at a time writes an app, over all hosts, and never for an older pipeline unasked.
//! 8. Pruning deletes only what carries the app's label, by uid, and never because an input was empty.
//! 9. The agent's own identity in a cluster can do little more than impersonate.
//! 10. A credential that is alive is never dropped because of an error, and an old one is ended only
//!     after the pods with the new one are ready.
//! 11. What is declared on a Secret is acted on only with the digest that the agents noted, and only as
//!     far as the present policy allows its owner.
//!
//! # Deliberately absent
//!
//! No gRPC, no web interface, no template language for manifests, no store or consensus of our own,
//! no image builds inside the agent, no expansion of variables (the client does that).
//!
//! # Recipes
//!
//! * An endpoint: a route in [`http`], its types in `proto`, a path in `openapi.json` (a test compares
//!   them), a scenario in `tests/it`.
//! * A port method: the contract in [`deploy::ports`], the double in `deploy::fakes`, the adapter, a
//!   case in `tests/it/contract.rs`.
//! * A cause of a failed rollout: a file or function below `deploy/src/cause/`, a unit test with the
//!   JSON that the cluster showed, a scenario on the real kubelet.
//! * An error: a variant beside its operation with fields for context; its class; a line in
//!   [`deploy::report`].
//!
//! # Reading order
//!
//! This page, `deploy/src/engine.rs` (the story of one run), `deploy/src/ports.rs`,
//! `agent/src/runs.rs`, `agent/src/app.rs`, `tests/it/deploy.rs`.
//!
//! The order of the modules below is their dependency order: a module uses only those above it.

pub mod args;
pub mod clock;
pub mod telemetry;
pub mod metrics;
pub mod readiness;
pub mod lifecycle;
pub mod config;
pub mod journal;
mod outbound;
pub mod vault;
pub mod cluster;
pub mod registries;
pub mod child;
pub mod render;
pub mod git;
pub mod auth;
pub mod gitlab;
pub mod runs;
pub mod rotation;
pub mod http;
pub mod app;
