//! Whether pods that call themselves ready have stayed so for a moment.
//!
//! Used by [`super::state`]. A container without a readiness probe is ready as soon as it runs, even
//! if it ends a tenth of a second later, and its workload then counts as available. So such pods have
//! to be seen ready, without a restart, for [`STEADY`]. A pod that was started again during this run has
//! to outlive its former self, see [`Settle::trial`]. Pods that were ready long before the watch began are
//! steady. Workload and pods come by different watches: where a pod is not ready although
//! its workload counts it, the workload's news is old, but not for longer than [`DISAGREEMENT`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::object::ObjectId;
use crate::object::at;
use crate::object::list;
use crate::object::number;
use crate::object::text;
use crate::rollout::Standing;
use crate::rollout::condition;
use crate::rollout::has_condition;

/// The kubelet looks at its containers once a second, so the end of one that was seen running is
/// known after two; one more for a busy node.
const STEADY: Duration = Duration::from_secs(3);

/// Containers that are not started again are programs that end: they get longer to show how.
const PROGRAM: Duration = Duration::from_secs(5);

/// How much longer than its former self a container that was started again has to live, and at least
/// and at most: the first back-off of the kubelet is 10 s, and it forgets none under 10 min.
const OUTLIVES: Duration = Duration::from_secs(5);
const TRIAL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// A pod that has been ready for so long when the watch begins was not made by this run; clocks of
/// nodes and agent may differ by less than this.
const LONG_AGO: i64 = 30;

/// How long pods can keep a workload back that calls itself ready all the time.
const DISAGREEMENT: Duration = Duration::from_secs(10);

/// Since when pods have been ready.
#[derive(Debug)]
pub(super) struct Settle {
    began: jiff::Timestamp,
    held: BTreeMap<ObjectId, Instant>,
    since: BTreeMap<String, (i64, Instant)>,
}

impl Settle {
    pub(super) const fn new(began: jiff::Timestamp) -> Self {
        Self {
            began,
            held: BTreeMap::new(),
            since: BTreeMap::new(),
        }
    }

    /// Notes how the pods of a workload stand now; says whether the workload, which calls itself ready
    /// or not, has to be held back.
    pub(super) fn holds(
        &mut self,
        workload: &ObjectId,
        standing: &Standing,
        pods: &[&Value],
        now: Instant,
    ) -> bool {
        // Every pod is noted, so that all of them age at the same time.
        let unsteady = pods.iter().filter(|pod| !self.is_steady(pod, now)).count();
        if *standing != Standing::Ready || unsteady == 0 {
            self.held.remove(workload);
            return false;
        }
        let since = *self.held.entry(workload.clone()).or_insert(now);
        now.duration_since(since) < DISAGREEMENT
    }

    /// Notes how a pod stands now; says whether it is steady.
    fn is_steady(&mut self, pod: &Value, now: Instant) -> bool {
        let uid = text(pod, &["metadata", "uid"]);
        if !has_condition(pod, "Ready", "True") {
            self.since.remove(uid);
            // Pods that ended stay behind without being counted by anybody.
            return matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded");
        }
        if self.is_old(pod) {
            return true;
        }
        let restarts = list(pod, &["status", "containerStatuses"])
            .iter()
            .filter_map(|status| number(status, &["restartCount"]))
            .sum();
        let entry = self.since.entry(uid.to_owned()).or_insert((restarts, now));
        if entry.0 != restarts {
            *entry = (restarts, now);
        }
        now.duration_since(entry.1) >= self.trial(pod)
    }

    /// How long a pod has to be ready until that counts.
    fn trial(&self, pod: &Value) -> Duration {
        let lived = list(pod, &["status", "containerStatuses"])
            .iter()
            .filter_map(|status| {
                let ended = at(status, &["lastState", "terminated"])?;
                let moment = |name| text(ended, &[name]).parse::<jiff::Timestamp>().ok();
                let end = moment("finishedAt").filter(|end| *end >= self.began)?;
                let start = moment("startedAt").unwrap_or(end);
                Some(Duration::try_from(end.duration_since(start)).unwrap_or_default())
            })
            .max();
        match lived {
            Some(lived) => (lived + OUTLIVES).clamp(TRIAL.0, TRIAL.1),
            None if every_container_is_probed(pod) => Duration::ZERO,
            None if matches!(text(pod, &["spec", "restartPolicy"]), "Never" | "OnFailure") => {
                PROGRAM
            }
            None => STEADY,
        }
    }

