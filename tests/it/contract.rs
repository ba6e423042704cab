//! One suite for the ports: what it asks, the in-memory doubles and the real adapters answer alike.
//!
//! A double that lies makes unit tests worthless, so every promise of `deploy::ports` that a unit test leans on
//! is asked here of both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent::cluster::ClusterSettings;
use agent::cluster::Kube;
use agent::vault::Vault;
use agent::vault::VaultSettings;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use deploy::fakes::FakeCluster;
use deploy::fakes::FakeVault;
use deploy::object::Gvk;
use deploy::object::ObjectId;
use deploy::ports::Access;
use deploy::ports::Cluster;
use deploy::ports::ClusterError;
use deploy::ports::Deletion;
use deploy::ports::Dependents;
use deploy::ports::Engine;
use deploy::ports::Force;
use deploy::ports::Login;
use deploy::ports::Observation;
use deploy::ports::Parameters;
use deploy::ports::Payload;
use deploy::ports::Scope;
use deploy::ports::Secrets;
use deploy::ports::SecretsError;
use deploy::ports::Write;
use deploy::principal::Actor;
use deploy::secret::FingerprintKey;
use deploy::secret::Secret;
use deploy::secret::VaultPath;
use futures::StreamExt as _;
use serde_json::Value;
use serde_json::json;
use tests::world::World;

/// A Vault with the secrets of the suite: two versions of `app` (the second deleted in `gone`), one in KV v1.
struct VaultSide {
    port: Arc<dyn Secrets>,
    login: Login,
    folder: String,
}

fn path(text: &str) -> Result<VaultPath> {
    VaultPath::parse(text).with_context(|| text.to_owned())
}

fn value(data: &deploy::ports::SecretData, field: &str) -> String {
    data.fields
        .get(field)
        .map(|value| String::from_utf8_lossy(value.reveal()).into_owned())
        .unwrap_or_default()
}

async fn vault_suite(side: &VaultSide) -> Result<()> {
    let VaultSide {
        port,
        login,
        folder,
    } = side;
    let session = port.login(login).await?;
    ensure!(session.ours, "a login makes a token that is ours");
    let app = path(&format!("kv/{folder}/app"))?;
    let mount = port.engine(&session, &app).await?;
    ensure!(
        mount.engine == Engine::KvV2 && mount.path == "kv",
        "{mount:?}"
    );
    let latest = port.read(&session, &mount, &app, None).await?;
    ensure!(latest.version == Some(2) && value(&latest, "key") == "new" && latest.lease.is_none());
    let first = port.read(&session, &mount, &app, Some(1)).await?;
    ensure!(first.version == Some(1) && value(&first, "key") == "old");
    let gone = path(&format!("kv/{folder}/gone"))?;
    let error = port
        .read(&session, &mount, &gone, None)
        .await
        .expect_err("it is deleted");
    ensure!(
        matches!(error, SecretsError::VersionGone { .. }),
        "{error:?}"
    );
    let missing = path(&format!("kv/{folder}/never"))?;
    let error = port
        .read(&session, &mount, &missing, None)
        .await
        .expect_err("it never was");
    ensure!(matches!(error, SecretsError::Missing { .. }), "{error:?}");
    let plain = path(&format!("kv1/{folder}/app"))?;
    let mount = port.engine(&session, &plain).await?;
    ensure!(mount.engine == Engine::KvV1);
    let data = port.read(&session, &mount, &plain, None).await?;
    ensure!(data.version.is_none() && value(&data, "key") == "one");
    let forbidden = path("kv/forbidden/app")?;
    let mount = deploy::ports::Mount {
        path: "kv".to_owned(),
        engine: Engine::KvV2,
    };
    let error = port
        .read(&session, &mount, &forbidden, None)
        .await
        .expect_err("it is forbidden");
    ensure!(matches!(error, SecretsError::Forbidden { .. }), "{error:?}");
    let creds = path("database/creds/flask")?;
    ensure!(port.engine(&session, &creds).await?.engine == Engine::Dynamic);
    let (one, two) = (
        port.issue(&session, &creds, &Parameters::new()).await?,
        port.issue(&session, &creds, &Parameters::new()).await?,
    );
    ensure!(
        value(&one, "username") != value(&two, "username"),
        "each call makes another credential"
    );
    for issued in [one, two] {
        let lease = issued.lease.context("a credential has a lease")?;
        ensure!(lease.seconds > 0);
        port.revoke(&session, &lease.id).await?;
        port.revoke(&session, &lease.id)
            .await
            .context("a lease that is gone is revoked")?;
    }
    port.logout(session).await?;
    Ok(())
}

#[tokio::test]
async fn the_vault_double_keeps_the_contract() -> Result<()> {
    let vault = FakeVault::default();
    vault.put("kv/app/app", &[("key", "old")]);
    vault.put("kv/app/app", &[("key", "new")]);
    vault.put("kv/app/gone", &[("key", "x")]);
    vault.delete_latest("kv/app/gone");
    vault.put("kv1/app/app", &[("key", "one")]);
    vault.forbid("kv/forbidden/app");
    let login = Login::Jwt {
        token: Secret::from_text("any".to_owned()),
        role: "any".to_owned(),
    };
    vault_suite(&VaultSide {
        port: Arc::new(vault),
        login,
        folder: "app".to_owned(),
    })
    .await
}

