//! The environment that a promotion takes its images from: what its branch names now, and whether it is ready.
//!
//! Called by [`super::super`] before anything else of the run. The environment is judged by the look of any deploy
//! through Flux: it is asked to take up the newest commit of its branch, and its workloads are watched. A dry run
//! asks for nothing and tells what is not ready yet. Invariant: nothing of the target is touched here, and the
//! images are those of the commit that was judged.

use std::collections::BTreeMap;

use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Mode;
use proto::report::Status;
use tokio::time::Instant;

use super::Fleet;
use super::delivery::Delivery;
use super::open;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::engine::Elsewhere;
use crate::engine::Tools;
use crate::engine::back::tell_causes;
use crate::engine::course::KEPT;
use crate::fleet;
use crate::flux::FluxError;
use crate::flux::scene;
use crate::flux::wait::Pushed;
use crate::image::ImageRef;
use crate::ports::CommitId;
use crate::ports::Ports;
use crate::report;
use crate::report::Verdict;
use crate::spec::Flux;

type Images = BTreeMap<String, ImageRef>;

/// Puts the images of its origin into a permit; one without an origin passes through unchanged.
pub(in crate::engine) async fn complete(
    mut permit: Permit,
    elsewhere: Option<Elsewhere>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Permit, Problem> {
    let Some(origin) = permit.take_origin() else {
        return Ok(permit);
    };
    let (cluster, login) = match elsewhere {
        Some(Elsewhere { cluster, login }) => (cluster, login),
        None => (tools.ports.cluster.clone(), None),
    };
    let ports = Ports {
        cluster,
        ..tools.ports.clone()
    };
    let there = Tools {
        id: tools.id.clone(),
        ports: &ports,
        log: tools.log,
        key: tools.key,
        stop: tools.stop.clone(),
        end: tools.end.clone(),
        audience: tools.audience,
        agent: tools.agent,
        home: None,
    };
    // Its own time, so that an environment that hangs leaves some for the run to tell it.
    let limit = Instant::now() + origin.request().spec.rollout.timeout;
    let patience = Patience {
        deadline: patience.deadline.min(limit),
        ..patience.clone()
    };
    let Some(fleet) = open(&origin, login.as_ref(), &there, &patience).await? else {
        return Ok(permit);
    };
    let found = images(origin, &fleet, &there, &patience).await;
    fleet.close(&there, &patience).await;
    permit
        .with_images(found?)
        .map_err(|denial| report::of_denial(&denial))
}

/// Reads the images and lets the environment be judged with them.
async fn images(
    origin: Permit,
    fleet: &Fleet,
    there: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Images, Problem> {
    let Some(flux) = origin.request().spec.flux.clone() else {
        return Ok(Images::new());
    };
    let name = origin.request().spec.name.clone();
    let refused = |problem: Problem| Problem {
        detail: format!("promoting from {name}: {}", problem.detail),
        ..problem
    };
    there
        .log
        .start(Stage::Plan, "look at the environment to promote from");
    let read = read(&origin, &flux, fleet, there, patience).await;
    there.log.end_stage(Stage::Plan);
    let (commit, images) = read.map_err(|error| refused(report::flux::of_flux(&error)))?;
    let short = commit.short();
    for (image, reference) in &images {
        let text = format!("{name} has {image} {reference} at commit {short}");
        there.log.info(text);
        if reference.digest.is_none() {
            there.log.warn(format!(
                "{image} has no digest there, so the tag may mean another image by now"
            ));
        }
    }
    let origin = origin
        .with_images(images.clone())
        .map_err(|denial| refused(report::of_denial(&denial)))?;
    match origin.request().mode {
        Mode::DryRun => {
            let open = scene::standing(&origin, &flux, &commit, there.ports, patience).await;
            let open = open.map_err(|error| not_ready(&name.to_string(), &error.to_string()))?;
            for one in open {
                there.log.warn(format!("{one}: a promotion waits for it"));
            }
        }
        Mode::Deploy | Mode::Rollback | Mode::Rotation => {
            let judged = judge(&origin, &flux, &commit, fleet, there, patience).await;
            if judged.status != Status::Succeeded {
                tell_causes(&judged, there);
                let evidence = judged.causes.iter().flat_map(|cause| &cause.evidence);
                evidence.for_each(|line| there.log.error(line.clone()));
                let why = judged.message.replace(KEPT, "");
                return Err(not_ready(&name.to_string(), &why));
            }
        }
    }
    Ok(images)
}

async fn read(
    origin: &Permit,
    flux: &Flux,
    fleet: &Fleet,
    there: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<(CommitId, Images), FluxError> {
    let notes = scene::able(origin, flux, there.ports, patience).await?;
    notes.iter().for_each(|note| there.log.warn(note));
    let tip = scene::tip(flux, &fleet.login, there.ports, patience).await?;
    let names = &origin.request().spec.images;
    let images = fleet::told::images(&tip.files, names, &flux.values).map_err(FluxError::Edit)?;
    Ok((tip.commit, images))
}

/// Judges the environment at a commit.
async fn judge(
    origin: &Permit,
    flux: &Flux,
    commit: &CommitId,
    fleet: &Fleet,
    there: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    let delivery = Delivery {
        permit: origin,
        flux,
        login: &fleet.login,
        tools: there,
        patience: patience.clone(),
        own: &[],
        pushed: Pushed::Surely,
    };
    delivery.verdict(commit).await
}

fn not_ready(name: &str, why: &str) -> Problem {
    let detail = format!("{name} is not ready, so its images are not promoted: {why}");
    Problem::new(Code::PromotionRefused, detail).hint(
        "mend that environment, or deploy another image to it; its own deploys say how it stands",
    )
}
