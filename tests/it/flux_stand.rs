//! What scenarios of Flux rely on is really there: the Git server with GitLab's ways, Flux's controllers, and
//! the contract of the one that is a stand-in.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::stand::Stand;
use tests::stand::git;
use tests::stand::git::Account;
use tests::stand::git::repository::Moment;
use tests::stand::git::repository::Repository;
use tests::stand::process;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tests::world::fleet::Engine;

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

/// Longest that Flux may take for one thing, pods included.
const FLUX: Duration = Duration::from_secs(90);

fn deployment(world: &World, word: &str) -> String {
    let image = world.stand.busybox();
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  replicas: 1
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }}, annotations: {{ word: "{word}" }} }}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{ name: web, image: "{image}", command: [sleep, "1000"] }}]
"#
    )
}

/// Waits until something about an object is so.
async fn becomes(
    world: &World,
    object: &str,
    what: &str,
    so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    until(what, FLUX, async || match world.object(object).await {
        Ok(seen) if so(&seen) => Look::Ready(seen),
        Ok(seen) => Look::NotYet(seen["status"].to_string()),
        Err(error) => Look::NotYet(format!("{error:#}")),
    })
    .await
}

/// Waits until the one pod of `web` runs with this word.
async fn runs(world: &World, word: &str) -> Result<()> {
    becomes(world, "deployment/web", "the Deployment to run", |seen| {
        let status = &seen["status"];
        seen["spec"]["template"]["metadata"]["annotations"]["word"] == word
            && status["observedGeneration"] == seen["metadata"]["generation"]
            && status["updatedReplicas"] == 1
            && status["availableReplicas"] == 1
            && status["replicas"] == 1
    })
    .await
    .map(drop)
}

fn revision(commit: &str) -> String {
    format!("main@sha1:{commit}")
}

#[tokio::test]
async fn kustomization_runs_what_its_branch_says_and_follows_on_request() -> Result<()> {
    let world = World::without_agent("kustom").await?;
    let first = deployment(&world, "first");
    let repository = world
        .fleet_repository("fleet", &[("web.yaml", &first)])
        .await?;
    let engine = Engine::Kustomization { path: "./" };
    world.fleet("shop", &repository, engine).await?;
    runs(&world, "first").await?;
    let commit = repository.head("main").await?;
    let applied = revision(&commit);
    becomes(&world, "kustomization/shop", "the revision", |seen| {
        seen["status"]["lastAppliedRevision"] == applied.as_str()
    })
    .await?;
    let source = world.object("gitrepository/shop").await?;
    let artifact = &source["status"]["artifact"];
    ensure!(artifact["revision"] == applied.as_str(), "{artifact}");
    ensure!(
        source["status"]["observedGeneration"] == source["metadata"]["generation"],
        "{source}"
    );
    // Nothing happens by itself: the interval is long.
    let second = deployment(&world, "second");
    let commit = repository
        .commit("main", &[("web.yaml", &second)], "Second")
        .await?;
    let token = world.reconcile("gitrepository/shop").await?;
    let source = becomes(&world, "gitrepository/shop", "the request", |seen| {
        seen["status"]["lastHandledReconcileAt"] == token.as_str()
    })
    .await?;
    ensure!(
        source["status"]["artifact"]["revision"] == revision(&commit).as_str(),
        "{source}"
    );
    runs(&world, "second").await
}

#[tokio::test]
async fn helm_release_runs_a_chart_of_its_branch_and_follows_on_request() -> Result<()> {
    let world = World::without_agent("helmrel").await?;
    let chart = "apiVersion: v2\nname: web\nversion: 0.1.0\n";
    let template = deployment(&world, "{{ .Values.word }}-{{ .Values.more }}");
    let files = [
        ("charts/web/Chart.yaml", chart),
        ("charts/web/values.yaml", "word: first\nmore: none\n"),
        ("charts/web/templates/web.yaml", &template),
    ];
    let repository = world.fleet_repository("charts", &files).await?;
    let engine = Engine::HelmRelease {
        chart: "./charts/web",
        values: &json!({ "more": "set" }),
    };
    world.fleet("shop", &repository, engine).await?;
    runs(&world, "first-set").await?;
    becomes(&world, "helmrelease/shop", "the release", |seen| {
        seen["status"]["history"][0]["status"] == "deployed"
    })
    .await?;
    let files = [("charts/web/values.yaml", "word: second\nmore: none\n")];
    repository.commit("main", &files, "Second").await?;
    world.reconcile("gitrepository/shop").await?;
    runs(&world, "second-set").await
}

