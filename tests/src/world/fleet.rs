//! A world's repositories on the Git server.
//!
//! Names begin with the world's namespace, so no two worlds share a repository.

use anyhow::Result;

use super::World;
use crate::stand::git::repository::Repository;

impl World {
    /// Makes a repository whose branch `main` has one commit with `files` (path and content).
    ///
    /// # Errors
    /// When there is one of that name, or Git fails.
    pub async fn fleet_repository(&self, name: &str, files: &[(&str, &str)]) -> Result<Repository> {
        let name = format!("{}-{name}", self.namespace);
        Repository::new(&self.stand.facts().site, &name, files).await
    }
}
