//! A bare repository of the Git server, as a scenario makes, changes and reads it.
//!
//! Made by [`Repository::new`]; everything here works on the files of the server, past its accounts, as other people's
//! pushes and GitLab's settings do. Invariant: a change is one commit on a branch, put there in one step that
//! fails when the branch moved meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use tempfile::NamedTempFile;

use super::http_address;
use super::repositories;
use super::ssh_address;
use crate::stand::layout::Site;
use crate::stand::process;

const PRE_RECEIVE: &str = include_str!("../../../stand/git/pre-receive.sh");
const POST_RECEIVE: &str = include_str!("../../../stand/git/post-receive.sh");
const RACE: &str = include_str!("../../../stand/git/race.sh");

/// When somebody else is faster than a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After the fetch, before the push is told where the branch is: the client refuses, `fetch first`.
    BeforePush,
    /// While the push is received: the server refuses, because the branch is not where the push said.
    DuringPush,
    /// Right after the push, before its sender hears of it: a commit comes on top of the one that was pushed.
    AfterPush,
    /// Right after the push, with force: a commit takes the place of the one that was pushed.
    OverPush,
}

impl Moment {
    const fn word(self) -> &'static str {
        match self {
            Self::BeforePush => "before",
            Self::DuringPush => "during",
            Self::AfterPush => "after",
            Self::OverPush => "over",
        }
    }
}

/// A bare repository on the stand's Git server.
#[derive(Clone, Debug)]
pub struct Repository {
    site: Site,
    name: String,
    dir: PathBuf,
}

impl Repository {
    /// Makes a repository whose branch `main` has one commit with `files` (path and content).
    ///
    /// # Errors
    /// When there is one of that name, or Git fails.
    pub async fn new(site: &Site, name: &str, files: &[(&str, &str)]) -> Result<Self> {
        let dir = repositories(site).join(format!("{name}.git"));
        anyhow::ensure!(!dir.exists(), "there is a repository `{name}` already");
        let made = Self {
            site: site.clone(),
            name: name.to_owned(),
            dir,
        };
        let mut init = process::command(site, "git");
        init.args([
            "init",
            "--quiet",
            "--bare",
            "--initial-branch=main",
            "--template=",
        ]);
        process::run(init.arg(&made.dir)).await?;
        made.git(&["config", "gc.auto", "0"]).await?;
        fs::create_dir_all(made.dir.join("stand"))?;
        fs::create_dir_all(made.dir.join("hooks"))?;
        for (hook, text) in [
            ("pre-receive", PRE_RECEIVE),
            ("post-receive", POST_RECEIVE),
            ("race", RACE),
        ] {
            let path = made.dir.join("hooks").join(hook);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        made.commit("main", files, "Start").await?;
        Ok(made)
    }

    /// Name, without `.git`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder of the repository.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its URL over HTTP, without an account in it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/{}.git", http_address(&self.site), self.name)
    }

    /// Its URL over SSH.
    #[must_use]
    pub fn ssh_url(&self) -> String {
        format!("{}/{}.git", ssh_address(&self.site), self.name)
    }

    /// The commit that a branch is at.
    ///
    /// # Errors
    /// When there is no such branch.
    pub async fn head(&self, branch: &str) -> Result<String> {
        let reference = format!("refs/heads/{branch}");
        let words = ["rev-parse", "--verify", "--quiet", &reference];
        Ok(self.git(&words).await?.trim().to_owned())
    }

    /// Subjects of a branch's commits, the newest first.
    ///
    /// # Errors
    /// When there is no such branch.
    pub async fn log(&self, branch: &str) -> Result<Vec<String>> {
        self.log_as(branch, "%s").await
    }

    /// A branch's commits in a format of `git log`, the newest first; one line each.
    ///
    /// # Errors
    /// When there is no such branch.
    pub async fn log_as(&self, branch: &str, format: &str) -> Result<Vec<String>> {
        let format = format!("--format={format}");
        let words = ["log", &format, &format!("refs/heads/{branch}")];
        Ok(self.git(&words).await?.lines().map(str::to_owned).collect())
    }

    /// Content of a file on a branch, byte for byte.
    ///
    /// # Errors
    /// When there is none.
    pub async fn file(&self, branch: &str, path: &str) -> Result<Vec<u8>> {
        self.file_at(&format!("refs/heads/{branch}"), path).await
    }

    /// Content of a file in a commit, byte for byte.
    ///
    /// # Errors
    /// When there is none.
    pub async fn file_at(&self, commit: &str, path: &str) -> Result<Vec<u8>> {
        let object = format!("{commit}:{path}");
        let output = self
            .command(&["cat-file", "blob", &object])
            .output()
            .await?;
        anyhow::ensure!(output.status.success(), "there is no {path} at {commit}");
        Ok(output.stdout)
    }

