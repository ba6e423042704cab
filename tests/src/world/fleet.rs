//! A world's repositories on the Git server, and Flux that rolls them out into its namespace.
//!
//! Names of repositories begin with the world's namespace, so no two worlds share one. Flux's objects are in the
//! world's namespace, and Flux acts with all rights. Invariant: intervals are long, so what happens soon happens because
//! somebody asked for it.

use anyhow::Result;
use serde_json::Value;
use serde_json::json;

use super::World;
use crate::stand::git::repository::Repository;
use crate::stand::token::random_hex;

/// Who rolls a repository out.
#[derive(Clone, Copy, Debug)]
pub enum Engine<'a> {
    /// Kustomize controller, with the manifests of a folder.
    Kustomization {
        /// Folder in the repository, such as `./`.
        path: &'a str,
    },
    /// Helm controller, with a chart in a folder.
    HelmRelease {
        /// Folder in the repository, such as `./chart`.
        chart: &'a str,
        /// Values of the release, beside those in the chart.
        values: &'a Value,
    },
}

impl World {
    /// Makes a repository whose branch `main` has one commit with `files` (path and content).
    ///
    /// # Errors
    /// When there is one of that name, or Git fails.
    pub async fn fleet_repository(&self, name: &str, files: &[(&str, &str)]) -> Result<Repository> {
        let name = format!("{}-{name}", self.namespace);
        Repository::new(&self.stand.facts().site, &name, files).await
    }

    /// Lets Flux roll `main` of a repository out into this world's namespace: makes a GitRepository, its Secret
    /// `<name>-git` (the account that may only fetch) and a Kustomization or HelmRelease, all called `name`.
    ///
    /// # Errors
    /// When Flux does not start, or the cluster refuses.
    pub async fn fleet(
        &self,
        name: &str,
        repository: &Repository,
        engine: Engine<'_>,
    ) -> Result<()> {
        self.stand.flux().await?;
        let account = &self.stand.facts().git_accounts.reader;
        let meta = json!({ "name": name, "namespace": self.namespace });
        let source = json!({ "kind": "GitRepository", "name": name });
        let secret = format!("{name}-git");
        let engine = match engine {
            Engine::Kustomization { path } => json!({
                "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": meta,
                "spec": { "interval": "1h", "retryInterval": "2s", "timeout": "2m", "prune": true,
                    "path": path, "sourceRef": source, "targetNamespace": self.namespace } }),
            Engine::HelmRelease { chart, values } => json!({
                "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "metadata": meta,
                "spec": { "interval": "1h", "timeout": "40s", "values": values,
                    // Otherwise a commit that leaves the chart's version as it is changes nothing.
                    "chart": { "spec": { "chart": chart, "interval": "1h", "sourceRef": source,
                        "reconcileStrategy": "Revision" } } } }),
        };
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Secret", "metadata": { "name": secret, "namespace": self.namespace },
                "stringData": { "username": account.name, "password": account.password } },
            { "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": meta,
                "spec": { "interval": "1h", "timeout": "30s", "url": repository.url(),
                    "ref": { "branch": "main" }, "secretRef": { "name": secret } } },
            engine,
        ] });
        self.stand.cluster().apply(&objects).await
    }

    /// Asks Flux to look at an object of this world now, such as `gitrepository/shop`, as `flux reconcile` does;
    /// returns what will stand in `status.lastHandledReconcileAt`.
    ///
    /// # Errors
    /// When there is no such object.
    pub async fn reconcile(&self, object: &str) -> Result<String> {
        let token = random_hex(8)?;
        let note = format!("reconcile.fluxcd.io/requestedAt={token}");
        self.kubectl(&["annotate", "--overwrite", object, &note])
            .await?;
        Ok(token)
    }

    /// An object of this world as the cluster has it.
    ///
    /// # Errors
    /// When there is no such object.
    pub async fn object(&self, object: &str) -> Result<Value> {
        let text = self.kubectl(&["get", object, "-o", "json"]).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The condition Ready of an object of this world; null where there is none.
    ///
    /// # Errors
    /// When there is no such object.
    pub async fn ready(&self, object: &str) -> Result<Value> {
        let conditions = self.object(object).await?["status"]["conditions"].take();
        let all = conditions.as_array().cloned().unwrap_or_default();
        let ready = all.into_iter().find(|one| one["type"] == "Ready");
        Ok(ready.unwrap_or_default())
    }
}
