//! The commit: made, pushed, made anew where somebody else was faster; and taken back.
//!
//! Called by [`crate::engine`] under the app's lock. A push without an answer is looked at before it is sent
//! again: the branch holds the commit, or it does not.

use std::time::Duration;

use futures::FutureExt as _;

use super::CALL;
use super::FluxError;
use super::git_error;
use super::scene;
use super::scene::Scene;
use crate::authorize::Permit;
use crate::backoff::Backoff;
use crate::backoff::Patience;
use crate::fleet::Edited;
use crate::ports::Change;
use crate::ports::CommitId;
use crate::ports::Entry;
use crate::ports::Files;
use crate::ports::GitError;
use crate::ports::GitLogin;
use crate::ports::Ports;
use crate::ports::Tip;
use crate::ports::Way;
use crate::spec::Flux;

/// How often a commit is made anew because somebody else was faster.
const TRIES: usize = 30;
/// Longest pause between two of them.
const PAUSE: Duration = Duration::from_secs(2);

/// What is on the branch now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// The commit that Flux has to reach.
    pub commit: CommitId,
    /// What it replaced; unset where nothing had to change.
    pub before: Option<Before>,
}

/// What a commit of ours replaced, so that it can be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    old: Files,
    new: Files,
}

/// Who pushes, and how.
pub struct Pusher<'a> {
    /// The permit.
    pub permit: &'a Permit,
    /// Its flux.
    pub flux: &'a Flux,
    /// Who we are to the Git server.
    pub login: &'a GitLogin,
    /// The ports.
    pub ports: &'a Ports,
}

