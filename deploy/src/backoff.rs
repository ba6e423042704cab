//! The one retry policy: what is repeated, how often, and until when.
//!
//! Used by every stage around port calls. Only [`Class::Upstream`] is repeated here; a write whose
//! outcome is unknown is for the caller to look at first. Waits double from 0.5 s to 15 s with
//! jitter, obey the server's Retry-After, and end with the run's deadline or its stop token.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::class::Class;
use crate::log::RunLog;
use crate::ports::ClusterError;

/// The first wait.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait that we choose ourselves.
const LONGEST: Duration = Duration::from_secs(15);
/// A message about the same trouble is repeated after this time.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Waits that double, with jitter from a seed.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    seed: u64,
}

impl Backoff {
    /// Starts at the first wait. `seed` makes waits of different callers differ.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { next: FIRST, seed }
    }

    /// Returns the next wait: between half of the step and the whole step.
    pub fn step(&mut self) -> Duration {
        // Xorshift is enough: it has to spread callers, not to be unguessable.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let whole = self.next;
        self.next = (whole * 2).min(LONGEST);
        let share = u32::try_from(self.seed % 512).unwrap_or(0);
        whole / 2 + whole / 2 * share / 512
    }
}

/// How far a stage may go on trying.
#[derive(Clone)]
pub struct Patience<'a> {
    /// The run's deadline.
    pub deadline: Instant,
    /// The run's stop token.
    pub stop: &'a CancellationToken,
    /// Where waiting is told.
    pub log: &'a RunLog,
    /// Spreads retries of different runs.
    pub seed: u64,
}

/// What the policy has to know about an error.
pub struct Trouble {
    /// Its class.
    pub class: Class,
    /// What the server asked to wait, in seconds.
    pub retry_after_seconds: Option<u64>,
    /// In words, without values.
    pub reason: String,
}

impl Patience<'_> {
    /// Calls until it succeeds, fails for good, or patience ends; then returns the last error.
    pub async fn retry<'c, T, E>(
        &self,
        mut call: impl FnMut() -> BoxFuture<'c, Result<T, E>>,
        look: impl Fn(&E) -> Trouble,
    ) -> Result<T, E> {
        let mut backoff = Backoff::new(self.seed);
        let mut said: Option<(String, Instant)> = None;
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let trouble = look(&error);
            match trouble.class {
                Class::Upstream => {}
                Class::Caller
                | Class::Denied
                | Class::NotFound
                | Class::Conflict
                | Class::OutcomeUnknown
                | Class::Bug => return Err(error),
            }
            let asked = Duration::from_secs(trouble.retry_after_seconds.unwrap_or(0));
            let wait = backoff.step().max(asked);
            if Instant::now() + wait >= self.deadline {
                return Err(error);
            }
            self.say(&mut said, &trouble.reason);
            tokio::select! {
                // Losing the timer is safe: the error is returned instead of another try.
                () = self.stop.cancelled() => return Err(error),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Tells the job about a wait: once, then when the reason changes or half a minute has passed.
    fn say(&self, said: &mut Option<(String, Instant)>, reason: &str) {
        let now = Instant::now();
        let again = match said {
            Some((last, at)) => last != reason || now.duration_since(*at) >= SAY_AGAIN,
            None => true,
        };
        if again {
            let left = self.deadline.saturating_duration_since(now).as_secs();
            self.log
                .warn(format!("{reason}; waiting and trying again, {left} s left"));
            *said = Some((reason.to_owned(), now));
        }
    }
}

/// Tells the retry policy about a cluster error.
pub(crate) fn cluster_trouble(error: &ClusterError) -> Trouble {
    let retry_after_seconds = match error {
        ClusterError::Unavailable {
            retry_after_seconds,
            ..
        } => *retry_after_seconds,
        ClusterError::Forbidden { .. }
        | ClusterError::Invalid { .. }
        | ClusterError::UnknownKind { .. }
        | ClusterError::Missing { .. }
        | ClusterError::Conflict { .. }
        | ClusterError::Exists { .. }
        | ClusterError::Raced { .. }
        | ClusterError::Unanswered { .. }
        | ClusterError::Unexpected { .. } => None,
    };
    Trouble {
        class: error.class(),
        retry_after_seconds,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_in_bounds() {
        let mut backoff = Backoff::new(7);
        let waits: Vec<Duration> = (0..12).map(|_| backoff.step()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits[11] >= LONGEST / 2 && waits[11] <= LONGEST);
    }
}
