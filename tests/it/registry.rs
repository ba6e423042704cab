//! Images in their registries: a tag becomes its digest before anything is written, in every way to deploy.
//!
//! The registry is the stand's, behind a proxy that counts and that can be away; a private one is another
//! process of the same program; one that gives out tokens is a small server of the scenario's own. All of them
//! are on loopback.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use reqwest::Method;
use serde_json::Value;
use serde_json::json;
use tests::faults::Fault;
use tests::faults::Faults;
use tests::submission::Finished;
use tests::world::World;
use tests::world::fleet::Engine;
use tokio::io::AsyncBufReadExt as _;
use tokio::process::Child;
use tokio::process::Command;

use crate::remote_charts::Page;
use crate::remote_charts::Shelf;
use crate::remote_charts::http;
use crate::remote_charts::refused;
use crate::remote_charts::sha256;
use crate::samples::Deployment;

pub(crate) const KIND: &str = "application/vnd.docker.distribution.manifest.v2+json";
const USER: &str = "robot";
const PASSWORD: &str = "opensesame-of-the-registry";
/// The line of a password file for this user and this password.
const HTPASSWD: &str = "robot:$2b$05$Cehn9qRQXv.dQ5pECOwvBua9PIEYFJs.MJ8CXAaE3zSYan.Q40uGm\n";

/// A world whose rule wants digests and names the images of these registries, and an agent that asks for them
/// at these addresses.
async fn world(name: &str, registries: &[(&str, &str)]) -> Result<World> {
    let mut world = World::without_agent(name).await?;
    let images: Vec<String> = registries
        .iter()
        .map(|(registry, _)| format!("\"{registry}/*\""))
        .collect();
    let strict = format!("require_digest = true\nimages = [{}]", images.join(", "));
    let policy = world.policy().replace("require_digest = false", &strict);
    std::fs::write(world.policy_path(), policy)?;
    let addresses: String = registries
        .iter()
        .map(|(registry, address)| format!("\"{registry}\" = \"{address}\"\n"))
        .collect();
    let config = std::fs::read_to_string(world.config_path())?;
    let config = format!("{config}\n[registries.addresses]\n{addresses}");
    std::fs::write(world.config_path(), config)?;
    world.start_agent().await?;
    Ok(world)
}

/// The stand's registry, by its name in references, behind a proxy.
struct Registry {
    name: &'static str,
    /// Where this process reaches it.
    address: &'static str,
    proxy: Faults,
}

impl Registry {
    async fn of_stand() -> Result<Self> {
        let facts = tests::stand::Stand::shared().await?.facts();
        let target = facts.registry_addr.trim_start_matches("http://");
        Ok(Self {
            name: &facts.registry,
            address: &facts.registry_addr,
            proxy: Faults::to(target).await?,
        })
    }

    async fn world(&self, name: &str) -> Result<World> {
        world(
            name,
            &[(self.name, &format!("http://{}", self.proxy.address()))],
        )
        .await
    }

    /// Lets a tag of busybox mean something of its own: the same image under another digest. Returns that.
    async fn tag(&self, tag: &str, note: &str) -> Result<String> {
        let client = http()?;
        let at = |reference: &str| format!("{}/v2/busybox/manifests/{reference}", self.address);
        let got = client.get(at("1")).header("accept", KIND).send().await?;
        let mut manifest: Value = serde_json::from_slice(&got.error_for_status()?.bytes().await?)?;
        manifest["annotations"] = json!({ "note": note });
        put(&client.put(at(tag)), &manifest).await
    }
}

/// Puts a manifest; returns its digest.
async fn put(request: &reqwest::RequestBuilder, manifest: &Value) -> Result<String> {
    let bytes = serde_json::to_vec(manifest)?;
    let digest = sha256(&bytes);
    let request = request.try_clone().context("a request can be repeated")?;
    let sent = request.header("content-type", KIND).body(bytes).send();
    sent.await?.error_for_status()?;
    Ok(digest)
}

