//! Issues dynamic credentials and renders templates: the second step of resolving.
//!
//! Called through [`Draft::issue`] by [`crate::engine`], in real runs only. Each lease is in the
//! journal before its values are used.

use std::collections::BTreeMap;

use super::Draft;
use super::HeldLease;
use super::ResolveError;
use super::ResolvedSecret;
use super::ResolvedSecrets;
use super::Used;
use super::check_size;
use super::field_missing;
use super::fields;
use super::in_vault;
use super::keep;
use super::trouble;
use crate::backoff::Patience;
use crate::managed::Credential;
use crate::ports::Entry;
use crate::ports::Ports;
use crate::ports::SecretData;
use crate::secret::Secret;
use crate::spec::SecretSpec;
use crate::spec::Source;

impl Draft {
    /// Issues what is dynamic and renders what is a template.
    ///
    /// # Errors
    /// The error, and whatever was issued before it: the caller has to revoke it.
    pub async fn issue(
        mut self,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<ResolvedSecrets, (ResolveError, ResolvedSecrets)> {
        let mut out = ResolvedSecrets::none();
        let specs = std::mem::take(&mut self.specs);
        let mut failed = None;
        for spec in &specs {
            match self
                .materialize(spec, &mut out.leases, ports, patience)
                .await
            {
                Ok(secret) => out.secrets.push(secret),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        out.session = Some(self.session);
        out.own = self.own;
        match failed {
            Some(error) => Err((error, out)),
            None => Ok(out),
        }
    }

    async fn materialize(
        &self,
        spec: &SecretSpec,
        leases: &mut Vec<HeldLease>,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<ResolvedSecret, ResolveError> {
        let mut issued: BTreeMap<&str, SecretData> = BTreeMap::new();
        let mut lasting: BTreeMap<String, Credential> = BTreeMap::new();
        let mut data: BTreeMap<String, Secret> = BTreeMap::new();
        for used in fields(std::slice::from_ref(spec)) {
            let kept = self.kept.get(&spec.name);
            let kept = kept.and_then(|kept| kept.values.get(used.key));
            let value = if kept.is_some() {
                kept
            } else if self.is_dynamic(used.path) {
                if !issued.contains_key(used.path.as_str()) {
                    let fresh = if spec.rotate.is_some() {
                        let (fresh, credential) =
                            self.issue_lasting(&used, leases, ports, patience).await?;
                        if let Some(credential) = credential {
                            keep::carries(spec, &credential)?;
                            lasting.insert(used.path.as_str().to_owned(), credential);
                        }
                        tell(&used, patience);
                        fresh
                    } else {
                        self.issue_one(&used, leases, ports, patience).await?
                    };
                    issued.insert(used.path.as_str(), fresh);
                }
                issued
                    .get(used.path.as_str())
                    .and_then(|fresh| fresh.fields.get(used.field))
            } else {
                self.read
                    .get(&(used.path.as_str().to_owned(), used.version))
                    .and_then(|read| read.fields.get(used.field))
            };
            let value = value.ok_or_else(|| field_missing(&used))?;
            data.insert(used.key.to_owned(), value.duplicate());
        }
        let rendered = render(spec, &data)?;
        rendered
            .values()
            .for_each(|value| patience.log.learn(value));
        data.extend(rendered);
        check_size(&spec.name, data.values().map(Secret::len).sum())?;
        let record = spec
            .rotate
            .as_ref()
            .and_then(|_| self.record(spec, lasting, ports.clock.now()));
        Ok(ResolvedSecret {
            name: spec.name.clone(),
            data,
            record,
        })
    }

    async fn issue_one(
        &self,
        used: &Used<'_>,
        leases: &mut Vec<HeldLease>,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<SecretData, ResolveError> {
        let fresh = patience
            .retry(
                || {
                    ports
                        .secrets
                        .issue(&self.session, used.path, used.parameters)
                },
                trouble(used.path.as_str()),
            )
            .await
            .map_err(in_vault(used.path.as_str()))?;
        fresh
            .fields
            .values()
            .for_each(|value| patience.log.learn(value));
        if let Some(lease) = &fresh.lease {
            leases.push(HeldLease {
                id: Some(lease.id.clone()),
                accessor: None,
                secret: used.secret.to_owned(),
                path: used.path.to_string(),
                seconds: lease.seconds,
            });
            ports
                .journal
                .append(Entry::LeaseIssued {
                    lease: lease.id.clone(),
                })
                .await?;
        }
        tell(used, patience);
        Ok(fresh)
    }
}

fn tell(used: &Used<'_>, patience: &Patience<'_>) {
    patience.log.info(format!(
        "issued a credential from {} for Secret {}",
        used.path, used.secret
    ));
}

fn render(
    spec: &SecretSpec,
    data: &BTreeMap<String, Secret>,
) -> Result<BTreeMap<String, Secret>, ResolveError> {
    let values: BTreeMap<String, &Secret> = data
        .iter()
        .map(|(key, value)| (key.clone(), value))
        .collect();
    let mut rendered = BTreeMap::new();
    for (key, source) in &spec.keys {
        if let Source::Template(template) = source {
            let error = |source| ResolveError::Template {
                secret: spec.name.clone(),
                key: key.clone(),
                source,
            };
            rendered.insert(key.clone(), template.render(&values).map_err(error)?);
        }
    }
    Ok(rendered)
}
