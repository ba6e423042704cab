//! Watches a rollout until every applied object is ready, one has failed for good, or the deadline.
//!
//! The loop only: it feeds observations into a [`state::State`], which asks [`crate::rollout`] and
//! [`crate::cause`] again after each change. Called by [`crate::engine`]. Nothing is judged before
//! the first listing of every kind is complete, and "ready" means that all objects are ready in one
//! and the same look.

mod evidence;
mod ledger;
mod progress;
mod scopes;
mod settle;
mod state;
mod verdict;

use std::time::Duration;

use futures::FutureExt;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::report::Cause;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::health::Rule;
use crate::log::RunLog;
use crate::object::AppliedObject;
use crate::ports::Observation;
use crate::ports::Ports;
use crate::principal::Actor;

use progress::Progress;
use state::State;
use verdict::Verdict;

/// What is told of the progress is at least so far apart: a rollout of many pods changes hundreds of
/// times a second, and nobody reads faster.
const TOLD_APART: Duration = Duration::from_millis(100);

/// Two looks are at least so far apart, and so many times as long as a look takes: a look at many
/// objects is not for free, and one at a few ends most runs a moment after it is right.
const LOOKS_APART: Duration = Duration::from_millis(5);
const LOOKS_SHARE: u32 = 20;

/// Time alone can make a cause final, so we look at least this often.
const TICK: Duration = Duration::from_secs(1);

/// At most this many observations are taken in without a look at time and stop token.
const AT_A_TIME: usize = 1_000;

/// How a rollout ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is ready.
    Ready {
        /// Things that were seen and did not fail the run.
        warnings: Vec<String>,
    },
    /// Something failed for good.
    Failed {
        /// The likeliest first.
        causes: Vec<Cause>,
    },
    /// The deadline came.
    TimedOut {
        /// What was seen of each object that is not ready.
        causes: Vec<Cause>,
    },
    /// The caller or the agent stopped the watch.
    Stopped,
}

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// All objects of the run.
    pub objects: &'a [AppliedObject],
    /// Where their pods and events are.
    pub namespace: &'a str,
    /// Health rules of the user's own.
    pub rules: &'a [Rule],
}

/// Watches.
pub async fn watch(
    watched: Watched<'_>,
    actor: &Actor,
    ports: &Ports,
    log: &RunLog,
    deadline: Instant,
    stop: &CancellationToken,
) -> Outcome {
    let scopes = scopes::of(watched.objects, watched.namespace);
    let state = State::new(
        watched.objects,
        &scopes,
        watched.rules,
        actor,
        ports.clock.now(),
    );
    let look = Look {
        actor,
        ports,
        log,
        deadline,
        stop,
    };
    let observations = if scopes.is_empty() {
        futures::stream::pending().boxed()
    } else {
        ports.cluster.observe(actor, scopes)
    };
    look.run(state, observations).await
}

/// What the loop needs besides its state.
struct Look<'a> {
    actor: &'a Actor,
    ports: &'a Ports,
    log: &'a RunLog,
    deadline: Instant,
    stop: &'a CancellationToken,
}

/// Why the loop goes on.
enum Woken {
    Stopped,
    Deadline,
    Observed(Observation),
    Ended,
    Time,
}

impl Look<'_> {
    async fn run(
        &self,
        mut state: State,
        mut observations: BoxStream<'static, Observation>,
    ) -> Outcome {
        let mut progress = Progress::new(Instant::now());
        let mut judge_at = Instant::now();
        let (mut judged, mut told) = (judge_at, judge_at);
        let mut apart = LOOKS_APART;
        loop {
            match self.wait(&mut observations, judge_at).await {
                Woken::Stopped => return Outcome::Stopped,
                Woken::Deadline => return self.timed_out(&mut state, observations).await,
                Woken::Observed(first) => {
                    let began = state.is_listed();
                    self.take(&mut state, &mut observations, first);
                    // The first listings end most runs that change little: nothing is waited for.
                    judge_at = if began == state.is_listed() {
                        judge_at.min(judged + apart)
                    } else {
                        Instant::now()
                    };
                    continue;
                }
                Woken::Ended => observations = futures::stream::pending().boxed(),
                Woken::Time => {}
            }
            judged = Instant::now();
            let view = state.judge(judged);
            let verdict = state.verdict(&view);
            let is_quiet = verdict == Verdict::Wait && judged < told + TOLD_APART;
            if !is_quiet {
                progress.tell(&view, self.log, judged);
                told = judged;
            }
            match verdict {
                Verdict::Wait => {}
                Verdict::Ready(warnings) => return Outcome::Ready { warnings },
                Verdict::Failed(blames) => {
                    let causes = self.causes(blames).await;
                    return Outcome::Failed { causes };
                }
            }
            apart = (judged.elapsed() * LOOKS_SHARE).clamp(LOOKS_APART, TOLD_APART);
            judge_at = if is_quiet {
                told + TOLD_APART
            } else {
                judged + TICK
            };
        }
    }

    /// Waits for the next thing to do. A lost arm loses nothing: time and token are level-triggered,
    /// and the stream hands an observation out only when it is polled to the end.
    async fn wait(
        &self,
        observations: &mut BoxStream<'static, Observation>,
        judge_at: Instant,
    ) -> Woken {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Woken::Stopped,
            () = tokio::time::sleep_until(self.deadline) => Woken::Deadline,
            () = tokio::time::sleep_until(judge_at) => Woken::Time,
            observation = observations.next() => observation.map_or(Woken::Ended, Woken::Observed),
        }
    }

    /// Takes in an observation and all that are there already.
    fn take(
        &self,
        state: &mut State,
        observations: &mut BoxStream<'static, Observation>,
        first: Observation,
    ) {
        let more = std::iter::from_fn(|| observations.next().now_or_never().flatten());
        for observation in std::iter::once(first).chain(more).take(AT_A_TIME) {
            if let Some(warning) = state.observe(observation, Instant::now()) {
                self.log.warn(warning);
            }
        }
    }

    /// Looks one last time, with all that is there: the deadline must not hide a verdict.
    async fn timed_out(
        &self,
        state: &mut State,
        mut observations: BoxStream<'static, Observation>,
    ) -> Outcome {
        if let Some(Some(first)) = observations.next().now_or_never() {
            self.take(state, &mut observations, first);
        }
        let view = state.judge(Instant::now());
        match state.verdict(&view) {
            Verdict::Ready(warnings) => Outcome::Ready { warnings },
            Verdict::Failed(blames) => Outcome::Failed {
                causes: self.causes(blames).await,
            },
            Verdict::Wait => Outcome::TimedOut {
                causes: self.causes(state.unfinished(&view)).await,
            },
        }
    }

    async fn causes(&self, blames: Vec<verdict::Blame>) -> Vec<Cause> {
        evidence::causes(blames, self.actor, self.ports, self.log, self.stop).await
    }
}

#[cfg(test)]
mod tests;
