//! Going on with a run that a former process left: the policy is asked again, then the engine goes on.
//!
//! Used by [`super::intake`]. No token of the run is left, so nothing here
//! asks Vault for anything. A run that the policy does not allow any more ends as it stands.

use std::sync::Arc;

use deploy::authorize;
use deploy::authorize::Permit;
use deploy::engine;
use deploy::engine::Tools;
use deploy::log::RunLog;
use deploy::ports::Ports;
use deploy::request::Request;
use deploy::resume::Brief;
use deploy::resume::Progress;
use futures::FutureExt as _;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Report;
use proto::report::Status;

use super::intake::Intake;
use crate::clock;
use crate::gitlab::Herald;
use crate::gitlab::Known;
use crate::http::brain::denied;
use crate::http::brain::invalid;
use crate::journal::UnfinishedRun;
use crate::runs::RunTools;
use crate::runs::Work;

/// How often a cluster that does not answer yet is asked how it serves the run's kinds.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

impl Intake {
    /// Makes the work of going on; `None` where the journal does not say how.
    pub(super) fn resume(
        self: &Arc<Self>,
        cut: &UnfinishedRun,
        began: &Report,
    ) -> Option<(Work, Option<Herald>)> {
        let brief = Brief::read(cut.brief.clone()?)?;
        let progress = cut.progress();
        let standing = cut.phase.message();
        let herald = self.herald(
            &brief.principal(),
            began.mode,
            (&began.name, &began.namespace),
            Known::FromBefore,
        );
        let (intake, began) = (Arc::clone(self), began.clone());
        let work: Work = Box::new(move |run: RunTools| {
            async move {
                match intake.permitted(&brief, &run).await {
                    Ok(permit) => intake.go_on(permit, &brief, progress, began, run).await,
                    Err(problem) => ended(&began, standing, &problem, &run.log, &intake),
                }
            }
            .boxed()
        });
        Some((work, herald))
    }

    /// Asks the present policy for what the former process had.
    async fn permitted(&self, brief: &Brief, run: &RunTools) -> Result<Permit, Problem> {
        let served = loop {
            let request = brief.request().map_err(invalid)?;
            match self.served(&request).await {
                Ok(served) => break served,
                Err(problem) if !problem.retryable => return Err(problem),
                // The cluster may be starting too.
                Err(problem) if self.clock.now() >= brief.deadline => return Err(problem),
                Err(_) => {}
            }
            tokio::select! {
                // Nothing was begun, so giving up is safe; the token stays cancelled.
                () = run.stop.cancelled() => {
                    return Err(Problem::new(Code::Cancelled, "the run was told to stop"));
                }
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        };
        let lost = |_| Problem::new(Code::Internal, "the decision got no id");
        let decision = clock::decision_id().map_err(lost)?;
        let request: Request = brief.request().map_err(invalid)?;
        let permit =
            authorize::authorize(&self.policy, brief.principal(), request, &served, &decision)
                .map_err(denied)?;
        if !brief.is_for(&permit) || !self.clusters.contains_key(permit.cluster()) {
            let detail = "the policy now sends this run to another place";
            return Err(Problem::new(Code::Denied, detail));
        }
        Ok(permit)
    }

    async fn go_on(
        &self,
        permit: Permit,
        brief: &Brief,
        progress: Progress,
        began: Report,
        run: RunTools,
    ) -> Report {
        // It was looked up when the permit was made.
        let cluster = self.clusters.get(permit.cluster());
        let adapters = cluster.zip(self.renderers.get(permit.cluster()));
        let Some((cluster, renderer)) = adapters else {
            let problem = Problem::new(Code::Internal, "the cluster is gone");
            return ended(&began, "", &problem, &run.log, self);
        };
        let ports = Ports {
            secrets: Arc::clone(&self.secrets),
            cluster: Arc::clone(cluster),
            renderer: Arc::clone(renderer),
            git: Arc::clone(&self.git),
            registry: Arc::clone(&self.registry),
            clock: Arc::clone(&self.clock),
            journal: run.journal,
        };
        let tools = Tools {
            id: run.id,
            ports: &ports,
            log: &run.log,
            key: &self.key,
            stop: run.stop,
            end: run.end,
            audience: &run.audience,
            agent: &self.agent,
            home: self.home.as_ref(),
        };
        engine::resume(permit, brief, progress, began, tools).await
    }
}

/// Ends a run that may not go on.
fn ended(began: &Report, standing: &str, why: &Problem, log: &RunLog, intake: &Intake) -> Report {
    let status = if why.code == Code::Cancelled {
        Status::Cancelled
    } else {
        Status::Interrupted
    };
    let message = format!(
        "the agent was stopped during the run, which may not go on ({}); {standing}",
        why.detail
    );
    log.start(Stage::Report, "verdict");
    log.error(message.clone());
    log.end_stage(Stage::Report);
    log.end(status);
    let mut report = began.clone();
    report.status = status;
    report.finished = Some(format!("{:.3}", intake.clock.now()));
    report.code = Some(Code::Interrupted);
    report.problem = Some(Problem::new(Code::Interrupted, message.clone()));
    report.message = message;
    report
}
