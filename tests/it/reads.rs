//! What the real API server notes of an apply proves that another one would change nothing.
//!
//! The rules of the comparison are tested in `deploy`; here the server itself is asked, kind by kind, with
//! bodies as people write them. No agent runs: the adapter is called as the engine calls it.

use std::sync::Arc;
use std::time::Duration;

use agent::cluster::ClusterSettings;
use agent::cluster::Kube;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use deploy::object::Gvk;
use deploy::object::ObjectId;
use deploy::object::text;
use deploy::owned;
use deploy::owned::Sameness;
use deploy::ports::Cluster;
use deploy::ports::Force;
use deploy::ports::Payload;
use deploy::ports::Write;
use deploy::principal::Actor;
use deploy::secret::FingerprintKey;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use serde_json::Value;
use serde_json::json;
use tests::world::World;

/// A world's cluster as the engine sees it.
struct Side {
    world: World,
    cluster: Kube,
    actor: Actor,
}

impl Side {
    async fn new(name: &str) -> Result<Self> {
        let world = World::without_agent(name).await?;
        let cluster = Kube::connect(ClusterSettings {
            name: "stand".to_owned(),
            kubeconfig: world.stand.facts().kubeconfig_agent.clone(),
            context: None,
            timeout: Duration::from_secs(30),
            fingerprint_key: Arc::new(FingerprintKey::new([3; 32])),
        })
        .await?;
        let actor = Actor {
            user: "gitlab:ci_job:1".to_owned(),
            groups: vec![format!("gitlab:project:{}", world.project)],
        };
        Ok(Self {
            world,
            cluster,
            actor,
        })
    }

    fn id(&self, body: &Value) -> ObjectId {
        ObjectId {
            gvk: Gvk::new(text(body, &["apiVersion"]), text(body, &["kind"])),
            namespace: Some(self.world.namespace.clone()),
            name: text(body, &["metadata", "name"]).to_owned(),
        }
    }

    async fn apply(&self, body: &Value) -> Result<()> {
        let id = self.id(body);
        let payload = Payload::Object(body);
        self.cluster
            .apply(&self.actor, &id, payload, Write::Commit, Force::No)
            .await
            .with_context(|| id.to_string())?;
        Ok(())
    }

    async fn live(&self, body: &Value) -> Result<Value> {
        let found = self.cluster.get(&self.actor, &self.id(body)).await?;
        found.context("it was applied")
    }
}

fn container() -> Value {
    json!({ "name": "main", "image": "registry.example.com/app:1", "args": ["-v"],
        "env": [{ "name": "B", "value": "1" }, { "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }],
        "ports": [{ "containerPort": 53 }, { "containerPort": 53, "protocol": "UDP" }],
        "volumeMounts": [{ "name": "conf", "mountPath": "/conf" }],
        "readinessProbe": { "httpGet": { "path": "/", "port": 53 } },
        "resources": { "limits": { "cpu": "500m", "memory": "64Mi" } } })
}

fn pod() -> Value {
    json!({ "metadata": { "labels": { "app": "x" } }, "spec": {
        "containers": [container()], "terminationGracePeriodSeconds": 5,
        "tolerations": [{ "key": "k", "operator": "Exists" }],
        "volumes": [{ "name": "conf", "configMap": { "name": "conf" } }, { "name": "tmp", "emptyDir": {} }] } })
}

/// Bodies as people write them; no pod of them is started.
fn bodies() -> Vec<Value> {
    let workload = |kind: &str, spec: Value| {
        let mut body = json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": "x", "labels": { "a": "b" } },
            "spec": { "selector": { "matchLabels": { "app": "x" } }, "template": pod() } });
        for (field, value) in spec.as_object().into_iter().flatten() {
            body["spec"][field] = value.clone();
        }
        body
    };
    let mut batch = pod();
    batch["spec"]["restartPolicy"] = json!("Never");
    vec![
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "conf", "annotations": { "a.example.com/b": "c" } },
            "data": { "key": "value", "file.yaml": "a: 1\nb: 2\n" } }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "x" }, "spec": { "selector": { "app": "x" },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }, { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns" }] } }),
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "x" },
            "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": { "requests": { "storage": "1Gi" } } } }),
        workload(
            "Deployment",
            json!({ "replicas": 0, "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": "25%" } } }),
        ),
        workload(
            "StatefulSet",
            json!({ "replicas": 0, "serviceName": "x", "volumeClaimTemplates": [{ "metadata": { "name": "data" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }] }),
        ),
        json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "x" },
            "spec": { "schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": { "spec": { "template": batch } } } }),
    ]
}

#[tokio::test]
async fn what_was_applied_is_proved_to_be_the_same() -> Result<()> {
    let side = Side::new("same").await?;
    let mut unsure = Vec::new();
    for body in bodies() {
        side.apply(&body).await?;
        let live = side.live(&body).await?;
        match owned::compare(&body, &live) {
            Sameness::Same => {}
            Sameness::Unsure => unsure.push(text(&body, &["kind"]).to_owned()),
            Sameness::Differs(paths) => anyhow::bail!("{paths:?} of {body}"),
        }
    }
    // Claim templates are one field to the server, which fills in defaults: it has to be asked.
    ensure!(unsure == ["StatefulSet"], "{unsure:?}");
    Ok(())
}

#[tokio::test]
async fn a_change_by_us_or_by_others_is_seen() -> Result<()> {
    let side = Side::new("other").await?;
    for body in bodies() {
        side.apply(&body).await?;
        let (kind, name) = (text(&body, &["kind"]), text(&body, &["metadata", "name"]));
        let mut labelled = body.clone();
        labelled["metadata"]["labels"]["new"] = json!("one");
        let seen = owned::compare(&labelled, &side.live(&body).await?);
        ensure!(matches!(seen, Sameness::Differs(_)), "{kind}: {seen:?}");
        side.apply(&labelled).await?;
        let seen = owned::compare(&body, &side.live(&body).await?);
        ensure!(matches!(seen, Sameness::Differs(_)), "{kind}: {seen:?}");
        side.world
            .kubectl(&["label", "--overwrite", kind, name, "new=two"])
            .await?;
        let seen = owned::compare(&labelled, &side.live(&body).await?);
        ensure!(matches!(seen, Sameness::Differs(_)), "{kind}: {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_listing_of_several_pages_is_whole() -> Result<()> {
    const COUNT: usize = 510;
    let side = Side::new("pages").await?;
    let bodies: Vec<Value> = (0..COUNT)
        .map(|number| {
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("c{number}") },
                "data": { "key": "value" } })
        })
        .collect();
    futures::stream::iter(&bodies)
        .map(|body| side.apply(body))
        .buffer_unordered(16)
        .try_collect::<()>()
        .await?;
    let gvk = Gvk::new("v1", "ConfigMap");
    let namespace = Some(side.world.namespace.as_str());
    let found = side.cluster.list(&side.actor, &gvk, namespace).await?;
    let mut names: Vec<&str> = found
        .iter()
        .map(|object| text(object, &["metadata", "name"]))
        .filter(|name| bodies.iter().any(|body| body["metadata"]["name"] == *name))
        .collect();
    names.sort_unstable();
    names.dedup();
    ensure!(names.len() == COUNT, "{} of {COUNT}", names.len());
    Ok(())
}
