//! What scenarios of Flux rely on is really there: the Git server with GitLab's ways.

use std::path::Path;

use anyhow::Result;
use anyhow::ensure;
use tests::stand::Stand;
use tests::stand::git;
use tests::stand::git::Account;
use tests::stand::git::repository::Moment;
use tests::stand::git::repository::Repository;
use tests::stand::process;
use tests::world::World;

/// A clone of a repository, as somebody with an account has it.
struct Copy {
    stand: &'static Stand,
    dir: tempfile::TempDir,
    account: Account,
}

impl Copy {
    /// Clones from `url`; where that is HTTP, with the account in it.
    async fn of(stand: &'static Stand, url: &str, account: &Account) -> Result<Self> {
        let copy = Self {
            stand,
            dir: tempfile::tempdir()?,
            account: account.clone(),
        };
        let login = format!("http://{}:{}@", account.name, account.password);
        let url = url.replace("http://", &login);
        copy.git(&["clone", "--quiet", &url, "."]).await?;
        Ok(copy)
    }

    async fn git(&self, words: &[&str]) -> Result<String> {
        let site = &self.stand.facts().site;
        let mut command = process::command(site, "git");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Job");
            command.env(format!("GIT_{role}_EMAIL"), "job@example.com");
        }
        command
            .env("GIT_SSH_COMMAND", git::ssh_command(site, &self.account))
            .env("GIT_TERMINAL_PROMPT", "0")
            .current_dir(self.dir.path());
        process::run(command.args(words)).await
    }

    async fn edit(&self, path: &str, content: &str) -> Result<()> {
        std::fs::write(self.dir.path().join(path), content)?;
        self.git(&["add", path]).await?;
        self.git(&["commit", "--quiet", "-m", "Edit"])
            .await
            .map(drop)
    }

    /// Pushes; returns what Git said when it was refused.
    async fn push(&self) -> Option<String> {
        let pushed = self.git(&["push", "--quiet", "origin", "HEAD:main"]).await;
        pushed.err().map(|error| format!("{error:#}"))
    }
}

async fn shop(name: &str) -> Result<(World, Repository)> {
    let world = World::without_agent(name).await?;
    let files = [("app.yaml", "tag: 1\r\n"), ("more/deep.txt", "deep")];
    let repository = world.fleet_repository("shop", &files).await?;
    Ok((world, repository))
}

fn refused_with(said: Option<&String>, words: &str) -> Result<()> {
    ensure!(
        said.is_some_and(|said| said.contains(words)),
        "`{words}` is not in {said:?}"
    );
    Ok(())
}

#[tokio::test]
async fn an_account_pushes_by_its_right_alone_over_http_and_ssh() -> Result<()> {
    let (world, repository) = shop("accounts").await?;
    let accounts = &world.stand.facts().git_accounts;
    for url in [repository.url(), repository.ssh_url()] {
        let before = repository.head("main").await?;
        let reader = Copy::of(world.stand, &url, &accounts.reader).await?;
        reader
            .edit("app.yaml", &format!("of the reader: {url}\n"))
            .await?;
        let said = reader.push().await;
        refused_with(
            said.as_ref(),
            if url.starts_with("http:") {
                "403"
            } else {
                "You are not allowed to push code to this project."
            },
        )?;
        ensure!(repository.head("main").await? == before, "{url}");
        let writer = Copy::of(world.stand, &url, &accounts.writer).await?;
        let content = format!("of the writer: {url}\n");
        writer.edit("app.yaml", &content).await?;
        ensure!(writer.push().await.is_none(), "the writer pushes to {url}");
        let stored = repository.file("main", "app.yaml").await?;
        ensure!(stored == content.as_bytes(), "{stored:?}");
    }
    ensure!(repository.log("main").await? == ["Edit", "Edit", "Start"]);
    Ok(())
}

