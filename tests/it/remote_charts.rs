//! Charts by reference: from a real OCI registry and from a chart repository, only where the rule
//! allows it, and only what was named.
//!
//! The registry is the stand's, behind a proxy that counts; the repository, and a registry that wants
//! tokens, are a small server of the scenario's own, loopback both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::State;
use axum::response::Response;
use serde_json::Value;
use serde_json::json;
use tests::faults::Faults;
use tests::submission::Finished;
use tests::world::World;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const TEMPLATE: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: {{ .Release.Name }}-conf }\ndata: { message: {{ .Values.message | quote }} }\n";
const LAYER: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// Runs Helm as people do, in the world's namespace.
async fn helm(world: &World, words: &[&str]) -> Result<String> {
    let (helm, _) = tests::stand::agent::render_programs()?;
    let output = tokio::process::Command::new(helm)
        .args(words)
        .env("KUBECONFIG", &world.stand.facts().kubeconfig_admin)
        .env("HOME", world.dir())
        .current_dir(world.dir())
        .output()
        .await?;
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm {words:?}: {err}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Packs a chart with Helm itself; returns the archive.
async fn package(world: &World) -> Result<Vec<u8>> {
    let folder = world.dir().join("web");
    std::fs::create_dir_all(folder.join("templates"))?;
    std::fs::write(
        folder.join("Chart.yaml"),
        "apiVersion: v2\nname: web\nversion: 1.2.3\n",
    )?;
    std::fs::write(folder.join("values.yaml"), "message: default\n")?;
    std::fs::write(folder.join("templates/conf.yaml"), TEMPLATE)?;
    helm(world, &["package", "web"]).await?;
    Ok(std::fs::read(world.dir().join("web-1.2.3.tgz"))?)
}

/// The manifest of a chart as `helm push` makes it.
fn manifest(archive: &[u8], config: &[u8]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json",
            "digest": sha256(config), "size": config.len() },
        "layers": [{ "mediaType": LAYER, "digest": sha256(archive), "size": archive.len() }] })
}

pub(crate) fn http() -> Result<reqwest::Client> {
    // Whoever installs a provider first wins; all of ours are the same one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    Ok(builder.build()?)
}

/// Pushes a chart to the stand's registry; returns the digest of its manifest.
async fn push(world: &World, repository: &str, archive: &[u8]) -> Result<String> {
    let registry = &world.stand.facts().registry_addr;
    let (client, config) = (http()?, br#"{"name":"web","version":"1.2.3"}"#);
    for bytes in [config.as_slice(), archive] {
        let start = client
            .post(format!("{registry}/v2/{repository}/blobs/uploads/"))
            .send()
            .await?
            .error_for_status()?;
        let place = start.headers().get("location").context("no place")?;
        let place = place.to_str()?;
        let glue = if place.contains('?') { '&' } else { '?' };
        let put = client.put(format!("{place}{glue}digest={}", sha256(bytes)));
        let put = put.header("content-type", "application/octet-stream");
        put.body(bytes.to_vec()).send().await?.error_for_status()?;
    }
    let manifest = serde_json::to_vec(&manifest(archive, config))?;
    let digest = sha256(&manifest);
    let put = client.put(format!("{registry}/v2/{repository}/manifests/1.2.3"));
    let put = put.header("content-type", MANIFEST).body(manifest);
    put.send().await?.error_for_status()?;
    Ok(digest)
}

/// A world whose rule lets it fetch these charts.
async fn world(name: &str, charts: impl FnOnce(&World) -> String) -> Result<World> {
    let mut world = World::without_agent(name).await?;
    let policy = format!("{}charts = [{}]\n", world.policy(), charts(&world));
    std::fs::write(world.policy_path(), policy)?;
    world.start_agent().await?;
    Ok(world)
}

fn spec(fields: &str) -> String {
    format!(
        "version: 1\nname: app\nhelm: {{ {fields}, set: {{ message: hello }} }}\nrollout: {{ timeout: 60s }}\n"
    )
}

async fn deploy(world: &World, fields: &str) -> Result<Finished> {
    world.deploy(&[("quaymaster.yaml", &spec(fields))]).await
}

async fn plan(world: &World, fields: &str) -> Result<Finished> {
    world.plan(&[("quaymaster.yaml", &spec(fields))]).await
}

/// Checks code, and that the detail has these words.
pub(crate) fn refused(done: &Finished, code: &str, words: &[&str]) -> Result<()> {
    let body = done.json()?;
    let problem = body.get("problem").unwrap_or(&body);
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(
        problem["code"] == code && words.iter().all(|word| detail.contains(word)),
        "expected {code} {words:?}: {body}\n{}",
        done.log
    );
    println!("{code}: {detail}");
    Ok(())
}

async fn message(world: &World) -> Result<String> {
    let path = "jsonpath={.data.message}";
    let words = ["get", "configmap", "app-conf", "-o", path];
    world.kubectl(&words).await
}

async fn in_history(world: &World, revisions: usize) -> Result<()> {
    let words = ["history", "app", "-o", "json", "-n", &world.namespace];
    let history: Value = serde_json::from_str(&helm(world, &words).await?)?;
    println!("helm history: {history}");
    let last = history.as_array().and_then(|all| all.last());
    let last = last.context("there is a revision")?;
    ensure!(
        last["chart"] == "web-1.2.3"
            && last["status"] == "deployed"
            && last["revision"] == revisions,
        "{history}"
    );
    Ok(())
}

/// What a path answers.
#[derive(Clone, Default)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Answered only to a bearer of this.
    pub(crate) token: Option<&'static str>,
}