impl Pusher<'_> {
    /// Pushes what the scene shows, or what it has become when somebody else pushes meanwhile.
    ///
    /// # Errors
    /// The repository, the journal, the run's end.
    pub async fn push(
        &self,
        scene: Scene,
        message: &str,
        patience: &Patience<'_>,
    ) -> Result<Landed, FluxError> {
        let Scene {
            mut tip,
            mut edited,
            ..
        } = scene;
        let reviewed = edited.files.clone();
        let mut backoff = Backoff::new(patience.seed);
        for _ in 0..TRIES {
            if edited.files.is_empty() {
                // So that a later process knows what to wait for.
                self.note(&tip.commit, Way::There).await?;
                return Ok(Landed {
                    commit: tip.commit,
                    before: None,
                });
            }
            if let Some(landed) = self.send(&tip, edited, message, patience).await? {
                return Ok(landed);
            }
            patience
                .log
                .info("somebody else pushed meanwhile: editing what is there now");
            pause(backoff.step().min(PAUSE), patience).await?;
            (tip, edited) =
                scene::edit(self.permit, self.flux, self.login, self.ports, patience).await?;
            self.holds(&reviewed, &edited.files)?;
        }
        Err(FluxError::Busy {
            branch: self.flux.branch.to_string(),
            times: TRIES,
        })
    }

    /// Where the caller has reviewed a plan, what is pushed is what that plan showed.
    fn holds(&self, reviewed: &Files, now: &Files) -> Result<(), FluxError> {
        if self.permit.request().binding.plan.is_none() || reviewed == now {
            return Ok(());
        }
        let paths = reviewed.keys().chain(now.keys());
        let moved = paths
            .into_iter()
            .find(|path| reviewed.get(*path) != now.get(*path));
        Err(FluxError::Moved {
            file: moved.cloned().unwrap_or_default(),
        })
    }

    /// Makes one commit and pushes it; nothing where the branch moved.
    async fn send(
        &self,
        tip: &Tip,
        edited: Edited,
        message: &str,
        patience: &Patience<'_>,
    ) -> Result<Option<Landed>, FluxError> {
        let old = edited.files.keys();
        let old = old
            .filter_map(|path| Some((path.clone(), tip.files.get(path)?.clone())))
            .collect();
        let before = Before {
            old,
            new: edited.files.clone(),
        };
        let commit = self.commit(tip, edited.files, message).await?;
        let landed = self.land(&commit, Way::There, patience).await?;
        Ok(landed.then_some(Landed {
            commit,
            before: Some(before),
        }))
    }

    async fn commit(&self, tip: &Tip, files: Files, message: &str) -> Result<CommitId, FluxError> {
        let change = Change {
            parent: tip.commit.clone(),
            files,
            message: message.to_owned(),
            author: self.flux.author.clone(),
            email: self.flux.email.clone(),
            time: self.ports.clock.now(),
        };
        let branch = &self.flux.branch;
        let made = self.ports.git.commit(branch, &change, CALL).await;
        made.map_err(git_error(format!("making a commit for {branch}")))
    }

    /// Pushes a commit, and finds out what became of it where nobody says.
    async fn land(
        &self,
        commit: &CommitId,
        way: Way,
        patience: &Patience<'_>,
    ) -> Result<bool, FluxError> {
        if patience.stop.is_cancelled() {
            return Err(FluxError::Stopped);
        }
        let branch = &self.flux.branch;
        self.note(commit, way).await?;
        let pushed = self.ports.git.push(branch, self.login, commit, CALL).await;
        match pushed {
            Ok(()) => {
                patience
                    .log
                    .info(format!("pushed commit {} to {branch}", commit.short()));
                Ok(true)
            }
            Err(GitError::Moved) => Ok(false),
            Err(GitError::Late { .. } | GitError::Unreachable { .. }) => {
                patience
                    .log
                    .warn("the push got no answer: looking whether it arrived");
                let tip = scene::tip(self.flux, self.login, self.ports, patience).await?;
                let follows = self.ports.git.follows(branch, &tip.commit, commit, CALL);
                let arrived = follows.await;
                arrived.map_err(git_error(format!("looking for our commit on {branch}")))
            }
            Err(error) => Err(git_error(format!("pushing to {branch}"))(error)),
        }
    }

    /// Notes on disk which commit the run is about from now on.
    async fn note(&self, commit: &CommitId, way: Way) -> Result<(), FluxError> {
        let pushing = Entry::Pushing {
            branch: self.flux.branch.to_string(),
            commit: commit.to_string(),
            way,
        };
        Ok(self.ports.journal.append(pushing).await?)
    }

    /// Puts back what a commit of ours replaced, where nobody has changed the files since. Where somebody has
    /// put it back already, theirs is the commit.
    ///
    /// # Errors
    /// As for [`Self::push`], and a file that somebody else changed.
    pub async fn take_back(
        &self,
        before: &Before,
        message: &str,
        patience: &Patience<'_>,
    ) -> Result<CommitId, FluxError> {
        let mut backoff = Backoff::new(patience.seed);
        for _ in 0..TRIES {
            let tip = scene::tip(self.flux, self.login, self.ports, patience).await?;
            let mut old = before.old.iter();
            if old.all(|(path, old)| tip.files.get(path) == Some(old)) {
                return Ok(tip.commit);
            }
            let changed = before
                .new
                .iter()
                .find(|(path, ours)| tip.files.get(*path) != Some(ours));
            if let Some((file, _)) = changed {
                return Err(FluxError::Changed { file: file.clone() });
            }
            let commit = self.commit(&tip, before.old.clone(), message).await?;
            if self.land(&commit, Way::Back, patience).await? {
                return Ok(commit);
            }
            pause(backoff.step().min(PAUSE), patience).await?;
        }
        Err(FluxError::Busy {
            branch: self.flux.branch.to_string(),
            times: TRIES,
        })
    }
}

/// Waits a little, unless the run ends.
async fn pause(time: Duration, patience: &Patience<'_>) -> Result<(), FluxError> {
    if tokio::time::Instant::now() + time >= patience.deadline {
        return Err(FluxError::Late {
            what: "pushing".to_owned(),
        });
    }
    tokio::select! {
        // Nothing is on its way.
        () = patience.stop.cancelled().fuse() => Err(FluxError::Stopped),
        () = tokio::time::sleep(time) => Ok(()),
    }
}
