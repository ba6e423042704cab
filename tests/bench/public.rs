//! Charts, kustomizations and manifests of public projects: planned, deployed and deployed again by us, and
//! written by kubectl and Helm, on the same API server, one after the other.
//!
//! Called by `main` as `cargo measure public`; [`sets`] says where they come from. Their images are nowhere, so
//! the stand's pods are all played: the real node is taken away, which nobody else should miss:
//! `QUAYMASTER_STAND=<name of your own>`. Invariant: each tool finds the cluster as the one before found it.

mod peers;
mod sets;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;
use anyhow::ensure;
use clap::Args;
use deploy::manifest;
use deploy::object::Object;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tests::stand::Stand;
use tests::stand::agent;
use tests::submission::Finished;
use tests::world::World;
use tokio::time::Instant;

use self::peers::Peers;
use self::sets::Form;
use self::sets::Set;
use self::sets::Tools;
use self::table::Ours;
use self::table::Row;
use crate::peers::Raw;

/// What to deploy, and where it comes from.
#[derive(Args)]
pub(super) struct Public {
    /// Where git finds the repositories, each as owner/name.
    #[arg(long, default_value = "https://github.com")]
    from: String,
    /// Only these sets of the list.
    only: Vec<String>,
    /// Leaves kubectl and Helm out.
    #[arg(long)]
    alone: bool,
}

/// Runs the list and prints a row a set.
pub(super) async fn public(options: &Public, programs: &agent::Programs) -> Result<()> {
    let stand = Stand::shared().await?;
    let (helm, kubectl) = agent::render_programs()?;
    let tools = Tools { helm, kubectl };
    play_all(stand).await?;
    Row::head();
    for set in sets::list()? {
        if options.only.is_empty() || options.only.contains(&set.name) {
            match one(&set, options, programs, &tools).await {
                Ok(row) => row.print(&set),
                // The others are worth their rows all the same.
                Err(error) => println!("{:<25} could not be had: {error:#}", set.name),
            }
        }
    }
    Ok(())
}

/// Makes every pod land on a played node.
async fn play_all(stand: &Stand) -> Result<()> {
    stand
        .kubectl(&["delete", "nodes", "-l", "type!=kwok"])
        .await?;
    let taint = ["taint", "nodes", "-l", "type=kwok", "kwok.x-k8s.io/node-"];
    // It is gone already when this stand was used before.
    drop(stand.kubectl(&taint).await);
    // What is highly available wants three nodes, and the stand has two.
    let third = json!({ "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "fake-third", "annotations": { "kwok.x-k8s.io/node": "fake" },
            "labels": { "type": "kwok", "kubernetes.io/hostname": "fake-third", "kubernetes.io/os": "linux" } } });
    stand.cluster().apply(&third).await
}

async fn one(
    set: &Set,
    options: &Public,
    programs: &agent::Programs,
    tools: &Tools,
) -> Result<Row> {
    let dir = TempDir::with_prefix("public-")?;
    set.fetch(&options.from, dir.path()).await?;
    let mut world = World::without_agent("public").await?;
    world.use_programs(programs.clone());
    let namespace = world.namespace.clone();
    let rendered = async |more: &[&str]| set.rendered(dir.path(), tools, &namespace, more).await;
    let whole = match rendered(&[]).await {
        Ok(text) => text,
        Err(error) => return Ok(Row::unrendered(&error)),
    };
    let read = manifest::rendered("rendered", whole.as_bytes());
    // What cannot be read is refused by the deploy in the same words.
    let objects = read.map(|read| read.objects).unwrap_or_default();
    grant(&world, &objects)?;
    world.grant_all().await?;
    world.start_agent().await?;
    // kubectl knows no hooks.
    let plain = rendered(&["--no-hooks"]).await?;
    let peers = Peers::new(&world, tools, set, dir.path(), &plain, &objects).await?;
    peers.namespaces(&objects).await?;
    // The pods that would answer for an aggregated API are only played.
    let played = objects
        .iter()
        .any(|object| object.id.gvk.kind == "APIService");
    let timeout = if played { "75s" } else { "150s" };
    let mut row = Row::of(ours(&world, set, dir.path(), timeout).await?);
    peers.clear().await?;
    if !options.alone {
        row.theirs(&peers).await?;
    }
    Ok(row)
}

/// Lets the world's rule grant what the set has.
fn grant(world: &World, objects: &[Object]) -> Result<()> {
    let mut kinds = BTreeSet::from(["\"v1/ConfigMap\"".to_owned()]);
    let mut namespaces = BTreeSet::from([format!("{:?}", world.namespace)]);
    for object in objects {
        let gvk = &object.id.gvk;
        let group = if gvk.group.is_empty() {
            "v1"
        } else {
            &gvk.group
        };
        kinds.insert(if gvk.is("", "Secret") {
            format!("\"v1/Secret:{}\"", object.id.name)
        } else {
            format!("\"{group}/{}\"", gvk.kind)
        });
        let named = object.id.namespace.iter().map(|name| format!("{name:?}"));
        namespaces.extend(named);
        if gvk.is("", "Namespace") {
            namespaces.insert(format!("{:?}", object.id.name));
        }
    }
    let joined = |words: BTreeSet<String>| words.into_iter().collect::<Vec<_>>().join(", ");
    let policy = world.policy();
    let own = format!("namespaces = [{:?}]", world.namespace);
    let metadata = "metadata = [\"finalizers\", \"ownerReferences\"]\nrequire_digest";
    let policy = policy
        .replace("kinds = [", &format!("kinds = [{}, ", joined(kinds)))
        .replace(&own, &format!("namespaces = [{}]", joined(namespaces)))
        .replace("require_digest", metadata);
    ensure!(policy.contains(metadata), "the policy of a world is known");
    Ok(fs::write(world.policy_path(), policy)?)
}

/// Plans, deploys, and deploys again.
async fn ours(world: &World, set: &Set, dir: &Path, timeout: &str) -> Result<Ours> {
    let files = set.files(dir)?;
    let spec = format!(
        "version: 1\nname: {}\ntarget: {{ namespace: {} }}\n{}rollout: {{ timeout: {timeout} }}\n",
        set.name,
        world.namespace,
        set.spec()
    );
    let mut bundle = vec![("quaymaster.yaml", spec.as_str())];
    let files = files.iter();
    bundle.extend(files.map(|(name, text)| (name.as_str(), text.as_str())));
    let planned = world.plan(&bundle).await?;
    let began = Instant::now();
    let first = world.deploy(&bundle).await?;
    let took = began.elapsed();
    let before = Raw::applies(world.stand).await?;
    let began = Instant::now();
    let second = world.deploy(&bundle).await?;
    let again = began.elapsed();
    let after = Raw::applies(world.stand).await?;
    keep(
        world,
        set,
        &[("plan", &planned), ("first", &first), ("again", &second)],
    )?;
    Ok(Ours {
        planned,
        first,
        second,
        took,
        again,
        writes: after.1 - before.1,
    })
}

/// Leaves the logs where a person can read them.
fn keep(world: &World, set: &Set, runs: &[(&str, &Finished)]) -> Result<()> {
    let folder = world.stand.facts().site.dir.join("public");
    fs::create_dir_all(&folder)?;
    for (what, run) in runs {
        let body = run.json().unwrap_or(Value::Null);
        let text = format!("{}\n{body:#}\n", run.log);
        fs::write(folder.join(format!("{}-{what}.log", set.name)), text)?;
    }
    Ok(())
}
