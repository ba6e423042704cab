//! The `Git` port: the program git as a confined child, on bare copies that the agent keeps.
//!
//! Made by `app`; called by the engine through the port. Invariants: nothing of a repository is checked
//! out or run, for only objects are read and written: hooks, filters, attributes, links and submodules
//! mean nothing here. The credential is in a configuration that is in memory only ([`login`]); the
//! program gets no other configuration, no environment and no terminal, and talks to the server of the
//! branch only, by the one protocol of its address. [`words`] reads what it says.
//!
//! A copy is there to save time: one that is damaged or gone is made anew.

mod login;
mod objects;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use deploy::ports::Branch;
use deploy::ports::Change;
use deploy::ports::CommitId;
use deploy::ports::Git;
use deploy::ports::GitAddress;
use deploy::ports::GitError;
use deploy::ports::GitLogin;
use deploy::ports::Tip;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use sha2::Digest as _;
use sha2::Sha256;
use tokio::sync::Semaphore;

use self::login::Access;
use crate::child;
use crate::child::Child;
use crate::child::ChildError;
use crate::child::Ended;
use crate::child::Ending;
use crate::child::Input;
use crate::child::confine;
use crate::child::folder;
use crate::child::folder::Folder;
use crate::config::GitPrograms;

/// Programs at a time.
const AT_A_TIME: usize = 4;
/// The word under which the program is told and configured.
const GIT: &str = "git";

/// The adapter.
#[derive(Debug)]
pub struct Repositories {
    programs: GitPrograms,
    /// Where the copies are.
    copies: PathBuf,
    /// Where calls have their own folders.
    base: PathBuf,
    slots: Arc<Semaphore>,
    /// One call at a time works on one copy.
    turns: Mutex<BTreeMap<GitAddress, Arc<tokio::sync::Mutex<()>>>>,
}

impl Repositories {
    /// Takes the programs and a folder of ours; what a killed agent left in the calls' folders is
    /// removed.
    ///
    /// # Errors
    /// When the folders cannot be made or emptied.
    pub fn new(programs: GitPrograms, state: &Path) -> Result<Self, io::Error> {
        let (copies, base) = (state.join("repositories"), state.join("calls"));
        folder::empty(&base)?;
        fs::create_dir_all(&copies)?;
        Ok(Self {
            programs,
            copies,
            base,
            slots: Arc::new(Semaphore::new(AT_A_TIME)),
            turns: Mutex::default(),
        })
    }

    /// Stands in line for the copy of a repository, and opens it.
    async fn open(&self, repository: &GitAddress, time: Duration) -> Result<Copy<'_>, GitError> {
        let program = self.programs.program.as_deref();
        let program = program.ok_or(GitError::Missing { program: GIT })?;
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(repository.clone()).or_default())
        };
        let deadline = tokio::time::Instant::now() + time;
        let late = |_elapsed| GitError::Unreachable {
            said: format!("other runs used {repository} for {} s", time.as_secs()),
        };
        let turn = tokio::time::timeout_at(deadline, turn.lock_owned()).await;
        let turn = turn.map_err(late)?;
        let slot = tokio::time::timeout_at(deadline, Arc::clone(&self.slots).acquire_owned());
        let slot = slot.await.map_err(late)?.map_err(broken)?;
        let copy = Copy {
            program,
            programs: &self.programs,
            folder: Folder::new(&self.base, slot).map_err(broken)?,
            path: self.copies.join(name_of(repository)),
            deadline,
            _turn: turn,
        };
        copy.prepare().await?;
        Ok(copy)
    }
}

/// The name of a copy's folder: nothing of the address can be read as a path.
fn name_of(repository: &GitAddress) -> String {
    let digest = Sha256::digest(repository.as_str());
    let digest = digest.iter().take(16);
    let name = digest.fold(0_u128, |name, byte| name << 8 | u128::from(*byte));
    format!("{name:032x}.git")
}

fn broken(error: impl std::fmt::Display) -> GitError {
    GitError::Broken {
        reason: error.to_string(),
    }
}

