//! The agent's own identity in Vault: one token that is kept alive, and replaced when it cannot be.
//!
//! Made by [`super::Vault::with_identity`]; [`keeper`] tends it in the background, and every call in
//! a session of the agent's own asks it for the token. Invariants: at most one login is on at a
//! time, and after one that failed the next waits, whoever asks (Vault locks out who tries too
//! often); a token is in the state folder before anything is issued under it; a token is given up
//! only when Vault refuses it right after it took a login (what stands before Vault, or Vault in
//! trouble, may refuse everything for a while, and credentials hang on the token), or when its end
//! comes near and a new one is there.

mod keeper;
mod kept;
mod login;
mod pace;

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::Timestamp;
use sha2::Digest;
use sha2::Sha256;
use tokio::sync::watch;
use tokio::time::Instant;

use deploy::ports::Clock;
use deploy::ports::OwnToken;
use deploy::ports::SecretsError;
use deploy::secret::Secret;

use self::kept::Kept;
use self::login::Door;
use self::login::Granted;
use self::pace::Backoff;
use super::VaultSettings;
use super::VaultSetupError;
use super::wire::Wire;
use crate::config;

/// What it takes beside the settings of the adapter.
pub struct IdentitySettings {
    /// How the agent logs in.
    pub identity: config::Identity,
    /// Where the token is kept over a restart, unset for nowhere; a token from a file is kept nowhere
    /// else.
    pub state_dir: Option<PathBuf>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes: the name of own sessions inside this process.
    pub ticket: [u8; 32],
    /// Spreads renewals and retries of several agents.
    pub jitter: u64,
}

/// How the agent's own login stands, for its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityStatus {
    /// Such as `approle`.
    pub method: &'static str,
    /// Since when the present token is there; unset without one.
    pub since: Option<Timestamp>,
    /// When it is renewed next.
    pub next_renewal: Option<Timestamp>,
    /// How long it lives without renewal; unset where it does not end.
    pub ttl_seconds: Option<u64>,
    /// When it ends however often it is renewed; unset where it need not.
    pub ends: Option<Timestamp>,
    /// Whether the present token can be renewed; `false` without one.
    pub renewable: bool,
    /// Why the last login or renewal failed; unset once one succeeded.
    pub last_error: Option<String>,
}

/// The token that the agent has.
#[derive(Debug)]
pub(super) struct Held {
    token: Secret,
    granted: Granted,
    /// Since when there is this token.
    since: Timestamp,
    /// When it was granted its present life.
    at: Instant,
    /// When it is to be renewed.
    due: Instant,
    /// When it ends however often it is renewed.
    ends: Option<Timestamp>,
}

impl Held {
    /// The token.
    pub(super) const fn token(&self) -> &Secret {
        &self.token
    }

    /// When it ends unless it is renewed.
    fn dies(&self) -> Option<Instant> {
        Some(self.at + self.granted.life?)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.granted.accessor == other.granted.accessor
    }

    /// How much is left of it, and of how much; unset where it can live on.
    fn left(&self, now: Timestamp) -> Option<(Duration, Duration)> {
        let ends = self.ends?;
        let until = |from: Timestamp| {
            let time = ends.duration_since(from).max(SignedDuration::ZERO);
            time.unsigned_abs()
        };
        Some((until(now), until(self.since)))
    }
}

/// A login that failed, and until when nobody tries again.
struct Failed {
    error: SecretsError,
    until: Instant,
}

/// What only the one who works on the token has.
struct Work {
    /// When the present token was last found alive; calls refused before that are refused for good.
    confirmed: Option<Instant>,
    failed: Option<Failed>,
    backoff: Backoff,
    /// The token that Vault refused, until a login shows that it is Vault that answers.
    doubted: Option<Secret>,
    /// Whether the folder was asked for a token of a former process.
    remembered: bool,
}

/// The agent's own identity.
pub(super) struct Identity {
    wire: Wire,
    door: Door,
    kept: Option<Kept>,
    clock: Arc<dyn Clock>,
    ticket: Secret,
    ticket_digest: [u8; 32],
    jitter: u64,
    held: watch::Sender<Option<Arc<Held>>>,
    last_error: Mutex<Option<String>>,
    work: tokio::sync::Mutex<Work>,
}

impl Identity {
    /// Makes it; nothing is sent.
    pub(super) fn new(
        settings: &VaultSettings,
        wire: Wire,
        own: IdentitySettings,
    ) -> Result<Self, VaultSetupError> {
        let door = Door::new(settings, own.identity)?;
        let folder = own.state_dir.filter(|_| door.is_kept());
        let kept = folder.map(|folder| Kept::new(&folder, &door, &wire));
        let backoff = Backoff::new(door.refusals(), own.jitter);
        let ticket = own.ticket.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Ok(Self {
            wire,
            door,
            kept,
            clock: own.clock,
            ticket_digest: Sha256::digest(ticket.as_bytes()).into(),
            ticket: Secret::from_text(ticket),
            jitter: own.jitter,
            held: watch::Sender::new(None),
            last_error: Mutex::new(None),
            work: tokio::sync::Mutex::new(Work {
                confirmed: None,
                failed: None,
                backoff,
                doubted: None,
                remembered: false,
            }),
        })
    }

