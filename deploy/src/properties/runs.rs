//! Runs of generated apps on the doubles of the ports.
//!
//! Used by [`super`]. A [`Scene`] has one cluster, one Vault and the log of all its runs. Time is paused, so a
//! run that waits for something costs nothing. Invariant: controllers are played before a run, never during one.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::test_runner::TestCaseResult;
use proto::ids::RunId;
use proto::report::Mode;
use proto::report::Report;
use serde_json::Value;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::PART_OF;
use super::made::App;
use super::made::Fate;
use super::made::Live;
use super::made::Thing;
use super::made::Writer;
use crate::audience::Audience;
use crate::authorize;
use crate::bundle::Bundle;
use crate::engine;
use crate::engine::Tools;
use crate::fakes::Fakes;
use crate::log::RunLog;
use crate::object::ObjectId;
use crate::policy::Policy;
use crate::ports::Cluster as _;
use crate::ports::Force;
use crate::ports::Login;
use crate::ports::Payload;
use crate::ports::Write;
use crate::principal::Actor;
use crate::principal::Principal;
use crate::principal::PrincipalKind;
use crate::request;
use crate::secret::Secret;

const POLICY: &str = r#"
version = 1
[[rule]]
id = "app"
[rule.match]
project_id = 42
[rule.vault]
role = "app"
paths = ["kv/app/*"]
[rule.cluster.demo]
namespaces = ["app"]
kinds = ["v1/ConfigMap", "v1/Secret:own-*", "v1/Service", "v1/ServiceAccount", "apps/Deployment",
  "rbac.authorization.k8s.io/Role"]
secrets = ["own-*"]
verbs = ["apply", "prune", "rollback"]
require_digest = false
"#;

/// One cluster and what is done with it.
pub(super) struct Scene {
    fakes: Fakes,
    log: Arc<RunLog>,
    runs: u32,
    /// What Vault holds.
    held: Vec<(&'static str, String)>,
    /// Everything that a case may meet, to be looked at.
    known: Vec<ObjectId>,
}

impl Scene {
    /// Puts everything in its place and plays.
    pub(super) fn with(
        app: &App,
        live: &[Live],
        play: impl AsyncFnOnce(&mut Self) -> TestCaseResult,
    ) -> TestCaseResult {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime can be made");
        runtime.block_on(async {
            let fakes = Fakes::default();
            let log = Arc::new(RunLog::new(Arc::clone(&fakes.clock) as _));
            let mut scene = Self {
                fakes,
                log,
                runs: 0,
                held: Vec::new(),
                known: Vec::new(),
            };
            for live in live {
                scene.put(&live.thing, live.writer).await;
            }
            scene.furnish(app);
            play(&mut scene).await
        })
    }

    /// Fills Vault, and plays the controller of Deployments ahead: they are there and ready for any generation.
    fn furnish(&mut self, app: &App) {
        let fields = app.fields();
        if self.held != fields {
            let named: Vec<(&str, &str)> = (fields.iter())
                .map(|(key, value)| (*key, value.as_str()))
                .collect();
            self.fakes.vault.put("kv/app/own", &named);
            self.held = fields;
        }
        for thing in &app.things {
            let id = thing.id();
            if id.gvk.kind == "Deployment" {
                let mut body = self.fakes.cluster.object(&id).unwrap_or_else(|| {
                    json!({ "apiVersion": "apps/v1", "kind": "Deployment",
                        "metadata": { "name": id.name, "namespace": "app", "uid": format!("uid-{}", id.name) } })
                });
                body["status"] = json!({ "observedGeneration": 1000 });
                self.fakes.cluster.set(&id, body);
            }
            self.known.push(id);
        }
    }

    async fn put(&mut self, thing: &Thing, writer: Writer) {
        let (id, mut body) = (thing.id(), thing.body(None));
        match writer {
            Writer::Us => {
                let actor = Actor {
                    user: "gitlab:ci_job:7".to_owned(),
                    groups: Vec::new(),
                };
                let payload = Payload::Object(&body);
                let done = self
                    .fakes
                    .cluster
                    .apply(&actor, &id, payload, Write::Commit, Force::No)
                    .await;
                done.expect("the double takes it");
            }
            Writer::Nobody => {
                body["metadata"]["uid"] = Value::from(format!("uid-{}", id.name));
                body["metadata"]["resourceVersion"] = Value::from("1");
                self.fakes.cluster.set(&id, body);
            }
        }
        self.known.push(id);
    }

