//! kustomize and Helm in memory: what they render is set by hand, what Helm writes goes into the
//! cluster's double, with a record as Helm keeps it.
//!
//! Faults are queued and taken one a call, before anything is done.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::json;

use super::FakeCluster;
use super::lock;
use crate::manifest;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::ports::Chart;
use crate::ports::ChartError;
use crate::ports::ChartRef;
use crate::ports::Cluster as _;
use crate::ports::Fetched;
use crate::ports::Files;
use crate::ports::Force;
use crate::ports::Lookup;
use crate::ports::Marks;
use crate::ports::Payload;
use crate::ports::Release;
use crate::ports::RenderError;
use crate::ports::Renderer;
use crate::ports::Write;
use crate::principal::Actor;
use crate::secret::Secret;

/// Number, Helm's word for its state, labels.
type Revision = (u64, &'static str, BTreeMap<String, String>);

/// The double.
pub struct FakeRenderer {
    cluster: Arc<FakeCluster>,
    output: Mutex<String>,
    faults: Mutex<VecDeque<RenderError>>,
    calls: Mutex<Vec<String>>,
    revisions: Mutex<Vec<Revision>>,
    charts: Mutex<BTreeMap<String, Fetched>>,
    chart_faults: Mutex<VecDeque<ChartError>>,
}

impl FakeRenderer {
    /// Makes one that renders nothing and writes into this cluster.
    #[must_use]
    pub fn new(cluster: Arc<FakeCluster>) -> Self {
        Self {
            cluster,
            output: Mutex::default(),
            faults: Mutex::default(),
            calls: Mutex::default(),
            revisions: Mutex::default(),
            charts: Mutex::default(),
            chart_faults: Mutex::default(),
        }
    }

    /// Sets what is rendered from now on.
    pub fn render(&self, text: &str) {
        text.clone_into(&mut lock(&self.output));
    }

    /// Makes the next call fail.
    pub fn fail(&self, error: RenderError) {
        lock(&self.faults).push_back(error);
    }

    /// Puts a chart on a server, under its address and version as they are told.
    pub fn publish(&self, chart: &str, fetched: Fetched) {
        lock(&self.charts).insert(chart.to_owned(), fetched);
    }

    /// Makes the next fetch of a chart fail.
    pub fn fail_fetch(&self, error: ChartError) {
        lock(&self.chart_faults).push_back(error);
    }

    /// Returns the calls so far, such as `upgrade app`.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        lock(&self.calls).clone()
    }

    fn begin(&self, call: String) -> Result<(), RenderError> {
        lock(&self.calls).push(call);
        lock(&self.faults).pop_front().map_or(Ok(()), Err)
    }

    fn refused(error: impl std::fmt::Display) -> RenderError {
        RenderError::Refused {
            program: "helm",
            said: error.to_string(),
        }
    }

    async fn write(&self, actor: &Actor, chart: &Chart, marks: &Marks) -> Result<(), RenderError> {
        for (path, content) in &chart.files {
            if !path.contains("/templates/") {
                continue;
            }
            let read = manifest::rendered(path, content).map_err(Self::refused)?;
            for object in read.objects {
                let id = &object.id;
                let payload = Payload::Object(&object.body);
                let write = Write::Commit;
                let applied = self.cluster.apply(actor, id, payload, write, Force::Take);
                applied.await.map_err(Self::refused)?;
            }
        }
        let revision = {
            let mut revisions = lock(&self.revisions);
            let next = revisions.len() as u64 + 1;
            if let Some(last) = revisions.last_mut() {
                last.1 = "superseded";
            }
            revisions.push((next, "deployed", marks.labels.clone()));
            next
        };
        for number in [revision.saturating_sub(1), revision] {
            self.record(actor, &chart.release, number).await?;
        }
        Ok(())
    }

    /// Writes the record of a revision as Helm does.
    async fn record(
        &self,
        actor: &Actor,
        release: &Release,
        revision: u64,
    ) -> Result<(), RenderError> {
        let found = lock(&self.revisions)
            .iter()
            .find(|(number, ..)| *number == revision)
            .cloned();
        let Some((_, status, mut labels)) = found else {
            return Ok(());
        };
        labels.insert("owner".to_owned(), "helm".to_owned());
        labels.insert("name".to_owned(), release.name.to_string());
        labels.insert("status".to_owned(), status.to_owned());
        let name = format!("sh.helm.release.v1.{}.v{revision}", release.name);
        let body = json!({ "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
            "metadata": { "name": name, "namespace": release.namespace, "labels": labels } });
        let id = ObjectId {
            gvk: Gvk::new("v1", "Secret"),
            namespace: Some(release.namespace.clone()),
            name,
        };
        let data = BTreeMap::from([("release".to_owned(), Secret::from_text("x".to_owned()))]);
        let payload = Payload::Secret {
            body: &body,
            data: &data,
        };
        let write = Write::Commit;
        let applied = self.cluster.apply(actor, &id, payload, write, Force::Take);
        applied.await.map(drop).map_err(Self::refused)
    }
}

