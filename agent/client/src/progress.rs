//! What there is to tell while a run is on.
//!
//! Made by `follow` and `patience`, shown by `output`. Nothing here decides anything.

use proto::event::Event;

/// One thing to tell.
pub(crate) enum Progress<'a> {
    /// The agent's own line.
    Event(&'a Event),
    /// Ours.
    Notice(String),
    /// Ours, for the curious.
    Detail(String),
}

/// Takes progress.
pub(crate) type Tell<'a> = dyn FnMut(Progress<'_>) + 'a;