#[derive(Default)]
struct Inner {
    pages: BTreeMap<String, Page>,
    /// Paths that were asked for, with what came as authorization.
    asked: Vec<(String, String)>,
}

/// A server of pages.
#[derive(Clone)]
pub(crate) struct Shelf {
    pub(crate) server: String,
    inner: Arc<Mutex<Inner>>,
    _task: Arc<Ending>,
}

struct Ending(JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shelf {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let server = listener.local_addr()?.to_string();
        let inner = Arc::new(Mutex::new(Inner::default()));
        let state = (server.clone(), Arc::clone(&inner));
        let app = Router::new().fallback(answer).with_state(state);
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self {
            server,
            inner,
            _task: Arc::new(Ending(task)),
        })
    }

    pub(crate) fn put(&self, path: &str, page: Page) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.pages.insert(path.to_owned(), page);
    }

    pub(crate) fn body(&self, path: &str, body: impl Into<Vec<u8>>) {
        let page = Page {
            status: 200,
            body: body.into(),
            ..Page::default()
        };
        self.put(path, page);
    }

    /// Returns what was asked for since the last call.
    pub(crate) fn asked(&self) -> Vec<(String, String)> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inner.asked)
    }
}

async fn answer(
    State((server, inner)): State<(String, Arc<Mutex<Inner>>)>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let bearer = request.headers().get("authorization");
    let bearer = bearer.and_then(|value| value.to_str().ok());
    let bearer = bearer.unwrap_or_default().to_owned();
    let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
    inner.asked.push((path.clone(), bearer.clone()));
    let page = inner.pages.get(&path).cloned().unwrap_or(Page {
        status: 404,
        ..Page::default()
    });
    let mut response = Response::builder();
    let wanted = page.token.map(|token| format!("Bearer {token}"));
    if wanted.is_some_and(|wanted| wanted != bearer) {
        let challenge = format!("Bearer realm=\"http://{server}/token\",service=\"shelf\"");
        response = response.status(401).header("www-authenticate", challenge);
        return response.body(Body::empty()).unwrap_or_default();
    }
    response = response.status(page.status);
    for (name, value) in page.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(page.body)).unwrap_or_default()
}

