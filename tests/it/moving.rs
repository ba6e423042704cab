//! `docs/moving.md`, run: each old way as the page has it, then the new one on the same objects.
//!
//! The scripts and specs are taken from the page, so what it shows is what was run.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::submission::Finished;
use tests::world::World;
use tests::world::fleet::Engine;

/// What only Vault may have in the end.
const CANARY: &str = "moving-canary-value";

const SHOP: &str = "apiVersion: apps/v1
kind: Deployment
metadata: { name: shop }
spec:
  replicas: 1
  selector: { matchLabels: { app: shop } }
  template:
    metadata: { labels: { app: shop } }
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: main
          image: shop
          command: [sleep, \"1000\"]
          env: [{ name: KEY, valueFrom: { secretKeyRef: { name: shop-api, key: api-key } } }]
";

/// The Deployment of the chart; the names of Secret and key are put in.
fn templated(secret: &str, key: &str) -> String {
    SHOP.replace("name: shop-api", &format!("name: {secret}"))
        .replace("key: api-key", &format!("key: {key}"))
        .replace(
            "image: shop",
            "image: \"{{ .Values.image.repository }}:{{ .Values.image.tag }}\"",
        )
}

const CHARTS_OWN_SECRET: &str = "apiVersion: v1
kind: Secret
metadata: { name: shop-key }
stringData: { api-key: {{ .Values.apiKey | quote }} }
";

const CHART: &str = "apiVersion: v2\nname: shop\nversion: 1.0.0\n";

/// A section of the page.
struct Section {
    text: String,
}

impl Section {
    fn of(title: &str) -> Result<Self> {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/moving.md");
        let page = fs::read_to_string(page)?;
        let start = format!("## {title}\n");
        let (_, text) = page.split_once(&start).context(start)?;
        let text = text.split("\n## ").next().unwrap_or(text).to_owned();
        Ok(Self { text })
    }

    fn block(&self, language: &str) -> Result<&str> {
        let start = format!("```{language}\n");
        let (_, rest) = self.text.split_once(&start).context(start)?;
        let (block, _) = rest.split_once("```").context("a block's end")?;
        Ok(block)
    }
}

/// A team that moves: its world, its folder, and its value in Vault.
struct Team {
    world: World,
    vault: String,
    image: String,
}

impl Team {
    async fn new(name: &str) -> Result<Self> {
        let mut world = World::without_agent(name).await?;
        let policy = world
            .policy()
            .replace("[\"app-*\"]", "[\"app-*\", \"shop-*\"]");
        fs::write(world.policy_path(), policy)?;
        let vault = world.put("app", json!({ "api_key": CANARY })).await?;
        world.start_agent().await?;
        let image = world.stand.busybox();
        Ok(Self {
            world,
            vault,
            image,
        })
    }

    fn put(&self, files: &[(&str, &str)]) -> Result<()> {
        for (name, text) in files {
            let path = self.world.dir().join("team").join(name);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(path, text)?;
        }
        Ok(())
    }

    /// Runs a script of the page as the job did: kubeconfig, Vault token and all.
    async fn run(&self, script: &str) -> Result<String> {
        let facts = self.world.stand.facts();
        let bin = self.world.dir().join("bin");
        fs::create_dir_all(&bin)?;
        let (helm, _) = tests::stand::agent::render_programs()?;
        for (name, program) in [
            ("vault", facts.site.program("bao")),
            ("kubectl", facts.site.program("kubectl")),
            ("helm", helm),
        ] {
            drop(fs::remove_file(bin.join(name)));
            symlink(program, bin.join(name))?;
        }
        let kubeconfig = self.world.dir().join("job-kubeconfig");
        fs::copy(&facts.kubeconfig_admin, &kubeconfig)?;
        let place = format!(
            "kubectl config set-context --current --namespace={} > /dev/null\n",
            self.world.namespace
        );
        let output = tokio::process::Command::new("bash")
            .args(["-euo", "pipefail", "-c"])
            .arg(place + &script.replace("kv/shop/app", &self.vault))
            .current_dir(self.world.dir().join("team"))
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("HOME", self.world.dir())
            .env("KUBECONFIG", &kubeconfig)
            .env("VAULT_ADDR", &facts.vault_addr)
            .env("VAULT_TOKEN", &facts.vault_root_token)
            .env("IMAGE", &self.image)
            .output()
            .await?;
        let told = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(output.status.success(), "{script}\n{told}");
        Ok(told)
    }

    /// Deploys what the page shows, with these files.
    async fn deploy(&self, section: &Section, files: &[(&str, &str)]) -> Result<Finished> {
        let spec = section
            .block("yaml")?
            .replace("kv/shop/app", &self.vault)
            .replace("${IMAGE}", &self.image);
        let all: Vec<(&str, &str)> = std::iter::once(("quaymaster.yaml", spec.as_str()))
            .chain(files.iter().copied())
            .collect();
        let done = self.world.deploy(&all).await?;
        ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
        ensure!(!done.log.contains(CANARY), "{}", done.log);
        Ok(done)
    }

    async fn object(&self, object: &str) -> Result<Value> {
        let words = ["get", object, "-o", "json", "--show-managed-fields"];
        Ok(serde_json::from_str(&self.world.kubectl(&words).await?)?)
    }
}

#[tokio::test]
async fn from_kubectl_in_a_script() -> Result<()> {
    let (team, section) = (
        Team::new("move-kubectl").await?,
        Section::of("From kubectl in a script")?,
    );
    team.put(&[("k8s/shop.yaml", SHOP)])?;
    let told = team.run(section.block("sh")?).await?;
    ensure!(told.contains("successfully rolled out"), "{told}");
    let before = team.object("deployment/shop").await?;
    let pods = team.world.kubectl(&["get", "pods", "-o", "name"]).await?;

    let done = team.deploy(&section, &[("k8s/shop.yaml", SHOP)]).await?;
    let after = team.object("deployment/shop").await?;
    ensure!(before["metadata"]["uid"] == after["metadata"]["uid"]);
    ensure!(
        team.world.kubectl(&["get", "pods", "-o", "name"]).await? == pods,
        "no pod is restarted by the move: {}",
        done.log
    );
    for object in ["deployment/shop", "secret/shop-api"] {
        let text = team.object(object).await?.to_string();
        ensure!(
            !text.contains("last-applied") && !text.contains("kubectl-client-side"),
            "{object}: {text}"
        );
    }
    ensure!(team.world.secret("shop-api").await?["api-key"] == CANARY);
    Ok(())
}

#[tokio::test]
async fn from_helm_upgrade() -> Result<()> {
    let (team, section) = (
        Team::new("move-helm").await?,
        Section::of("From helm upgrade")?,
    );
    let old = templated("shop-key", "api-key");
    team.put(&[
        ("chart/Chart.yaml", CHART),
        ("chart/templates/shop.yaml", &old),
        ("chart/templates/secret.yaml", CHARTS_OWN_SECRET),
    ])?;
    team.run(section.block("sh")?).await?;
    let before = team.object("deployment/shop").await?;

    let new = templated("shop-api", "api-key");
    let files = [
        ("chart/Chart.yaml", CHART),
        ("chart/templates/shop.yaml", new.as_str()),
    ];
    team.deploy(&section, &files).await?;
    let after = team.object("deployment/shop").await?;
    ensure!(before["metadata"]["uid"] == after["metadata"]["uid"]);
    let history = team.run("helm history shop -o json").await?;
    let history: Value = serde_json::from_str(&history)?;
    ensure!(
        history[1]["status"] == "deployed" && history[2].is_null(),
        "{history}"
    );
    let secrets = team
        .world
        .kubectl(&["get", "secrets", "-o", "name"])
        .await?;
    ensure!(
        secrets.contains("secret/shop-api") && !secrets.contains("secret/shop-key"),
        "{secrets}"
    );
    let values = team.run("helm get values shop -o json").await?;
    ensure!(!values.contains(CANARY), "{values}");
    Ok(())
}

#[tokio::test]
async fn from_auto_deploy() -> Result<()> {
    let (team, section) = (
        Team::new("move-auto").await?,
        Section::of("From Auto Deploy")?,
    );
    // As Auto Deploy makes it from K8S_SECRET_API_KEY.
    let literal = format!("--from-literal=API_KEY={CANARY}");
    team.world
        .kubectl(&["create", "secret", "generic", "production-secret", &literal])
        .await?;
    let template = templated("{{ .Values.secretName }}", "API_KEY");
    let files = [
        ("chart/Chart.yaml", CHART),
        ("chart/values.yaml", "secretName: production-secret\n"),
        ("chart/templates/shop.yaml", template.as_str()),
    ];
    team.put(&files)?;
    team.run(section.block("sh")?).await?;
    let before = team.object("deployment/shop").await?;

    team.deploy(&section, &files).await?;
    let after = team.object("deployment/shop").await?;
    ensure!(before["metadata"]["uid"] == after["metadata"]["uid"]);
    ensure!(team.world.secret("shop-production").await?["API_KEY"] == CANARY);
    let history = team.run("helm history production -o json").await?;
    ensure!(history.matches("\"revision\"").count() == 2, "{history}");
    Ok(())
}

#[tokio::test]
async fn from_flux_image_automation() -> Result<()> {
    let section = Section::of("From Flux's image automation")?;
    let mut world = World::without_agent("move-flux").await?;
    let mark = section.block("text")?.trim().to_owned();
    let old = format!("{}/busybox:not-there", world.stand.facts().registry);
    let marked = mark.replace("registry.example.com/team/shop:1.4.2", &old);
    ensure!(marked != mark, "{mark}");
    let shop = SHOP
        .replace("image: shop", &marked)
        .replace("          env: [{ name: KEY, valueFrom: { secretKeyRef: { name: shop-api, key: api-key } } }]\n", "");
    let files = [("apps/shop.yaml", shop.as_str())];
    let repository = world.fleet_repository("fleet", &files).await?;
    let engine = Engine::Kustomization { path: "./apps" };
    world.fleet("shop", &repository, engine).await?;
    world.grant_fleet(&repository).await?;
    let writer = &world.stand.facts().git_accounts.writer;
    let credential = world.git_credential(writer).await?;
    world.start_agent().await?;

    let image = world.stand.busybox();
    let own = format!("{}/shop", world.namespace);
    let spec = section
        .block("yaml")?
        .replace("kv/shop/fleet", &credential)
        .replace("${FLEET_REPOSITORY}", &repository.url())
        .replace("${IMAGE}", &image)
        .replace("[shop]", &format!("[\"{own}\"]"));
    let done = world.deploy(&[("quaymaster.yaml", &spec)]).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let now = repository.file("main", "apps/shop.yaml").await?;
    ensure!(String::from_utf8(now)? == shop.replace(&old, &image));
    Ok(())
}
