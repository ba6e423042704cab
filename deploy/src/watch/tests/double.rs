//! A cluster that plays a script of observations in tokio's paused time, and ports around it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::fakes::FakeVault;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Resource;
use crate::ports::Access;
use crate::ports::Clock;
use crate::ports::Cluster;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::Entry;
use crate::ports::Force;
use crate::ports::Journal;
use crate::ports::JournalError;
use crate::ports::LogRequest;
use crate::ports::Observation;
use crate::ports::Payload;
use crate::ports::Ports;
use crate::ports::Scope;
use crate::ports::SecretView;
use crate::ports::Write;
use crate::principal::Actor;
use crate::secret::Secret;

/// One thing that the cluster shows, so many milliseconds after the watch began.
pub(super) type Line = (u64, Observation);

/// A cluster that plays a script. All scopes are complete after the lines of time 0, unless they are
/// kept back.
#[derive(Default)]
pub(super) struct Script {
    lines: Vec<Line>,
    kept_back: Vec<Gvk>,
    pub(super) current_log: String,
    pub(super) previous_log: String,
    asked: Mutex<Vec<LogRequest>>,
}

impl Script {
    pub(super) fn new(lines: Vec<Line>) -> Self {
        Self {
            lines,
            ..Self::default()
        }
    }

    /// Never completes the listing of a kind.
    pub(super) fn keeping_back(mut self, gvk: Gvk) -> Self {
        self.kept_back.push(gvk);
        self
    }

    pub(super) fn asked(&self) -> Vec<LogRequest> {
        self.asked.lock().expect("no test panics inside").clone()
    }
}

pub(super) fn ports(script: Arc<Script>) -> Ports {
    Ports {
        secrets: Arc::new(FakeVault::default()),
        renderer: crate::fakes::Fakes::default().renderer,
        git: crate::fakes::Fakes::default().git,
        registry: crate::fakes::Fakes::default().registry,
        cluster: script,
        clock: Arc::new(Nothing),
        journal: Arc::new(Nothing),
    }
}

fn unused<T: Send + 'static>() -> BoxFuture<'static, Result<T, ClusterError>> {
    let reason = "a watch does not ask this".to_owned();
    futures::future::ready(Err(ClusterError::Unexpected { reason })).boxed()
}

impl Cluster for Script {
    fn resource<'a>(&'a self, _: &'a Gvk) -> BoxFuture<'a, Result<Resource, ClusterError>> {
        unused()
    }

    fn may<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a Access,
    ) -> BoxFuture<'a, Result<Result<(), String>, ClusterError>> {
        unused()
    }

    fn get<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<Value>, ClusterError>> {
        unused()
    }

    fn list<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a Gvk,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Value>, ClusterError>> {
        unused()
    }

    fn secret<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<SecretView>, ClusterError>> {
        unused()
    }

    fn values<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, Secret>>, ClusterError>> {
        unused()
    }

    fn secrets<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<String, SecretView>, ClusterError>> {
        unused()
    }

    fn apply<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a ObjectId,
        _: Payload<'a>,
        _: Write,
        _: Force,
    ) -> BoxFuture<'a, Result<(AppliedObject, Value), ClusterError>> {
        unused()
    }

    fn create<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a ObjectId,
        _: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        unused()
    }

    fn replace<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a ObjectId,
        _: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        unused()
    }

    fn patch<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a ObjectId,
        _: &'a Value,
        _: Write,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        unused()
    }

    fn delete<'a>(
        &'a self,
        _: &'a Actor,
        _: &'a ObjectId,
        _: &'a Deletion,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        unused()
    }

    fn observe(&self, _: &Actor, scopes: Vec<Scope>) -> BoxStream<'static, Observation> {
        let (first, later): (Vec<Line>, Vec<Line>) =
            self.lines.iter().cloned().partition(|(at, _)| *at == 0);
        let synced = scopes
            .into_iter()
            .filter(|scope| !self.kept_back.contains(&scope.gvk))
            .map(|scope| (0, Observation::Synced(scope.gvk)));
        let all: Vec<Line> = first.into_iter().chain(synced).chain(later).collect();
        let start = tokio::time::Instant::now();
        futures::stream::iter(all)
            .then(move |(at, observation)| async move {
                tokio::time::sleep_until(start + Duration::from_millis(at)).await;
                observation
            })
            .chain(futures::stream::pending())
            .boxed()
    }

    fn log<'a>(
        &'a self,
        _: &'a Actor,
        request: &'a LogRequest,
    ) -> BoxFuture<'a, Result<String, ClusterError>> {
        self.asked
            .lock()
            .expect("no test panics inside")
            .push(request.clone());
        let text = if request.previous {
            &self.previous_log
        } else {
            &self.current_log
        };
        futures::future::ready(Ok(text.clone())).boxed()
    }
}

/// Ports that a watch does not use.
struct Nothing;

impl Clock for Nothing {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}

impl Journal for Nothing {
    fn append(&self, _: Entry) -> BoxFuture<'_, Result<(), JournalError>> {
        futures::future::ready(Ok(())).boxed()
    }
}
