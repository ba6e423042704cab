//! A Git server in memory: branches, commits by content, a few ways to say no.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sha2::Digest as _;
use sha2::Sha256;

use super::lock;
use crate::ports::Branch;
use crate::ports::Change;
use crate::ports::CommitId;
use crate::ports::Files;
use crate::ports::Git;
use crate::ports::GitError;
use crate::ports::GitLogin;
use crate::ports::Tip;

/// One commit.
#[derive(Clone)]
struct Commit {
    parent: Option<CommitId>,
    files: Files,
    message: String,
}

#[derive(Default)]
struct State {
    commits: BTreeMap<CommitId, Commit>,
    heads: BTreeMap<Branch, CommitId>,
    /// What the next calls that reach the server say instead.
    faults: VecDeque<GitError>,
    /// What every push is answered with; unset: by what is there.
    refusal: Option<GitError>,
    /// Commits of others that are pushed just before the next pushes of ours.
    races: VecDeque<Files>,
}

/// The double.
#[derive(Default)]
pub struct FakeGit(Mutex<State>);

impl State {
    fn add(&mut self, commit: Commit) -> CommitId {
        let mut hash = Sha256::new();
        for text in commit.parent.iter().map(CommitId::as_str) {
            hash.update(text);
        }
        for (path, content) in &commit.files {
            hash.update(path);
            hash.update([0]);
            hash.update(content);
        }
        hash.update(&commit.message);
        let id = hash
            .finalize()
            .iter()
            .fold(String::new(), |id, byte| format!("{id}{byte:02x}"));
        let id = CommitId::parse(&id).expect("a SHA-256 is an id");
        self.commits.insert(id.clone(), commit);
        id
    }

    fn put(&mut self, branch: &Branch, files: &Files, message: &str) -> CommitId {
        let parent = self.heads.get(branch).cloned();
        let before = parent.as_ref().and_then(|id| self.commits.get(id));
        let mut all = before
            .map(|commit| commit.files.clone())
            .unwrap_or_default();
        all.extend(files.clone());
        let id = self.add(Commit {
            parent,
            files: all,
            message: message.to_owned(),
        });
        self.heads.insert(branch.clone(), id.clone());
        id
    }

    fn is_after(&self, commit: &CommitId, ancestor: &CommitId) -> bool {
        let mut at = self.commits.contains_key(ancestor).then(|| commit.clone());
        while let Some(id) = at {
            if id == *ancestor {
                return true;
            }
            at = self
                .commits
                .get(&id)
                .and_then(|commit| commit.parent.clone());
        }
        false
    }
}

impl FakeGit {
    /// Puts a commit of somebody else on a branch, which is made where there is none.
    pub fn put(&self, branch: &Branch, files: &Files, message: &str) -> CommitId {
        lock(&self.0).put(branch, files, message)
    }

    /// Makes the next call that reaches the server fail.
    pub fn fail(&self, error: GitError) {
        lock(&self.0).faults.push_back(error);
    }

    /// Makes every push fail.
    pub fn refuse_pushes(&self, error: GitError) {
        lock(&self.0).refusal = Some(error);
    }

    /// Lets somebody else push just before our next push.
    pub fn race(&self, files: Files) {
        lock(&self.0).races.push_back(files);
    }

    /// Returns the newest commit's message and files.
    #[must_use]
    pub fn head(&self, branch: &Branch) -> Option<(CommitId, String, Files)> {
        let state = lock(&self.0);
        let id = state.heads.get(branch)?;
        let commit = state.commits.get(id)?;
        Some((id.clone(), commit.message.clone(), commit.files.clone()))
    }
}

impl Git for FakeGit {
    fn tip<'a>(
        &'a self,
        branch: &'a Branch,
        _login: &'a GitLogin,
        paths: &'a [String],
        _time: Duration,
    ) -> BoxFuture<'a, Result<Tip, GitError>> {
        async move {
            let mut state = lock(&self.0);
            if let Some(fault) = state.faults.pop_front() {
                return Err(fault);
            }
            let commit = state.heads.get(branch).ok_or(GitError::NotFound)?;
            let below = |path: &&String| {
                let under = |wanted: &String| {
                    path.strip_prefix(wanted.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                paths.is_empty() || paths.iter().any(under)
            };
            let all = &state.commits[commit].files;
            let files = all.iter().filter(|(path, _)| below(path));
            Ok(Tip {
                commit: commit.clone(),
                files: files
                    .map(|(path, text)| (path.clone(), text.clone()))
                    .collect(),
            })
        }
        .boxed()
    }

    fn commit<'a>(
        &'a self,
        _branch: &'a Branch,
        change: &'a Change,
        _time: Duration,
    ) -> BoxFuture<'a, Result<CommitId, GitError>> {
        async move {
            let mut state = lock(&self.0);
            let broken = |reason: &str| GitError::Broken {
                reason: reason.to_owned(),
            };
            let parent = state.commits.get(&change.parent);
            let parent = parent.ok_or_else(|| broken("no such parent"))?;
            let mut files = parent.files.clone();
            for (path, text) in &change.files {
                let old = files.get_mut(path).ok_or_else(|| broken("no such file"))?;
                old.clone_from(text);
            }
            Ok(state.add(Commit {
                parent: Some(change.parent.clone()),
                files,
                message: change.message.clone(),
            }))
        }
        .boxed()
    }

    fn push<'a>(
        &'a self,
        branch: &'a Branch,
        _login: &'a GitLogin,
        commit: &'a CommitId,
        _time: Duration,
    ) -> BoxFuture<'a, Result<(), GitError>> {
        async move {
            let mut state = lock(&self.0);
            if let Some(files) = state.races.pop_front() {
                state.put(branch, &files, "somebody else");
            }
            if let Some(fault) = state.faults.pop_front() {
                return Err(fault);
            }
            if let Some(refusal) = &state.refusal {
                return Err(refusal.clone());
            }
            let head = state.heads.get(branch).ok_or(GitError::NotFound)?;
            if !state.is_after(commit, head) {
                return Err(GitError::Moved);
            }
            state.heads.insert(branch.clone(), commit.clone());
            Ok(())
        }
        .boxed()
    }

    fn follows<'a>(
        &'a self,
        _branch: &'a Branch,
        commit: &'a CommitId,
        ancestor: &'a CommitId,
        _time: Duration,
    ) -> BoxFuture<'a, Result<bool, GitError>> {
        async move { Ok(lock(&self.0).is_after(commit, ancestor)) }.boxed()
    }
}