#[tokio::test]
async fn suspended_source_stays_where_it_was() -> Result<()> {
    let world = World::without_agent("suspended").await?;
    let conf = |word: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: conf }}\ndata: {{ word: {word} }}\n"
        )
    };
    let repository = world
        .fleet_repository("fleet", &[("conf.yaml", &conf("first"))])
        .await?;
    let engine = Engine::Kustomization { path: "./" };
    world.fleet("shop", &repository, engine).await?;
    let word = |word: &'static str| move |seen: &Value| seen["data"]["word"] == word;
    becomes(&world, "configmap/conf", "the first", word("first")).await?;
    let patch = async |suspend: &str| {
        let patch = format!(r#"{{"spec":{{"suspend":{suspend}}}}}"#);
        let words = ["patch", "gitrepository/shop", "--type=merge", "-p", &patch];
        world.kubectl(&words).await.map(drop)
    };
    patch("true").await?;
    let before = world.object("gitrepository/shop").await?["status"].take();
    repository
        .commit("main", &[("conf.yaml", &conf("second"))], "Second")
        .await?;
    let token = world.reconcile("gitrepository/shop").await?;
    // The Kustomization answers its own request, with the source as it was.
    let own = world.reconcile("kustomization/shop").await?;
    becomes(&world, "kustomization/shop", "its request", |seen| {
        seen["status"]["lastHandledReconcileAt"] == own.as_str()
    })
    .await?;
    let after = world.object("gitrepository/shop").await?["status"].take();
    ensure!(after == before, "{before} became {after}");
    ensure!(
        word("first")(&world.object("configmap/conf").await?),
        "it moved"
    );
    patch("false").await?;
    becomes(&world, "gitrepository/shop", "the old request", |seen| {
        seen["status"]["lastHandledReconcileAt"] == token.as_str()
    })
    .await?;
    becomes(&world, "configmap/conf", "the second", word("second"))
        .await
        .map(drop)
}

#[tokio::test]
async fn source_that_cannot_be_fetched_says_why_and_recovers() -> Result<()> {
    let world = World::without_agent("unreach").await?;
    let conf = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: conf }\n";
    let repository = world
        .fleet_repository("fleet", &[("conf.yaml", conf)])
        .await?;
    let engine = Engine::Kustomization { path: "./" };
    world.fleet("shop", &repository, engine).await?;
    becomes(&world, "configmap/conf", "the first", |_| true).await?;
    let at = async |url: &str| {
        let patch = format!(r#"{{"spec":{{"url":"{url}"}}}}"#);
        let words = ["patch", "gitrepository/shop", "--type=merge", "-p", &patch];
        world.kubectl(&words).await.map(drop)
    };
    let ready = |status: &'static str| {
        move |seen: &Value| {
            let all = seen["status"]["conditions"].as_array();
            let ready = all.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
            ready.is_some_and(|one| {
                one["status"] == status
                    && one["observedGeneration"] == seen["metadata"]["generation"]
            })
        }
    };
    for (url, words) in [
        ("http://127.0.0.1:1/gone.git".to_owned(), "unable to access"),
        (
            repository.url().replace("-fleet.git", "-gone.git"),
            "not found",
        ),
    ] {
        at(&url).await?;
        let seen = becomes(&world, "gitrepository/shop", "the failure", ready("False")).await?;
        let condition = world.ready("gitrepository/shop").await?;
        ensure!(condition["reason"] == "GitOperationFailed", "{condition}");
        let message = condition["message"].as_str().unwrap_or_default();
        ensure!(message.contains(words), "{condition}");
        let password = &world.stand.facts().git_accounts.reader.password;
        ensure!(!message.contains(password.as_str()), "a password is told");
        ensure!(seen["status"]["artifact"].is_object(), "the old one stays");
    }
    at(&repository.url()).await?;
    becomes(&world, "gitrepository/shop", "the recovery", ready("True"))
        .await
        .map(drop)
}