    /// Carries out a run of the app.
    pub(super) async fn run(&mut self, app: &App, mode: Mode) -> Report {
        self.furnish(app);
        self.runs += 1;
        let files = BTreeMap::from([
            ("quaymaster.yaml".to_owned(), app.spec().into_bytes()),
            ("all.yaml".to_owned(), app.manifests().into_bytes()),
        ]);
        let request = request::read(&Bundle { files }, mode).expect("the bundle is valid");
        let claims = [
            ("project_id", "42"),
            ("job_project_id", "42"),
            ("job_id", "7"),
        ];
        let claims = claims
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let job = Principal::unchecked(PrincipalKind::GitlabJob, claims.collect());
        let policy = Policy::parse(POLICY).expect("the policy is valid");
        let permit =
            authorize::authorize(&policy, job, request, &[], "d1").expect("the rule grants it");
        let ports = self.fakes.ports();
        let tools = Tools {
            id: RunId::from_bits(self.runs.into()),
            ports: &ports,
            log: &self.log,
            key: &self.fakes.key,
            stop: CancellationToken::new(),
            end: CancellationToken::new(),
            audience: &Audience::lasting(),
            agent: "host-a",
            home: None,
        };
        let login = Login::Jwt {
            token: Secret::from_text("jwt".to_owned()),
            role: "app".to_owned(),
        };
        engine::run(permit, Some(login), tools).await
    }

    /// Makes every Secret of the app meet a field of somebody else.
    pub(super) fn contest(&self, app: &App) {
        for thing in app.things.iter().filter(|thing| thing.is_secret()) {
            self.fakes
                .cluster
                .conflict(&thing.id().name, ".data.one", "somebody");
        }
    }

    /// Puts objects there that are another app's.
    pub(super) async fn strangers(&mut self, things: impl Iterator<Item = &Thing>) {
        for thing in things {
            self.put(thing, Writer::Us).await;
            self.mark(&thing.id(), |body| {
                body["metadata"]["labels"][PART_OF] = Value::from("applyset-other");
            });
        }
    }

    fn mark(&self, id: &ObjectId, change: impl FnOnce(&mut Value)) {
        if let Some(mut body) = self.fakes.cluster.object(id) {
            change(&mut body);
            self.fakes.cluster.set(id, body);
        }
    }

    /// Lets fate strike what the app has and will not want; returns what pruning must leave alone.
    pub(super) fn fates(&self, before: &App, after: &App, fates: &[Fate]) -> BTreeSet<String> {
        let wanted: BTreeSet<String> = after.ids().collect();
        let mut spared = BTreeSet::new();
        let going = before
            .things
            .iter()
            .map(Thing::id)
            .filter(|id| !wanted.contains(&id.to_string()));
        for (id, fate) in going.zip(fates) {
            self.mark(&id, |body| match fate {
                Fate::None => {}
                Fate::Taken => body["metadata"]["labels"][PART_OF] = Value::from("applyset-other"),
                Fate::Remade => body["metadata"]["uid"] = Value::from("another"),
                Fate::Kept => {
                    body["metadata"]["annotations"]["quaymaster.dev/keep"] = Value::from("true");
                }
            });
            if *fate != Fate::None {
                spared.insert(id.to_string());
            }
        }
        spared
    }

    /// Everything that is there of what the case knows.
    pub(super) fn objects(&self) -> BTreeMap<String, Value> {
        let vault = ObjectId {
            gvk: crate::object::Gvk::new("v1", "Secret"),
            namespace: Some("app".to_owned()),
            name: "own-vault".to_owned(),
        };
        let known = self.known.iter().chain([&vault]);
        known
            .filter_map(|id| Some((id.to_string(), self.fakes.cluster.object(id)?)))
            .collect()
    }

    /// What was written and deleted so far.
    pub(super) fn writes(&self) -> Vec<String> {
        self.fakes.cluster.writes()
    }

    /// Everything that was told so far.
    pub(super) fn text(&self) -> String {
        let events = self.log.since(0);
        events
            .iter()
            .map(|event| serde_json::to_string(&event.body).expect("an event is JSON") + "\n")
            .collect()
    }
}
