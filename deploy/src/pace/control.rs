//! How many requests may be in flight, from how the last ones went. Pure.
//!
//! Called by [`super::Paced`]. Works like a network's congestion control: quick growth until the first
//! trouble, then one more a round; half as many at trouble, once for all requests that were in flight
//! then. It does not grow while answers take much longer than the best of late, nor while nobody waits,
//! and beyond the start only where the server is far away.

use std::time::Duration;

use tokio::time::Instant;

/// In flight at the start: enough to hide latency, few enough for priority and fairness of the API
/// server to leave others alone.
const START: usize = 16;
/// Never fewer, or a slow answer would stop everything.
const LEAST: usize = 2;
/// Never more.
const MOST: usize = 64;
/// A server whose best answer comes sooner is near: so many as at the start keep it busy, and more would
/// only make connections, which cost it more than the requests do.
const FAR: Duration = Duration::from_millis(10);
/// Answers that take this many times as long as the best say that the server is busy enough. A request
/// that makes its connection first goes the way three times, which says nothing about the server.
const BUSY: u32 = 4;
/// The best time is that of the last one or two stretches of so many answers: longer than most runs, so
/// that their own load is not taken for distance, and short enough that a new distance is believed.
const STRETCH: usize = 256;
/// The longest wait that a server can make everybody keep.
const LONGEST_HOLD: u64 = 60;

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The server answered, whatever it said.
    Answer {
        /// How long it took.
        took: Duration,
        /// Whether every turn was taken.
        crowded: bool,
    },
    /// It pushed back, or did not answer.
    Trouble {
        /// What it asked to wait.
        retry_after_seconds: Option<u64>,
    },
}

/// Decides how many requests may be in flight.
#[derive(Debug)]
pub(super) struct Controller {
    limit: usize,
    /// Good answers since the last growth.
    good: usize,
    best: Best,
    had_trouble: bool,
    halved: Option<Instant>,
    held: Option<Instant>,
}

impl Controller {
    pub(super) const fn new() -> Self {
        Self {
            limit: START,
            good: 0,
            best: Best::new(),
            had_trouble: false,
            halved: None,
            held: None,
        }
    }

    /// How many requests may be in flight.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Until when no request may begin.
    pub(super) const fn held_until(&self) -> Option<Instant> {
        self.held
    }

    /// Takes in how a request went that began at `began`.
    pub(super) fn learn(&mut self, now: Instant, began: Instant, seen: Seen) {
        match seen {
            Seen::Answer { took, crowded } => self.answer(took, crowded),
            Seen::Trouble {
                retry_after_seconds,
            } => self.trouble(now, began, retry_after_seconds),
        }
    }

    fn answer(&mut self, took: Duration, crowded: bool) {
        let best = self.best.take_in(took);
        let most = if best < FAR { START } else { MOST };
        if !crowded || took > best * BUSY || self.limit >= most {
            return;
        }
        self.good += 1;
        let needed = if self.had_trouble { self.limit } else { 1 };
        if self.good >= needed {
            self.good = 0;
            self.limit += 1;
        }
    }

    fn trouble(&mut self, now: Instant, began: Instant, retry_after_seconds: Option<u64>) {
        self.had_trouble = true;
        self.good = 0;
        if let Some(seconds) = retry_after_seconds {
            let until = now + Duration::from_secs(seconds.min(LONGEST_HOLD));
            self.held = self.held.max(Some(until));
        }
        // Requests that were in flight at the last halving tell of the same trouble.
        if self.halved.is_none_or(|halved| began > halved) {
            self.limit = (self.limit / 2).max(LEAST);
            self.halved = Some(now);
        }
    }
}

/// The shortest time of the stretch that is on and of the one before.
#[derive(Debug)]
struct Best {
    now: Duration,
    before: Duration,
    /// Answers that the present stretch still takes.
    left: usize,
}

impl Best {
    const fn new() -> Self {
        Self {
            now: Duration::MAX,
            before: Duration::MAX,
            left: STRETCH,
        }
    }

