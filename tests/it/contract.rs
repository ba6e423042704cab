//! One suite for the ports: what it asks, the in-memory doubles and the real adapters answer alike.
//!
//! A double that lies makes unit tests worthless, so every promise of `deploy::ports` that a unit test leans on
//! is asked here of both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent::clock::SystemClock;
use agent::cluster::ClusterSettings;
use agent::cluster::Kube;
use agent::config::Identity;
use agent::config::Method;
use agent::config::RoleId;
use agent::registries::Registries;
use agent::vault::IdentitySettings;
use agent::vault::Vault;
use agent::vault::VaultSettings;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use deploy::fakes::FakeCluster;
use deploy::fakes::FakeRegistry;
use deploy::fakes::FakeVault;
use deploy::object::Gvk;
use deploy::object::ObjectId;
use deploy::ports::Access;
use deploy::ports::Allowance;
use deploy::ports::Cluster;
use deploy::ports::ClusterError;
use deploy::ports::Deletion;
use deploy::ports::Dependents;
use deploy::ports::Engine;
use deploy::ports::Force;
use deploy::ports::ImagePlace;
use deploy::ports::Login;
use deploy::ports::Mount;
use deploy::ports::Newest;
use deploy::ports::Observation;
use deploy::ports::OwnToken;
use deploy::ports::Parameters;
use deploy::ports::Payload;
use deploy::ports::Registry;
use deploy::ports::RegistryError;
use deploy::ports::Scope;
use deploy::ports::Secrets;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::ports::Standing;
use deploy::ports::Write;
use deploy::principal::Actor;
use deploy::secret::FingerprintKey;
use deploy::secret::Secret;
use deploy::secret::VaultPath;
use futures::StreamExt as _;
use serde_json::Value;
use serde_json::json;
use tests::wait::Look;
use tests::wait::until;
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
    let mount = Mount {
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

/// What keeping secrets fresh asks, in a session of the agent's own: a folder with `app` (two versions),
/// `gone` (deleted), `destroyed` and `sub/deep`, and a folder `forbidden` beside it.
struct LastingSide {
    port: Arc<dyn Secrets>,
    folder: String,
    creds: VaultPath,
    static_role: VaultPath,
}

fn kv() -> Mount {
    Mount {
        path: "kv".to_owned(),
        engine: Engine::KvV2,
    }
}

fn dynamic(path: &str) -> Mount {
    Mount {
        path: path.to_owned(),
        engine: Engine::Dynamic,
    }
}

async fn lasting_suite(side: &LastingSide) -> Result<()> {
    let session = side.port.login(&Login::Own).await?;
    ensure!(!session.ours, "the agent's own token outlives the run");
    let own = side.port.own().context("it is logged in")?;
    children_suite(side, &session).await?;
    versions_suite(side, &session).await?;
    allowance_suite(side, &session).await?;
    unleased_suite(side, &session).await?;
    side.port.logout(session).await?;
    ensure!(side.port.own() == Some(own), "a logout does not end it");
    Ok(())
}

/// A token for one credential: what is issued in it lives and ends with it.
async fn children_suite(side: &LastingSide, session: &Session) -> Result<()> {
    let port = &side.port;
    let child = port.child(session).await?;
    ensure!(child.seconds > 0 && !child.session.ours, "{child:?}");
    let none = Parameters::new();
    let issued = port.issue(&child.session, &side.creds, &none).await?;
    let lease = issued.lease.context("a credential has a lease")?;
    ensure!(lease.renewable && issued.ends_in.is_none());
    let renewed = port.renew(session, &lease.id, 120).await?;
    ensure!(renewed.id == lease.id && (1..=120).contains(&renewed.seconds));
    ensure!(port.extend(session, &child.accessor).await? > 0);
    port.end(session, &child.accessor).await?;
    port.end(session, &child.accessor)
        .await
        .context("a token that is gone is ended")?;
    let extended = port.extend(session, &child.accessor).await;
    ensure!(is_missing(&extended), "{extended:?}");
    let dead = port.issue(&child.session, &side.creds, &none).await;
    ensure!(
        matches!(dead, Err(SecretsError::Forbidden { .. })),
        "{dead:?}"
    );
    until(
        "the lease to end",
        Duration::from_secs(20),
        async || match port.renew(session, &lease.id, 120).await {
            Err(SecretsError::Missing { .. }) => Look::Ready(()),
            other => Look::NotYet(format!("{other:?}")),
        },
    )
    .await?;
    let other = port.child(session).await?;
    let issued = port.issue(&other.session, &side.creds, &none).await?;
    let lease = issued.lease.context("a credential has a lease")?;
    port.revoke(session, &lease.id).await?;
    let renewed = port.renew(session, &lease.id, 120).await;
    ensure!(is_missing(&renewed), "{renewed:?}");
    port.end(session, &other.accessor).await?;
    Ok(())
}

fn is_missing<T>(result: &Result<T, SecretsError>) -> bool {
    matches!(result, Err(SecretsError::Missing { .. }))
}

/// Newest versions: of a folder at once, and one by one.
async fn versions_suite(side: &LastingSide, session: &Session) -> Result<()> {
    let LastingSide { port, folder, .. } = side;
    let newest = |version, standing| Newest { version, standing };
    let expected = BTreeMap::from([
        ("app".to_owned(), newest(2, Standing::Live)),
        ("destroyed".to_owned(), newest(1, Standing::Destroyed)),
        ("gone".to_owned(), newest(1, Standing::Deleted)),
    ]);
    let found = port.folder(session, &kv(), folder).await?;
    ensure!(found == expected, "{found:?}");
    for (name, expected) in expected {
        let path = path(&format!("kv/{folder}/{name}"))?;
        let found = port.newest(session, &kv(), &path).await?;
        ensure!(found == expected, "{name}: {found:?}");
    }
    let empty = port.folder(session, &kv(), &format!("{folder}/none")).await;
    ensure!(is_missing(&empty), "{empty:?}");
    let never = path(&format!("kv/{folder}/never"))?;
    let never = port.newest(session, &kv(), &never).await;
    ensure!(is_missing(&never), "{never:?}");
    let denied = port.folder(session, &kv(), "forbidden").await;
    ensure!(
        matches!(denied, Err(SecretsError::Forbidden { .. })),
        "{denied:?}"
    );
    let denied = path("kv/forbidden/app")?;
    let denied = port.newest(session, &kv(), &denied).await;
    ensure!(
        matches!(denied, Err(SecretsError::Forbidden { .. })),
        "{denied:?}"
    );
    Ok(())
}

/// What the session may use, in the order that was asked.
async fn allowance_suite(side: &LastingSide, session: &Session) -> Result<()> {
    let none = Parameters::new();
    let place = |mount: Mount, text: &str, parameters: &Parameters| {
        anyhow::Ok((mount, path(text)?, parameters.clone()))
    };
    let places = [
        place(dynamic("pki"), "pki/issue/flask", &parameters(&side.folder))?,
        place(kv(), "kv/forbidden/app", &none)?,
        place(kv(), &format!("kv/{}/app", side.folder), &none)?,
        place(dynamic("database"), side.creds.as_str(), &none)?,
    ];
    let found = side.port.may_use(session, &places).await?;
    let yes = Allowance::Allowed;
    ensure!(found == [yes, Allowance::Denied, yes, yes], "{found:?}");
    Ok(())
}

fn parameters(name: &str) -> Parameters {
    let common_name = format!("{name}.flask.svc");
    Parameters::from([
        ("common_name".to_owned(), common_name),
        ("ttl".to_owned(), "1h".to_owned()),
    ])
}

/// A certificate, which a write issues, and the password of a static role.
async fn unleased_suite(side: &LastingSide, session: &Session) -> Result<()> {
    let port = &side.port;
    let certificate = path("pki/issue/flask")?;
    let asked = parameters(&side.folder);
    let issued = port.issue(session, &certificate, &asked).await?;
    ensure!(issued.lease.is_none());
    ensure!(
        issued
            .ends_in
            .is_some_and(|left| (3_500..=3_600).contains(&left)),
        "{:?}",
        issued.ends_in
    );
    ensure!(value(&issued, "certificate").starts_with("-----BEGIN CERTIFICATE-----"));
    let chain: Vec<String> = serde_json::from_str(&value(&issued, "ca_chain"))?;
    ensure!(!chain.is_empty());
    let none = Parameters::new();
    let first = port.issue(session, &side.static_role, &none).await?;
    ensure!(first.lease.is_none());
    ensure!(
        first
            .ends_in
            .is_some_and(|left| (86_000..=86_400).contains(&left)),
        "{:?}",
        first.ends_in
    );
    let again = port.issue(session, &side.static_role, &none).await?;
    ensure!(value(&first, "password") == value(&again, "password"));
    ensure!(!value(&first, "password").is_empty());
    Ok(())
}

#[tokio::test]
async fn the_vault_double_keeps_the_contract_of_lasting_secrets() -> Result<()> {
    let vault = FakeVault::default();
    vault.set_own(OwnToken {
        id: "own".to_owned(),
        ends: None,
    });
    vault.put("kv/team/app", &[("key", "old")]);
    vault.put("kv/team/app", &[("key", "new")]);
    vault.put("kv/team/gone", &[("key", "x")]);
    vault.delete_latest("kv/team/gone");
    vault.put("kv/team/destroyed", &[("key", "x")]);
    vault.destroy_latest("kv/team/destroyed");
    vault.put("kv/team/sub/deep", &[("key", "x")]);
    vault.forbid("kv/forbidden/app");
    vault.forbid("kv/forbidden");
    let certificate = [
        ("certificate", "-----BEGIN CERTIFICATE-----\n"),
        ("ca_chain", "[\"x\"]"),
    ];
    vault.serve("pki/issue/flask", &certificate, 3_600);
    let password = [("username", "team"), ("password", "p")];
    vault.serve("database/static-creds/team", &password, 86_400);
    lasting_suite(&LastingSide {
        port: Arc::new(vault),
        folder: "team".to_owned(),
        creds: path("database/creds/team")?,
        static_role: path("database/static-creds/team")?,
    })
    .await
}

/// An adapter whose identity is that of the world's agents.
fn own_vault(world: &World) -> Result<Vault> {
    let vault = Vault::new(vault_settings(world))?;
    let identity = Identity {
        mount: "approle".to_owned(),
        method: Method::AppRole {
            role: RoleId::Text(world.agent_role()),
            secret_id_file: world.dir().join("secret_id"),
        },
    };
    Ok(vault.with_identity(IdentitySettings {
        identity,
        state_dir: Some(world.dir().to_owned()),
        clock: Arc::new(SystemClock),
        ticket: agent::clock::random()?,
        jitter: 1,
    })?)
}

#[tokio::test]
async fn the_vault_adapter_keeps_the_contract_of_lasting_secrets() -> Result<()> {
    let world = World::without_agent("lasting").await?;
    world.put("app", json!({ "key": "old" })).await?;
    world.put("app", json!({ "key": "new" })).await?;
    for name in ["gone", "destroyed", "sub/deep"] {
        world.put(name, json!({ "key": "x" })).await?;
    }
    let gone = format!("kv/data/{}/gone", world.role);
    let (status, _) = world
        .stand
        .vault(reqwest::Method::DELETE, &gone, None)
        .await?;
    ensure!(status == 204);
    let destroy = format!("kv/destroy/{}/destroyed", world.role);
    world
        .vault_write(&destroy, json!({ "versions": [1] }))
        .await?;
    let static_role = path(&world.static_role().await?)?;
    lasting_suite(&LastingSide {
        port: Arc::new(own_vault(&world)?),
        folder: world.role.clone(),
        creds: path(&world.creds())?,
        static_role,
    })
    .await
}

#[tokio::test]
async fn a_database_user_is_gone_with_the_token_that_it_was_issued_under() -> Result<()> {
    let world = World::without_agent("child").await?;
    let vault = own_vault(&world)?;
    let session = vault.login(&Login::Own).await?;
    let creds = path(&world.creds())?;
    let mut issued = Vec::new();
    for _ in 0..2 {
        let child = vault.child(&session).await?;
        let data = vault
            .issue(&child.session, &creds, &Parameters::new())
            .await?;
        issued.push((child.accessor, value(&data, "username")));
    }
    for (_, user) in &issued {
        ensure!(world.has_database_user(user).await?, "{user} is not there");
    }
    let (ended, user) = &issued[0];
    vault.end(&session, ended).await?;
    until(
        "the user to be gone",
        Duration::from_secs(20),
        async || match world.has_database_user(user).await {
            Ok(false) => Look::Ready(()),
            other => Look::NotYet(format!("{other:?}")),
        },
    )
    .await?;
    let (_, other) = &issued[1];
    ensure!(world.has_database_user(other).await?, "its neighbor lives");
    Ok(())
}

fn vault_settings(world: &World) -> VaultSettings {
    VaultSettings {
        address: world.stand.facts().vault_addr.clone(),
        ca_file: None,
        jwt_mount: "jwt".to_owned(),
        namespace: None,
        timeout: Duration::from_secs(10),
    }
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
    let vault = Vault::new(vault_settings(&world))?;
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
    let values = port.values(actor, &id).await?.context("it is there")?;
    ensure!(values.len() == 1 && values["k"].reveal() == b"a-value");
    let never = ObjectId {
        name: "app-never".to_owned(),
        ..id.clone()
    };
    ensure!(port.values(actor, &never).await?.is_none());
    let all = port.secrets(actor, namespace).await?;
    ensure!(all["app-one"].values == found.values, "{all:?}");
    observe_secret(port, actor, &id).await
}

/// A watch of Secrets tells metadata with its owners, and no value.
async fn observe_secret(port: &dyn Cluster, actor: &Actor, id: &ObjectId) -> Result<()> {
    let scope = Scope {
        gvk: id.gvk.clone(),
        namespace: id.namespace.clone(),
        name: Some(id.name.clone()),
    };
    let mut stream = port.observe(actor, vec![scope]);
    let first = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    let first = first.context("nothing was observed")?;
    let Some(Observation::Present(body)) = first else {
        anyhow::bail!("{first:?}");
    };
    let metadata = &body["metadata"];
    ensure!(
        body["kind"] == "Secret" && metadata["name"] == id.name.as_str(),
        "{body}"
    );
    ensure!(
        metadata["managedFields"][0]["manager"] == "quaymaster",
        "{body}"
    );
    ensure!(body.get("data").is_none() && !body.to_string().contains("YS12YWx1ZQ"));
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

/// A registry of this name that has `busybox:1` under this digest.
async fn registry_suite(port: &dyn Registry, registry: &str, digest: &str) -> Result<()> {
    let place = |repository: &str, reference: &str| ImagePlace {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        reference: reference.to_owned(),
    };
    for reference in ["1", digest] {
        let found = port.digest(&place("busybox", reference), None).await?;
        ensure!(found == digest, "{reference}: {found}");
    }
    let other = format!("sha256:{}", "0a".repeat(32));
    for (repository, reference) in [
        ("busybox", "not-there"),
        ("busybox", &other),
        ("nobody/busybox", "1"),
    ] {
        let found = port.digest(&place(repository, reference), None).await;
        ensure!(
            matches!(found, Err(RegistryError::Missing { .. })),
            "{repository} {reference}: {found:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_registry_double_keeps_the_contract() -> Result<()> {
    let (fake, digest) = (
        FakeRegistry::default(),
        format!("sha256:{}", "0b".repeat(32)),
    );
    fake.push("registry.example.com", "busybox", "1", &digest);
    registry_suite(&fake, "registry.example.com", &digest).await
}

#[tokio::test]
async fn the_registry_adapter_keeps_the_contract() -> Result<()> {
    let facts = tests::stand::Stand::shared().await?.facts();
    let url = format!("{}/v2/busybox/manifests/1", facts.registry_addr);
    let got = crate::remote_charts::http()?
        .get(url)
        .header("accept", crate::registry::KIND)
        .send()
        .await?;
    let digest = crate::remote_charts::sha256(&got.error_for_status()?.bytes().await?);
    let addresses = [(facts.registry.clone(), facts.registry_addr.clone())];
    let port = Registries::new(None, addresses.into())?;
    registry_suite(&port, &facts.registry, &digest).await?;
    // Nobody is there, which is no answer about the image.
    let addresses = [(facts.registry.clone(), "http://127.0.0.1:9".to_owned())];
    let port = Registries::new(None, addresses.into())?;
    let place = ImagePlace {
        registry: facts.registry.clone(),
        repository: "busybox".to_owned(),
        reference: "1".to_owned(),
    };
    let found = port.digest(&place, None).await;
    ensure!(
        matches!(found, Err(RegistryError::Unavailable { .. })),
        "{found:?}"
    );
    Ok(())
}
