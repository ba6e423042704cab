//! Every watch cause on the real kubelet: the verdict names it, the log ends with it, and it comes soon.
//!
//! Each prints a line of the table "seconds from the cause being visible to the verdict" and the end of its
//! log, for people who run with `--nocapture`. No time is asserted.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use tests::submission::Finished;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tokio::time::Instant;

use crate::samples::Deployment;
use crate::samples::spec;
use crate::samples::spec_until;

/// A bad deployment and what has to be said about it.
struct Case<'a> {
    /// The cause's stable word.
    kind: &'a str,
    /// The manifest.
    manifest: String,
    /// The spec.
    spec: String,
    /// JSONPath of pods that shows the cause, and the text to be found there.
    visible: (&'a str, &'a str),
    /// Words that the evidence has to hold.
    evidence: &'a [&'a str],
}

/// Deploys, measures from the moment when the cause can be seen in the API, checks verdict and digest.
async fn judge(world: &World, case: &Case<'_>) -> Result<Finished> {
    let files = [
        ("quaymaster.yaml", case.spec.as_str()),
        ("k8s/web.yaml", case.manifest.as_str()),
    ];
    let job = world.job()?;
    let seen = async {
        let (resource, text) = case.visible;
        until(
            "the cause to be visible",
            Duration::from_secs(100),
            async || match world.kubectl(&["get", resource, "-o", "json"]).await {
                Ok(body) if body.contains(text) => Look::Ready(Instant::now()),
                Ok(_) => Look::NotYet(format!("no {text} in {resource}")),
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
        )
        .await
    };
    let run = async {
        let done = world.deploy_as(&job, "/v1/deploys", &files).await?;
        anyhow::Ok((done, Instant::now()))
    };
    let (seen, run) = tokio::join!(seen, run);
    let (done, ended) = run?;
    ensure!(done.status() == 424, "{}\n{}", done.answer.text(), done.log);
    let after = ended.saturating_duration_since(seen?).as_secs_f64();
    let tail: Vec<&str> = done.log.lines().rev().take(15).collect();
    println!("| {} | {after:.1} s |", case.kind);
    tail.iter().rev().for_each(|line| println!("    {line}"));
    let causes = done.causes();
    ensure!(
        causes.first().is_some_and(|kind| kind == case.kind),
        "{causes:?}\n{}",
        done.log
    );
    let end = tail.join("\n");
    for word in case.evidence {
        ensure!(
            end.contains(word),
            "{word} is not in the last lines:\n{}",
            done.log
        );
    }
    Ok(done)
}

/// A world on a real node; without one there is nothing to show here, and the stand says so loudly.
async fn real(name: &str) -> Result<Option<World>> {
    let world = World::new(name).await?;
    Ok(world.stand.facts().has_node.then_some(world))
}

#[tokio::test]
async fn a_missing_image_is_named() -> Result<()> {
    let Some(world) = real("image").await? else {
        return Ok(());
    };
    let image = format!("{}/no-such-image:1", world.stand.facts().registry);
    let case = Case {
        kind: "image_missing",
        manifest: Deployment {
            image: &image,
            ..Deployment::default()
        }
        .yaml(),
        spec: spec(""),
        visible: ("pods", "ErrImagePull"),
        evidence: &["no-such-image:1", "what to do"],
    };
    judge(&world, &case).await.map(drop)
}

/// A registry that lets nobody in: what the kubelet sees of one that wants other credentials.
const CLOSED: &str = "
from http.server import BaseHTTPRequestHandler, HTTPServer
class Closed(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401)
        self.send_header('WWW-Authenticate', 'Basic realm=closed')
        self.send_header('Content-Length', '0')
        self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *words):
        pass
HTTPServer(('127.0.0.1', 5055), Closed).serve_forever()
";