/// The spec of manifests with one image.
fn spec(image: &str, registries: &str, timeout: &str) -> String {
    format!(
        "version: 1\nname: app\nmanifests: [k8s/]\nimages: {{ web: \"{image}\" }}\nregistries: {registries}\n\
         rollout: {{ timeout: {timeout} }}\n"
    )
}

fn manifest() -> String {
    let web = Deployment {
        image: "web",
        ..Deployment::default()
    };
    web.yaml()
}

async fn deploy(world: &World, spec: &str) -> Result<Finished> {
    let manifest = manifest();
    let files = [("quaymaster.yaml", spec), ("k8s/web.yaml", &manifest)];
    world.deploy(&files).await
}

async fn plan(world: &World, spec: &str) -> Result<Finished> {
    let manifest = manifest();
    let files = [("quaymaster.yaml", spec), ("k8s/web.yaml", &manifest)];
    world.plan(&files).await
}

fn succeeded(done: &Finished) -> Result<()> {
    let text = done.answer.text();
    ensure!(done.status() == 200, "{text}\n{}", done.log);
    Ok(())
}

async fn image_of(world: &World, deployment: &str) -> Result<String> {
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    let words = ["get", "deployment", deployment, "-o", path];
    world.kubectl(&words).await
}

/// Says that nothing of the app is there: no object, no lock, no history.
async fn nothing_is_there(world: &World) -> Result<()> {
    let words = ["get", "deployments,configmaps,leases", "-o", "name"];
    let found = world.kubectl(&words).await?;
    let ours: Vec<&str> = found
        .lines()
        .filter(|line| !line.contains("kube-root-ca.crt"))
        .collect();
    ensure!(ours.is_empty(), "{ours:?}");
    Ok(())
}

#[tokio::test]
async fn a_tag_is_resolved_and_the_pod_runs_what_it_meant() -> Result<()> {
    let registry = Registry::of_stand().await?;
    let world = registry.world("imagetag").await?;
    let (tag, name) = (world.role.clone(), registry.name);
    let first = registry.tag(&tag, "first").await?;
    let image = format!("{name}/busybox:{tag}");
    let spec = spec(&image, &format!("[{{ server: '{name}' }}]"), "90s");
    let done = deploy(&world, &spec).await?;
    succeeded(&done)?;
    let pinned = format!("{image}@{first}");
    let told = format!("image web: {image} is {first}");
    ensure!(done.log.contains(&told), "{}", done.log);
    println!("{told}");
    ensure!(image_of(&world, "web").await? == pinned, "the Deployment");
    let path = "jsonpath={.items[*].spec.containers[0].image}";
    let pods = world.kubectl(&["get", "pods", "-o", path]).await?;
    ensure!(pods == pinned, "{pods}");
    println!("pods: {pods}");
    ensure!(
        done.json()?["images"][0]["after"] == pinned.as_str(),
        "{}",
        done.answer.text()
    );
    // The same tag means something else by now: the plan says so, and a deploy takes it.
    let again = deploy(&world, &spec).await?;
    ensure!(again.log.contains("(unchanged)"), "{}", again.log);
    let second = registry.tag(&tag, "second").await?;
    let planned = plan(&world, &spec).await?;
    succeeded(&planned)?;
    ensure!(
        planned.log.contains(&second) && planned.log.contains(&first),
        "{}",
        planned.log
    );
    succeeded(&deploy(&world, &spec).await?)?;
    ensure!(
        image_of(&world, "web").await? == format!("{image}@{second}"),
        "it moved"
    );
    // The old one by its digest is still there, and looked for.
    let old = spec.replace(&image, &pinned);
    let done = deploy(&world, &old).await?;
    succeeded(&done)?;
    ensure!(done.log.contains("is in its registry"), "{}", done.log);
    ensure!(image_of(&world, "web").await? == pinned, "back");
    Ok(())
}

