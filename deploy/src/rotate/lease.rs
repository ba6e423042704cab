//! When a credential is renewed and when it is replaced. Pure.
//!
//! Called by the daemon after every answer about a credential. A valid credential is never dropped
//! because of an error: an error only means that the next look comes soon. Chance comes in as an
//! argument, so that many credentials of one age do not move together.

use std::time::Duration;

/// Where between renewals a lease is renewed at the latest: with a third of its life left.
const LATEST: u32 = 3;
/// How soon after an error the same is tried again, at first and at most.
pub const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A credential as the last answer had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// How long it was granted for by the last answer, from then on.
    pub granted: Duration,
    /// Whether asking again can give it more.
    pub growth: Growth,
}

/// Whether a credential can live on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// It can be renewed, and the last renewal gave what was asked.
    Renewable,
    /// It cannot be renewed, or the last renewal gave less: it nears its longest life.
    Ending,
}

impl Life {
    /// Judges a renewal: `asked` is what the lease had at its issue.
    #[must_use]
    pub const fn renewed(granted: Duration, asked: Duration, renewable: bool) -> Self {
        // A little less is rounding on the way.
        let short = granted.as_secs() + 2 + asked.as_secs() / 50 < asked.as_secs();
        Self {
            granted,
            growth: if short || !renewable {
                Growth::Ending
            } else {
                Growth::Renewable
            },
        }
    }
}

/// What happens to a credential next, counted from the last answer about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is renewed.
    Renew(Duration),
    /// It is replaced by another one.
    Replace(Duration),
}

/// Says what comes next. `budget` has to be left at any time that Vault is there; `chance` is from 0
/// to 999 and moves the time earlier by up to a tenth of the life.
#[must_use]
pub fn next(life: Life, budget: Duration, chance: u32) -> Next {
    let granted = life.granted;
    let early = granted / 10 * (chance % 1_000) / 1_000;
    match life.growth {
        Growth::Renewable => {
            let left = budget.max(granted / LATEST);
            Next::Renew(granted.saturating_sub(left).saturating_sub(early))
        }
        Growth::Ending => {
            let left = budget.max(granted / 10) + granted / 20;
            Next::Replace(granted.saturating_sub(left).saturating_sub(early / 2))
        }
    }
}

/// Says how long a credential has to live at least to carry a budget: it is renewed with the budget
/// left, and there has to be time to do so.
#[must_use]
pub fn least_life(budget: Duration) -> Duration {
    budget + budget / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    const fn life(granted: Duration, growth: Growth) -> Life {
        Life { granted, growth }
    }

    #[test]
    fn a_lease_is_renewed_with_a_third_left_or_the_budget() {
        let renewable = life(HOUR, Growth::Renewable);
        assert_eq!(
            next(renewable, Duration::ZERO, 0),
            Next::Renew(Duration::from_secs(2_400))
        );
        assert_eq!(
            next(renewable, Duration::from_secs(1_800), 0),
            Next::Renew(Duration::from_secs(1_800))
        );
        let Next::Renew(early) = next(renewable, Duration::ZERO, 999) else {
            panic!("it is renewable");
        };
        assert!(early >= Duration::from_secs(2_040) && early < Duration::from_secs(2_400));
    }

    #[test]
    fn what_cannot_grow_is_replaced_before_the_budget_is_touched() {
        let ending = life(HOUR, Growth::Ending);
        let Next::Replace(after) = next(ending, Duration::from_secs(900), 0) else {
            panic!("it ends");
        };
        assert_eq!(after, Duration::from_secs(3_600 - 900 - 180));
        assert_eq!(
            next(ending, 2 * HOUR, 0),
            Next::Replace(Duration::ZERO),
            "less is left than the budget: now"
        );
    }

    #[test]
    fn a_renewal_that_gives_less_means_the_end_is_near() {
        let judged = |granted| Life::renewed(Duration::from_secs(granted), HOUR, true).growth;
        assert_eq!(judged(3_600), Growth::Renewable);
        assert_eq!(judged(3_599), Growth::Renewable);
        assert_eq!(judged(3_000), Growth::Ending);
        let fixed = Life::renewed(HOUR, HOUR, false);
        assert_eq!(fixed.growth, Growth::Ending);
    }

    #[test]
    fn whatever_the_chance_the_budget_is_left() {
        for granted in [1_u64, 10, 60, 3_600, 86_400] {
            for budget in [0_u64, 5, 300, 3_600] {
                for chance in [0, 1, 500, 999] {
                    for growth in [Growth::Renewable, Growth::Ending] {
                        let granted = Duration::from_secs(granted);
                        let budget = Duration::from_secs(budget);
                        let (Next::Renew(after) | Next::Replace(after)) =
                            next(life(granted, growth), budget, chance);
                        let left = granted.saturating_sub(after);
                        assert!(
                            left >= budget.min(granted),
                            "{granted:?} {budget:?} {chance}"
                        );
                    }
                }
            }
        }
    }
}