    /// What stands for the token in sessions, so that they follow it when it is replaced.
    pub(super) fn ticket(&self) -> Secret {
        self.ticket.duplicate()
    }

    /// Says whether a session's token is the ticket. Digests are compared, so that nobody can guess
    /// it byte by byte by the time that this takes.
    pub(super) fn is_ticket(&self, token: &Secret) -> bool {
        let digest: [u8; 32] = Sha256::digest(token.reveal()).into();
        digest == self.ticket_digest
    }

    /// Returns the token that works, and logs in where there is none.
    pub(super) async fn token(&self) -> Result<Arc<Held>, SecretsError> {
        match self.present() {
            Some(held) => Ok(held),
            None => {
                let mut work = self.work.lock().await;
                match self.present() {
                    Some(held) => Ok(held),
                    None => self.log_in(&mut work).await,
                }
            }
        }
    }

    /// Finds out what a refusal of `used` means: `None` where the token is alive and the refusal
    /// real, else the token that works now. `seen` is when the refusal came.
    pub(super) async fn doubt(
        &self,
        used: &Held,
        seen: Instant,
    ) -> Result<Option<Arc<Held>>, SecretsError> {
        let mut work = self.work.lock().await;
        let held = match self.present() {
            Some(held) if held.is_same(used) => held,
            Some(newer) => return Ok(Some(newer)),
            None => return self.log_in(&mut work).await.map(Some),
        };
        if work.confirmed.is_some_and(|at| at >= seen) {
            return Ok(None);
        }
        let asked = Instant::now();
        match login::look_up(&self.wire, used.token()).await {
            Ok(_alive) => {
                work.confirmed = Some(asked);
                Ok(None)
            }
            Err(SecretsError::LoginRefused { .. }) => {
                let token = self.log_in_instead(&mut work, &held).await?;
                // The same one again: the refusals were an outage's, and now it works.
                Ok(Some(token))
            }
            Err(other) => Err(other),
        }
    }

    /// Logs in because a token was refused.
    async fn log_in_instead(
        &self,
        work: &mut Work,
        refused: &Held,
    ) -> Result<Arc<Held>, SecretsError> {
        tracing::warn!("the agent's own Vault token is refused; logging in again");
        self.held.send_replace(None);
        work.doubted = Some(refused.token.duplicate());
        self.log_in(work).await
    }

    /// Says whether its tokens are of its own logins, not out of a file.
    pub(super) const fn logs_in(&self) -> bool {
        self.door.is_kept()
    }

    /// Returns what the present token is.
    pub(super) fn own(&self) -> Option<OwnToken> {
        let held = self.present()?;
        let digest = Sha256::digest(held.granted.accessor.as_bytes());
        let id = digest.iter().take(8).fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Some(OwnToken {
            id,
            ends: held.ends,
        })
    }

    /// Returns how it stands.
    pub(super) fn status(&self) -> IdentityStatus {
        let held = self.present();
        let (clock, now) = (self.clock.now(), Instant::now());
        let wall = |at: Instant| {
            let wait = SignedDuration::try_from(at.saturating_duration_since(now)).ok()?;
            clock.checked_add(wait).ok()
        };
        IdentityStatus {
            method: self.door.name(),
            since: held.as_ref().map(|held| held.since),
            next_renewal: held.as_ref().and_then(|held| wall(held.due)),
            ttl_seconds: held
                .as_ref()
                .and_then(|held| Some(held.dies()?.saturating_duration_since(now).as_secs())),
            ends: held.as_ref().and_then(|held| held.ends),
            renewable: held.as_ref().is_some_and(|held| held.granted.renewable),
            last_error: self.error(),
        }
    }

    /// Says whether there is a token that works, and waits a moment for the first one.
    pub(super) async fn ready(&self) -> Result<(), String> {
        let mut held = self.held.subscribe();
        let first = held.wait_for(Option::is_some);
        // Nothing is lost with a wait that is given up.
        drop(tokio::time::timeout(pace::FIRST_LOGIN, first).await);
        match self.present() {
            Some(_held) => Ok(()),
            None => Err(self
                .error()
                .unwrap_or_else(|| "not logged in yet".to_owned())),
        }
    }

    /// The token, unless its time is over.
    fn present(&self) -> Option<Arc<Held>> {
        let held = self.held.borrow().clone()?;
        let over = held.dies().is_some_and(|at| at <= Instant::now());
        (!over).then_some(held)
    }