    fn is_old(&self, pod: &Value) -> bool {
        condition(pod, "Ready")
            .and_then(|ready| text(ready, &["lastTransitionTime"]).parse().ok())
            .is_some_and(|since: jiff::Timestamp| {
                since.as_second() + LONG_AGO < self.began.as_second()
            })
    }
}

fn every_container_is_probed(pod: &Value) -> bool {
    list(pod, &["spec", "containers"])
        .iter()
        .all(|container| at(container, &["readinessProbe"]).is_some_and(|probe| !probe.is_null()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(ready: &str, restarts: i64) -> Value {
        json!({
            "metadata": {"uid": "p"},
            "spec": {"containers": [{"name": "app"}]},
            "status": {
                "conditions": [{
                    "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
                "containerStatuses": [{"restartCount": restarts}],
            },
        })
    }

    fn settle(began: &str) -> Settle {
        Settle::new(began.parse().expect("a timestamp"))
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_pod_without_a_probe_is_steady_after_three_seconds_without_a_restart() {
        let mut settle = settle("2026-01-01T00:00:00Z");
        let start = Instant::now();
        assert!(!settle.is_steady(&pod("True", 0), start));
        assert!(!settle.is_steady(&pod("True", 1), start + 3 * SECOND));
        assert!(settle.is_steady(&pod("True", 1), start + 6 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_was_started_again_outlives_its_former_self() {
        let mut settle = settle("2026-01-01T00:00:00Z");
        let start = Instant::now();
        let mut again = pod("True", 1);
        again["spec"]["containers"][0]["readinessProbe"] = json!({"periodSeconds": 1});
        again["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {
            "startedAt": "2026-01-01T00:00:10Z", "finishedAt": "2026-01-01T00:00:40Z",
        }});
        assert!(!settle.is_steady(&again, start));
        assert!(!settle.is_steady(&again, start + 34 * SECOND));
        assert!(settle.is_steady(&again, start + 35 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_was_not_ready_in_between_starts_anew() {
        let mut settle = settle("2026-01-01T00:00:00Z");
        let start = Instant::now();
        assert!(!settle.is_steady(&pod("True", 0), start));
        settle.is_steady(&pod("False", 0), start + SECOND);
        assert!(!settle.is_steady(&pod("True", 0), start + 2 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn probed_pods_and_pods_from_before_are_steady() {
        let mut probed = pod("True", 0);
        probed["spec"]["containers"][0]["readinessProbe"] = json!({"periodSeconds": 1});
        assert!(settle("2026-01-01T00:00:00Z").is_steady(&probed, Instant::now()));
        let mut later = settle("2026-01-01T01:00:00Z");
        assert!(later.is_steady(&pod("True", 0), Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_not_ready_holds_its_workload_back_for_ten_seconds_at_most() {
        let mut settle = settle("2026-01-01T00:00:00Z");
        let start = Instant::now();
        let workload = ObjectId {
            gvk: crate::object::Gvk::new("apps/v1", "StatefulSet"),
            namespace: None,
            name: "db".to_owned(),
        };
        let pod = pod("False", 0);
        let mut holds = |standing: &Standing, seconds: u32| {
            settle.holds(&workload, standing, &[&pod], start + seconds * SECOND)
        };
        assert!(holds(&Standing::Ready, 0));
        assert!(!holds(&Standing::Pending(String::new()), 5));
        assert!(holds(&Standing::Ready, 6));
        assert!(holds(&Standing::Ready, 15));
        assert!(!holds(&Standing::Ready, 16));
    }
}
