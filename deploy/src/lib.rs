//! The brain of the agent: decides, plans, applies, judges and reports one run.
//!
//! One direction, in the types: a [`bundle`] becomes a [`request::Request`]; [`authorize`] turns it, a
//! [`principal::Principal`] and the [`policy::Policy`] into a [`authorize::Permit`] (or a denial);
//! [`render`] turns a kustomization or chart into objects and asks the permit about them;
//! [`resolve`] fetches what the permit's spec names; [`history`] tells what the app has and
//! [`prune`] what it has too much; [`plan`] says what would change; [`check`] asks the API server for
//! its view before the first write; [`saved`] holds a deploy to a plan that was reviewed; [`lock`]
//! lets one run at a time have the app; [`apply`] writes (and [`release`] lets Helm write); [`watch`]
//! judges the rollout with the pure rules of [`rollout`] and [`cause`]; [`flux`] changes a branch and waits
//! for Flux, with [`fleet`] finding the places of images in its files; [`resume`] keeps what a run
//! needs to go on after a kill; [`report`] tells it. [`engine`] strings the stages together, and goes
//! back to a recorded revision the same way.
//!
//! Values that a job itself gets take a short way beside it: [`authorize::expose()`], then [`mod@expose`].
//!
//! What the stages share:
//!
//! * values: [`object`], [`field`], [`secret`], [`image`], [`class`];
//! * what people write: [`yaml`], [`spec`] with [`template`] and [`health`], [`manifest`] with
//!   [`options`], [`kustomization`], [`chart`], and [`binding`], which ties a request to a saved plan;
//! * who owns which field: [`managers`], [`owned`] (proves that nothing would change) and [`terms`];
//!   `kinds` and `lists` know what is fixed about the kinds of Kubernetes;
//! * how ports are called: [`backoff`] repeats, [`pace`] sets how much is in flight;
//! * who follows a run: [`audience`];
//! * Secrets that are kept fresh: [`managed`] is the record on each, [`rotate`] decides what is due,
//!   [`register`] is where the agents note them;
//! * what leaves: [`log`], through [`redact`].
//!
//! Invariants: no sockets, files, environment, processes or clocks here (the lints of this crate
//! refuse them); the world is reached through [`ports`] only. A stage cannot be called without the
//! proof of the one before. No plan, log, report or error holds a secret value.
//!
//! The order of the modules below is their dependency order: a module uses only those above it.

pub mod class;
pub mod object;
pub mod field;
pub mod managers;
mod kinds;
mod lists;
pub mod principal;
pub mod secret;
pub mod ports;
pub mod pace;
pub mod redact;
pub mod log;
pub mod backoff;
pub mod audience;
pub mod yaml;
pub mod bundle;
pub mod image;
pub mod fleet;
pub mod template;
pub mod health;
pub mod spec;
pub mod owned;
pub mod managed;
pub mod rotate;
pub mod register;
pub mod options;
pub mod manifest;
pub mod binding;
pub mod kustomization;
pub mod chart;
pub mod request;
pub mod policy;
pub mod authorize;
pub mod resolve;
pub mod expose;
pub mod terms;
pub mod plan;
pub mod history;
pub mod prune;
pub mod lock;
pub mod render;
pub mod check;
pub mod saved;
pub mod release;
pub mod apply;
#[cfg(any(test, feature = "fakes"))]
pub mod fakes;
pub mod rollout;
pub mod cause;
pub mod watch;
pub mod flux;
pub mod resume;
pub mod report;
pub mod engine;
#[cfg(test)]
mod properties;
