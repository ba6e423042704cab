//! The records of Secrets that are kept fresh, as this run is about to write them.
//!
//! Called by [`super::issue`] with what was issued, and before that by the engine for the plan. Invariant:
//! where nothing changes the record is the very text that is there, so that nothing is written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use jiff::Timestamp;

use super::Draft;
use super::fields;
use super::keep::Scope;
use crate::managed;
use crate::managed::Credential;
use crate::managed::Declaration;
use crate::managed::Record;
use crate::managed::State;
use crate::managed::Trial;
use crate::spec::Restart;
use crate::spec::SecretSpec;

impl Draft {
    /// Writes the record that goes with the values of a Secret.
    pub(super) fn record(
        &self,
        spec: &SecretSpec,
        fresh: BTreeMap<String, Credential>,
        now: Timestamp,
    ) -> Option<Record> {
        let keeping = self.keeping.as_ref()?;
        let kept = self.kept.get(&spec.name)?;
        let mut credentials = kept.credentials.clone();
        let changed = !fresh.is_empty();
        credentials.extend(fresh);
        let versions = self.versions(spec);
        let before = kept.record.as_ref().map(|record| &record.state);
        let changed = changed || before.is_none_or(|before| before.versions != versions);
        let mut state = State {
            generation: before.map_or(0, |before| before.generation) + u64::from(changed),
            written: match before {
                Some(before) if !changed => before.written,
                Some(_) | None => now,
            },
            run: keeping.run.clone(),
            versions,
            credentials,
            retiring: before
                .map(|before| before.retiring.clone())
                .unwrap_or_default(),
            stale: before.is_some_and(|before| before.stale),
            trial: before.and_then(|before| before.trial.clone()),
            setback: before.and_then(|before| before.setback.clone()),
            restarts: before.map_or(0, |before| before.restarts),
        };
        if let Some(before) = before.filter(|_| changed) {
            state.replace(before, &keeping.scope, spec);
        }
        Some(Record {
            declaration: Declaration {
                app: keeping.app.clone(),
                cluster: keeping.cluster.clone(),
                secret: spec.clone(),
                owner: keeping.owner.clone(),
                rule: keeping.rule.clone(),
            },
            state,
        })
    }

    /// Returns the record that a Secret has if nothing about it changes; unset where something does.
    fn standing_record(&self, spec: &SecretSpec) -> Option<&Record> {
        let keeping = self.keeping.as_ref()?;
        let record = self.kept.get(&spec.name)?.record.as_ref()?;
        let state = &record.state;
        let declaration = &record.declaration;
        let kept = &self.kept.get(&spec.name)?.credentials;
        let same = declaration.secret == *spec
            && declaration.owner == keeping.owner
            && declaration.cluster == keeping.cluster
            && state.versions == self.versions(spec)
            && state.credentials.keys().eq(kept.keys())
            && self.issues(spec).is_empty();
        same.then_some(record)
    }

    /// Returns what the annotation of a Secret says before anything is issued: the record as it
    /// stands, or, where something changes, one that names no new credential.
    #[must_use]
    pub fn provisional_record(&self, spec: &SecretSpec, now: Timestamp) -> Option<String> {
        spec.rotate.as_ref()?;
        match self.standing_record(spec) {
            Some(record) => Some(record.to_text()),
            None => Some(self.record(spec, BTreeMap::new(), now)?.to_text()),
        }
    }

    /// Lists the paths that have to issue for a Secret.
    pub(super) fn issues(&self, spec: &SecretSpec) -> BTreeSet<String> {
        let kept = self.kept.get(&spec.name);
        fields(std::slice::from_ref(spec))
            .filter(|used| self.is_dynamic(used.path))
            .map(|used| used.path.as_str())
            .filter(|path| kept.is_none_or(|kept| !kept.credentials.contains_key(*path)))
            .map(str::to_owned)
            .collect()
    }

    fn versions(&self, spec: &SecretSpec) -> BTreeMap<String, u64> {
        let kept = self.kept.get(&spec.name).map(|kept| kept.versions.clone());
        let mut versions = kept.unwrap_or_default();
        let read = fields(std::slice::from_ref(spec)).filter_map(|used| {
            let read = self
                .read
                .get(&(used.path.as_str().to_owned(), used.version))?;
            Some((used.path.as_str().to_owned(), read.version?))
        });
        versions.extend(read);
        versions
    }
}

impl State {
    /// Moves what a change replaces out of the way: to the trial, or to what is to be ended.
    fn replace(&mut self, before: &Self, scope: &Scope, spec: &SecretSpec) {
        let replaced: BTreeMap<String, Credential> = before
            .credentials
            .iter()
            .filter(|(path, old)| self.credentials.get(*path) != Some(old))
            .map(|(path, old)| (path.clone(), old.clone()))
            .collect();
        let rotate = spec.rotate.as_ref();
        let tried = rotate.is_some_and(|rotate| rotate.restart != Restart::Never);
        match scope {
            // Nobody is restarted, so nothing tells whether the new values work.
            Scope::Replace(_) if !tried => self.retiring.extend(replaced.into_values()),
            Scope::Replace(_) => {
                // A trial that is not over yet is a change on top of a change: the oldest values are
                // those that worked, and what lies between is ended.
                match &mut self.trial {
                    Some(_) => self.retiring.extend(replaced.into_values()),
                    None => {
                        self.trial = Some(Trial {
                            backup: managed::backup_name(&spec.name),
                            versions: before.versions.clone(),
                            credentials: before.credentials.clone(),
                        });
                    }
                }
            }
            Scope::Believe | Scope::Alive => {
                self.stale = tried;
                self.retiring.extend(replaced.into_values());
                // Whoever deploys decides anew what is right.
                if let Some(trial) = self.trial.take() {
                    let credentials = trial.credentials.into_values();
                    let unused = credentials.filter(|old| {
                        self.credentials.get(&old.path) != Some(old) && !self.retiring.contains(old)
                    });
                    let unused: Vec<Credential> = unused.collect();
                    self.retiring.extend(unused);
                }
                self.setback = None;
            }
        }
    }
}