#[tokio::test]
async fn nobody_gets_in_without_an_account() -> Result<()> {
    let (world, repository) = shop("nobody").await?;
    let accounts = &world.stand.facts().git_accounts;
    let mut wrong = accounts.writer.clone();
    wrong.password = "glpat-wrong".to_owned();
    let key = tempfile::tempdir()?;
    wrong.key = key.path().join("key");
    let mut make = process::command(&world.stand.facts().site, "ssh-keygen");
    make.args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&wrong.key);
    process::run(&mut make).await?;
    for (url, words) in [
        (repository.url(), "Authentication failed"),
        (repository.ssh_url(), "Permission denied"),
    ] {
        let said = Copy::of(world.stand, &url, &wrong).await.err();
        refused_with(said.map(|error| format!("{error:#}")).as_ref(), words)?;
    }
    let anonymous = reqwest::get(format!(
        "{}/info/refs?service=git-upload-pack",
        repository.url()
    ));
    ensure!(anonymous.await?.status() == 401, "without an account");
    // A key lets one fetch and push, and do nothing else.
    let ssh = git::ssh_command(&world.stand.facts().site, &accounts.writer);
    let (address, port) = world.stand.facts().git_ssh[6..].rsplit_once(':').unwrap();
    let shell = format!("{ssh} -p {port} {address} cat /etc/shadow");
    let tried = process::command(&world.stand.facts().site, "sh")
        .args(["-c", &shell])
        .output()
        .await?;
    ensure!(
        !tried.status.success() && tried.stdout.is_empty(),
        "{tried:?}"
    );
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    refused_with(Some(&said), "could not be found")
}

#[tokio::test]
async fn protected_branch_is_refused_with_the_words_of_gitlab() -> Result<()> {
    let (world, repository) = shop("protected").await?;
    let words =
        "remote: GitLab: You are not allowed to push code to protected branches on this project.";
    for url in [repository.url(), repository.ssh_url()] {
        let copy = Copy::of(world.stand, &url, &world.stand.facts().git_accounts.writer).await?;
        copy.edit("app.yaml", &url).await?;
        repository.protect("main")?;
        refused_with(copy.push().await.as_ref(), words)?;
        repository.unprotect()?;
        repository.reject_next(1)?;
        refused_with(
            copy.push().await.as_ref(),
            "GitLab: Internal API unreachable",
        )?;
        ensure!(copy.push().await.is_none(), "the second push");
    }
    Ok(())
}

#[tokio::test]
async fn push_loses_a_race_as_often_as_is_said() -> Result<()> {
    let (world, repository) = shop("race").await?;
    for (round, url) in [repository.url(), repository.ssh_url()].iter().enumerate() {
        let copy = Copy::of(world.stand, url, &world.stand.facts().git_accounts.writer).await?;
        copy.edit("app.yaml", &format!("round {round}\n")).await?;
        for (moment, words) in [
            (Moment::BeforePush, "fetch first"),
            (Moment::DuringPush, "remote rejected"),
        ] {
            repository
                .race(moment, 2, "main", &[("other.txt", "faster")])
                .await?;
            for _ in 0..2 {
                refused_with(copy.push().await.as_ref(), words)?;
                copy.git(&["pull", "--quiet", "--rebase", "origin", "main"])
                    .await?;
            }
        }
        ensure!(copy.push().await.is_none(), "after the races over {url}");
    }
    let log = repository.log("main").await?;
    let faster = log
        .iter()
        .filter(|subject| *subject == "Somebody was faster");
    ensure!(faster.count() == 8, "{log:?}");
    ensure!(repository.file("main", "other.txt").await? == b"faster");
    ensure!(repository.file("main", "app.yaml").await? == b"round 1\n");
    Ok(())
}

#[tokio::test]
async fn somebody_else_commits_and_rewrites() -> Result<()> {
    let (world, repository) = shop("rewrite").await?;
    let first = repository.head("main").await?;
    let files = [("app.yaml", "tag: 2\n")];
    let second = repository.commit("main", &files, "By hand").await?;
    ensure!(repository.head("main").await? == second && second != first);
    let third = repository.force_push("main", &files, "By force").await?;
    ensure!(third != second, "another commit");
    ensure!(repository.log("main").await? == ["By force", "Start"]);
    repository.commit("next", &files, "New branch").await?;
    ensure!(repository.log("next").await? == ["New branch"]);
    let copy = Copy::of(
        world.stand,
        &repository.url(),
        &world.stand.facts().git_accounts.reader,
    )
    .await?;
    ensure!(Path::new(&copy.dir.path().join("more/deep.txt")).is_file());
    Ok(())
}
