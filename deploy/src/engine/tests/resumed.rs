//! Runs that are cut at every moment of every write, and go on as after a restart of the agent.

use super::*;
use crate::ports::CommitId;
use crate::resume::Progress;

const SPEC: &str = "version: 1\nname: app\nmanifests: [k8s/]\n";

fn maps(value: &str) -> String {
    let map = |number| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: c{number} }}\ndata: {{ key: {value} }}\n---\n"
        )
    };
    (0..3).map(map).collect()
}

/// What the journal says of a run that was cut: its brief, and how far it came.
fn cut(stage: &Stage) -> Option<(Brief, Progress)> {
    let mut brief = None;
    let mut progress = Progress::Planned;
    for entry in stage.fakes.journal.entries() {
        progress = match (entry, progress) {
            (_, Progress::Returning { fence }) => Progress::Returning { fence },
            (
                Entry::Returning,
                Progress::Writing { fence }
                | Progress::Supplied { fence }
                | Progress::Applied { fence, .. },
            ) => Progress::Returning { fence },
            (Entry::Planned { brief: kept }, before) => {
                brief = Brief::read(kept);
                before
            }
            (Entry::Applying { fence }, _) => Progress::Writing { fence },
            (Entry::Supplied, Progress::Writing { fence }) => Progress::Supplied { fence },
            (
                Entry::Applied { objects },
                Progress::Writing { fence } | Progress::Supplied { fence },
            ) => Progress::Applied { fence, objects },
            (
                Entry::Pushing { commit, way, .. },
                Progress::Applied { fence, objects } | Progress::Pushed { fence, objects, .. },
            ) => Progress::Pushed {
                fence,
                objects,
                commit: CommitId::parse(&commit).expect("an id"),
                way,
            },
            (_, before) => before,
        };
    }
    brief.map(|brief| (brief, progress))
}

impl Stage {
    /// Goes on with the run as the next process does.
    pub(super) async fn go_on(&self, began: &Report) -> Option<Report> {
        let (brief, progress) = cut(self)?;
        let request = brief.request().expect("the spec is still valid");
        let permit = authorize::authorize(&policy(), brief.principal(), request, &[], "d2")
            .expect("the rule still grants it");
        assert!(brief.is_for(&permit));
        let ports = self.fakes.ports();
        let tools = Tools {
            id: RunId::from_bits(u128::from(self.runs.load(Relaxed))),
            ports: &ports,
            log: &self.log,
            key: &self.fakes.key,
            stop: self.stop.child_token(),
            end: self.stop.clone(),
            audience: &self.seats.audience(GRACE),
            agent: "host-a",
            home: None,
        };
        Some(resume(permit, &brief, progress, began.clone(), tools).await)
    }

    fn value(&self, name: &str) -> Option<String> {
        let found = self.fakes.cluster.object(&id("v1", "ConfigMap", name))?;
        found["data"]["key"].as_str().map(str::to_owned)
    }

    fn written(&self) -> usize {
        (0..3)
            .filter(|number| self.value(&format!("c{number}")).as_deref() == Some("two"))
            .count()
    }

    fn is_locked(&self) -> bool {
        lock_object(self).is_some_and(|lock| lock["spec"]["holderIdentity"].is_string())
    }
}

/// Cuts the second of two deploys at each moment, and lets it go on.
async fn sweep(spec: &str, judge: impl Fn(usize, &Stage, Option<&Report>)) {
    for moment in 0..200 {
        let stage = Stage::new();
        let began = stage.run(SPEC, &maps("one"), Mode::Deploy).await;
        stage.fakes.journal.clear();
        let before = stage.fakes.cluster.writes().len();
        stage.fakes.cluster.stall_at(Some(moment));
        let new = maps("two");
        let work = stage.run(spec, &new, Mode::Deploy);
        let ended = tokio::time::timeout(Duration::from_secs(1), work).await;
        stage.fakes.cluster.stall_at(None);
        if ended.is_ok() {
            assert!(moment > 8, "there are moments to cut at");
            return;
        }
        let report = stage.go_on(&began).await;
        judge(moment, &stage, report.as_ref());
        assert!(
            !stage.is_locked(),
            "moment {moment}: the lock is given back"
        );
        let writes = stage.fakes.cluster.writes();
        for number in 0..3 {
            let name = format!("c{number}");
            let times = writes[before..].iter().filter(|id| id.ends_with(&name));
            assert!(times.count() <= 1, "moment {moment}: {writes:?}");
        }
    }
    panic!("the run never ended by itself");
}

#[tokio::test(start_paused = true)]
async fn a_run_without_secrets_is_completed_wherever_it_was_cut() {
    sweep(SPEC, |moment, stage, report| {
        let report = report.expect("it had a plan before its first write");
        match report.status {
            Status::Succeeded => {
                assert_eq!(stage.written(), 3, "moment {moment}");
                assert_eq!(
                    report.revision,
                    Some(2),
                    "moment {moment}: it can come back"
                );
            }
            Status::Interrupted => {
                assert!(report.message.contains("nothing was written"));
                assert_eq!(stage.written(), 0, "moment {moment}");
            }
            other => panic!("moment {moment}: {other:?} {report:?}"),
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_run_with_secrets_tells_the_truth_wherever_it_was_cut() {
    let spec = format!("{SECRETS}manifests: [k8s/]\n");
    sweep(&spec, |moment, stage, report| {
        let report = report.expect("it had a plan before its first write");
        match report.status {
            Status::Succeeded => {
                assert_eq!(stage.written(), 3, "moment {moment}");
                assert!(stage.fakes.cluster.secret_keys("app-db").is_some());
            }
            Status::Interrupted => assert_eq!(stage.written(), 0, "moment {moment}"),
            Status::Failed => {
                let told = format!("{} of 3 other objects", stage.written());
                assert!(
                    report.message.contains(&told),
                    "{moment}: {}",
                    report.message
                );
            }
            other => panic!("moment {moment}: {other:?} {report:?}"),
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_once_another_run_has_had_the_app() {
    let stage = Stage::new();
    let began = stage.run(SPEC, &maps("one"), Mode::Deploy).await;
    let (brief, _) = cut(&stage).expect("a run that writes has a brief");
    assert!(brief.writes);
    let mut lock = lock_object(&stage).expect("it stays");
    lock["spec"]["leaseTransitions"] = Value::from(2);
    let place = id("coordination.k8s.io/v1", "Lease", "quaymaster-app");
    stage.fakes.cluster.set(&place, lock);
    let writes = stage.fakes.cluster.writes();
    let report = stage.go_on(&began).await.expect("it has a brief");
    assert_eq!(report.status, Status::Interrupted);
    assert!(report.message.contains("another run"), "{}", report.message);
    assert_eq!(stage.fakes.cluster.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn a_brief_holds_no_value() {
    let stage = Stage::new();
    let own = "apiVersion: v1\nkind: Secret\nmetadata: { name: app-own }\nstringData: { key: plain-value-of-a-manifest }\n";
    let spec = format!("{SECRETS}manifests: [k8s/]\n");
    stage.run(&spec, own, Mode::Deploy).await;
    let (brief, _) = cut(&stage).expect("a run that writes has a brief");
    let text = brief.to_value().to_string();
    for value in [
        "plain-value-of-a-manifest",
        "cGxhaW4",
        "api-key-value",
        "jwt",
    ] {
        assert!(!text.contains(value), "{value}: {text}");
    }
    assert_eq!(brief.blind, ["app-db", "app-own"]);
}
