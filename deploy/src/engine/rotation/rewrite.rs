//! Writes a Secret with values that it has, or had, and another record; forgets the backup.
//!
//! Called by [`super::settle`] and [`super::back`]. Keys of others are never written.

use super::put;
use super::settle::Open;
use super::settle::Settling;
use crate::backoff::cluster_trouble;
use crate::managed;
use crate::managed::Record;
use crate::object::text;
use crate::plan;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::Dependents;
use crate::ports::Force;
use crate::ports::Write;
use crate::resolve::secret_id;
use crate::secret::Secret;
use serde_json::Value;
use std::collections::BTreeMap;

impl Settling<'_> {
    /// Writes a Secret with the values that it has and another record.
    pub(super) async fn rewrite(
        &self,
        one: &Open<'_>,
        record: &Record,
    ) -> Result<(), ClusterError> {
        let id = secret_id(self.permit.namespace().as_str(), &one.spec.name);
        let cluster = &self.tools.ports.cluster;
        let look = || cluster.values(self.permit.actor(), &id);
        let values = self.patience.retry(look, cluster_trouble).await?;
        let Some(values) = values else {
            return Ok(());
        };
        self.write(one, record, values, Force::No).await
    }

    pub(super) async fn write(
        &self,
        one: &Open<'_>,
        record: &Record,
        mut values: BTreeMap<String, Secret>,
        force: Force,
    ) -> Result<(), ClusterError> {
        let id = secret_id(self.permit.namespace().as_str(), &one.spec.name);
        // Keys of others stay theirs.
        values.retain(|key, _| one.spec.keys.contains_key(key));
        let mut body = self.body_of(one);
        managed::write_on(&mut body, record.to_text());
        put(
            &id,
            &body,
            &values,
            self.permit,
            force,
            self.tools,
            self.patience,
        )
        .await
        .map(drop)
    }

    /// Returns the JSON that the agents own of a Secret, with the labels that it has.
    fn body_of(&self, one: &Open<'_>) -> Value {
        let mut wanted = plan::wanted(self.permit);
        let set = crate::history::store::Place {
            cluster: &*self.tools.ports.cluster,
            actor: self.permit.actor(),
            namespace: self.permit.namespace().as_str(),
            app: self.permit.request().spec.name.as_str(),
        }
        .set_id();
        crate::history::mark(wanted.iter_mut(), &set);
        let mut all = wanted.into_iter();
        all.find(|(id, _)| id.gvk.is("", "Secret") && id.name == one.spec.name)
            .map_or(Value::Null, |(_, content)| content.body().clone())
    }

    pub(super) async fn forget_backup(&self, secret: &str) {
        let name = managed::backup_name(secret);
        let id = secret_id(self.permit.namespace().as_str(), &name);
        let (cluster, actor) = (&self.tools.ports.cluster, self.permit.actor());
        let look = self
            .patience
            .retry(|| cluster.secret(actor, &id), cluster_trouble);
        let Ok(Some(view)) = look.await else {
            return;
        };
        let deletion = Deletion {
            uid: text(&view.rest, &["metadata", "uid"]).to_owned(),
            dependents: Dependents::Background,
            write: Write::Commit,
        };
        let delete = self
            .patience
            .retry(|| cluster.delete(actor, &id, &deletion), cluster_trouble);
        if let Err(error) = delete.await {
            self.tools
                .log
                .warn(format!("Secret {name} could not be deleted: {error}"));
        }
    }
}
