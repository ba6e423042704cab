//! The image registry: plain HTTP on loopback, one port for the node, for builds and for image names.
//!
//! Started by `servers`; `image` fills it. Inside namespaces it is `localhost:5000` for the kubelet and for builds
//! alike, because both run in the stand's network. Invariant: it starts empty and keeps nothing.

use std::fs;
use std::time::Duration;

use anyhow::Result;

use super::layout::Site;
use super::process::Server;
use crate::wait::until;

/// Starts the registry.
///
/// # Errors
/// When it is not installed or does not answer.
pub(super) async fn start(site: &Site) -> Result<Server> {
    let dir = site.folder("registry")?;
    let config = format!(
        "version: 0.1\nlog: {{ level: warn }}\nstorage:\n  filesystem: {{ rootdirectory: {} }}\n  delete: {{ enabled: true }}\n\
         http: {{ addr: '127.0.0.1:{}', secret: stand }}\n",
        dir.display(),
        site.ports.registry
    );
    let path = site.dir.join("registry.yml");
    fs::write(&path, config)?;
    let arguments = ["serve".to_owned(), path.display().to_string()];
    let mut server = Server::start(site, "registry", "docker-registry", &arguments)?;
    let url = format!("http://127.0.0.1:{}/v2/", site.ports.registry);
    until("the registry", Duration::from_secs(30), async || {
        server.look(super::http::get(&url).await)
    })
    .await?;
    Ok(server)
}
