//! Why a workload does not become ready: causes with evidence, read from pods, events and owners.
//!
//! Pure: [`crate::watch`] brings the observed world, this finds causes in it. One file a family
//! below `cause/`.

/// Whether waiting can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permanence {
    /// It will not heal by itself.
    Permanent,
    /// It may heal; reported when the deadline comes.
    Transient,
}