#[tokio::test]
async fn what_is_not_in_the_registry_is_refused_before_a_write() -> Result<()> {
    let registry = Registry::of_stand().await?;
    let world = registry.world("imagenone").await?;
    let name = registry.name;
    let listed = format!("[{{ server: '{name}' }}]");
    let lost = format!("busybox@sha256:{}", "0a".repeat(32));
    for image in ["busybox:not-there", "nobody/busybox:1", &lost] {
        let image = format!("{name}/{image}");
        let done = deploy(&world, &spec(&image, &listed, "60s")).await?;
        refused(&done, "image_missing", &[&image, "has no image"])?;
    }
    // Without the entry the tag has no digest, which the rule wants.
    let unlisted = spec(
        &format!("{name}/busybox:1"),
        "[{ server: r.example.com }]",
        "60s",
    );
    refused(
        &deploy(&world, &unlisted).await?,
        "denied",
        &["has no digest"],
    )?;
    // A registry that the rule does not name is not asked: there is a server, and nobody comes.
    let shelf = Shelf::start().await?;
    let server = &shelf.server;
    let other = spec(
        &format!("{server}/team/web:1"),
        &format!("[{{ server: '{server}' }}]"),
        "60s",
    );
    refused(
        &deploy(&world, &other).await?,
        "denied",
        &["asking", server],
    )?;
    ensure!(shelf.asked().is_empty(), "{:?}", shelf.asked());
    nothing_is_there(&world).await
}

#[tokio::test]
async fn a_registry_in_trouble_is_waited_for_and_then_told() -> Result<()> {
    let registry = Registry::of_stand().await?;
    let world = registry.world("imageaway").await?;
    let image = format!("{}/busybox:1", registry.name);
    let listed = format!("[{{ server: '{}' }}]", registry.name);
    let answer = |status: u16, head: &str| Fault::Answer(status, head.to_owned(), String::new());
    let short = spec(&image, &listed, "4s");
    for (fault, words) in [
        (Fault::Refuse, "is not available"),
        (answer(503, ""), "503"),
        (answer(429, "retry-after: 1\r\n"), "429"),
    ] {
        registry.proxy.set(fault);
        let done = deploy(&world, &short).await?;
        refused(&done, "registry_unavailable", &[&image, words])?;
        let problem = done.json()?["problem"].clone();
        ensure!(problem["retryable"] == true, "{problem}");
    }
    for (status, code) in [
        (401, "registry_denied"),
        (403, "registry_denied"),
        (418, "registry_invalid"),
    ] {
        registry.proxy.set(answer(status, ""));
        refused(&deploy(&world, &short).await?, code, &[&status.to_string()])?;
    }
    let elsewhere = "location: http://127.0.0.1:9/v2/busybox/manifests/1\r\n";
    registry.proxy.set(answer(307, elsewhere));
    refused(
        &deploy(&world, &short).await?,
        "registry_invalid",
        &["another server"],
    )?;
    nothing_is_there(&world).await?;
    registry.proxy.set_times(answer(503, ""), 2);
    let done = plan(&world, &spec(&image, &listed, "60s")).await?;
    succeeded(&done)?;
    ensure!(
        done.log.contains("503; waiting and trying again"),
        "{}",
        done.log
    );
    registry.proxy.set(Fault::None);
    succeeded(&deploy(&world, &spec(&image, &listed, "60s")).await?)
}

/// A registry of its own that wants a password; returns its address too.
async fn private(dir: &Path) -> Result<(Child, String)> {
    let (store, users) = (dir.join("registry"), dir.join("htpasswd"));
    std::fs::write(&users, HTPASSWD)?;
    let config = format!(
        "version: 0.1\nlog: {{ level: info, formatter: json }}\nstorage:\n  filesystem: {{ rootdirectory: {} }}\n\
         http: {{ addr: '127.0.0.1:0', secret: scenario }}\nauth:\n  htpasswd: {{ realm: scenario, path: {} }}\n",
        store.display(),
        users.display(),
    );
    let file = dir.join("registry.yml");
    std::fs::write(&file, config)?;
    let mut child = Command::new("docker-registry")
        .arg("serve")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = child.stderr.take().context("it has an output")?;
    let mut lines = tokio::io::BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        let Some((_, address)) = line.split_once("listening on ") else {
            continue;
        };
        let address = address.split('"').next().unwrap_or_default().to_owned();
        // Its output is read to the end, or it would stop at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        return Ok((child, address));
    }
    anyhow::bail!("the registry does not listen")
}