#[tokio::test]
async fn the_vault_adapter_keeps_the_contract() -> Result<()> {
    let world = World::without_agent("contract").await?;
    world.put("app", json!({ "key": "old" })).await?;
    world.put("app", json!({ "key": "new" })).await?;
    world.put("gone", json!({ "key": "x" })).await?;
    let (status, _) = world
        .stand
        .vault(
            reqwest::Method::DELETE,
            &format!("kv/data/{}/gone", world.role),
            None,
        )
        .await?;
    ensure!(status == 204);
    world
        .vault_write(&format!("kv1/{}/app", world.role), json!({ "key": "one" }))
        .await?;
    let vault = Vault::new(VaultSettings {
        address: world.stand.facts().vault_addr.clone(),
        ca_file: None,
        jwt_mount: "jwt".to_owned(),
        namespace: None,
        timeout: Duration::from_secs(10),
    })?;
    let token = world.stand.sign(world.token()?)?;
    let login = Login::Jwt {
        token: Secret::from_text(token),
        role: world.role.clone(),
    };
    vault_suite(&VaultSide {
        port: Arc::new(vault),
        login,
        folder: world.role.clone(),
    })
    .await
}

fn config_map(namespace: &str, name: &str, value: &str) -> (ObjectId, Value) {
    let id = ObjectId {
        gvk: Gvk::new("v1", "ConfigMap"),
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
    };
    let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace }, "data": { "key": value } });
    (id, body)
}

async fn cluster_suite(
    port: &dyn Cluster,
    actor: &Actor,
    namespace: &str,
    key: &FingerprintKey,
) -> Result<()> {
    let (id, body) = config_map(namespace, "conf", "one");
    let resource = port.resource(&id.gvk).await?;
    ensure!(
        resource.plural == "configmaps" && resource.namespaced,
        "{resource:?}"
    );
    let unknown = port
        .resource(&Gvk::new("nowhere.example.com/v1", "Unknown"))
        .await
        .expect_err("no such kind");
    ensure!(
        matches!(unknown, ClusterError::UnknownKind { .. }),
        "{unknown:?}"
    );
    let access = Access {
        verb: "patch",
        group: String::new(),
        resource: "configmaps".to_owned(),
        subresource: "",
        namespace: Some(namespace.to_owned()),
        name: None,
    };
    ensure!(
        port.may(actor, &access).await?.is_ok(),
        "the actor may patch"
    );
    ensure!(port.get(actor, &id).await?.is_none(), "it is not there yet");
    port.apply(actor, &id, Payload::Object(&body), Write::DryRun, Force::No)
        .await?;
    ensure!(
        port.get(actor, &id).await?.is_none(),
        "a dry run keeps nothing"
    );
    let (first, _) = port
        .apply(actor, &id, Payload::Object(&body), Write::Commit, Force::No)
        .await?;
    ensure!(first.id == id && !first.uid.is_empty());
    let (again, _) = port
        .apply(actor, &id, Payload::Object(&body), Write::Commit, Force::No)
        .await?;
    ensure!(
        again.uid == first.uid && again.generation == first.generation,
        "the same twice is once"
    );
    let live = port.get(actor, &id).await?.context("it is there")?;
    ensure!(
        live["data"]["key"] == "one"
            && live["metadata"]["managedFields"][0]["manager"] == "quaymaster",
        "{live}"
    );
    bookkeeping_suite(port, actor, namespace).await?;
    secret_suite(port, actor, namespace, key).await?;
    observe_suite(port, actor, namespace).await
}

/// Creating, replacing by version, patching by test, deleting by uid.
async fn bookkeeping_suite(port: &dyn Cluster, actor: &Actor, namespace: &str) -> Result<()> {
    let (id, body) = config_map(namespace, "book", "one");
    let first = port.create(actor, &id, &body).await?;
    let again = port.create(actor, &id, &body).await;
    ensure!(
        matches!(again, Err(ClusterError::Exists { .. })),
        "{again:?}"
    );
    let mut second = first.clone();
    second["data"]["key"] = json!("two");
    let second = port.replace(actor, &id, &second).await?;
    ensure!(second["data"]["key"] == "two", "{second}");
    let stale = port.replace(actor, &id, &first).await;
    ensure!(
        matches!(stale, Err(ClusterError::Raced { .. })),
        "{stale:?}"
    );
    let patch = |old: &str| {
        json!([{ "op": "test", "path": "/data/key", "value": old },
            { "op": "replace", "path": "/data/key", "value": "three" }])
    };
    let refused = port.patch(actor, &id, &patch("one"), Write::Commit).await;
    ensure!(
        matches!(refused, Err(ClusterError::Raced { .. })),
        "{refused:?}"
    );
    let third = port.patch(actor, &id, &patch("two"), Write::Commit).await?;
    ensure!(third["data"]["key"] == "three", "{third}");
    let listed = port.list(actor, &id.gvk, Some(namespace)).await?;
    let found = listed
        .iter()
        .find(|item| item["metadata"]["name"] == "book");
    let found = found.context("it is listed")?;
    ensure!(found["kind"] == "ConfigMap", "{found}");
    let deletion = |uid: &str| Deletion {
        uid: uid.to_owned(),
        dependents: Dependents::Background,
        write: Write::Commit,
    };
    let other = port.delete(actor, &id, &deletion("another-uid")).await;
    ensure!(
        matches!(other, Err(ClusterError::Raced { .. })),
        "{other:?}"
    );
    let uid = third["metadata"]["uid"].as_str().unwrap_or_default();
    port.delete(actor, &id, &deletion(uid)).await?;
    ensure!(port.get(actor, &id).await?.is_none(), "it is gone");
    port.delete(actor, &id, &deletion(uid)).await?;
    Ok(())
}

