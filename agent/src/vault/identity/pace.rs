//! When the agent's own token is renewed and replaced, and how long to wait after a failure. Pure.
//!
//! Used by [`super`] only; jitter is an argument.

use std::time::Duration;

use deploy::ports::SecretsError;

/// How long a question whether the identity works waits for the first login.
pub(super) const FIRST_LOGIN: Duration = Duration::from_secs(1);

/// No renewal comes sooner or later than this.
const RENEWAL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(24 * 3_600));

/// Waits while Vault is away: short, so that the agent works soon after Vault does.
const AWAY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Waits while Vault refuses a login: longer, as it locks out who tries too often.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a token is used before it is renewed: two thirds of its life, less up to a tenth by
/// jitter. One that does not end is only looked at.
pub(super) fn until_renewal(life: Option<Duration>, jitter: u64) -> Duration {
    let life = life.unwrap_or(RENEWAL.1);
    let share = u32::try_from(jitter % 1_000).unwrap_or(0);
    let early = life / 10 / 1_000 * share;
    (life * 2 / 3)
        .saturating_sub(early)
        .clamp(RENEWAL.0, RENEWAL.1)
}

/// Says whether a token that ends for good is to be replaced: with less than 45 % of its whole life
/// left, so at its first renewal, jitter or not. Everything under it moves to the next one in that time.
pub(super) fn is_near_end(left: Duration, whole: Duration) -> bool {
    left <= whole * 9 / 20
}

/// What a refusal costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusals {
    /// Many in a row lock the login out.
    LockOut,
    /// None does: a token from a file is only looked up.
    Free,
}

/// Waits that double.
pub(super) struct Backoff {
    failures: u32,
    jitter: u64,
    refusals: Refusals,
}

impl Backoff {
    /// Starts at the first wait.
    pub(super) const fn new(refusals: Refusals, jitter: u64) -> Self {
        Self {
            failures: 0,
            jitter,
            refusals,
        }
    }

    /// Starts over.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the wait after a failure: between half of the step and the whole step, or as long as
    /// the server asked.
    pub(super) fn after(&mut self, error: &SecretsError) -> Duration {
        let ((first, longest), asked) = match error {
            SecretsError::Unavailable {
                retry_after_seconds,
                ..
            } => (AWAY, retry_after_seconds.unwrap_or(0)),
            SecretsError::Unanswered { .. } => (AWAY, 0),
            SecretsError::LoginRefused { .. }
            | SecretsError::Forbidden { .. }
            | SecretsError::Missing { .. }
            | SecretsError::VersionGone { .. }
            | SecretsError::DataPrefix { .. }
            | SecretsError::Unexpected { .. } => match self.refusals {
                Refusals::LockOut => (REFUSED, 0),
                Refusals::Free => (AWAY, 0),
            },
        };
        let step = (first * (1 << self.failures.min(8))).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.jitter = self.jitter.rotate_left(7).wrapping_add(0x9e37_79b9);
        let share = u32::try_from(self.jitter % 1_000).unwrap_or(0);
        (step / 2 + step / 2 / 1_000 * share).max(Duration::from_secs(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_token_is_renewed_at_two_thirds_of_its_life_or_a_little_before() {
        assert_eq!(until_renewal(Some(HOUR), 0), Duration::from_secs(2_400));
        for jitter in [1, 999, 123_456_789] {
            let wait = until_renewal(Some(HOUR), jitter);
            assert!(wait > HOUR / 2 && wait <= HOUR * 2 / 3, "{wait:?}");
        }
        assert_eq!(until_renewal(Some(Duration::ZERO), 0), RENEWAL.0);
        assert_eq!(until_renewal(Some(768 * HOUR), 5), RENEWAL.1);
        assert!(until_renewal(None, 5) <= RENEWAL.1);
    }

    #[test]
    fn a_token_that_ends_is_replaced_at_its_first_renewal() {
        assert!(!is_near_end(HOUR / 2, HOUR));
        for jitter in [0, 999] {
            let left = HOUR - until_renewal(Some(HOUR), jitter);
            assert!(is_near_end(left, HOUR));
        }
    }

    #[test]
    fn an_outage_is_asked_about_often_and_a_refusal_seldom() {
        let away = SecretsError::Unavailable {
            reason: "sealed".to_owned(),
            retry_after_seconds: None,
        };
        let refused = SecretsError::LoginRefused {
            reason: "no".to_owned(),
        };
        let waits = |refusals, error: &SecretsError| {
            let mut backoff = Backoff::new(refusals, 7);
            (0..20).map(|_| backoff.after(error)).collect::<Vec<_>>()
        };
        let outage = waits(Refusals::LockOut, &away);
        assert!(outage[0] <= AWAY.0 && outage.iter().all(|wait| *wait <= AWAY.1));
        let lock_out = waits(Refusals::LockOut, &refused);
        assert!(lock_out[0] >= REFUSED.0 / 2);
        assert!(lock_out[19] >= REFUSED.1 / 2 && lock_out[19] <= REFUSED.1);
        let free = waits(Refusals::Free, &refused);
        assert!(free.iter().all(|wait| *wait <= AWAY.1));
    }
}
