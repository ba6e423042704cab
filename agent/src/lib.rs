//! The map of Quaymaster. (To be written in full when the parts stand.)
//!
//! The order of the modules is their dependency order: a module uses only those above it.

pub mod args;
pub mod clock;
pub mod telemetry;

pub mod metrics;
pub mod readiness;

pub mod lifecycle;

pub mod config;
pub mod journal;
pub mod runs;

pub mod auth;
pub mod cluster;
pub mod vault;

pub mod http;

pub mod app;