/// Pushes an image of nothing; returns its digest.
async fn push_privately(address: &str, repository: &str, tag: &str) -> Result<String> {
    let (client, config) = (http()?, b"{}".to_vec());
    let as_robot =
        |method: Method, url: String| client.request(method, url).basic_auth(USER, Some(PASSWORD));
    let base = format!("http://{address}/v2/{repository}");
    let start = as_robot(Method::POST, format!("{base}/blobs/uploads/"))
        .send()
        .await?;
    let start = start.error_for_status()?;
    let place = start
        .headers()
        .get("location")
        .context("no place")?
        .to_str()?;
    let (glue, digest) = (if place.contains('?') { '&' } else { '?' }, sha256(&config));
    let put_blob = as_robot(Method::PUT, format!("{place}{glue}digest={digest}"));
    let put_blob = put_blob.header("content-type", "application/octet-stream");
    let size = config.len();
    put_blob.body(config).send().await?.error_for_status()?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": KIND, "layers": [],
        "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "size": size, "digest": digest } });
    put(
        &as_robot(Method::PUT, format!("{base}/manifests/{tag}")),
        &manifest,
    )
    .await
}

#[tokio::test]
async fn a_private_registry_takes_the_credential_of_vault_and_no_other() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (_registry, address) = private(dir.path()).await?;
    let digest = push_privately(&address, "team/web", "1").await?;
    let name = "registry.internal:5050";
    let world = world("imageprivate", &[(name, &format!("http://{address}"))]).await?;
    let good = world
        .put(
            "registry",
            json!({ "username": USER, "password": PASSWORD }),
        )
        .await?;
    let bad = world
        .put(
            "stale",
            json!({ "username": USER, "password": "opensesame-of-last-year" }),
        )
        .await?;
    let image = format!("{name}/team/web:1");
    let with = |credential: &str| {
        let listed = format!("[{{ server: '{name}'{credential} }}]");
        spec(&image, &listed, "60s")
    };
    let vault = |path: &str| format!(", credential: {{ vault: {path} }}");
    let done = plan(&world, &with(&vault(&good))).await?;
    succeeded(&done)?;
    let told = format!("image web: {image} is {digest}");
    ensure!(done.log.contains(&told), "{}", done.log);
    println!("{told}");
    refused(
        &deploy(&world, &with(&vault(&bad))).await?,
        "registry_denied",
        &[&image, "401"],
    )?;
    refused(
        &deploy(&world, &with("")).await?,
        "registry_denied",
        &[&image, "401"],
    )?;
    let elsewhere = vault("kv/others/registry");
    refused(
        &deploy(&world, &with(&elsewhere)).await?,
        "denied",
        &["kv/others/registry"],
    )?;
    let missing = with(&vault(&good)).replace("web:1", "web:2");
    refused(
        &deploy(&world, &missing).await?,
        "image_missing",
        &["web:2"],
    )?;
    nothing_is_there(&world).await?;
    let logs = format!("{}{}", done.log, world.agent_log()?);
    ensure!(!logs.contains("opensesame"), "{logs}");
    Ok(())
}

/// A registry that gives out tokens for the credential in Vault, and a world that may ask it.
struct Tokens {
    shelf: Shelf,
    world: World,
    spec: String,
    /// The page of the image.
    page: Page,
}

const MANIFEST: &str = "/v2/team/web/manifests/1";

