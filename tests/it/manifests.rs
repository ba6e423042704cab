//! Input as the world writes it: every folder of `sets/` planned, deployed, planned again and deployed
//! again by us, and applied by `kubectl apply --server-side`, on the real API server.
//!
//! `@NS@` in a set is the namespace that it is for; everything with a name of the whole cluster is
//! named by it. A set has its own namespace, once for us and once for kubectl.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use tempfile::TempDir;
use tests::submission::Finished;
use tests::world::World;

/// What is expected of a set.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Planned and deployed; a second deploy changes nothing.
    Deployed,
    /// Deployed once; then the set stands in its own way: what is proven to be the same is left alone,
    /// what the server is asked about ends with this code.
    Blocking(&'static str),
    /// Written, and never ready.
    NeverReady,
    /// Refused by the POST, and the message names this.
    Refused(&'static str),
}

use Fate::Blocking;
use Fate::Deployed;
use Fate::NeverReady;
use Fate::Refused;

const SETS: &[(&str, Fate)] = &[
    ("plain", Deployed),
    ("makes-its-namespace", Deployed),
    ("anchors", Deployed),
    ("merge-keys", Deployed),
    ("windows-lines", Deployed),
    ("byte-order-mark", Deployed),
    ("octal-modes", Deployed),
    ("old-booleans", Deployed),
    ("list", Deployed),
    ("typed-list", Deployed),
    ("json-between", Deployed),
    ("json-in-yaml", Deployed),
    ("empty-documents", Deployed),
    ("block-texts", Deployed),
    ("repeated", Deployed),
    ("last-counts", Deployed),
    ("own-kind", Deployed),
    ("own-namespaces", Deployed),
    ("namespace-and-kind", Deployed),
    ("exported", Deployed),
    ("plain-text-secret", Deployed),
    ("webhook-without-service", Blocking("cluster_unavailable")),
    ("policy-against-itself", Blocking("cluster_denied")),
    ("api-without-backend", NeverReady),
    ("differing-twins", Refused("duplicates: last")),
    ("values-beside", Refused("values of a Helm chart")),
    ("kustomization-beside", Refused("kustomize")),
    ("compose-beside", Refused("Compose file")),
    ("chart-template", Refused("template of a Helm chart")),
    ("generated-name", Refused("give it a name")),
    ("numbers-as-text", Refused("not text")),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("it/sets")
}

/// Reads the files of a set for a namespace.
fn files(set: &str, namespace: &str) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder().join(set))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let text = fs::read_to_string(&path)?.replace("@NS@", namespace);
        files.push((name.context("a plain name")?.to_owned(), text));
    }
    files.sort();
    Ok(files)
}

/// A world whose rule grants what the sets need, in namespaces that begin with its own.
async fn world() -> Result<World> {
    let mut world = World::without_agent("sets").await?;
    let ns = world.namespace.clone();
    let own = |set: &str, kind: &str| format!("\"{ns}-{set}.example.com/{kind}\"");
    let kinds = [
        own("own-kind", "Widget"),
        own("namespace-and-kind", "Gadget"),
        own("namespace-and-kind", "Plan"),
        "\"v1/Namespace\", \"v1/ServiceAccount\", \"v1/Secret:app-*\"".to_owned(),
        "\"apiextensions.k8s.io/CustomResourceDefinition\"".to_owned(),
        "\"apiregistration.k8s.io/APIService\"".to_owned(),
        "\"admissionregistration.k8s.io/ValidatingWebhookConfiguration\"".to_owned(),
        "\"admissionregistration.k8s.io/ValidatingAdmissionPolicy\"".to_owned(),
        "\"admissionregistration.k8s.io/ValidatingAdmissionPolicyBinding\"".to_owned(),
    ];
    let policy = world
        .policy()
        .replace("kinds = [", &format!("kinds = [{}, ", kinds.join(", ")))
        .replace(
            &format!("namespaces = [\"{ns}\"]"),
            &format!("namespaces = [\"{ns}\", \"{ns}-*\"]"),
        );
    fs::write(world.policy_path(), policy)?;
    world.grant_all().await?;
    world.start_agent().await?;
    Ok(world)
}

/// One row of the table.
struct Row {
    objects: usize,
    plan: String,
    deploy: String,
    again: String,
}