impl FakeRenderer {
    fn fetched(&self, chart: &ChartRef) -> Result<Fetched, ChartError> {
        lock(&self.calls).push(format!("fetch {chart}"));
        if let Some(error) = lock(&self.chart_faults).pop_front() {
            return Err(error);
        }
        let charts = lock(&self.charts);
        let found = charts.get(&chart.to_string());
        let found = found.ok_or_else(|| ChartError::Missing {
            server: chart.address.origin().to_owned(),
            what: "chart of this name and version".to_owned(),
        })?;
        match &chart.digest {
            Some(expected) if *expected != found.digest => Err(ChartError::Mismatch {
                what: "the chart",
                expected: expected.as_str().to_owned(),
                came: found.digest.as_str().to_owned(),
            }),
            Some(_) | None => Ok(found.clone()),
        }
    }
}

impl Renderer for FakeRenderer {
    fn fetch<'a>(&'a self, chart: &'a ChartRef) -> BoxFuture<'a, Result<Fetched, ChartError>> {
        async move { self.fetched(chart) }.boxed()
    }

    fn kustomize<'a>(
        &'a self,
        _files: &'a Files,
        folder: &'a str,
        _time: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, RenderError>> {
        async move {
            self.begin(format!("kustomize {folder}"))?;
            Ok(lock(&self.output).clone().into_bytes())
        }
        .boxed()
    }

    fn template<'a>(
        &'a self,
        _actor: &'a Actor,
        chart: &'a Chart,
        lookup: Lookup,
        _time: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, RenderError>> {
        async move {
            self.begin(format!("template {} {lookup:?}", chart.release.name))?;
            Ok(lock(&self.output).clone().into_bytes())
        }
        .boxed()
    }

    fn upgrade<'a>(
        &'a self,
        actor: &'a Actor,
        chart: &'a Chart,
        marks: &'a Marks,
        _time: Duration,
    ) -> BoxFuture<'a, Result<(), RenderError>> {
        async move {
            self.begin(format!("upgrade {}", chart.release.name))?;
            self.write(actor, chart, marks).await
        }
        .boxed()
    }

    fn roll_back<'a>(
        &'a self,
        _actor: &'a Actor,
        release: &'a Release,
        revision: u64,
        _time: Duration,
    ) -> BoxFuture<'a, Result<(), RenderError>> {
        async move { self.begin(format!("rollback {} {revision}", release.name)) }.boxed()
    }

    fn manifest<'a>(
        &'a self,
        _actor: &'a Actor,
        release: &'a Release,
        revision: u64,
        _time: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, RenderError>> {
        async move {
            self.begin(format!("manifest {} {revision}", release.name))?;
            Ok(lock(&self.output).clone().into_bytes())
        }
        .boxed()
    }
}
