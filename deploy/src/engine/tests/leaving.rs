//! Runs whose followers leave: what is kept, cancelled or taken back, and how that is told.

use futures::StreamExt as _;
use serde_json::json;

use super::flux;
use super::*;
use crate::ports::Observation;
use crate::ports::Scope as Watch;
use crate::principal::Actor;

fn spec(on_disconnect: &str) -> String {
    format!(
        "version: 1\nname: app\nmanifests: [k8s/]\nrollout: {{ timeout: 60s{on_disconnect} }}\n"
    )
}

fn web(tag: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web }}\nspec:\n  \
         selector: {{ matchLabels: {{ app: web }} }}\n  template:\n    metadata: {{ labels: {{ app: web }} }}\n    \
         spec: {{ containers: [{{ name: web, image: \"registry.example.com/web:{tag}\" }}] }}\n"
    )
}

fn image(stage: &Stage) -> String {
    let found = stage
        .fakes
        .cluster
        .object(&id("apps/v1", "Deployment", "web"));
    let found = found.unwrap_or_default();
    let image = found.pointer("/spec/template/spec/containers/0/image");
    image.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Plays the controller of Deployments, with which no image but that of tag 1 ever becomes ready.
async fn play(stage: &Stage) {
    let actor = Actor {
        user: "controller".to_owned(),
        groups: Vec::new(),
    };
    let web = id("apps/v1", "Deployment", "web");
    let scope = Watch {
        gvk: web.gvk.clone(),
        namespace: web.namespace.clone(),
        name: None,
    };
    let cluster = stage.fakes.ports().cluster;
    let mut seen = cluster.observe(&actor, vec![scope]);
    while let Some(observed) = seen.next().await {
        let Observation::Present(mut object) = observed else {
            continue;
        };
        let generation = object["metadata"]["generation"].clone();
        if object["status"]["observedGeneration"] == generation {
            continue;
        }
        let ready = i32::from(image(stage).ends_with(":1"));
        object["status"] = json!({ "observedGeneration": generation, "replicas": 1, "updatedReplicas": 1,
            "readyReplicas": ready, "availableReplicas": ready, "unavailableReplicas": 1 - ready,
            "conditions": [{ "type": "Available", "status": if ready == 1 { "True" } else { "False" } }] });
        stage.fakes.cluster.set(&web, object);
    }
}

/// Runs while the controller is played.
async fn run(stage: &Stage, spec: &str, tag: &str) -> Report {
    let web = web(tag);
    tokio::select! {
        report = stage.run(spec, &web, Mode::Deploy) => report,
        () = play(stage) => panic!("the controller ended"),
    }
}

/// A stage on which tag 1 is deployed and ready.
async fn stage() -> Stage {
    let stage = Stage::new();
    let report = run(&stage, &spec(""), "1").await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    stage
}

#[tokio::test(start_paused = true)]
async fn by_default_a_run_without_followers_goes_on() {
    let stage = stage().await;
    let report = run(&stage, &spec(""), "2").await;
    assert_eq!(report.code, Some(Code::RolloutTimeout), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn where_the_spec_says_so_it_is_cancelled_and_says_why() {
    let stage = stage().await;
    // From here on nobody is there.
    drop(stage.seats.take());
    let began = Instant::now();
    let report = run(&stage, &spec(", on_disconnect: cancel"), "2").await;
    assert_eq!(
        (report.status, report.code),
        (Status::Cancelled, Some(Code::Cancelled))
    );
    assert_eq!(began.elapsed().as_secs(), 15);
    assert_eq!(image(&stage), "registry.example.com/web:2");
    let expected = "the job was gone for 15 s; cancelled, as rollout.on_disconnect asks: the run was cancelled \
                    after everything was written; the rollout goes on unwatched";
    assert_eq!(report.message, expected);
    let problem = report.problem.expect("it did not succeed");
    assert_eq!(problem.detail, expected);
}

#[tokio::test(start_paused = true)]
async fn where_the_spec_says_so_the_last_revision_comes_back() {
    let stage = stage().await;
    let report = run(&stage, &spec(", on_disconnect: rollback"), "2").await;
    assert_eq!(
        (report.status, report.code),
        (Status::RolledBack, Some(Code::Cancelled))
    );
    assert_eq!(
        report.message,
        "the job was gone for 15 s; cancelled, as rollout.on_disconnect asks; revision 1 is back and ready"
    );
    assert_eq!(image(&stage), "registry.example.com/web:1");
}

#[tokio::test(start_paused = true)]
async fn a_first_revision_has_nothing_to_come_back() {
    let stage = Stage::new();
    let report = run(&stage, &spec(", on_disconnect: rollback"), "2").await;
    assert_eq!(report.status, Status::Cancelled, "{report:?}");
    assert!(
        report
            .message
            .ends_with("; no earlier revision is recorded to go back to"),
        "{}",
        report.message
    );
    assert_eq!(image(&stage), "registry.example.com/web:2");
}

#[tokio::test(start_paused = true)]
async fn a_follower_keeps_it() {
    let stage = stage().await;
    let _seat = stage.seats.take();
    let report = run(&stage, &spec(", on_disconnect: cancel"), "2").await;
    assert_eq!(report.code, Some(Code::RolloutTimeout), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_comes_back_within_the_grace_keeps_it() {
    let stage = stage().await;
    let away_and_back = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(14)).await;
            drop(stage.seats.take());
        }
        std::future::pending::<()>().await;
    };
    let spec = spec(", on_disconnect: rollback");
    let report = tokio::select! {
        report = run(&stage, &spec, "2") => report,
        () = away_and_back => panic!("it never ends"),
    };
    assert_eq!(report.code, Some(Code::RolloutTimeout), "{report:?}");
    assert_eq!(image(&stage), "registry.example.com/web:2");
}

#[tokio::test(start_paused = true)]
async fn who_cancels_does_not_ask_for_a_rollback() {
    let stage = stage().await;
    let spec = spec(", on_disconnect: rollback");
    let cancel = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        stage.stop.cancel();
        std::future::pending::<()>().await;
    };
    let report = tokio::select! {
        report = run(&stage, &spec, "2") => report,
        () = cancel => panic!("it never ends"),
    };
    assert_eq!(report.status, Status::Cancelled, "{report:?}");
    assert!(!report.message.contains("gone"), "{}", report.message);
    assert_eq!(image(&stage), "registry.example.com/web:2");
}

#[tokio::test(start_paused = true)]
async fn a_way_back_is_not_cut_when_the_followers_leave() {
    let stage = stage().await;
    let stays = async {
        let seat = stage.seats.take();
        // The deadline of the rollout has passed and the way back has begun.
        while image(&stage) != "registry.example.com/web:2" {
            tokio::task::yield_now().await;
        }
        while image(&stage) != "registry.example.com/web:1" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(seat);
        std::future::pending::<()>().await;
    };
    let spec = spec(", on_failure: rollback, on_disconnect: cancel");
    let web = web("2");
    let report = tokio::select! {
        // No controller: what comes back is not ready before the audience has left.
        report = stage.run(&spec, &web, Mode::Deploy) => report,
        () = stays => panic!("it never ends"),
    };
    assert!(stage.text().contains("nobody has followed this run"));
    assert_eq!(
        (report.status, report.code),
        (Status::RollbackFailed, Some(Code::RolloutTimeout))
    );
    assert!(
        report.message.contains("was not done after 60 s"),
        "{}",
        report.message
    );
}

#[tokio::test(start_paused = true)]
async fn a_way_back_that_is_cut_by_a_restart_is_gone_to_its_end() {
    let stage = stage().await;
    let spec = spec(", on_disconnect: rollback");
    let web = web("2");
    let began = stage.run(&spec, &web, Mode::DryRun).await;
    stage.fakes.journal.clear();
    // No controller: what comes back is not ready while this process lives.
    let work = stage.run(&spec, &web, Mode::Deploy);
    let ended = tokio::time::timeout(Duration::from_secs(20), work).await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(image(&stage), "registry.example.com/web:1");
    let report = tokio::select! {
        report = stage.go_on(&began) => report.expect("it has a brief"),
        () = play(&stage) => panic!("the controller ended"),
    };
    assert_eq!(report.status, Status::RolledBack, "{report:?}");
    assert!(
        report.message.ends_with(
            "it was on its way back to what worked before; revision 1 is back and ready"
        ),
        "{}",
        report.message
    );
    assert_eq!(image(&stage), "registry.example.com/web:1");
}

#[tokio::test(start_paused = true)]
async fn through_flux_the_commit_is_taken_back() {
    let stage = flux::stage();
    let spec = flux::SPEC.replace("on_failure: revert", "on_disconnect: rollback");
    // Flux answers only once the commit is taken back.
    let report = tokio::select! {
        report = stage.run(&spec, "", Mode::Deploy) => report,
        () = async {
            while flux::head(&stage).1 != flux::file("2") {
                tokio::task::yield_now().await;
            }
            while flux::head(&stage).1 != flux::file("1") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            flux::play(&stage).await;
        } => panic!("Flux ended"),
    };
    assert_eq!(
        (report.status, report.code),
        (Status::RolledBack, Some(Code::Cancelled)),
        "{report:?}"
    );
    assert!(
        report.message.starts_with(
            "the job was gone for 15 s; cancelled, as rollout.on_disconnect asks; commit "
        ),
        "{}",
        report.message
    );
    assert_eq!(flux::head(&stage).1, flux::file("1"));
}
