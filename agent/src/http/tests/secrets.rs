//! Secrets that are kept fresh: what callers may ask, and what the operator sees.
//!
//! The desk is the real one over the doubles of the ports; projects 42 and 43 have one Secret each.

use std::collections::BTreeMap;

use deploy::backoff::Patience;
use deploy::fakes::Fakes;
use deploy::log::RunLog;
use deploy::managed::ANNOTATION;
use deploy::managed::Declaration;
use deploy::managed::Owner;
use deploy::managed::Record;
use deploy::managed::State;
use deploy::object::Gvk;
use deploy::object::ObjectId;
use deploy::policy::Policy;
use deploy::ports::Clock as _;
use deploy::register;
use deploy::register::Change;
use deploy::register::Home;
use proto::managed::ManagedList;
use proto::managed::Taken;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;

const KEEPING: &str = "[rotation]\nnamespace = \"agents\"\n\
                       [vault.identity]\nmethod = \"token_file\"\ntoken_file = \"/none\"\n";

/// A rule for each of some projects, in the order that the policy's file wants.
fn policy() -> Policy {
    let mut text = "version = 1\n".to_owned();
    for project in [42, 43] {
        text.push_str(&format!(
            "[[rule]]\nid = \"p{project}\"\n[rule.match]\nproject_id = {project}\n\
             [rule.vault]\nrole = \"r\"\npaths = [\"kv/*\"]\n\
             [rule.cluster.demo]\nnamespaces = [\"flask\"]\nsecrets = [\"db*\"]\n\
             verbs = [\"apply\", \"rotate\"]\n"
        ));
    }
    Policy::parse(&text).expect("it is valid")
}

/// A project, or one of its jobs.
fn of_project(project: &str, job: Option<&str>) -> Principal {
    let mut attributes = BTreeMap::from([
        ("project_id".to_owned(), project.to_owned()),
        ("pipeline_source".to_owned(), "push".to_owned()),
    ]);
    if let Some(job) = job {
        attributes.insert("job_id".to_owned(), job.to_owned());
    }
    Principal::unchecked(PrincipalKind::GitlabJob, attributes)
}

/// Writes a Secret of a project as a deploy would have left it, and notes it in the register.
async fn keep(fakes: &Fakes, project: usize, app: &str, secret: &str) {
    let owner = Owner::of(&of_project(&project.to_string(), None));
    let spec = format!(
        "version: 1\nname: {app}\nsecrets:\n  - name: {secret}\n    \
         keys: {{ key: {{ vault: kv/{app}, field: a }} }}\n    rotate: {{ restart: none }}\n"
    );
    let spec = deploy::spec::parse(spec.as_bytes()).expect("it is valid");
    let declaration = Declaration {
        app: app.parse().expect("a name"),
        cluster: "demo".parse().expect("a name"),
        secret: spec.secrets[0].clone(),
        owner: owner.clone(),
        rule: format!("p{project}"),
    };
    let digest = declaration.digest("flask");
    let state = State {
        generation: 1,
        written: fakes.clock.now(),
        run: "r1".to_owned(),
        versions: BTreeMap::from([(format!("kv/{app}"), 1)]),
        credentials: BTreeMap::new(),
        retiring: Vec::new(),
        stale: false,
        trial: None,
        setback: None,
        restarts: 2,
    };
    let record = Record { declaration, state }.to_text();
    let id = ObjectId {
        gvk: Gvk::new("v1", "Secret"),
        namespace: Some("flask".to_owned()),
        name: secret.to_owned(),
    };
    let body = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": secret, "namespace": "flask", "annotations": { ANNOTATION: record } },
    });
    fakes.cluster.set(&id, body);
    let log = RunLog::new(Arc::clone(&fakes.clock) as _);
    let patience = Patience {
        deadline: tokio::time::Instant::now() + Duration::from_secs(10),
        stop: &CancellationToken::new(),
        log: &log,
        seed: 1,
    };
    let home = Home {
        namespace: "agents".to_owned(),
    };
    let digests = BTreeMap::from([(secret.to_owned(), digest)]);
    let change = Change::Add {
        owner: &owner,
        digests: &digests,
    };
    let place = (
        "flask".parse().expect("a name"),
        app.parse().expect("a name"),
    );
    register::change(
        &home,
        (&place.0, &place.1),
        &change,
        &*fakes.cluster,
        &patience,
    )
    .await
    .expect("the double takes it");
}