    /// Puts a commit of somebody else on a branch, which is made if it is missing; returns the commit.
    ///
    /// # Errors
    /// When Git fails.
    pub async fn commit(
        &self,
        branch: &str,
        files: &[(&str, &str)],
        message: &str,
    ) -> Result<String> {
        let parent = self.head(branch).await.ok();
        self.put(branch, parent.as_deref(), files, message).await
    }

    /// Replaces the last commit of a branch by another one, as a push with force does; returns the commit.
    ///
    /// # Errors
    /// When Git fails, or there is no such branch.
    pub async fn force_push(
        &self,
        branch: &str,
        files: &[(&str, &str)],
        message: &str,
    ) -> Result<String> {
        let head = self.head(branch).await?;
        let before = format!("{head}^");
        let words = ["rev-parse", "--verify", "--quiet", &before];
        let parent = self
            .git(&words)
            .await
            .ok()
            .map(|commit| commit.trim().to_owned());
        self.put(branch, parent.as_deref(), files, message).await
    }

    /// Makes a commit of the branch's files with `files` changed, and the branch point to it.
    async fn put(
        &self,
        branch: &str,
        parent: Option<&str>,
        files: &[(&str, &str)],
        message: &str,
    ) -> Result<String> {
        let head = self.head(branch).await.ok();
        let index = self.dir.join("stand").join(format!("index.{branch}"));
        let git = async |words: &[&str], input: Option<&[u8]>| {
            let mut command = self.command(words);
            command.env("GIT_INDEX_FILE", &index);
            process::run_with(&mut command, input, super::CALL).await
        };
        match &head {
            Some(head) => git(&["read-tree", head], None).await?,
            None => git(&["read-tree", "--empty"], None).await?,
        };
        let edit = self.edit(files).await?;
        git(
            &["update-index", "--add", "--index-info"],
            Some(edit.as_bytes()),
        )
        .await?;
        let tree = git(&["write-tree"], None).await?;
        let mut words = vec!["commit-tree", "-m", message, tree.trim()];
        words.extend(parent.iter().flat_map(|parent| ["-p", parent]));
        let commit = git(&words, None).await?.trim().to_owned();
        let reference = format!("refs/heads/{branch}");
        let old = head.unwrap_or_default();
        git(&["update-ref", &reference, &commit, &old], None).await?;
        Ok(commit)
    }

    /// Stores files and says what they change, as `git update-index --index-info` reads it.
    async fn edit(&self, files: &[(&str, &str)]) -> Result<String> {
        let mut edit = String::new();
        for (path, content) in files {
            let mut command = self.command(&["hash-object", "-w", "--stdin"]);
            let stored = process::run_with(&mut command, Some(content.as_bytes()), super::CALL);
            edit.push_str(&format!("100644 {}\t{path}\n", stored.await?.trim()));
        }
        Ok(edit)
    }

    /// Lets nobody push to a branch from now on. Commits of [`Self::commit`] are still possible.
    ///
    /// # Errors
    /// When the setting cannot be written.
    pub fn protect(&self, branch: &str) -> Result<()> {
        let path = self.setting("protected");
        let protected = fs::read_to_string(&path).unwrap_or_default();
        self.set("protected", &format!("{protected}{branch}\n"))
    }

    /// Lets everybody who may push do so to all branches again.
    ///
    /// # Errors
    /// When the setting cannot be written.
    pub fn unprotect(&self) -> Result<()> {
        self.set("protected", "")
    }

    /// Refuses the next `count` pushes, as a GitLab does that is ill.
    ///
    /// # Errors
    /// When the setting cannot be written.
    pub fn reject_next(&self, count: u32) -> Result<()> {
        self.set("reject", &format!("{count}\n"))
    }

    /// Lets a commit of somebody else meet the next `count` pushes: it changes `files` of `branch`.
    ///
    /// # Errors
    /// When the setting cannot be written.
    pub async fn race(
        &self,
        moment: Moment,
        count: u32,
        branch: &str,
        files: &[(&str, &str)],
    ) -> Result<()> {
        self.set("race.edit", &self.edit(files).await?)?;
        let name = format!("race.{}", moment.word());
        self.set(&name, &format!("{count} {branch}\n"))
    }

    fn setting(&self, name: &str) -> PathBuf {
        self.dir.join("stand").join(name)
    }

    /// A hook reads all of a setting or the one before.
    fn set(&self, name: &str, value: &str) -> Result<()> {
        let beside = NamedTempFile::new_in(self.dir.join("stand"))?;
        fs::write(beside.path(), value)?;
        beside
            .persist(self.setting(name))
            .context("writing a setting of the repository")?;
        Ok(())
    }

    async fn git(&self, words: &[&str]) -> Result<String> {
        process::run(&mut self.command(words)).await
    }

    fn command(&self, words: &[&str]) -> tokio::process::Command {
        let mut command = process::command(&self.site, "git");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Somebody");
            command.env(format!("GIT_{role}_EMAIL"), "somebody@example.com");
        }
        command.arg("--git-dir").arg(&self.dir).args(words);
        command
    }
}
