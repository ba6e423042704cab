//! Versions that are deleted in Vault, in a rotation: the values that are there stay, or those of the
//! version before are used, as the spec says; never an empty Secret.
//!
//! Called by [`super`] and [`super::keep`]. A deploy that names a deleted secret is told so instead.

use super::Draft;
use super::Place;
use super::ResolveError;
use super::fields;
use super::in_vault;
use super::keep::Keeping;
use super::keep::Kept;
use super::keep::Scope;
use super::trouble;
use crate::backoff::Patience;
use crate::ports::Mount;
use crate::ports::Ports;
use crate::ports::SecretData;
use crate::ports::SecretsError;
use crate::spec::OnDeleted;
use crate::spec::SecretSpec;

/// How many versions before a deleted one are tried.
const LOOK_BACK: u64 = 10;

impl Keeping {
    /// Says whether the values of a path stay though its newest version is deleted: in a rotation. A
    /// deploy that names a deleted secret is told so.
    pub(super) const fn outlives(&self, place: &Place) -> bool {
        place.version.is_none() && matches!(self.scope, Scope::Replace(_))
    }
}

impl Draft {
    /// Checks that every value whose version is deleted in Vault is in the Secret still.
    pub(super) fn still_there(&self, spec: &SecretSpec, kept: &Kept) -> Result<(), ResolveError> {
        for used in fields(std::slice::from_ref(spec)) {
            let Some(error) = self.lost.get(used.path.as_str()) else {
                continue;
            };
            if !kept.values.contains_key(used.key) {
                return Err(in_vault(used.path.as_str())(error.clone()));
            }
        }
        Ok(())
    }

    /// Reads the newest version before a deleted one that can be read, where the spec asks for that.
    pub(super) async fn before(
        &self,
        place: &Place,
        mount: &Mount,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<Option<SecretData>, ResolveError> {
        let path = place.path.as_str();
        let previous = self.specs.iter().any(|spec| {
            let uses = fields(std::slice::from_ref(spec)).any(|used| used.path == &place.path);
            let rotate = spec.rotate.as_ref();
            uses && rotate.is_some_and(|rotate| rotate.on_deleted == OnDeleted::Previous)
        });
        if !previous {
            return Ok(None);
        }
        let secrets = &ports.secrets;
        let look = || secrets.newest(&self.session, mount, &place.path);
        let newest = patience.retry(look, trouble(path)).await;
        let newest = newest.map_err(in_vault(path))?.version;
        for version in (newest.saturating_sub(LOOK_BACK).max(1)..newest).rev() {
            let read = || secrets.read(&self.session, mount, &place.path, Some(version));
            match patience.retry(read, trouble(path)).await {
                Ok(data) => return Ok(Some(data)),
                Err(SecretsError::VersionGone { .. }) => {}
                Err(error) => return Err(in_vault(path)(error)),
            }
        }
        Ok(None)
    }
}