/// Takes a token of N bytes as a job of project N.
async fn job(presented: Presented) -> Result<Identity, Problem> {
    let mut identity = identify(&presented).await?;
    let project = identity.principal.project().unwrap_or_default().to_owned();
    identity.principal = of_project(&project, Some("7"));
    identity.id_token = presented.id_token;
    Ok(identity)
}

/// Starts an agent that keeps Secrets fresh, and waits until its desk knows them.
async fn keeping() -> World {
    let fakes = Fakes::default();
    keep(&fakes, 42, "web", "db").await;
    keep(&fakes, 43, "other", "db-other").await;
    for app in ["web", "other"] {
        fakes.vault.put(&format!("kv/{app}"), &[("a", "value")]);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder, KEEPING);
    let ports = fakes.ports();
    let demo = || "demo".parse().expect("a name");
    let parts = Parts {
        statuses: None,
        secrets: ports.secrets,
        clusters: [(demo(), ports.cluster)].into(),
        renderers: [(demo(), ports.renderer)].into(),
        git: ports.git,
        registry: ports.registry,
        identify: Arc::new(|presented| job(presented).boxed()),
        key: Arc::clone(&fakes.key),
        clock: ports.clock,
        identity: Arc::new(|| None),
        probes: Vec::new(),
        chores: Vec::new(),
    };
    let bound = Bound::build(&config, policy(), parts).await;
    let world = World::run(bound.expect("it binds"), folder);
    soon(async {
        let admin = world.admin();
        while seen(&admin.get("/v1/managed").await) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    world
}

/// Counts the Secrets that were read, not only found in the register.
fn seen(reply: &Reply) -> usize {
    let list: ManagedList = serde_json::from_value(reply.json()).expect("the wire type");
    let read = list.secrets.iter().filter(|one| one.generation > 0);
    read.count()
}

fn listed(reply: &Reply) -> Vec<String> {
    let list: ManagedList = serde_json::from_value(reply.json()).expect("the wire type");
    list.secrets.into_iter().map(|one| one.name).collect()
}

async fn send(jobs: &Tester, uri: &str, body: &str) -> Reply {
    let length = body.len().to_string();
    let json = ("content-type", "application/json");
    let more = [json, ("content-length", length.as_str())];
    jobs.send("POST", uri, &more, body.as_bytes()).await
}

#[tokio::test]
async fn a_project_sees_and_moves_its_own_secrets_only() {
    let world = keeping().await;
    let jobs = world.jobs().project(42);
    assert_eq!(listed(&jobs.get("/v1/secrets").await), ["db"]);
    let taken = |reply: Reply| -> (u16, Vec<String>) {
        let taken: Taken = serde_json::from_value(reply.json()).expect("the wire type");
        (reply.status, taken.secrets)
    };
    let own = vec!["demo/flask/db".to_owned()];
    let paths = r#"{"paths":["kv/web","kv/other"]}"#;
    let changed = send(&jobs, "/v1/secrets/changed", paths).await;
    assert_eq!(taken(changed), (202, own.clone()));
    let asked = r#"{"name":"db","namespace":"flask"}"#;
    let rotated = send(&jobs, "/v1/secrets/rotate", asked).await;
    assert_eq!(taken(rotated), (202, own));
    for action in ["rotate", "forget"] {
        let uri = format!("/v1/secrets/{action}");
        let other = send(&jobs, &uri, r#"{"name":"db-other"}"#).await;
        assert_eq!(other.code(), Code::NotFound, "{action}");
    }
}

#[tokio::test]
async fn a_forgotten_secret_is_listed_no_more() {
    let world = keeping().await;
    let jobs = world.jobs().project(42);
    let forgotten = send(&jobs, "/v1/secrets/forget", r#"{"name":"db"}"#).await;
    assert_eq!(forgotten.status, 200, "{}", forgotten.text());
    soon(async {
        while !listed(&jobs.get("/v1/secrets").await).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_operator_sees_and_moves_all_of_them() {
    let world = keeping().await;
    let admin = world.admin();
    let names = listed(&admin.get("/v1/managed").await);
    assert_eq!(
        names,
        ["db-other", "db"],
        "by cluster, namespace, app and name"
    );
    let one = admin.get("/v1/managed/demo/flask/db").await;
    assert_eq!(one.json()["project"], "42");
    let missing = admin.get("/v1/managed/demo/flask/no-such").await;
    assert_eq!(missing.code(), Code::NotFound);
    let rotate = "/v1/managed/demo/flask/db-other/rotate";
    let taken = admin.post(rotate).await;
    assert_eq!(
        (taken.status, taken.json()["secrets"][0].clone()),
        (202, "demo/flask/db-other".into())
    );
    let bare = admin.bare();
    assert_eq!(bare.post(rotate).await.code(), Code::ClientHeaderMissing);
    let metrics = bare.get("/metrics").await.text();
    let labels = "{cluster=\"demo\",namespace=\"flask\",name=\"db\"}";
    let line = format!("quaymaster_managed_secret_restarts_total{labels} 2\n");
    assert!(metrics.contains(&line), "{metrics}");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let world = keeping().await;
    let jobs = world.jobs().project(42);
    for (leaf, body) in [
        ("changed", ""),
        ("changed", "{}"),
        ("changed", r#"{"paths":[]}"#),
        ("changed", r#"{"paths":["kv/web"],"path":"kv/web"}"#),
        ("rotate", r#"{"name":"db","namespaces":"flask"}"#),
        ("rotate", r#"{"name":"db","cluster":"NO"}"#),
        ("forget", "[]"),
    ] {
        let reply = send(&jobs, &format!("/v1/secrets/{leaf}"), body).await;
        assert_eq!(reply.code(), Code::BadRequest, "{leaf} {body}");
    }
    let bad = r#"{"paths":["kv/web","kv/data/../x","kv"]}"#;
    let reply = send(&jobs, "/v1/secrets/changed", bad).await;
    assert_eq!(reply.code(), Code::BadRequest);
    let places = reply.json()["errors"].clone();
    assert_eq!(
        (&places[0]["path"], &places[1]["path"]),
        (&json!("paths[1]"), &json!("paths[2]"))
    );
    let many = json!({ "paths": vec!["kv/web"; 101] }).to_string();
    let reply = send(&jobs, "/v1/secrets/changed", &many).await;
    assert_eq!(reply.code(), Code::BadRequest);
    let long = json!({ "name": "x".repeat(5_000) }).to_string();
    let reply = send(&jobs, "/v1/secrets/rotate", &long).await;
    assert_eq!(reply.code(), Code::TooLarge);
    let length = [("content-length", "2")];
    let reply = jobs
        .send("POST", "/v1/secrets/rotate", &length, b"{}")
        .await;
    assert_eq!(reply.code(), Code::UnsupportedMediaType);
    let body = [("content-length", "2")];
    let reply = jobs.send("GET", "/v1/secrets", &body, b"{}").await;
    assert_eq!(reply.code(), Code::BadRequest);
    let method = jobs.send("PUT", "/v1/secrets", &[], b"").await;
    assert_eq!(method.header("allow"), Some("GET, POST"));
}

#[tokio::test]
async fn who_matches_no_rule_moves_nothing_and_nobody_sees_nothing() {
    let world = keeping().await;
    let stranger = world.jobs().project(44);
    for leaf in ["changed", "rotate", "forget"] {
        let reply = send(&stranger, &format!("/v1/secrets/{leaf}"), "no body").await;
        assert_eq!(reply.code(), Code::Denied, "{leaf}");
    }
    assert_eq!(listed(&stranger.get("/v1/secrets").await).len(), 0);
    let nobody = world.jobs();
    assert_eq!(nobody.get("/v1/secrets").await.code(), Code::TokenMissing);
    let reply = send(&nobody, "/v1/secrets/rotate", "{}").await;
    assert_eq!(reply.code(), Code::TokenMissing);
    let bare = nobody.bare().get("/v1/secrets").await;
    assert_eq!(bare.code(), Code::ClientHeaderMissing);
}

#[tokio::test]
async fn an_agent_that_keeps_nothing_says_what_is_missing() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    for reply in [
        jobs.get("/v1/secrets").await,
        send(&jobs, "/v1/secrets/rotate", r#"{"name":"db"}"#).await,
        world.admin().get("/v1/managed").await,
        world.admin().post("/v1/managed/demo/flask/db/rotate").await,
    ] {
        assert_eq!(reply.code(), Code::NotFound);
        let hint = reply.json()["hint"].to_string();
        assert!(hint.contains("[rotation]"), "{hint}");
    }
    let metrics = world.admin().get("/metrics").await.text();
    assert!(!metrics.contains("quaymaster_managed"), "{metrics}");
}

/// Packs one file as ustar.
fn tar(name: &str, text: &str) -> Vec<u8> {
    let mut head = [0_u8; 512];
    head[..name.len()].copy_from_slice(name.as_bytes());
    head[100..108].copy_from_slice(b"0000644\0");
    head[124..136].copy_from_slice(format!("{:011o}\0", text.len()).as_bytes());
    head[136..148].copy_from_slice(b"00000000000\0");
    head[148..156].copy_from_slice(b"        ");
    head[156] = b'0';
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = head.to_vec();
    archive.extend_from_slice(text.as_bytes());
    archive.resize(archive.len().next_multiple_of(512) + 1_024, 0);
    archive
}

#[tokio::test]
async fn a_bundle_of_secrets_alone_is_a_deploy_and_another_one_is_sent_there() {
    let world = keeping().await;
    let jobs = world.jobs().project(42);
    let apply = async |uri: &str, spec: &str| {
        let body = tar("quaymaster.yaml", spec);
        let length = body.len().to_string();
        let kind = ("content-type", "application/x-tar");
        let more = [kind, ("content-length", length.as_str())];
        jobs.send("POST", uri, &more, &body).await
    };
    let secrets = "version: 1\nname: alone\nsecrets:\n  - name: db-alone\n    \
                   keys: { key: { vault: kv/web, field: a } }\n";
    let dry = apply("/v1/secrets?dry_run=true", secrets).await;
    assert_eq!(dry.status, 202, "{}", dry.text());
    let run = dry.header("location").expect("a location").to_owned();
    assert!(run.starts_with("/v1/deploys/r"), "{run}");
    let (_, report) = jobs.result(&run).await;
    assert_eq!(report.mode, Mode::DryRun);
    let taken = apply("/v1/secrets", secrets).await;
    let run = taken.header("location").expect("a location").to_owned();
    let (status, report) = jobs.result(&run).await;
    assert_eq!(
        (status, report.mode),
        (200, Mode::Deploy),
        "{}",
        report.message
    );
    for more in [
        "manifests: [k8s/]\n",
        "kustomize: over\n",
        "helm: { chart: chart/ }\n",
        "flux: { repository: \"https://git.example.com/f.git\", path: apps, credential: { vault: kv/f }, \
         sources: [f], wait: { kustomizations: [f] } }\nimages: { a: \"registry.example.com/a:1\" }\n",
    ] {
        let reply = apply("/v1/secrets", &format!("{secrets}{more}")).await;
        assert_eq!(reply.code(), Code::SpecInvalid, "{more}");
        let hint = reply.json()["hint"].to_string();
        assert!(hint.contains("/v1/deploys"), "{hint}");
    }
    let broken = apply("/v1/secrets", "version: 1\nname: alone\nsecret: []\n").await;
    assert_eq!(broken.code(), Code::SpecInvalid);
    assert_eq!(broken.json()["errors"][0]["line"], 3);
    let plan = apply("/v1/secrets?plan=x", secrets).await;
    assert_eq!(plan.code(), Code::BadRequest);
}