#[tokio::test]
async fn a_registry_that_refuses_us_is_named() -> Result<()> {
    let Some(world) = real("auth").await? else {
        return Ok(());
    };
    let _registry = world
        .stand
        .inside("python3")
        .args(["-c", CLOSED])
        .kill_on_drop(true)
        .spawn()?;
    let case = Case {
        kind: "image_auth",
        manifest: Deployment {
            image: "localhost:5055/team/app:1",
            ..Deployment::default()
        }
        .yaml(),
        spec: spec(""),
        visible: ("pods", "ErrImagePull"),
        evidence: &["localhost:5055/team/app:1", "what to do"],
    };
    judge(&world, &case).await.map(drop)
}

#[tokio::test]
async fn a_crash_shows_exit_code_and_last_lines() -> Result<()> {
    let Some(world) = real("crash").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let shell = "echo starting; echo cannot find my database; exit 3";
    let case = Case {
        kind: "crash",
        manifest: Deployment {
            image: &image,
            shell,
            ..Deployment::default()
        }
        .yaml(),
        spec: spec(""),
        visible: ("pods", "CrashLoopBackOff"),
        evidence: &["code 3", "cannot find my database"],
    };
    judge(&world, &case).await.map(drop)
}

#[tokio::test]
async fn a_missing_config_key_is_named() -> Result<()> {
    let Some(world) = real("confkey").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let conf = crate::samples::config_map("conf", "v");
    let container =
        "env:\n  - name: X\n    valueFrom: { configMapKeyRef: { name: conf, key: nokey } }";
    let manifest = format!(
        "{}---\n{conf}",
        Deployment {
            image: &image,
            container,
            ..Deployment::default()
        }
        .yaml()
    );
    let case = Case {
        kind: "config_key_missing",
        manifest,
        spec: spec(""),
        visible: ("pods", "CreateContainerConfigError"),
        evidence: &["nokey", "conf"],
    };
    judge(&world, &case).await.map(drop)
}

#[tokio::test]
async fn a_missing_secret_is_named() -> Result<()> {
    let Some(world) = real("nosecret").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let container = "env:\n  - name: X\n    valueFrom: { secretKeyRef: { name: absent, key: k } }";
    let case = Case {
        kind: "secret_missing",
        manifest: Deployment {
            image: &image,
            container,
            ..Deployment::default()
        }
        .yaml(),
        spec: spec(""),
        visible: ("pods", "CreateContainerConfigError"),
        evidence: &["absent"],
    };
    judge(&world, &case).await.map(drop)
}

#[tokio::test]
async fn running_out_of_memory_is_named() -> Result<()> {
    let Some(world) = real("oom").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let shell = "echo filling; tail /dev/zero";
    let container = "resources: { limits: { memory: 16Mi } }";
    let case = Case {
        kind: "oom_killed",
        manifest: Deployment {
            image: &image,
            shell,
            container,
            ..Deployment::default()
        }
        .yaml(),
        spec: spec(""),
        visible: ("pods", "OOMKilled"),
        evidence: &["16Mi"],
    };
    judge(&world, &case).await.map(drop)
}