/// Plans and deploys a set twice.
async fn ours(world: &World, set: &str, fate: Fate) -> Result<Row> {
    let namespace = format!("{}-{set}", world.namespace);
    let sources = files(set, &namespace)?;
    // A set that makes its namespace has to do so before the lock of the app can be in it.
    let own = format!("kind: Namespace\nmetadata: {{ name: {namespace} }}\n");
    if !sources.iter().any(|(_, text)| text.contains(&own)) {
        world
            .stand
            .kubectl(&["create", "namespace", &namespace])
            .await?;
    }
    let last = if set == "last-counts" {
        "duplicates: last\n"
    } else {
        ""
    };
    let timeout = match fate {
        Blocking(_) | NeverReady => "12s",
        Deployed | Refused(_) => "60s",
    };
    let spec = format!(
        "version: 1\nname: {set}\ntarget: {{ namespace: {namespace} }}\nmanifests: [k8s]\n{last}rollout: {{ timeout: {timeout} }}\n"
    );
    let mut bundle = vec![("quaymaster.yaml".to_owned(), spec)];
    bundle.extend(
        sources
            .into_iter()
            .map(|(name, text)| (format!("k8s/{name}"), text)),
    );
    let bundle: Vec<(&str, &str)> = bundle
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let told = |done: &Finished| match done.status() {
        200 => "ok".to_owned(),
        _ => done.code(),
    };
    let plan = world.plan(&bundle).await?;
    if let Refused(word) = fate {
        let text = plan.answer.text();
        ensure!(
            plan.code() == "manifest_invalid" && text.contains(word),
            "{set}: {text}"
        );
        let deploy = told(&world.deploy(&bundle).await?);
        return Ok(Row {
            objects: 0,
            plan: told(&plan),
            deploy,
            again: "-".to_owned(),
        });
    }
    ensure!(
        plan.status() == 200,
        "{set}: {}\n{}",
        plan.answer.text(),
        plan.log
    );
    let deploy = world.deploy(&bundle).await?;
    let expected = match fate {
        NeverReady => "rollout_timeout",
        Deployed | Blocking(_) | Refused(_) => "",
    };
    let text = deploy.answer.text();
    ensure!(deploy.code() == expected, "{set}: {text}\n{}", deploy.log);
    let again = match fate {
        // Its group cannot be discovered from now on, which is nobody else's matter.
        NeverReady => told(&world.plan(&bundle).await?),
        Deployed | Blocking(_) | Refused(_) => again(world, set, fate, &bundle).await?,
    };
    let steps = plan.json()?["steps"].as_array().map_or(0, Vec::len);
    Ok(Row {
        objects: steps,
        plan: told(&plan),
        deploy: told(&deploy),
        again,
    })
}

async fn again(world: &World, set: &str, fate: Fate, bundle: &[(&str, &str)]) -> Result<String> {
    let done = world.deploy(bundle).await?;
    if let Blocking(code) = fate
        && done.code() == code
    {
        return Ok(done.code());
    }
    ensure!(
        done.status() == 200,
        "{set} again: {}\n{}",
        done.answer.text(),
        done.log
    );
    let report = done.json()?;
    let steps = report["steps"].as_array().context("steps")?;
    // Values of Secrets are not compared here: such an object may be written again.
    let same = |step: &&Value| {
        let object = step["object"].as_str().unwrap_or_default();
        step["action"] == "same" || object.starts_with("v1/Secret ")
    };
    let all = steps.iter().filter(same).count() == steps.len();
    ensure!(all, "{set}: the second deploy changes something: {steps:?}");
    Ok("same".to_owned())
}

/// Applies a set by kubectl; returns `ok` or its last complaint.
async fn kubectl(world: &World, set: &str) -> Result<String> {
    let namespace = format!("{}-k-{set}", world.namespace);
    world
        .stand
        .kubectl(&["create", "namespace", &namespace])
        .await?;
    let dir = TempDir::with_prefix_in("set-", world.dir())?;
    for (name, text) in files(set, &namespace)? {
        fs::write(dir.path().join(name), text)?;
    }
    let path = dir.path().to_str().context("a plain path")?;
    let flags = ["--server-side", "--field-manager=kubectl-set"];
    let words = [
        &["-n", &namespace, "apply"],
        &flags[..],
        &["-R", "-f", path],
    ]
    .concat();
    let applied = world.stand.kubectl(&words).await;
    clear(world, &namespace).await;
    Ok(match applied {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            let text = format!("{error:#}");
            let mut lines = text.lines().filter(|line| !line.trim().is_empty());
            let last = lines.next_back().unwrap_or("refused").replace(path, "");
            let last = last.rsplit(" failed with 1: ").next().unwrap_or(&last);
            last.chars().take(90).collect()
        }
    })
}

/// Removes what would stand in the way of others in the cluster; a set without it has none.
async fn clear(world: &World, namespace: &str) {
    for gate in [
        format!("validatingwebhookconfiguration/{namespace}-guard"),
        format!("validatingadmissionpolicybinding/{namespace}-team"),
        format!("validatingadmissionpolicy/{namespace}-team"),
        format!("apiservice/v1.{namespace}-metrics.example.com"),
    ] {
        let words = ["delete", &gate, "--ignore-not-found", "--wait=false"];
        drop(world.stand.kubectl(&words).await);
    }
}

#[tokio::test]
async fn sets_as_the_world_writes_them_are_planned_and_deployed_beside_kubectl() -> Result<()> {
    let known: Vec<&str> = SETS.iter().map(|(set, _)| *set).collect();
    for entry in fs::read_dir(folder())? {
        let name = entry?.file_name();
        let name = name.to_str().context("a plain name")?;
        ensure!(known.contains(&name), "the set {name} is in no list");
    }
    let world = world().await?;
    println!(
        "{:<26}{:>8}  {:<18}{:<18}{:<16}kubectl",
        "set", "objects", "ours plan", "ours deploy", "ours again"
    );
    let mut wrong = Vec::new();
    for (set, fate) in SETS {
        let row = ours(&world, set, *fate).await;
        clear(&world, &format!("{}-{set}", world.namespace)).await;
        let theirs = kubectl(&world, set).await?;
        match row {
            Ok(Row {
                objects,
                plan,
                deploy,
                again,
            }) => {
                println!("{set:<26}{objects:>8}  {plan:<18}{deploy:<18}{again:<16}{theirs}");
            }
            Err(error) => {
                println!("{set:<26}       -  WRONG {theirs}");
                wrong.push(format!("{error:#}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}
