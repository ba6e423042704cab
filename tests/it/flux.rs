//! Deploys through Flux: real controllers, a real Git server, the verdict of any deploy.
//!
//! The source controller is the stand's stand-in (see `stand/source.rs`); everything else is what teams run.

mod ends;
mod races;

use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::stand::git::repository::Moment;
use tests::stand::git::repository::Repository;
use tests::submission::Finished;
use tests::world::World;
use tests::world::fleet::Engine;

/// A file of the repository that is changed.
const FILE: &str = "apps/web.yaml";

/// A world whose Flux rolls out one repository, and whose agent may change it.
struct Shop {
    world: World,
    repository: Repository,
    credential: String,
}

impl Shop {
    /// Makes it with a Deployment that has this image.
    async fn new(name: &str, image: impl Fn(&World) -> String) -> Result<Self> {
        Self::holding(name, |world| web(&image(world))).await
    }

    /// Makes it with this content of the file that is changed, and something else in the repository.
    async fn holding(name: &str, content: impl Fn(&World) -> String) -> Result<Self> {
        let world = World::without_agent(name).await?;
        let content = content(&world);
        let files = [
            (FILE, content.as_str()),
            ("other/README.md", "# Others\r\n"),
        ];
        let repository = world.fleet_repository("fleet", &files).await?;
        let engine = Engine::Kustomization { path: "./apps" };
        Self::with(world, repository, engine).await
    }

    async fn with(mut world: World, repository: Repository, engine: Engine<'_>) -> Result<Self> {
        world.fleet("shop", &repository, engine).await?;
        world.grant_fleet(&repository).await?;
        let writer = &world.stand.facts().git_accounts.writer;
        let credential = world.git_credential(writer).await?;
        world.start_agent().await?;
        Ok(Self {
            world,
            repository,
            credential,
        })
    }

    /// The spec that puts an image in; `more` is added below `flux`, `rollout` into the rollout.
    fn spec(&self, image: &str, rollout: &str) -> String {
        format!(
            "version: 1\nname: shop\nflux:\n  repository: {url}\n  path: apps\n  credential: {{ vault: {vault} }}\n  \
             sources: {ns}/shop\n  wait: {{ kustomizations: {ns}/shop }}\nimages: {{ web: \"{image}\" }}\n\
             rollout: {{ timeout: 90s{rollout} }}\n",
            url = self.repository.url(),
            vault = self.credential,
            ns = self.world.namespace,
        )
    }

    async fn deploy(&self, spec: &str) -> Result<Finished> {
        self.world.deploy(&[("quaymaster.yaml", spec)]).await
    }