    fn error(&self) -> Option<String> {
        let error = self.last_error.lock();
        error.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gets a token: the one of a former process, or a new one by logging in.
    async fn log_in(&self, work: &mut Work) -> Result<Arc<Held>, SecretsError> {
        let waiting = work.failed.as_ref();
        if let Some(failed) = waiting.filter(|failed| failed.until > Instant::now()) {
            return Err(failed.error.clone());
        }
        match self.try_log_in(work).await {
            Ok(held) => {
                self.worked(work);
                Ok(held)
            }
            Err(error) => Err(self.failed(work, error)),
        }
    }

    async fn try_log_in(&self, work: &mut Work) -> Result<Arc<Held>, SecretsError> {
        if let Some(kept) = self.kept.as_ref().filter(|_| !work.remembered) {
            if let Some(token) = kept.read().await {
                match login::examine(&self.wire, &self.door, &token).await {
                    Ok(granted) => {
                        work.remembered = true;
                        tracing::info!("the agent's Vault token of the last process is used on");
                        return Ok(self.take(token, granted));
                    }
                    Err(SecretsError::LoginRefused { reason }) => {
                        tracing::info!(reason, "the Vault token of the last process is refused");
                        work.doubted = Some(token);
                    }
                    // It may be alive, with credentials under it: it is not given up for this.
                    Err(other) => return Err(other),
                }
            }
            work.remembered = true;
        }
        let token = self.door.log_in(&self.wire).await?;
        let granted = login::examine(&self.wire, &self.door, &token).await?;
        if let Some(doubted) = work.doubted.take().filter(|_| self.logs_in()) {
            match login::examine(&self.wire, &self.door, &doubted).await {
                Ok(granted) => {
                    tracing::info!("the agent's Vault token is alive after all and used on");
                    login::end(&self.wire, &token).await;
                    return Ok(self.take(doubted, granted));
                }
                Err(SecretsError::LoginRefused { .. }) => {}
                Err(other) => {
                    login::end(&self.wire, &token).await;
                    work.doubted = Some(doubted);
                    return Err(other);
                }
            }
        }
        if let Some(kept) = &self.kept
            && let Err(error) = kept.write(&token).await
        {
            // Working on and losing it at a restart is better than not working.
            tracing::error!(%error, "the agent's Vault token cannot be kept");
        }
        tracing::info!(method = self.door.name(), "logged in to Vault");
        Ok(self.take(token, granted))
    }

    /// Takes a token that was just granted its life.
    fn take(&self, token: Secret, granted: Granted) -> Arc<Held> {
        let (clock, now) = (self.clock.now(), Instant::now());
        let before = self.held.borrow().clone();
        let same = before.filter(|held| held.granted.accessor == granted.accessor);
        let since = same.map_or_else(
            || granted.created.map_or(clock, |created| created.min(clock)),
            |held| held.since,
        );
        let ends = granted.ends(clock);
        let due = now + pace::until_renewal(granted.life, self.jitter);
        let held = Arc::new(Held {
            token,
            granted,
            since,
            at: now,
            due,
            ends,
        });
        self.held.send_replace(Some(Arc::clone(&held)));
        held
    }

    fn worked(&self, work: &mut Work) {
        work.failed = None;
        work.backoff.reset();
        self.say(None);
    }

    /// Notes what is wrong, and tells the log where that is news.
    fn say(&self, trouble: Option<String>) {
        let last_error = self.last_error.lock();
        let mut last_error = last_error.unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = trouble.as_ref().filter(|_| *last_error != trouble) {
            tracing::warn!(error, "the agent's own login to Vault does not work");
        }
        *last_error = trouble;
    }

    /// Notes a failure, sets when the next try may be, and returns it with words that say whose it is.
    fn failed(&self, work: &mut Work, error: SecretsError) -> SecretsError {
        let error = of_the_agent(error);
        let wait = work.backoff.after(&error);
        self.say(Some(error.to_string()));
        work.failed = Some(Failed {
            error: error.clone(),
            until: Instant::now() + wait,
        });
        error
    }
}

/// Says in an error that it is about the agent's own login.
fn of_the_agent(error: SecretsError) -> SecretsError {
    match error {
        SecretsError::LoginRefused { reason } => SecretsError::LoginRefused {
            reason: format!("the agent's own login: {reason}"),
        },
        SecretsError::Unavailable {
            reason,
            retry_after_seconds,
        } => SecretsError::Unavailable {
            reason: format!("{reason} (at the agent's own login)"),
            retry_after_seconds,
        },
        other @ (SecretsError::Forbidden { .. }
        | SecretsError::Missing { .. }
        | SecretsError::VersionGone { .. }
        | SecretsError::DataPrefix { .. }
        | SecretsError::Unanswered { .. }
        | SecretsError::Unexpected { .. }) => other,
    }
}

#[cfg(test)]
mod tests;
