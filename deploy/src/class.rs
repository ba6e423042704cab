//! The class of an error: the one thing that decides retry, HTTP status and blame.
//!
//! Every error of a port or stage answers `class()`. Retry is decided from the class by
//! [`crate::backoff`] alone; the HTTP edge maps it by one exhaustive match. Adapters choose the
//! class where the foreign error is still known, nowhere else.

/// What kind of failure an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The caller's input is wrong; sending it again does not help.
    Caller,
    /// Somebody with the right to do so said no.
    Denied,
    /// What was asked for does not exist.
    NotFound,
    /// The world is different from what the caller assumes (field conflicts, used keys).
    Conflict,
    /// The other side is away, busy or restarting; the call had no effect and may be repeated.
    Upstream,
    /// A write was sent and no answer came: look first, then decide.
    OutcomeUnknown,
    /// A fault of ours or an answer that nobody expected.
    Bug,
}

impl Class {
    /// Says whether waiting and calling again may help.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Upstream | Self::OutcomeUnknown => true,
            Self::Caller | Self::Denied | Self::NotFound | Self::Conflict | Self::Bug => false,
        }
    }
}