    async fn file(&self) -> Result<String> {
        let bytes = self.repository.file("main", FILE).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Changes the spec of an object of Flux, such as `kustomization/shop`.
    async fn patch(&self, object: &str, spec: Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        let words = ["patch", object, "--type=merge", "-p", &patch];
        self.world.kubectl(&words).await.map(drop)
    }

    fn good(&self) -> String {
        self.world.stand.busybox()
    }

    fn missing(&self) -> String {
        missing(&self.world)
    }

    /// How many commits there are.
    async fn commits(&self) -> Result<usize> {
        Ok(self.repository.log("main").await?.len())
    }
}

pub(crate) fn missing(world: &World) -> String {
    format!("{}/busybox:not-there", world.stand.facts().registry)
}

fn web(image: &str) -> String {
    format!(
        "# The web app, changed by deploys.\r\napiVersion: apps/v1\r\nkind: Deployment\r\nmetadata: {{ name: web }}\r\n\
         spec:\r\n  replicas: 1\r\n  progressDeadlineSeconds: 60\r\n  selector: {{ matchLabels: {{ app: web }} }}\r\n  \
         template:\r\n    metadata: {{ labels: {{ app: web }} }}\r\n    spec:\r\n      terminationGracePeriodSeconds: 0\r\n      \
         containers:\r\n        - name: web   # Grüße\r\n          \
         image: '{image}'   # {{\"$imagepolicy\": \"flux-system:web\"}}\r\n          command: [sleep, \"1000\"]\r\n"
    )
}

fn status(done: &Finished) -> Result<String> {
    Ok(done.json()?["status"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

pub(crate) fn shown(done: &Finished) -> String {
    format!("{}\n{}", done.answer.text(), done.log)
}

#[tokio::test]
async fn an_image_is_put_into_the_repository_and_rolled_out_by_flux() -> Result<()> {
    let shop = Shop::new("flux-good", missing).await?;
    let spec = shop.spec(&shop.good(), "");
    let plan = shop.world.plan(&[("quaymaster.yaml", &spec)]).await?;
    ensure!(plan.status() == 200, "{}", shown(&plan));
    let step = plan.json()?["steps"][0].take();
    ensure!(
        step["action"] == "change" && step["object"].to_string().contains(FILE),
        "{step}"
    );
    ensure!(shop.commits().await? == 1, "a plan makes no commit");

    let done = shop.deploy(&spec).await?;
    ensure!(done.status() == 200, "{}", shown(&done));
    ensure!(
        shop.file().await? == web(&shop.good()),
        "{}",
        shop.file().await?
    );
    let message = shop.repository.log_as("main", "%an%n%B").await?.join("\n");
    for part in [
        "Quaymaster",
        "deploy shop: web ",
        &format!("Run: {}", done.id),
        "Job: ",
    ] {
        ensure!(message.contains(part), "{part}: {message}");
    }
    let other = shop.repository.file("main", "other/README.md").await?;
    ensure!(other == b"# Others\r\n", "{other:?}");
    let password = &shop.world.stand.facts().git_accounts.writer.password;
    for text in [
        &done.log,
        &done.answer.text(),
        &message,
        &shop.world.agent_log()?,
    ] {
        ensure!(!text.contains(password.as_str()), "the password is told");
    }
    // The same again is no commit.
    let again = shop.deploy(&spec).await?;
    ensure!(again.status() == 200, "{}", shown(&again));
    ensure!(shop.commits().await? == 2, "{}", again.log);
    ensure!(again.log.contains("no commit"), "{}", again.log);
    Ok(())
}

#[tokio::test]
async fn an_image_that_is_not_there_is_named_and_the_commit_taken_back() -> Result<()> {
    let shop = Shop::new("flux-bad", |world| world.stand.busybox()).await?;
    let before = shop.file().await?;
    let spec = shop.spec(&shop.missing(), ", on_failure: revert");
    let done = shop.deploy(&spec).await?;
    ensure!(status(&done)? == "rolled_back", "{}", shown(&done));
    ensure!(
        done.causes().first().map(String::as_str) == Some("image_missing"),
        "{}",
        shown(&done)
    );
    ensure!(shop.file().await? == before, "{}", shop.file().await?);
    ensure!(shop.commits().await? == 3, "{}", done.log);
    let last: Vec<&str> = done.log.lines().rev().take(12).collect();
    ensure!(
        last.iter()
            .any(|line| line.contains("not-there: not found")),
        "{}",
        done.log
    );
    let object = shop.world.object("deployment/web").await?;
    let image = &object["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(*image == shop.good(), "{image}");
    Ok(())
}

#[tokio::test]
async fn what_flux_cannot_build_is_told_in_its_own_words() -> Result<()> {
    let shop = Shop::new("flux-broken", |world| world.stand.busybox()).await?;
    shop.repository
        .commit("main", &[("apps/broken.yaml", "kind: 1\n")], "Break it")
        .await?;
    let done = shop.deploy(&shop.spec(&shop.missing(), "")).await?;
    ensure!(status(&done)? == "failed", "{}", shown(&done));
    ensure!(
        done.causes().contains(&"flux_failed".to_owned()),
        "{}",
        shown(&done)
    );
    ensure!(shown(&done).contains("BuildFailed"), "{}", shown(&done));
    Ok(())
}

#[tokio::test]
async fn flux_that_could_not_carry_it_out_ends_the_run_before_a_commit() -> Result<()> {
    let shop = Shop::new("flux-asleep", |world| world.stand.busybox()).await?;
    let spec = shop.spec(&shop.missing(), "");
    for (object, change, back, expected) in [
        (
            "kustomization/shop",
            json!({ "suspend": true }),
            json!({ "suspend": false }),
            "is suspended",
        ),
        (
            "gitrepository/shop",
            json!({ "suspend": true }),
            json!({ "suspend": false }),
            "is suspended",
        ),
        (
            "kustomization/shop",
            json!({ "dependsOn": [{ "name": "infra" }] }),
            json!({ "dependsOn": null }),
            "infra, which does not exist",
        ),
        (
            "gitrepository/shop",
            json!({ "ref": { "branch": "release" } }),
            json!({ "ref": { "branch": "main" } }),
            "reads branch release",
        ),
    ] {
        shop.patch(object, change).await?;
        let done = shop.deploy(&spec).await?;
        ensure!(done.code() == "flux_not_ready", "{}", shown(&done));
        ensure!(
            shown(&done).contains(expected),
            "{expected}: {}",
            shown(&done)
        );
        shop.patch(object, back).await?;
    }
    let unknown = spec.replace(
        &format!("kustomizations: {}/shop", shop.world.namespace),
        &format!("kustomizations: {}/nothing", shop.world.namespace),
    );
    let done = shop.deploy(&unknown).await?;
    ensure!(
        done.code() == "flux_not_ready" && shown(&done).contains("does not exist"),
        "{}",
        shown(&done)
    );
    ensure!(shop.commits().await? == 1, "nothing is pushed");
    Ok(())
}

#[tokio::test]
async fn what_the_git_server_refuses_is_told_and_nothing_is_half_done() -> Result<()> {
    let shop = Shop::new("flux-refused", |world| world.stand.busybox()).await?;
    let spec = shop.spec(&shop.missing(), "");
    shop.repository.protect("main")?;
    let done = shop.deploy(&spec).await?;
    ensure!(done.code() == "git_refused", "{}", shown(&done));
    ensure!(
        shown(&done).contains("not allowed to push code to protected branches"),
        "{}",
        shown(&done)
    );
    shop.repository.unprotect()?;
    let reader = &shop.world.stand.facts().git_accounts.reader;
    shop.world.git_credential(reader).await?;
    let done = shop.deploy(&spec).await?;
    ensure!(
        ["git_denied", "git_refused"].contains(&done.code().as_str()),
        "{}",
        shown(&done)
    );
    shop.world
        .put(
            "git",
            json!({ "username": "deployer", "password": "wrong" }),
        )
        .await?;
    let done = shop.deploy(&spec).await?;
    ensure!(done.code() == "git_denied", "{}", shown(&done));
    ensure!(!shown(&done).contains("\"wrong\""), "{}", shown(&done));
    let gone = spec.replace("images: { web:", "images: { api:");
    let writer = &shop.world.stand.facts().git_accounts.writer;
    shop.world.git_credential(writer).await?;
    let done = shop.deploy(&gone).await?;
    ensure!(
        done.code() == "image_place_missing" && shown(&done).contains("api"),
        "{}",
        shown(&done)
    );
    ensure!(shop.commits().await? == 1, "nothing is pushed");
    Ok(())
}

#[tokio::test]
async fn pushes_of_others_are_kept_and_the_edit_is_made_anew() -> Result<()> {
    let shop = Shop::new("flux-race", missing).await?;
    // Both ways of being late: seen by git before it sends, and met on the server.
    for (moment, path, image) in [
        (Moment::BeforePush, "other/one.txt", shop.good()),
        (Moment::DuringPush, "other/two.txt", shop.missing()),
    ] {
        shop.repository
            .race(moment, 2, "main", &[(path, "theirs")])
            .await?;
        let done = shop.deploy(&shop.spec(&image, "")).await?;
        ensure!(
            done.log.contains("editing what is there now"),
            "{}",
            shown(&done)
        );
        ensure!(shop.repository.file("main", path).await? == b"theirs");
        ensure!(shop.file().await? == web(&image), "{}", shown(&done));
    }
    Ok(())
}

#[tokio::test]
async fn a_key_serves_as_well_as_a_password() -> Result<()> {
    let shop = Shop::new("flux-ssh", missing).await?;
    let spec = shop
        .spec(&shop.good(), "")
        .replace(&shop.repository.url(), &shop.repository.ssh_url());
    let done = shop.deploy(&spec).await?;
    ensure!(done.status() == 200, "{}", shown(&done));
    ensure!(shop.file().await? == web(&shop.good()));
    Ok(())
}

#[tokio::test]
async fn a_chart_of_the_repository_gets_the_image_by_its_values() -> Result<()> {
    let world = World::without_agent("flux-helm").await?;
    let template = web("{{ .Values.image.repository }}:{{ .Values.image.tag }}");
    let values = |tag: &str| {
        format!(
            "# Values of production.\nimage:\n  repository: {}/busybox   # kept\n  tag: \"{tag}\"\n",
            world.stand.facts().registry
        )
    };
    let files = [
        (
            "apps/chart/Chart.yaml",
            "apiVersion: v2\nname: web\nversion: 0.1.0\n",
        ),
        ("apps/chart/values.yaml", &values("not-there")),
        ("apps/chart/templates/web.yaml", &template),
    ];
    let repository = world.fleet_repository("fleet", &files).await?;
    let engine = Engine::HelmRelease {
        chart: "./apps/chart",
        values: &json!({}),
    };
    let shop = Shop::with(world, repository, engine).await?;
    let ns = &shop.world.namespace;
    let spec = |image: &str, rollout: &str| {
        shop.spec(image, rollout)
            .replace(&format!("wait: {{ kustomizations: {ns}/shop }}"), &format!("wait: {{ helmreleases: {ns}/shop }}\n  values:\n    - {{ path: image.tag, image: web, part: tag }}\n    - {{ path: image.repository, image: web, part: name }}"))
    };
    let done = shop.deploy(&spec(&shop.good(), "")).await?;
    ensure!(done.status() == 200, "{}", shown(&done));
    let tag = shop
        .good()
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    let text = shop
        .repository
        .file("main", "apps/chart/values.yaml")
        .await?;
    ensure!(
        String::from_utf8_lossy(&text) == values(&tag),
        "{}",
        String::from_utf8_lossy(&text)
    );
    let bad = shop
        .deploy(&spec(&shop.missing(), ", on_failure: revert"))
        .await?;
    ensure!(status(&bad)? == "rolled_back", "{}", shown(&bad));
    ensure!(
        bad.causes().first().map(String::as_str) == Some("image_missing"),
        "{}",
        shown(&bad)
    );
    Ok(())
}

#[tokio::test]
async fn secrets_are_written_beside_flux_and_are_in_no_commit() -> Result<()> {
    let shop = Shop::new("flux-secret", missing).await?;
    let path = shop
        .world
        .put("app", json!({ "password": "c4nary-of-flux" }))
        .await?;
    let spec = format!(
        "{}secrets:\n  - name: app-db\n    keys:\n      password: {{ vault: {path}, field: password }}\n",
        shop.spec(&shop.good(), "")
    );
    let done = shop.deploy(&spec).await?;
    ensure!(done.status() == 200, "{}", shown(&done));
    ensure!(shop.world.secret("app-db").await?["password"] == "c4nary-of-flux");
    let history = shop.repository.log_as("main", "%B").await?.join("\n");
    ensure!(
        !history.contains("c4nary") && !shown(&done).contains("c4nary"),
        "the value is told"
    );
    let token = shop.world.reconcile("kustomization/shop").await?;
    tests::wait::until(
        "Flux to look again",
        std::time::Duration::from_secs(60),
        async || match shop.world.object("kustomization/shop").await {
            Ok(object) if object["status"]["lastHandledReconcileAt"] == token.as_str() => {
                tests::wait::Look::Ready(())
            }
            Ok(object) => tests::wait::Look::NotYet(object["status"].to_string()),
            Err(error) => tests::wait::Look::NotYet(format!("{error:#}")),
        },
    )
    .await?;
    ensure!(
        shop.world.secret("app-db").await?["password"] == "c4nary-of-flux",
        "Flux has left it alone"
    );
    Ok(())
}