#[tokio::test]
async fn a_failing_probe_is_named_at_the_deadline() -> Result<()> {
    let Some(world) = real("probe").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let container = "readinessProbe: { exec: { command: [\"/bin/sh\", \"-c\", \"exit 1\"] }, periodSeconds: 1 }";
    let case = Case {
        kind: "probe_failing",
        manifest: Deployment {
            image: &image,
            container,
            ..Deployment::default()
        }
        .yaml(),
        spec: spec_until("20s"),
        visible: ("events", "Readiness probe failed"),
        evidence: &["readiness"],
    };
    let done = judge(&world, &case).await?;
    ensure!(
        done.code() == "rollout_timeout" || done.json()?["code"] == "rollout_timeout",
        "{}",
        done.answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn an_unschedulable_pod_is_named_at_the_deadline() -> Result<()> {
    let Some(world) = real("sched").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let case = Case {
        kind: "unschedulable",
        manifest: Deployment {
            image: &image,
            pod: "nodeSelector: { no: such-node }",
            ..Deployment::default()
        }
        .yaml(),
        spec: spec_until("15s"),
        visible: ("pods", "Unschedulable"),
        evidence: &["node"],
    };
    judge(&world, &case).await.map(drop)
}

#[tokio::test]
async fn a_quota_that_refuses_pods_is_named() -> Result<()> {
    let Some(world) = real("quota").await? else {
        return Ok(());
    };
    world
        .kubectl(&["create", "quota", "tight", "--hard=pods=0"])
        .await?;
    let image = world.stand.busybox();
    let case = Case {
        kind: "quota_exceeded",
        manifest: Deployment {
            image: &image,
            ..Deployment::default()
        }
        .yaml(),
        spec: spec(""),
        visible: ("events", "exceeded quota"),
        evidence: &["tight"],
    };
    judge(&world, &case).await.map(drop)
}

#[tokio::test]
async fn pod_security_that_refuses_pods_is_named() -> Result<()> {
    let Some(world) = real("psa").await? else {
        return Ok(());
    };
    world
        .stand
        .kubectl(&[
            "label",
            "namespace",
            &world.namespace,
            "pod-security.kubernetes.io/enforce=restricted",
        ])
        .await?;
    let image = world.stand.busybox();
    let case = Case {
        kind: "admission_refused",
        manifest: Deployment {
            image: &image,
            ..Deployment::default()
        }
        .yaml(),
        spec: spec(""),
        visible: ("events", "violates PodSecurity"),
        evidence: &["PodSecurity"],
    };
    judge(&world, &case).await.map(drop)
}

#[tokio::test]
async fn a_failed_job_is_named() -> Result<()> {
    let Some(world) = real("job").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let manifest = format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: migrate }}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n        - name: main\n          image: {image}\n          command: [\"/bin/sh\", \"-c\", \"echo column exists already; exit 7\"]\n"
    );
    let case = Case {
        kind: "job_failed",
        manifest,
        spec: spec(""),
        visible: ("jobs", "BackoffLimitExceeded"),
        evidence: &["column exists already"],
    };
    judge(&world, &case).await.map(drop)
}

#[tokio::test]
async fn a_slow_start_is_no_failure() -> Result<()> {
    let Some(world) = real("slow").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let container = "readinessProbe: { exec: { command: [\"/bin/sh\", \"-c\", \"test -e /ok\"] }, periodSeconds: 1, failureThreshold: 1 }";
    let manifest = Deployment {
        image: &image,
        shell: "sleep 8; touch /ok; exec sleep 3600",
        container,
        ..Deployment::default()
    };
    let (spec, manifest) = (spec(""), manifest.yaml());
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/web.yaml", &manifest)])
        .await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    Ok(())
}

#[tokio::test]
async fn a_failed_deploy_leaves_the_old_pods_serving() -> Result<()> {
    let Some(world) = real("oldpods").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let (good, spec) = (
        Deployment {
            image: &image,
            ..Deployment::default()
        }
        .yaml(),
        spec(""),
    );
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/web.yaml", &good)])
        .await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let missing = format!("{}/gone:1", world.stand.facts().registry);
    let bad = Deployment {
        image: &missing,
        ..Deployment::default()
    }
    .yaml();
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/web.yaml", &bad)])
        .await?;
    ensure!(
        done.status() == 424 && done.causes() == ["image_missing"],
        "{}\n{}",
        done.answer.text(),
        done.log
    );
    let ready = world
        .kubectl(&[
            "get",
            "deploy",
            "web",
            "-o",
            "jsonpath={.status.readyReplicas}",
        ])
        .await?;
    ensure!(ready == "1", "ready replicas: {ready}");
    let status = done.json()?["status"]
        .as_str()
        .context("a status")?
        .to_owned();
    ensure!(status == "failed", "{status}");
    Ok(())
}
