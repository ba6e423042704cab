//! The map of Quaymaster. (To be written in full when the parts stand.)
//!
//! The order of the modules is their dependency order: a module uses only those above it.

pub mod app;
pub mod args;
pub mod auth;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod http;
pub mod journal;
pub mod lifecycle;
pub mod metrics;
pub mod readiness;
pub mod runs;
pub mod telemetry;
pub mod vault;