impl Tokens {
    async fn new(name: &str) -> Result<Self> {
        let shelf = Shelf::start().await?;
        let registry = "registry.internal:5051";
        let world = world(name, &[(registry, &format!("http://{}", shelf.server))]).await?;
        let vault = world
            .put("registry", json!({ "user": USER, "token": PASSWORD }))
            .await?;
        let page = Page {
            status: 200,
            headers: vec![(
                "docker-content-digest",
                format!("sha256:{}", "0b".repeat(32)),
            )],
            token: Some("for-pulling"),
            ..Page::default()
        };
        shelf.put(MANIFEST, page.clone());
        shelf.body("/token", r#"{"token":"for-pulling"}"#);
        let credential = format!("{{ vault: {vault}, username: user, password: token }}");
        let listed = format!("[{{ server: '{registry}', credential: {credential} }}]");
        let spec = spec(&format!("{registry}/team/web:1"), &listed, "60s");
        Ok(Self {
            shelf,
            world,
            spec,
            page,
        })
    }
}

#[tokio::test]
async fn a_token_is_asked_for_with_the_credential_of_vault() -> Result<()> {
    let Tokens {
        shelf,
        world,
        spec,
        page,
    } = Tokens::new("imagetoken").await?;
    let done = plan(&world, &spec).await?;
    succeeded(&done)?;
    ensure!(done.log.contains(&"0b".repeat(32)), "{}", done.log);
    let asked = shelf.asked();
    let basic = "Basic cm9ib3Q6b3BlbnNlc2FtZS1vZi10aGUtcmVnaXN0cnk=";
    let shown: Vec<(&str, &str)> = asked.iter().map(|(path, who)| (&**path, &**who)).collect();
    let bearer = "Bearer for-pulling";
    ensure!(
        shown == [(MANIFEST, ""), ("/token", basic), (MANIFEST, bearer)],
        "{asked:?}"
    );
    println!("asked: {MANIFEST}, /token with the credential, {MANIFEST} with the token");
    // A registry that tells no digest is read, and the digest computed.
    let body = b"{\"schemaVersion\":2}".to_vec();
    let told = sha256(&body);
    let silent = Page {
        headers: Vec::new(),
        body,
        ..page
    };
    shelf.put(MANIFEST, silent);
    let done = plan(&world, &spec).await?;
    ensure!(done.log.contains(&told), "{}", done.log);
    // The credential is not taken.
    let no = Page {
        status: 401,
        ..Page::default()
    };
    shelf.put("/token", no);
    refused(&plan(&world, &spec).await?, "registry_denied", &["401"])?;
    let log = world.agent_log()?;
    ensure!(
        !log.contains("for-pulling") && !log.contains("opensesame"),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn nothing_is_shown_to_where_a_registry_leads() -> Result<()> {
    let other = Shelf::start().await?;
    let Tokens {
        shelf,
        world,
        spec,
        page,
    } = Tokens::new("imageled").await?;
    let to = |path: &str| vec![("location", format!("http://{}{path}", other.server))];
    let led = Page {
        status: 307,
        headers: to(MANIFEST),
        ..page
    };
    shelf.put(MANIFEST, led);
    refused(
        &plan(&world, &spec).await?,
        "registry_invalid",
        &["another server"],
    )?;
    ensure!(other.asked().is_empty(), "{:?}", other.asked());
    // A server of tokens may be elsewhere, and where that leads the credential does not go along.
    let led = Page {
        status: 307,
        headers: to("/token"),
        ..Page::default()
    };
    shelf.put("/token", led);
    other.body("/token", r#"{"token":"of-another"}"#);
    refused(&plan(&world, &spec).await?, "registry_denied", &["401"])?;
    let asked = other.asked();
    ensure!(asked == [("/token".to_owned(), String::new())], "{asked:?}");
    Ok(())
}

const KUSTOMIZATION: &str = "resources: [web.yaml]\n";
const CHART: &str = "apiVersion: v2\nname: web\nversion: 1.0.0\n";
const VALUES: &str = "image: none\n";

#[tokio::test]
async fn kustomize_and_helm_get_the_digest_too() -> Result<()> {
    let registry = Registry::of_stand().await?;
    let world = registry.world("imagekinds").await?;
    let (tag, name) = (world.role.clone(), registry.name);
    let digest = registry.tag(&tag, "kinds").await?;
    let image = format!("{name}/busybox:{tag}");
    let pinned = format!("{image}@{digest}");
    let rest = format!(
        "images: {{ web: \"{image}\" }}\nregistries: [{{ server: '{name}' }}]\nrollout: {{ timeout: 90s }}\n"
    );
    let spec = format!("version: 1\nname: kus\nkustomize: k8s\n{rest}");
    let web = manifest();
    let files = [
        ("quaymaster.yaml", &*spec),
        ("k8s/kustomization.yaml", KUSTOMIZATION),
        ("k8s/web.yaml", &web),
    ];
    succeeded(&world.deploy(&files).await?)?;
    let found = image_of(&world, "web").await?;
    ensure!(found == pinned, "{found}");
    println!("kustomize: {found}");
    let chart = "helm: { chart: chart, image: { web: { repository: image } } }";
    let spec = format!("version: 1\nname: hel\n{chart}\n{rest}");
    let template = Deployment {
        name: "helmed",
        image: "{{ .Values.image | quote }}",
        ..Deployment::default()
    };
    let template = template.yaml();
    let files = [
        ("quaymaster.yaml", &*spec),
        ("chart/Chart.yaml", CHART),
        ("chart/values.yaml", VALUES),
        ("chart/templates/web.yaml", &template),
    ];
    succeeded(&world.deploy(&files).await?)?;
    let found = image_of(&world, "helmed").await?;
    ensure!(found == pinned, "{found}");
    println!("helm: {found}");
    Ok(())
}

#[tokio::test]
async fn flux_gets_the_digest_into_its_repository() -> Result<()> {
    let registry = Registry::of_stand().await?;
    let mut world = World::without_agent("imageflux").await?;
    let (tag, name) = (world.role.clone(), registry.name);
    let web = manifest().replace("image: web", "image: MARKED");
    let marked = format!("image: '{name}/busybox:1' # {{\"$imagepolicy\": \"flux-system:web\"}}");
    let web = web.replace("image: MARKED", &marked);
    let repository = world
        .fleet_repository("fleet", &[("apps/web.yaml", &web)])
        .await?;
    let engine = Engine::Kustomization { path: "./apps" };
    world.fleet("shop", &repository, engine).await?;
    world.grant_fleet(&repository).await?;
    let policy = std::fs::read_to_string(world.policy_path())?;
    let strict = format!("require_digest = true\nimages = [\"{name}/*\"]");
    std::fs::write(
        world.policy_path(),
        policy.replace("require_digest = false", &strict),
    )?;
    let config = std::fs::read_to_string(world.config_path())?;
    let more = format!(
        "\n[registries.addresses]\n\"{name}\" = \"http://{}\"\n",
        registry.proxy.address()
    );
    std::fs::write(world.config_path(), config + &more)?;
    let credential = world
        .git_credential(&world.stand.facts().git_accounts.writer)
        .await?;
    world.start_agent().await?;
    let digest = registry.tag(&tag, "flux").await?;
    let image = format!("{name}/busybox:{tag}");
    let spec = format!(
        "version: 1\nname: shop\nflux:\n  repository: {url}\n  path: apps\n  credential: {{ vault: {credential} }}\n  \
         sources: {ns}/shop\n  wait: {{ kustomizations: {ns}/shop }}\nimages: {{ web: \"{image}\" }}\n\
         registries: [{{ server: '{name}' }}]\nrollout: {{ timeout: 90s }}\n",
        url = repository.url(),
        ns = world.namespace,
    );
    let missing = spec.replace(&image, &format!("{name}/busybox:not-there"));
    let before = repository.log("main").await?;
    let done = world.deploy(&[("quaymaster.yaml", &missing)]).await?;
    refused(&done, "image_missing", &["busybox:not-there"])?;
    ensure!(repository.log("main").await? == before, "no commit");
    let done = world.deploy(&[("quaymaster.yaml", &spec)]).await?;
    succeeded(&done)?;
    let bytes = repository.file("main", "apps/web.yaml").await?;
    let file = String::from_utf8_lossy(&bytes);
    let pinned = format!("{image}@{digest}");
    ensure!(file.contains(&format!("image: '{pinned}'")), "{file}");
    let found = image_of(&world, "web").await?;
    ensure!(found == pinned, "{found}");
    println!("flux: {found}");
    Ok(())
}
