//! Bounded, level-triggered waiting: look, and look again, until the thing is so or the time is up.
//!
//! Called by everything that waits for a server or a cluster. It is the only place that ticks. Invariant:
//! every wait has a deadline, and a wait that fails says what was seen last.

use std::time::Duration;

use anyhow::Result;
use anyhow::bail;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio::time::interval;

/// Time between two looks. Short against everything that is waited for, long against what a look costs.
const TICK: Duration = Duration::from_millis(50);

/// What one look saw.
pub enum Look<T> {
    /// It is so.
    Ready(T),
    /// Not yet; the text is the status that a failed wait reports.
    NotYet(String),
    /// It can no longer become so.
    Hopeless(anyhow::Error),
}

impl<T> From<Result<T>> for Look<T> {
    fn from(result: Result<T>) -> Self {
        match result {
            Ok(value) => Self::Ready(value),
            Err(error) => Self::NotYet(format!("{error:#}")),
        }
    }
}

/// Looks until `look` is ready, at most `within`.
///
/// # Errors
/// When the time is up, with the last status; or at once when the look is hopeless.
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Look<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::from("nothing was seen");
    loop {
        tick.tick().await;
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Look::Ready(value)) => return Ok(value),
            Ok(Look::NotYet(status)) => last = status,
            Ok(Look::Hopeless(error)) => return Err(error.context(format!("waiting for {what}"))),
            Err(_) => {
                bail!("waited {within:?} for {what}; the last look did not end; before: {last}")
            }
        }
        if Instant::now() >= deadline {
            bail!("waited {within:?} for {what}; last seen: {last}");
        }
    }
}

/// Lets `time` pass: between two tries of something that failed, never in place of looking.
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