async fn secret_suite(
    port: &dyn Cluster,
    actor: &Actor,
    namespace: &str,
    key: &FingerprintKey,
) -> Result<()> {
    let id = ObjectId {
        gvk: Gvk::new("v1", "Secret"),
        namespace: Some(namespace.to_owned()),
        name: "app-one".to_owned(),
    };
    ensure!(port.secret(actor, &id).await?.is_none());
    let body = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "app-one", "namespace": namespace }, "type": "Opaque" });
    let data = BTreeMap::from([("k".to_owned(), Secret::from_text("a-value".to_owned()))]);
    let (_, answer) = port
        .apply(
            actor,
            &id,
            Payload::Secret {
                body: &body,
                data: &data,
            },
            Write::Commit,
            Force::No,
        )
        .await?;
    ensure!(answer.get("data").is_none(), "values do not come back");
    let found = port.secret(actor, &id).await?.context("it is there")?;
    ensure!(found.values.len() == 1 && found.values["k"] == key.fingerprint("k", b"a-value"));
    let all = port.secrets(actor, namespace).await?;
    ensure!(all["app-one"].values == found.values, "{all:?}");
    Ok(())
}

async fn observe_suite(port: &dyn Cluster, actor: &Actor, namespace: &str) -> Result<()> {
    let (id, body) = config_map(namespace, "conf", "two");
    let scope = Scope {
        gvk: id.gvk.clone(),
        namespace: id.namespace.clone(),
        name: Some(id.name.clone()),
    };
    let mut stream = port.observe(actor, vec![scope]);
    let mut next = async || {
        tokio::time::timeout(Duration::from_secs(20), stream.next())
            .await
            .context("nothing was observed")?
            .context("the stream ended")
    };
    let first = next().await?;
    ensure!(
        matches!(&first, Observation::Present(body) if body["data"]["key"] == "one"),
        "{first:?}"
    );
    let synced = next().await?;
    ensure!(synced == Observation::Synced(id.gvk.clone()), "{synced:?}");
    port.apply(actor, &id, Payload::Object(&body), Write::Commit, Force::No)
        .await?;
    let change = next().await?;
    ensure!(
        matches!(&change, Observation::Present(body) if body["data"]["key"] == "two"),
        "{change:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_cluster_double_keeps_the_contract() -> Result<()> {
    let key = Arc::new(FingerprintKey::new([3; 32]));
    let cluster = FakeCluster::new(Arc::clone(&key));
    let actor = Actor {
        user: "gitlab:ci_job:1".to_owned(),
        groups: Vec::new(),
    };
    cluster_suite(&cluster, &actor, "app", &key).await
}

#[tokio::test]
async fn the_cluster_adapter_keeps_the_contract() -> Result<()> {
    let world = World::without_agent("contract").await?;
    let key = Arc::new(FingerprintKey::new([3; 32]));
    let cluster = Kube::connect(ClusterSettings {
        name: "stand".to_owned(),
        kubeconfig: world.stand.facts().kubeconfig_agent.clone(),
        context: None,
        timeout: Duration::from_secs(15),
        fingerprint_key: Arc::clone(&key),
    })
    .await?;
    let groups = vec![
        "gitlab:ci_job".to_owned(),
        format!("gitlab:project:{}", world.project),
    ];
    let actor = Actor {
        user: "gitlab:ci_job:1".to_owned(),
        groups,
    };
    cluster_suite(&cluster, &actor, &world.namespace, &key).await?;
    let elsewhere = ObjectId {
        namespace: Some("kube-system".to_owned()),
        ..config_map("x", "conf", "v").0
    };
    let (_, body) = config_map("kube-system", "conf", "v");
    let error = cluster
        .apply(
            &actor,
            &elsewhere,
            Payload::Object(&body),
            Write::Commit,
            Force::No,
        )
        .await
        .expect_err("RBAC says no");
    ensure!(matches!(error, ClusterError::Forbidden { .. }), "{error:?}");
    Ok(())
}