/// The copy of one repository, during one call.
struct Copy<'a> {
    program: &'a Path,
    programs: &'a GitPrograms,
    folder: Folder,
    path: PathBuf,
    deadline: tokio::time::Instant,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

/// One call of the program.
struct Call<'a> {
    words: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    /// Standard input; unset: nothing.
    input: Option<&'a [u8]>,
}

impl Call<'_> {
    fn new<const N: usize>(words: [&str; N]) -> Self {
        Self {
            words: words.map(OsString::from).into(),
            environment: Vec::new(),
            input: None,
        }
    }
}

impl Copy<'_> {
    /// Makes the copy where there is none that works.
    async fn prepare(&self) -> Result<(), GitError> {
        if self.path.join("HEAD").is_file() {
            return Ok(());
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(broken(error)),
            Ok(()) | Err(_) => {}
        }
        let made = self.folder.path().join("new.git");
        let mut call = Call::new(["init", "--quiet", "--bare", "--template="]);
        call.words.push(made.clone().into());
        self.local(call).await?;
        // Beside it and renamed, so that a copy is whole or not there.
        fs::rename(&made, &self.path).map_err(broken)
    }

    /// Runs git on objects that are here; returns what it printed.
    async fn local(&self, call: Call<'_>) -> Result<Vec<u8>, GitError> {
        let name = call.words.first().cloned().unwrap_or_default();
        let input = match call.input {
            None => Input::Nothing,
            Some(text) => Input::Standard(child::sealed("git", text).map_err(broken)?),
        };
        let ended = self.run(call.words, call.environment, input, Ending::Kill);
        let ended = ended.await?;
        if ended.status.success() {
            return Ok(ended.out);
        }
        let said = words::cut(&ended.words);
        let name = name.display();
        Err(broken(format!(
            "{name} ended with {}: {said}",
            ended.status
        )))
    }

    /// Runs git towards the server.
    async fn remote(
        &self,
        call: Call<'_>,
        access: &Access,
        ending: Ending,
    ) -> Result<Ended, GitError> {
        let config = Input::Inherited(access.config()?);
        self.run(call.words, call.environment, config, ending).await
    }

    async fn run(
        &self,
        words: Vec<OsString>,
        mut environment: Vec<(&'static str, OsString)>,
        input: Input,
        ending: Ending,
    ) -> Result<Ended, GitError> {
        let config = match &input {
            Input::Inherited(_) => confine::FILE_PATH,
            Input::Nothing | Input::Standard(_) => "/dev/null",
        };
        environment.extend([
            ("GIT_CONFIG_GLOBAL", config.into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("GIT_ATTR_NOSYSTEM", "1".into()),
            ("GIT_DIR", self.path.clone().into()),
            ("LC_ALL", "C".into()),
        ]);
        let time = self
            .deadline
            .saturating_duration_since(tokio::time::Instant::now());
        let child = Child {
            program: self.program,
            words,
            environment,
            input,
            ending,
            time,
        };
        match child.run(self.folder.path()).await {
            Ok(ended) => Ok(ended),
            Err(ChildError::Late { .. }) => Err(GitError::Late {
                seconds: time.as_secs(),
            }),
            Err(error @ (ChildError::Broken(_) | ChildError::TooMuch { .. })) => Err(broken(error)),
        }
    }

    /// Brings the branch here and returns its newest commit.
    async fn fetch(&self, branch: &Branch, login: &GitLogin) -> Result<CommitId, GitError> {
        let access = Access::of(branch, login, self.programs, &self.folder, self.deadline).await?;
        let here = reference(branch);
        let mut call = Call::new(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"]);
        call.words.extend([
            "--no-recurse-submodules".into(),
            "--no-auto-gc".into(),
            "--".into(),
            branch.repository.as_str().into(),
            format!("+refs/heads/{}:{here}", branch.name).into(),
        ]);
        let ended = match self.remote(call, &access, Ending::Kill).await {
            // A fetch changes nothing on the server.
            Err(GitError::Late { seconds }) => {
                return Err(GitError::Unreachable {
                    said: format!("no answer in {seconds} s"),
                });
            }
            ended => ended?,
        };
        if !ended.status.success() {
            return Err(words::of_fetch(&ended.words));
        }
        self.resolve(&here).await
    }

    async fn resolve(&self, name: &str) -> Result<CommitId, GitError> {
        let mut call = Call::new(["rev-parse", "--verify", "--quiet"]);
        call.words.push(format!("{name}^{{commit}}").into());
        let out = self.local(call).await?;
        let text = String::from_utf8_lossy(&out);
        CommitId::parse(text.trim()).ok_or_else(|| broken("rev-parse printed no commit"))
    }
}

/// Where a branch is kept in a copy.
fn reference(branch: &Branch) -> String {
    format!("refs/fetched/{}", branch.name)
}

impl Repositories {
    async fn read_tip(
        &self,
        branch: &Branch,
        login: &GitLogin,
        paths: &[String],
        time: Duration,
    ) -> Result<Tip, GitError> {
        let copy = self.open(&branch.repository, time).await?;
        let commit = copy.fetch(branch, login).await?;
        let files = objects::files(&copy, &commit, paths).await?;
        Ok(Tip { commit, files })
    }

    async fn make(
        &self,
        branch: &Branch,
        change: &Change,
        time: Duration,
    ) -> Result<CommitId, GitError> {
        let copy = self.open(&branch.repository, time).await?;
        objects::commit(&copy, change).await
    }

    async fn send(
        &self,
        branch: &Branch,
        login: &GitLogin,
        commit: &CommitId,
        time: Duration,
    ) -> Result<(), GitError> {
        let copy = self.open(&branch.repository, time).await?;
        let access = Access::of(branch, login, copy.programs, &copy.folder, copy.deadline).await?;
        let mut call = Call::new([
            "push",
            "--porcelain",
            "--no-verify",
            "--no-recurse-submodules",
        ]);
        call.words.extend([
            "--".into(),
            branch.repository.as_str().into(),
            format!("{commit}:refs/heads/{}", branch.name).into(),
        ]);
        let ended = copy.remote(call, &access, Ending::Ask).await?;
        if ended.status.success() {
            return Ok(());
        }
        Err(words::of_push(&ended.out, &ended.words))
    }

    async fn is_after(
        &self,
        branch: &Branch,
        commit: &CommitId,
        ancestor: &CommitId,
        time: Duration,
    ) -> Result<bool, GitError> {
        let copy = self.open(&branch.repository, time).await?;
        let mut call = Call::new(["merge-base", "--is-ancestor"]);
        call.words
            .extend([ancestor.as_str().into(), commit.as_str().into()]);
        let ended = copy.run(call.words, call.environment, Input::Nothing, Ending::Kill);
        // It ends with 1 for no, and with 128 for a commit that is not known.
        Ok(ended.await?.status.success())
    }
}

impl Git for Repositories {
    fn tip<'a>(
        &'a self,
        branch: &'a Branch,
        login: &'a GitLogin,
        paths: &'a [String],
        time: Duration,
    ) -> BoxFuture<'a, Result<Tip, GitError>> {
        self.read_tip(branch, login, paths, time).boxed()
    }

    fn commit<'a>(
        &'a self,
        branch: &'a Branch,
        change: &'a Change,
        time: Duration,
    ) -> BoxFuture<'a, Result<CommitId, GitError>> {
        self.make(branch, change, time).boxed()
    }

    fn push<'a>(
        &'a self,
        branch: &'a Branch,
        login: &'a GitLogin,
        commit: &'a CommitId,
        time: Duration,
    ) -> BoxFuture<'a, Result<(), GitError>> {
        self.send(branch, login, commit, time).boxed()
    }

    fn follows<'a>(
        &'a self,
        branch: &'a Branch,
        commit: &'a CommitId,
        ancestor: &'a CommitId,
        time: Duration,
    ) -> BoxFuture<'a, Result<bool, GitError>> {
        self.is_after(branch, commit, ancestor, time).boxed()
    }
}
