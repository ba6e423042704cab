//! Which workloads are scaled by somebody else: a HorizontalPodAutoscaler, live or of this bundle.
//!
//! Called by [`super::dry_run`] before the dry runs. Their `.spec.replicas` are left by rule.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::backoff::Patience;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::at;
use crate::object::text;
use crate::plan::Live;
use crate::plan::Plan;
use crate::plan::cluster_trouble;
use crate::ports::Ports;
use serde_json::Value;

/// Workloads that are scaled: namespace, kind and name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scaled(BTreeSet<(String, String, String)>);

impl Scaled {
    /// Says whether an object is scaled.
    pub(super) fn has(&self, id: &ObjectId) -> bool {
        let namespace = id.namespace.clone().unwrap_or_default();
        let target = (namespace, id.gvk.kind.clone(), id.name.clone());
        self.0.contains(&target)
    }

    fn add(&mut self, autoscaler: &Value) {
        let of = |path: &[&str]| text(autoscaler, path).to_owned();
        self.0.insert((
            of(&["metadata", "namespace"]),
            of(&["spec", "scaleTargetRef", "kind"]),
            of(&["spec", "scaleTargetRef", "name"]),
        ));
    }
}

/// Finds the workloads that are scaled. Asks the cluster only where a workload with replicas is
/// there already; where the job may not list autoscalers, those of the bundle are all that is known.
pub(super) async fn scaled(
    plan: &Plan,
    observed: &BTreeMap<ObjectId, Live>,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Scaled {
    let mut found = Scaled::default();
    let mut namespaces = BTreeSet::new();
    for step in plan.steps().iter().filter(|step| step.checked.is_none()) {
        if step.id.gvk.is("autoscaling", "HorizontalPodAutoscaler") {
            found.add(step.content.body());
        }
        if let Some(Live::Object(live)) = observed.get(&step.id)
            && at(live, &["spec", "replicas"]).is_some()
            && let Some(namespace) = &step.id.namespace
        {
            namespaces.insert(namespace.as_str());
        }
    }
    let gvk = Gvk::new("autoscaling/v2", "HorizontalPodAutoscaler");
    let actor = plan.permit().actor();
    for namespace in namespaces {
        let listed = patience
            .retry(
                || ports.cluster.list(actor, &gvk, Some(namespace)),
                cluster_trouble,
            )
            .await;
        match listed {
            Ok(autoscalers) => autoscalers
                .iter()
                .for_each(|found_one| found.add(found_one)),
            Err(error) => patience.log.info(format!(
                "autoscalers of namespace {namespace} cannot be listed ({error}); replicas that a \
                 controller of the cluster set are left all the same"
            )),
        }
    }
    found
}