#[tokio::test]
async fn a_chart_of_an_oci_registry_is_deployed_and_helm_keeps_its_history() -> Result<()> {
    let stand = tests::stand::Stand::shared().await?;
    let registry = stand.facts().registry_addr.trim_start_matches("http://");
    let proxy = Faults::to(registry).await?;
    let server = proxy.address();
    let world = world("ocichart", |world| {
        format!("\"oci://{server}/{}/*\"", world.role)
    })
    .await?;
    let archive = package(&world).await?;
    let repository = format!("{}/web", world.role);
    let digest = push(&world, &repository, &archive).await?;
    let chart = format!("chart: 'oci://{server}/{repository}'");
    // What the plan says can be written down as what it has to be.
    let told = format!("chart oci://{server}/{repository} 1.2.3 {digest} fetched");
    let planned = plan(&world, &format!("{chart}, version: 1.2.3")).await?;
    ensure!(
        planned.status() == 200 && planned.log.contains(&told),
        "{}",
        planned.log
    );
    let pinned = format!("{chart}, version: 1.2.3, digest: '{digest}'");
    let done = deploy(&world, &pinned).await?;
    ensure!(
        done.status() == 200 && done.log.contains(&told),
        "{}",
        done.log
    );
    println!("{told}");
    ensure!(
        message(&world).await? == "hello",
        "the chart has its values"
    );
    in_history(&world, 1).await?;
    let again = deploy(&world, &pinned).await?;
    ensure!(
        again.status() == 200 && again.log.contains("nothing to do"),
        "{}",
        again.log
    );
    in_history(&world, 1).await?;
    // Another digest, and a version that is not there.
    let other = format!(
        "{chart}, version: 1.2.3, digest: 'sha256:{}'",
        "0a".repeat(32)
    );
    refused(
        &deploy(&world, &other).await?,
        "chart_invalid",
        &["another digest", &digest],
    )?;
    let none = deploy(&world, &format!("{chart}, version: 1.2.4")).await?;
    refused(
        &none,
        "chart_missing",
        &["1.2.4", "no chart of this name and version"],
    )?;
    in_history(&world, 1).await
}

#[tokio::test]
async fn a_chart_that_the_rule_does_not_name_is_refused_before_anything_is_fetched() -> Result<()> {
    let shelf = Shelf::start().await?;
    let server = shelf.server.clone();
    let world = world("chartdenied", |_| {
        format!("\"oci://{server}/team/*\", \"http://{server}/stable/web\"")
    })
    .await?;
    for (fields, address) in [
        (
            format!("chart: 'oci://{server}/other/web'"),
            format!("oci://{server}/other/web"),
        ),
        (
            format!("chart: other, repo: 'http://{server}/stable'"),
            format!("http://{server}/stable/other"),
        ),
    ] {
        let done = deploy(&world, &format!("{fields}, version: 1.2.3")).await?;
        ensure!(done.status() == 403, "{}", done.answer.text());
        refused(&done, "denied", &[&address, "`charts`"])?;
    }
    ensure!(shelf.asked().is_empty(), "{:?}", shelf.asked());
    // The very next name is asked for, so the count is one that counts.
    let done = deploy(
        &world,
        &format!("chart: 'oci://{server}/team/web', version: 1.2.3"),
    )
    .await?;
    refused(
        &done,
        "chart_missing",
        &["no chart of this name and version"],
    )?;
    ensure!(shelf.asked().len() == 1, "{:?}", shelf.asked());
    Ok(())
}

