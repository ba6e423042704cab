//! The harness: real servers ([`stand`]) and waiting that cannot hang ([`wait`]).
//!
//! A scenario asks for the shared stand, makes a namespace and a project of its own on it, runs the agent
//! against it and looks at what the servers say. Nothing is imitated but GitLab (its issuer and its commit statuses), which cannot be had from
//! the registries. The agent of each [`world::World`] has an identity of its own in OpenBao: an AppRole whose
//! policy is the delivered `dist/vault/identity.hcl` for the world's own paths. `World::let_agent` widens or
//! narrows it while the agent runs, `World::use_identity` gives another login before a start. Invariant: what a test starts ends with the test process, even when that is killed.

pub mod client;
pub mod demo;
pub mod example;
pub mod faults;
pub mod progress;
pub mod stand;
pub mod submission;
pub mod wait;
pub mod world;
pub mod pipeline;
pub mod kills;
pub mod matrix;
pub mod pushes;
pub mod rotations;
pub mod statuses;
