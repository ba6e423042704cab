//! The background work on the agent's own token: log in, renew in time, replace before the end.
//!
//! Started by `app` as one supervised task. It repeats for ever what fails, and gives nothing up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use deploy::ports::SecretsError;

use super::Held;
use super::Identity;
use super::login;
use super::pace;

impl Identity {
    /// Keeps the token alive until the agent stops.
    pub(in crate::vault) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.held.subscribe();
        let mut not_before: Option<Instant> = None;
        loop {
            changes.mark_unchanged();
            let held = self.present();
            let due = held.as_ref().map_or_else(Instant::now, |held| held.due);
            let due = not_before.map_or(due, |at| due.max(at));
            tokio::select! {
                // A lost wait is counted anew; who waits for nothing loses nothing.
                () = tokio::time::sleep_until(due) => {}
                // Somebody logged in meanwhile: the new token has its own time.
                Ok(()) = changes.changed() => {
                    not_before = None;
                    continue;
                }
                // The token stays cancelled.
                () = stop.cancelled() => return,
            }
            // Not raced with the stop token: a login that is cut would leave a token behind.
            not_before = match held {
                None => self.token().await.err().map(|_told| self.next_try()),
                Some(held) => self.tend(&held).await.err().map(|_told| self.next_try()),
            };
        }
    }

    /// When a login may be tried again.
    fn next_try(&self) -> Instant {
        let failed = |work: tokio::sync::MutexGuard<'_, super::Work>| {
            work.failed.as_ref().map(|failed| failed.until)
        };
        let until = self.work.try_lock().ok().and_then(failed);
        until.unwrap_or_else(|| Instant::now() + Duration::from_secs(1))
    }

    /// Renews a token that is due, and replaces it where its end comes near.
    async fn tend(&self, held: &Held) -> Result<(), SecretsError> {
        let mut work = self.work.lock().await;
        if !self.present().is_some_and(|now| now.is_same(held)) {
            return Ok(());
        }
        let examined = login::examine(&self.wire, &self.door, &held.token).await;
        let held = match examined {
            Ok(granted) => self.take(held.token.duplicate(), granted),
            Err(SecretsError::LoginRefused { .. }) => {
                return self.log_in_instead(&mut work, held).await.map(drop);
            }
            Err(other) => return Err(self.failed(&mut work, other)),
        };
        self.worked(&mut work);
        let left = held.left(self.clock.now());
        if left.is_some_and(|(left, whole)| pace::is_near_end(left, whole)) {
            let next = self.log_in(&mut work).await?;
            if next.is_same(&held) {
                // It is asked again in time: what is left of it shrinks, and the waits with it.
                self.say(Some(held.last_words()));
            }
        }
        Ok(())
    }
}

impl Held {
    /// Why a token that ends was not replaced: its file still holds it.
    fn last_words(&self) -> String {
        let ends = self.ends.map_or_else(String::new, |at| format!(" at {at}"));
        format!("the token ends{ends} and cannot be renewed further; put another one into its file")
    }
}
