//! Who follows a run, and since when nobody does.
//!
//! The agent gives out a [`Seat`] to each connection that follows a run; [`crate::engine`] asks its
//! [`Audience`] where the spec says what a run without followers becomes. Invariants: a run counts as left
//! only after the whole grace without anybody, so that a follower whose connection was cut, or whose agent
//! was restarted, has that long to come back; a visit in between, however short, begins the grace anew.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Who is there.
#[derive(Debug, Clone, Copy)]
struct Presence {
    followers: usize,
    /// When the last of them left; at first, when the run began or went on.
    since: Instant,
}

/// The seats of one run; clones share them.
#[derive(Debug, Clone)]
pub struct Seats {
    presence: watch::Sender<Presence>,
}

impl Default for Seats {
    fn default() -> Self {
        let presence = Presence {
            followers: 0,
            since: Instant::now(),
        };
        Self {
            presence: watch::Sender::new(presence),
        }
    }
}

impl Seats {
    /// Takes a seat.
    pub fn take(&self) -> Seat {
        self.presence
            .send_modify(|presence| presence.followers += 1);
        Seat {
            seats: self.clone(),
        }
    }

    /// Looks at the seats from the run's side; nobody may be missing for longer than `grace`.
    #[must_use]
    pub fn audience(&self, grace: Duration) -> Audience {
        Audience {
            presence: self.presence.subscribe(),
            grace,
            has_left: AtomicBool::new(false),
        }
    }
}

/// One follower, for as long as it is kept.
#[derive(Debug)]
#[must_use = "a seat that is dropped is free again"]
pub struct Seat {
    seats: Seats,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.presence.send_modify(|presence| {
            presence.followers -= 1;
            presence.since = Instant::now();
        });
    }
}

/// The seats as the run sees them.
#[derive(Debug)]
pub struct Audience {
    presence: watch::Receiver<Presence>,
    grace: Duration,
    has_left: AtomicBool,
}

impl Audience {
    /// One that never leaves: for runs that no connection follows.
    #[must_use]
    pub fn lasting() -> Self {
        // Without seats nobody can come or go.
        Seats::default().audience(Duration::MAX)
    }

    /// Waits until nobody has been there for the grace.
    pub async fn left(&self) {
        let mut presence = self.presence.clone();
        loop {
            let seen = *presence.borrow_and_update();
            let until = seen.since.checked_add(self.grace);
            let changed = match until.filter(|_| seen.followers == 0) {
                None => presence.changed().await,
                // A change that comes at the very end is a follower that is back: it is asked first.
                Some(until) => tokio::select! {
                    biased;
                    changed = presence.changed() => changed,
                    () = tokio::time::sleep_until(until) => {
                        self.has_left.store(true, Ordering::Relaxed);
                        return;
                    }
                },
            };
            if changed.is_err() {
                // The seats are gone, and with them whoever could say that somebody left.
                return std::future::pending().await;
            }
        }
    }

    /// Says whether [`Audience::left`] has returned.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }

    /// Returns how long nobody may be there.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(15);

    /// Waits so long, in which time passes by itself; says whether the audience left meanwhile.
    async fn leaves_within(audience: &Audience, seconds: u64) -> bool {
        let limit = Duration::from_secs(seconds);
        tokio::time::timeout(limit, audience.left()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_nobody_followed_is_left_after_the_grace() {
        let seats = Seats::default();
        let audience = seats.audience(GRACE);
        assert!(!leaves_within(&audience, 14).await);
        assert!(!audience.has_left());
        assert!(leaves_within(&audience, 2).await);
        assert!(audience.has_left());
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_keeps_it_however_long_it_stays() {
        let seats = Seats::default();
        let audience = seats.audience(GRACE);
        let (one, other) = (seats.take(), seats.take());
        assert!(!leaves_within(&audience, 3_600).await);
        drop(one);
        assert!(!leaves_within(&audience, 3_600).await);
        drop(other);
        assert!(!leaves_within(&audience, 14).await);
        assert!(leaves_within(&audience, 2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_visit_begins_the_grace_anew() {
        let seats = Seats::default();
        let audience = seats.audience(GRACE);
        for _ in 0..5 {
            assert!(!leaves_within(&audience, 10).await);
            drop(seats.take());
        }
        assert!(leaves_within(&audience, 16).await);
    }

    #[tokio::test(start_paused = true)]
    async fn without_seats_nobody_leaves() {
        assert!(!leaves_within(&Audience::lasting(), 86_400).await);
    }
}
