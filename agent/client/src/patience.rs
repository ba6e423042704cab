//! How long the client keeps trying.
//!
//! Called by `follow`. Before the agent was ever reached, a short grace covers a restart and then
//! the caller learns what is wrong; afterwards only the deadline ends the trying. Pauses grow and
//! have jitter, so that jobs do not come back all at once.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::time::Duration;

use proto::error::Code;
use proto::error::Problem;
use proto::ids::RunId;
use tokio::time::Instant;
use tokio::time::sleep_until;

use crate::progress::Progress;
use crate::progress::Tell;

/// The limits of one invocation.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Instant,
    /// How long an agent that was never reached is tried.
    grace: Duration,
    /// The first pause.
    first_pause: Duration,
    /// The longest pause.
    longest_pause: Duration,
    /// How long a stream may be silent; the agent sends heartbeats far more often.
    pub(crate) silence: Duration,
    /// How long a pause in the log means that this is all there is now.
    pub(crate) lull: Duration,
    reached: Reached,
    next_pause: Duration,
}

/// Whether the agent ever did what was asked.
#[derive(Debug, Clone, Copy)]
enum Reached {
    /// Not yet; tried since then.
    Never(Instant),
    /// Yes.
    Once,
}

impl Patience {
    /// Starts waiting now, for at most `limit`.
    pub(crate) fn new(limit: Duration) -> Self {
        let now = Instant::now();
        let first_pause = Duration::from_millis(200);
        Self {
            deadline: now + limit,
            grace: Duration::from_secs(10),
            first_pause,
            longest_pause: Duration::from_secs(5),
            silence: Duration::from_secs(60),
            lull: Duration::from_millis(500),
            reached: Reached::Never(now),
            next_pause: first_pause,
        }
    }

    /// Makes every wait short.
    #[cfg(test)]
    pub(crate) fn short(limit: Duration) -> Self {
        Self {
            grace: Duration::from_millis(200),
            first_pause: Duration::from_millis(2),
            longest_pause: Duration::from_millis(10),
            silence: Duration::from_millis(200),
            next_pause: Duration::from_millis(2),
            ..Self::new(limit)
        }
    }

    /// Returns when the caller wants to stop waiting.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Notes that the agent did what was asked.
    pub(crate) fn progressed(&mut self) {
        self.reached = Reached::Once;
        self.next_pause = self.first_pause;
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// The problem itself when trying again is of no use, or the deadline passed.
    pub(crate) async fn pause(
        &mut self,
        problem: Problem,
        run: Option<&RunId>,
        tell: &mut Tell<'_>,
    ) -> Result<(), Problem> {
        if !matches!(problem.code, Code::Unavailable) {
            return Err(problem);
        }
        let now = Instant::now();
        match self.reached {
            Reached::Never(since) if now >= since + self.grace => return Err(problem),
            Reached::Never(_) | Reached::Once => {}
        }
        if now >= self.deadline {
            return Err(problem);
        }
        if self.next_pause == self.first_pause {
            tell(Progress::Notice(format!(
                "{}; trying again",
                problem.detail
            )));
        }
        let until = now + jitter(self.next_pause);
        self.next_pause = (self.next_pause * 2).min(self.longest_pause);
        sleep_until(until.min(self.deadline)).await;
        if Instant::now() >= self.deadline && run.is_some() {
            return Err(still_unreachable(&problem, run));
        }
        Ok(())
    }

    /// Returns the problem that the deadline passed.
    pub(crate) fn too_late(&self, run: Option<&RunId>) -> Problem {
        let problem = Problem::new(
            Code::StillRunning,
            "the client stopped waiting at its --timeout; the run goes on",
        );
        match run {
            Some(run) => problem.hint(go_on(run)),
            None => Problem::new(
                Code::Unavailable,
                "the agent did not answer before the client's --timeout",
            ),
        }
    }
}

fn still_unreachable(problem: &Problem, run: Option<&RunId>) -> Problem {
    let mut problem = problem.clone();
    problem.detail.push_str("; how the run stands is not known");
    problem.hint = run.map(go_on);
    problem
}

/// Says how to go on with a run that nobody waits for.
pub(crate) fn go_on(run: &RunId) -> String {
    format!(
        "to follow it: quaymaster log --follow {run}; its verdict: quaymaster result --wait {run}; \
         to end it: quaymaster cancel {run}"
    )
}

/// Returns between half of a pause and the whole of it.
fn jitter(pause: Duration) -> Duration {
    let share = u32::try_from(random(0) % 512).unwrap_or(0);
    pause / 2 + pause * share / 1024
}

/// Returns random bits: the standard library seeds its hasher from the operating system.
pub(crate) fn random(salt: u8) -> u64 {
    RandomState::new().hash_one(salt)
}