#[tokio::test]
async fn a_chart_of_a_repository_is_deployed_and_what_is_wrong_there_is_told() -> Result<()> {
    let shelf = Shelf::start().await?;
    let server = shelf.server.clone();
    let world = world("chartrepo", |_| format!("\"http://{server}/stable/*\"")).await?;
    let archive = package(&world).await?;
    let digest = sha256(&archive);
    let index = |version: &str, url: &str, digest: &str| {
        format!(
            "apiVersion: v1\nentries:\n  web:\n  - version: 1.2.4\n    urls: [web-1.2.4.tgz]\n  - version: {version}\n    created: 2026-01-01T00:00:00Z\n    digest: {digest}\n    urls: [{url}]\n"
        )
    };
    let hex = digest.trim_start_matches("sha256:");
    shelf.body(
        "/stable/index.yaml",
        index("1.2.3", "charts/web-1.2.3.tgz", hex),
    );
    shelf.body("/stable/charts/web-1.2.3.tgz", archive);
    let chart = format!("chart: web, repo: 'http://{server}/stable', version: 1.2.3");
    let done = deploy(&world, &chart).await?;
    let told = format!("chart http://{server}/stable/web 1.2.3 {digest} fetched");
    ensure!(
        done.status() == 200 && done.log.contains(&told),
        "{}",
        done.log
    );
    println!("{told}");
    ensure!(
        message(&world).await? == "hello",
        "the chart has its values"
    );
    in_history(&world, 1).await?;
    let pinned = format!("{chart}, digest: 'sha256:{}'", "0a".repeat(32));
    refused(
        &plan(&world, &pinned).await?,
        "chart_invalid",
        &["another digest", &digest],
    )?;
    let newer = chart.replace("1.2.3", "1.2.5");
    refused(
        &plan(&world, &newer).await?,
        "chart_missing",
        &["there are 1.2.4, 1.2.3"],
    )?;
    let elsewhere = index("1.2.3", "https://charts.example.com/web.tgz", hex);
    let nowhere = index("1.2.3", "gone.tgz", hex);
    let forged = index("1.2.3", "charts/web-1.2.3.tgz", &"0a".repeat(32));
    let rows = [
        (elsewhere, "chart_invalid", "another server"),
        (nowhere, "chart_missing", "no archive of the chart"),
        (forged, "chart_invalid", "another digest"),
        (
            "<html>".to_owned(),
            "chart_invalid",
            "index.yaml cannot be read",
        ),
    ];
    for (index, code, word) in rows {
        shelf.body("/stable/index.yaml", index);
        refused(&plan(&world, &chart).await?, code, &[word])?;
    }
    let long = vec![b'x'; (5 << 20) + 1];
    shelf.body(
        "/stable/index.yaml",
        index("1.2.3", "long.tgz", &sha256(&long)),
    );
    shelf.body("/stable/long.tgz", long);
    refused(
        &plan(&world, &chart).await?,
        "chart_invalid",
        &["over 5242880 bytes"],
    )?;
    let page = b"<html>not found</html>";
    shelf.body(
        "/stable/index.yaml",
        index("1.2.3", "page.tgz", &sha256(page)),
    );
    shelf.body("/stable/page.tgz", page);
    refused(&plan(&world, &chart).await?, "chart_invalid", &["no chart"])?;
    in_history(&world, 1).await
}

