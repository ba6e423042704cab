//! The part of the demo in which Flux delivers: the same app, the image replaced in the repository that the cluster
//! follows, and a bad image taken back by a commit.
//!
//! Called by [`super::run`] with `--flux`. Flux's kustomize controller is the real one; its source controller is the
//! stand's stand-in.

use std::fs;

use super::*;
use crate::stand::git;
use crate::stand::git::repository::Repository;

/// The namespace and folder of the example.
const WAY: &str = "flask-flux";
/// The repository.
const NAME: &str = "fleet";

/// Sets the repository up, deploys through it, and lets a bad image be taken back.
pub(super) async fn deliver(job: &Job<'_>, say: Say<'_>, image: &str) -> Result<()> {
    heading(
        say,
        14,
        "the platform team lets the cluster follow a repository: Flux, its source, its Kustomization",
    );
    let repository = platform(job.stand).await?;
    say(&format!("the cluster follows {}", repository.url()));
    let example = example::folder(WAY);
    heading(say, 15, "what would be committed? quaymaster plan");
    job.expect(0, &["plan".as_ref(), example.as_ref()], image)
        .await?;
    heading(say, 16, "the pipeline's deploy stage, through Flux");
    job.expect(0, &["deploy".as_ref(), example.as_ref()], image)
        .await?;
    for pod in pods(job.stand, WAY).await?.iter().take(1) {
        let text = page(job.stand, pod).await?;
        say(&format!("{} says:\n{}", pod.name, indent(&text)));
    }
    heading(
        say,
        17,
        "an image that does not exist; quaymaster.yaml says on_failure: revert",
    );
    let broken = format!("{}@{MISSING}", image.split('@').next().unwrap_or_default());
    job.expect(11, &["deploy".as_ref(), example.as_ref()], &broken)
        .await?;
    say("exit code 11: failed, the commit is taken back and verified. The branch, newest first:");
    let log = repository.log_as("main", "%h %an: %s").await?;
    say(&indent(&log.join("\n")));
    Ok(())
}

/// The address of the repository, which a pipeline has as a variable.
pub(super) fn address(stand: &Stand) -> String {
    format!("{}/{NAME}.git", git::http_address(&stand.facts().site))
}

/// What a platform team does once: the repository, Flux's objects, rights, and the credential in Vault.
async fn platform(stand: &Stand) -> Result<Repository> {
    stand.flux().await?;
    stand.grant_project(WAY, "42").await?;
    let folder = example::folder(WAY).join("fleet");
    let files = example::files(&folder)?;
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let facts = stand.facts();
    let repository = Repository::new(&facts.site, NAME, &files).await?;
    let (reader, writer) = (&facts.git_accounts.reader, &facts.git_accounts.writer);
    let meta = json!({ "name": NAME, "namespace": "flux-system" });
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Secret", "metadata": meta,
            "stringData": { "username": reader.name, "password": reader.password } },
        { "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": meta,
            "spec": { "interval": "1h", "url": repository.url(), "ref": { "branch": "main" },
                "secretRef": { "name": NAME } } },
    ] });
    stand.cluster().apply(&objects).await?;
    let rbac = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/dist/rbac/flux.yaml");
    let rights = fs::read_to_string(rbac)?.replace("shop-staging", "flask-production");
    let rights_file = facts.site.folder("demo")?.join("flux-rights.yaml");
    fs::write(&rights_file, rights)?;
    let kustomization = folder.join("clusters/production/flask.yaml");
    for file in [rights_file, kustomization] {
        let file = file.display().to_string();
        stand.kubectl(&["apply", "-f", &file]).await?;
    }
    let fields = json!({ "username": writer.name, "password": writer.password });
    let path = "kv/data/flask/fleet";
    let body = json!({ "data": fields });
    let (status, answer) = stand.vault(Method::POST, path, Some(&body)).await?;
    ensure!(status == 200, "OpenBao answered {status}: {answer}");
    Ok(repository)
}
