//! The life of the process: drain, stop, force; supervised tasks; words to the service manager.
//!
//! First signal: new runs are refused and running ones go on, up to the drain time; then they are
//! cancelled. Second signal: the process ends at once and the journal tells the rest at the next
//! start. Used by `app`, `http` and `runs`. Invariant: a supervised task that ends unasked ends the
//! process, so that a supervisor restarts a whole one.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::DumpableBehavior;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::set_dumpable_behavior;
use rustix::process::setrlimit;
use sd_notify::NotifyState;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The phases that everybody asks for; clones share it.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    draining: Arc<watch::Sender<bool>>,
    stop: CancellationToken,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            draining: Arc::new(watch::Sender::new(false)),
            stop: CancellationToken::new(),
        }
    }
}

impl Lifecycle {
    /// Refuses new runs from now on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Says whether new runs are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Ends accepting, connections and background tasks.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Returns the token that is cancelled by [`Lifecycle::stop`].
    #[must_use]
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }
}

/// A signal that ends the process: the first drains, the second forces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndSignal(pub &'static str);

/// Listens to the signals of the process. SIGHUP is reserved for reloading and only logged.
///
/// # Errors
/// When a handler cannot be installed.
pub fn signals() -> io::Result<mpsc::Receiver<EndSignal>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(2);
    drop(tokio::spawn(async move {
        loop {
            // Each arm is one signal stream; losing a poll loses no signal, streams keep it.
            let got = tokio::select! {
                _ = terminate.recv() => EndSignal("SIGTERM"),
                _ = interrupt.recv() => EndSignal("SIGINT"),
                _ = hangup.recv() => {
                    tracing::info!("SIGHUP is reserved for reloading and does nothing yet");
                    continue;
                }
            };
            if sender.send(got).await.is_err() {
                return;
            }
        }
    }));
    Ok(receiver)
}

/// Takes from other processes of this user what could show secrets: memory and core files. Returns
/// what could not be done, to be logged once logging is there.
#[must_use]
pub fn harden() -> Vec<String> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let core = setrlimit(Resource::Core, none).map_err(|error| ("no core files", error));
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| ("no reading of memory by others", error));
    let failed = [core, dumpable].into_iter().filter_map(Result::err);
    failed
        .map(|(what, error)| format!("{what}: {error}"))
        .collect()
}

/// Returns the name of this machine, under which others find this agent; empty where it has none.
#[must_use]
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// Background tasks that live as long as the process.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<&'static str>,
}

impl Supervisor {
    /// Starts a task under a name.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until a task ends, well or by panic, and returns its name; waits forever without tasks.
    pub async fn ended(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(panicked)) => format!("a task that panicked ({panicked})"),
            None => std::future::pending().await,
        }
    }

    /// Waits for all tasks once they were told to stop; those that take longer are dropped.
    pub async fn finish(mut self, time: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(time, all).await.is_err() {
            tracing::warn!("background tasks did not end in time and are dropped");
        }
    }
}

/// Tells the service manager something; without one this does nothing.
pub fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Feeds the service manager's watchdog, at a third of its time, until the process stops. Runs on
/// the same workers as everything else, so a blocked runtime is noticed.
pub async fn watchdog(stop: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        stop.cancelled().await;
        return;
    };
    let mut beat = tokio::time::interval((period / 3).max(Duration::from_millis(100)));
    loop {
        // Losing a tick loses one beat of three; the stop token stays cancelled.
        tokio::select! {
            _ = beat.tick() => notify(NotifyState::Watchdog),
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_is_named() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("probe", async {});
        assert_eq!(supervisor.ended().await, "probe");
    }

    #[test]
    fn draining_is_seen_by_every_clone() {
        let lifecycle = Lifecycle::default();
        let other = lifecycle.clone();
        lifecycle.drain();
        assert!(other.is_draining());
        assert!(!other.stopped().is_cancelled());
    }
}