#[tokio::test]
async fn a_registry_gets_the_token_that_it_asks_for_and_nobody_else_does() -> Result<()> {
    let (shelf, store) = (Shelf::start().await?, Shelf::start().await?);
    let server = shelf.server.clone();
    let world = world("charttoken", |_| format!("\"oci://{server}/team/*\"")).await?;
    let archive = package(&world).await?;
    let document = serde_json::to_vec(&manifest(&archive, b"{}"))?;
    let blob = format!("/v2/team/web/blobs/{}", sha256(&archive));
    let locked = |page: Page| Page {
        token: Some("anybody"),
        ..page
    };
    let to = |place: String| Page {
        status: 307,
        headers: vec![("location", place)],
        ..Page::default()
    };
    let ok = Page {
        status: 200,
        body: document,
        ..Page::default()
    };
    shelf.body("/token", r#"{"token":"anybody"}"#);
    shelf.put("/v2/team/web/manifests/1.2.3", locked(ok));
    shelf.put(&blob, locked(to(format!("http://{}/blob", store.server))));
    store.body("/blob", archive);
    let chart = format!("chart: 'oci://{server}/team/web', version: 1.2.3");
    let done = deploy(&world, &chart).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    in_history(&world, 1).await?;
    let asked = shelf.asked();
    let bearers: Vec<&str> = asked.iter().map(|(_, bearer)| bearer.as_str()).collect();
    ensure!(
        bearers == ["", "", "Bearer anybody", "Bearer anybody"],
        "{asked:?}"
    );
    let asked = store.asked();
    ensure!(asked == [("/blob".to_owned(), String::new())], "{asked:?}");
    // Round in circles, and to where nobody should be led.
    shelf.put(&blob, locked(to(blob.clone())));
    refused(
        &plan(&world, &chart).await?,
        "chart_invalid",
        &["more than 5 times"],
    )?;
    shelf.put(
        &blob,
        locked(to("http://charts.example.com/blob".to_owned())),
    );
    refused(
        &plan(&world, &chart).await?,
        "chart_invalid",
        &["not https"],
    )?;
    // A registry that does not give it to everybody.
    shelf.put(
        "/token",
        Page {
            status: 403,
            ..Page::default()
        },
    );
    refused(
        &plan(&world, &chart).await?,
        "chart_missing",
        &["without credentials"],
    )
}

/// Runs a program in a folder; complains with what it said.
async fn ran(folder: &std::path::Path, program: &str, words: &str) -> Result<()> {
    let output = tokio::process::Command::new(program)
        .args(words.split(' '))
        .current_dir(folder)
        .output()
        .await?;
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {words}: {err}");
    Ok(())
}

/// A TLS server of the files of a folder, with a certificate of an authority of its own (`ca.pem` there).
async fn tls(folder: &std::path::Path) -> Result<(tokio::process::Child, String)> {
    use tokio::io::AsyncBufReadExt as _;
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -x509";
    let authority = format!("req {key} -subj /CN=authority -keyout ca.key -out ca.pem");
    ran(folder, "openssl", &authority).await?;
    let extensions = "-addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=CA:FALSE";
    let own = format!(
        "req {key} -subj /CN=charts -CA ca.pem -CAkey ca.key {extensions} -keyout own.key -out own.pem"
    );
    ran(folder, "openssl", &own).await?;
    let mut server = tokio::process::Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-WWW"])
        .args(["-cert", "own.pem", "-key", "own.key"])
        .current_dir(folder)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let output = server.stdout.take().context("it has an output")?;
    let mut lines = tokio::io::BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(address) = line.strip_prefix("ACCEPT ") {
            let address = format!("https://{address}");
            // Its output is read to the end, or it would stop at a full pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok((server, address));
        }
    }
    anyhow::bail!("openssl does not listen")
}

#[tokio::test]
async fn a_private_authority_is_taken_where_the_operator_names_it() -> Result<()> {
    let mut world = World::without_agent("charttls").await?;
    package(&world).await?;
    let shelf = world.dir().join("shelf");
    std::fs::create_dir_all(&shelf)?;
    std::fs::rename(
        world.dir().join("web-1.2.3.tgz"),
        shelf.join("web-1.2.3.tgz"),
    )?;
    helm(&world, &["repo", "index", "shelf"]).await?;
    let (_server, address) = tls(&shelf).await?;
    let policy = format!("{}charts = [\"{address}/*\"]\n", world.policy());
    std::fs::write(world.policy_path(), policy)?;
    world.start_agent().await?;
    let chart = format!("chart: web, repo: '{address}', version: 1.2.3");
    refused(
        &deploy(&world, &chart).await?,
        "chart_invalid",
        &["certificate"],
    )?;
    world.kill_agent().await?;
    let config = std::fs::read_to_string(world.config_path())?;
    let named = format!(
        "[render]\ncharts_ca_file = {:?}\n",
        shelf.join("ca.pem").display().to_string()
    );
    std::fs::write(world.config_path(), config.replace("[render]\n", &named))?;
    world.start_agent().await?;
    let done = deploy(&world, &chart).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    ensure!(message(&world).await? == "hello", "{}", done.log);
    Ok(())
}