    /// Takes in a time and returns the shortest.
    fn take_in(&mut self, took: Duration) -> Duration {
        self.now = self.now.min(took);
        let best = self.now.min(self.before);
        self.left -= 1;
        if self.left == 0 {
            *self = Self {
                before: self.now,
                ..Self::new()
            };
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn good(took: Duration) -> Seen {
        Seen::Answer {
            took,
            crowded: true,
        }
    }

    fn trouble(seconds: Option<u64>) -> Seen {
        Seen::Trouble {
            retry_after_seconds: seconds,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_grows_by_one_an_answer_up_to_the_most() {
        let (mut control, now) = (Controller::new(), Instant::now());
        control.learn(now, now, good(80 * MS));
        assert_eq!(control.limit(), START + 1);
        (0..100).for_each(|_| control.learn(now, now, good(85 * MS)));
        assert_eq!(control.limit(), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_grow_while_the_server_is_busy_or_nobody_waits() {
        let (mut control, now) = (Controller::new(), Instant::now());
        let idle = Seen::Answer {
            took: 4 * MS,
            crowded: false,
        };
        (0..50).for_each(|_| control.learn(now, now, idle));
        (0..STRETCH).for_each(|_| control.learn(now, now, good(40 * MS)));
        assert_eq!(control.limit(), START);
    }

    #[tokio::test(start_paused = true)]
    async fn making_a_connection_is_no_load() {
        let (mut control, now) = (Controller::new(), Instant::now());
        control.learn(now, now, good(80 * MS));
        (0..10).for_each(|_| control.learn(now, now, good(245 * MS)));
        assert_eq!(control.limit(), START + 11);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_far_away_of_late_is_no_busy_one_for_long() {
        let (mut control, now) = (Controller::new(), Instant::now());
        let idle = Seen::Answer {
            took: 2 * MS,
            crowded: false,
        };
        (0..STRETCH).for_each(|_| control.learn(now, now, idle));
        (0..STRETCH).for_each(|_| control.learn(now, now, good(80 * MS)));
        assert_eq!(control.limit(), START);
        (0..STRETCH).for_each(|_| control.learn(now, now, good(80 * MS)));
        assert_eq!(control.limit(), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_halves_once_for_all_that_were_in_flight_and_not_below_the_least() {
        let (mut control, start) = (Controller::new(), Instant::now());
        let later = start + 10 * MS;
        (0..16).for_each(|_| control.learn(later, start, trouble(None)));
        assert_eq!(control.limit(), START / 2);
        control.learn(later + 2 * MS, later + MS, trouble(None));
        assert_eq!(control.limit(), START / 4);
        for round in 2..20 {
            let at = later + round * 10 * MS;
            control.learn(at + MS, at, trouble(None));
        }
        assert_eq!(control.limit(), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn after_trouble_it_grows_by_one_a_round() {
        let (mut control, now) = (Controller::new(), Instant::now());
        control.learn(now + MS, now, trouble(None));
        (0..START / 2).for_each(|_| control.learn(now, now, good(MS)));
        assert_eq!(control.limit(), START / 2 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_near_server_gets_no_more_at_once_than_at_the_start() {
        let (mut control, now) = (Controller::new(), Instant::now());
        (0..100).for_each(|_| control.learn(now, now, good(2 * MS)));
        assert_eq!(control.limit(), START);
        control.learn(now + MS, now, trouble(None));
        (0..1000).for_each(|_| control.learn(now, now, good(2 * MS)));
        assert_eq!(control.limit(), START);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_wait_that_the_server_asked_for_holds() {
        let (mut control, now) = (Controller::new(), Instant::now());
        assert_eq!(control.held_until(), None);
        control.learn(now, now, trouble(Some(5)));
        control.learn(now, now, trouble(Some(1)));
        assert_eq!(control.held_until(), Some(now + Duration::from_secs(5)));
        control.learn(now, now, trouble(Some(86_400)));
        let longest = Duration::from_secs(LONGEST_HOLD);
        assert_eq!(control.held_until(), Some(now + longest));
    }
}
