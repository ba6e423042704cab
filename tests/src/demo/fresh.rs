//! The part of the demo in which a Secret stays fresh: the database password is replaced while somebody
//! keeps asking for the page.
//!
//! Called by [`super::run`]. One line more in `quaymaster.yaml` asks for it; the operator's client begins a
//! rotation, as a credential that nears its end would.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use super::*;
use crate::stand::postgres;

/// The Secret of the example.
const SECRET: &str = "flask-db";
/// How long a rotation with its restart may take.
const ROTATION: Duration = Duration::from_secs(180);

/// Deploys with `rotate`, rotates while the page is asked for, and looks at what became of the old user.
pub(super) async fn rotate(job: &Job<'_>, say: Say<'_>, image: &str, dir: &Path) -> Result<()> {
    heading(
        say,
        10,
        "one line more in quaymaster.yaml, `rotate: { outage_budget: 10m }`: the Secret is kept fresh from now on",
    );
    let folder = with_rotate(dir)?;
    job.expect(0, &["deploy".as_ref(), folder.as_ref()], image)
        .await?;
    heading(
        say,
        11,
        "a new database password while the page is asked for: quaymaster managed rotate",
    );
    let before = user(job.stand).await?;
    let place = format!("stand/{NAMESPACE}/{SECRET}");
    let generation = shown(job, &place).await?["generation"].clone();
    operate(job, &["managed", "rotate", &place]).await?;
    let mut fetched = 0_u32;
    let began = Instant::now();
    let mut ticks = tokio::time::interval(FETCH_EVERY);
    loop {
        ticks.tick().await;
        fetch(job.stand).await?;
        fetched += 1;
        let now = shown(job, &place).await?;
        if now["generation"] != generation && now["freshness"] == "fresh" {
            break;
        }
        ensure!(
            began.elapsed() < ROTATION,
            "the rotation does not end: {now}"
        );
    }
    let after = user(job.stand).await?;
    ensure!(before != after, "the user is the same: {before}");
    say(&format!(
        "the page was asked for {fetched} times meanwhile, 0 requests failed; {before} was replaced by {after}"
    ));
    until(
        "the old user to be gone from PostgreSQL",
        Duration::from_secs(30),
        async || match has_user(job.stand, &before).await {
            Ok(false) => Look::Ready(()),
            Ok(true) => Look::NotYet(format!("{before} is there")),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await?;
    ensure!(has_user(job.stand, &after).await?, "{after} is not there");
    say(&format!("PostgreSQL has {after} and no {before} any more"));
    operate(job, &["managed", "list"]).await
}

/// Asks a pod that is ready for the page, and where that one leaves just then, another one: as whatever
/// stands before the pods would.
async fn fetch(stand: &Stand) -> Result<()> {
    let mut last = None;
    for _ in 0..3 {
        for pod in pods(stand, NAMESPACE).await? {
            match page(stand, &pod).await {
                Ok(text) => {
                    ensure!(text.contains("read as:"), "{} says: {text}", pod.name);
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
        }
    }
    Err(last.context("no pod is ready")?)
}

/// Copies the example with one line more.
fn with_rotate(dir: &Path) -> Result<PathBuf> {
    // A job takes its namespace from the name of the folder.
    let (from, to) = (example::folder("flask"), dir.join("fresh/flask"));
    fs::create_dir_all(to.join("k8s"))?;
    for file in fs::read_dir(from.join("k8s"))? {
        let file = file?;
        fs::copy(file.path(), to.join("k8s").join(file.file_name()))?;
    }
    let spec = fs::read_to_string(from.join("quaymaster.yaml"))?;
    let name = format!("  - name: {SECRET}\n");
    ensure!(spec.contains(&name), "the example has no Secret {SECRET}");
    let more = format!("{name}    rotate: {{ outage_budget: 10m }}\n");
    fs::write(to.join("quaymaster.yaml"), spec.replacen(&name, &more, 1))?;
    Ok(to)
}

/// Runs the client as the operator; its output goes to the terminal.
async fn operate(job: &Job<'_>, words: &[&str]) -> Result<()> {
    let status = operator(job, words).status().await?;
    ensure!(
        status.success(),
        "quaymaster {} ended with {status}",
        words.join(" ")
    );
    Ok(())
}

/// What the agent says about the Secret.
async fn shown(job: &Job<'_>, place: &str) -> Result<Value> {
    let output = operator(job, &["managed", "show", place, "-o", "json"])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "quaymaster managed show: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn operator(job: &Job<'_>, words: &[&str]) -> Command {
    let mut command = Command::new(&job.programs.client);
    command
        .args(words)
        .arg("--socket")
        .arg(&job.admin)
        .env_clear()
        .stdin(Stdio::null());
    command
}

/// The database user in the Secret. Names are no secret; the password stays where it is.
async fn user(stand: &Stand) -> Result<String> {
    let path = "jsonpath={.data.username}";
    let words = ["-n", NAMESPACE, "get", "secret", SECRET, "-o", path];
    let encoded = stand.kubectl(&words).await?;
    use base64::Engine as _;
    let name = base64::engine::general_purpose::STANDARD.decode(encoded.trim())?;
    Ok(String::from_utf8(name)?)
}

async fn has_user(stand: &Stand, name: &str) -> Result<bool> {
    let sql = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{name}'");
    let rows = postgres::query(&stand.facts().postgres, &sql).await?;
    Ok(rows.trim() == "1")
}
