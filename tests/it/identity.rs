//! The agent's own identity in Vault: each way to log in, restarts, a dead token, a sealed Vault.
//!
//! The adapter runs in this process where a session of the agent's own is needed, and as the whole agent where
//! its life is. Sealing happens on a stand of its own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use agent::clock::SystemClock;
use agent::config::Identity;
use agent::config::Method;
use agent::config::RoleId;
use agent::vault::IdentitySettings;
use agent::vault::Vault;
use agent::vault::VaultSettings;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deploy::ports::Login;
use deploy::ports::Secrets as _;
use deploy::ports::SecretsError;
use deploy::secret::VaultPath;
use serde_json::Value;
use serde_json::json;
use tests::faults::Fault;
use tests::stand::Owner;
use tests::stand::Stand;
use tests::stand::layout::AUDIENCE;
use tests::stand::layout::Settings;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tokio_util::sync::CancellationToken;

fn approle(world: &World) -> Identity {
    Identity {
        mount: "approle".to_owned(),
        method: Method::AppRole {
            role: RoleId::Text(world.agent_role()),
            secret_id_file: world.dir().join("secret_id"),
        },
    }
}

fn vault(world: &World, identity: Identity, state_dir: &Path) -> Result<Arc<Vault>> {
    let settings = VaultSettings {
        address: format!("http://{}", world.vault.address()),
        ca_file: None,
        jwt_mount: "jwt".to_owned(),
        namespace: None,
        timeout: Duration::from_secs(10),
    };
    let vault = Vault::new(settings)?.with_identity(IdentitySettings {
        identity,
        state_dir: Some(state_dir.to_owned()),
        clock: Arc::new(SystemClock),
        ticket: agent::clock::random()?,
        jitter: 1,
    })?;
    Ok(Arc::new(vault))
}

/// Reads a secret of the world's in a session of the agent's own.
async fn read(world: &World, vault: &Vault) -> Result<(), SecretsError> {
    let session = vault.login(&Login::Own).await?;
    let path = VaultPath::parse(&format!("kv/{}/app", world.role)).expect("it is valid");
    let mount = vault.engine(&session, &path).await?;
    vault.read(&session, &mount, &path, None).await.map(drop)
}

/// Makes a token of the world's agents by hand; returns it.
async fn token(world: &World) -> Result<String> {
    let body = json!({ "policies": [world.agent_role()], "period": "1h", "no_parent": true });
    let path = "auth/token/create";
    let (status, answer) = world
        .stand
        .vault(reqwest::Method::POST, path, Some(&body))
        .await?;
    let token = answer["auth"]["client_token"].as_str();
    let token = token.with_context(|| format!("OpenBao answered {status}"))?;
    Ok(token.to_owned())
}

/// Lets the world's agents log in by a JWT of the stand's issuer; returns the identity.
async fn jwt(world: &World) -> Result<Identity> {
    let role = world.agent_role();
    let body = json!({ "role_type": "jwt", "bound_audiences": [AUDIENCE], "user_claim": "sub",
        "bound_claims": { "project_id": world.project }, "token_policies": [role],
        "token_type": "service", "token_period": "1h" });
    world
        .vault_write(&format!("auth/jwt/role/{role}"), body)
        .await?;
    let jwt_file = world.dir().join("token.jwt");
    fs::write(&jwt_file, world.stand.sign(world.token()?)?)?;
    Ok(Identity {
        mount: "jwt".to_owned(),
        method: Method::Jwt { role, jwt_file },
    })
}

/// Lets the service account `default` of the world's namespace log in; returns the identity.
async fn kubernetes(world: &World) -> Result<Identity> {
    let (namespace, mount) = (&world.namespace, format!("kubernetes-{}", world.role));
    world.kubectl(&["create", "sa", "reviewer"]).await?;
    let subject = format!("--serviceaccount={namespace}:reviewer");
    let binding = format!("{namespace}-reviewer");
    let words = ["create", "clusterrolebinding", &binding, &subject];
    let reviews = ["--clusterrole=system:auth-delegator"];
    world
        .stand
        .kubectl(&[words.as_slice(), &reviews].concat())
        .await?;
    let reviewer = world.kubectl(&["create", "token", "reviewer"]).await?;
    let kubeconfig = fs::read(&world.stand.facts().kubeconfig_inside)?;
    let kubeconfig: Value = serde_json::from_slice(&kubeconfig)?;
    let cluster = &kubeconfig["clusters"][0]["cluster"];
    let authority = cluster["certificate-authority-data"].as_str();
    let authority = STANDARD.decode(authority.context("an authority")?)?;
    world
        .vault_write(
            &format!("sys/auth/{mount}"),
            json!({ "type": "kubernetes" }),
        )
        .await?;
    let config = json!({ "kubernetes_host": cluster["server"], "token_reviewer_jwt": reviewer.trim(),
        "kubernetes_ca_cert": String::from_utf8(authority)?, "disable_local_ca_jwt": true });
    world
        .vault_write(&format!("auth/{mount}/config"), config)
        .await?;
    let role = json!({ "bound_service_account_names": ["default"], "token_type": "service",
        "bound_service_account_namespaces": [namespace], "token_period": "1h",
        "token_policies": [world.agent_role()] });
    world
        .vault_write(&format!("auth/{mount}/role/agent"), role)
        .await?;
    let jwt_file = world.dir().join("service-account.jwt");
    fs::write(
        &jwt_file,
        world.kubectl(&["create", "token", "default"]).await?,
    )?;
    let role = "agent".to_owned();
    Ok(Identity {
        mount,
        method: Method::Kubernetes { role, jwt_file },
    })
}

/// The accessor of the token that is kept in a folder.
pub(crate) async fn kept_accessor(world: &World, folder: &Path) -> Result<String> {
    let text = fs::read_to_string(folder.join("identity.token"))?;
    let kept: Value = serde_json::from_str(&text)?;
    let body = json!({ "token": kept["token"] });
    let path = "auth/token/lookup";
    let (status, answer) = world
        .stand
        .vault(reqwest::Method::POST, path, Some(&body))
        .await?;
    let accessor = answer["data"]["accessor"].as_str();
    Ok(accessor
        .with_context(|| format!("OpenBao answered {status}"))?
        .to_owned())
}

pub(crate) async fn revoke(world: &World, accessor: &str) -> Result<()> {
    let body = json!({ "accessor": accessor });
    world.vault_write("auth/token/revoke-accessor", body).await
}

#[tokio::test]
async fn every_method_of_this_server_logs_in_and_works_again_after_its_token_died() -> Result<()> {
    let world = World::without_agent("methods").await?;
    world.put("app", json!({ "key": "x" })).await?;
    let token_file = world.dir().join("token");
    fs::write(&token_file, token(&world).await?)?;
    let from_file = Identity {
        mount: String::new(),
        method: Method::TokenFile {
            token_file: token_file.clone(),
        },
    };
    let jwt = jwt(&world).await?;
    let kubernetes = kubernetes(&world).await?;
    for identity in [approle(&world), jwt, kubernetes, from_file] {
        let name = identity.method.name();
        let state = world.dir().join(name);
        fs::create_dir_all(&state)?;
        let vault = vault(&world, identity, &state)?;
        read(&world, &vault).await.context(name)?;
        let first = vault.own().context("it is logged in")?;
        ensure!(first.ends.is_none(), "{name}: a periodic token lives on");
        if name == "token_file" {
            let old = fs::read_to_string(&token_file)?;
            fs::write(&token_file, token(&world).await?)?;
            let body = json!({ "token": old });
            world.vault_write("auth/token/revoke", body).await?;
        } else {
            revoke(&world, &kept_accessor(&world, &state).await?).await?;
        }
        let before = Instant::now();
        read(&world, &vault).await.context(name)?;
        ensure!(before.elapsed() < Duration::from_secs(2), "{name}");
        let second = vault.own().context("it is logged in")?;
        ensure!(second.id != first.id, "{name}: it is another token");
    }
    Ok(())
}

#[tokio::test]
async fn a_real_refusal_is_told_and_the_token_kept() -> Result<()> {
    let world = World::without_agent("refused").await?;
    world.put("app", json!({ "key": "x" })).await?;
    let vault = vault(&world, approle(&world), world.dir())?;
    read(&world, &vault).await?;
    let own = vault.own();
    let narrow = world.agent_policy().replace("kv/data/", "kv/other/");
    world.let_agent(&narrow).await?;
    let refused = read(&world, &vault).await;
    let expected = SecretsError::Forbidden {
        path: format!("kv/{}/app", world.role),
    };
    ensure!(refused == Err(expected), "{refused:?}");
    ensure!(vault.own() == own);
    world.let_agent(&world.agent_policy()).await?;
    read(&world, &vault).await?;
    ensure!(vault.own() == own);
    Ok(())
}

#[tokio::test]
async fn a_token_that_ends_says_when() -> Result<()> {
    let world = World::without_agent("ends").await?;
    world.put("app", json!({ "key": "x" })).await?;
    let role = format!("auth/approle/role/{}", world.agent_role());
    let body = json!({ "token_period": "0s", "token_ttl": "10m", "token_max_ttl": "1h" });
    world.vault_write(&role, body).await?;
    let vault = vault(&world, approle(&world), world.dir())?;
    read(&world, &vault).await?;
    let ends = vault.own().and_then(|own| own.ends).context("it ends")?;
    let left = ends.duration_since(deploy::ports::Clock::now(&SystemClock));
    ensure!((3_500..=3_600).contains(&left.as_secs()), "{left:?}");
    let status = vault.identity_status().context("it has an identity")?;
    ensure!(
        status.ttl_seconds.is_some_and(|left| left > 3_500),
        "{status:?}"
    );
    ensure!(
        status.next_renewal.is_some_and(|at| at < ends),
        "{status:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_restart_of_the_agent_keeps_its_token_and_a_start_without_vault_is_ready_later()
-> Result<()> {
    let mut world = World::new("kept").await?;
    let state = world.dir().join("state");
    let first = kept_accessor(&world, &state).await?;
    world.kill_agent().await?;
    world.start_agent().await?;
    ensure!(kept_accessor(&world, &state).await? == first, "it is kept");
    world.kill_agent().await?;
    world.vault.set(Fault::Refuse);
    world.spawn_agent().await?;
    let admin = world.admin();
    until(
        "the blocker",
        Duration::from_secs(20),
        async || match admin.get("/readyz").await {
            Ok(answer) if answer.text().contains("vault identity") => Look::Ready(()),
            Ok(answer) => Look::NotYet(answer.text()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await?;
    world.vault.set(Fault::None);
    until(
        "the agent to be ready",
        Duration::from_secs(20),
        async || match admin.get("/readyz").await {
            Ok(answer) if answer.status == 200 => Look::Ready(()),
            Ok(answer) => Look::NotYet(answer.text()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await?;
    ensure!(kept_accessor(&world, &state).await? == first, "it is kept");
    revoke(&world, &first).await?;
    world.kill_agent().await?;
    world.start_agent().await?;
    ensure!(
        kept_accessor(&world, &state).await? != first,
        "a dead one is replaced"
    );
    Ok(())
}

#[tokio::test]
async fn the_identity_works_within_5_seconds_of_an_unseal() -> Result<()> {
    let settings = Settings::read()?;
    let name = format!("seals-{}", std::process::id());
    let stand = Stand::start(&settings, &name, Owner::Starter, |_| {}).await?;
    // A world keeps its stand for as long as the process, which the stand ends with.
    let world = World::on(Box::leak(Box::new(stand)), "seals").await?;
    sealed_and_back(&world).await?;
    drop(world);
    Stand::stop(&settings, &name).await
}

async fn sealed_and_back(world: &World) -> Result<()> {
    world.put("app", json!({ "key": "x" })).await?;
    let vault = vault(world, approle(world), world.dir())?;
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(Arc::clone(&vault).keep_identity(stop.clone()));
    read(world, &vault).await?;
    let accessor = kept_accessor(world, world.dir()).await?;
    // A token that is dead when the seal comes, so that there is something to log in for.
    revoke(world, &accessor).await?;
    let (status, _) = world
        .stand
        .vault(reqwest::Method::PUT, "sys/seal", Some(&json!({})))
        .await?;
    ensure!(status == 204, "sys/seal answered {status}");
    let away = read(world, &vault).await;
    ensure!(
        matches!(away, Err(SecretsError::Unavailable { .. })),
        "{away:?}"
    );
    let body = json!({ "key": world.stand.facts().vault_unseal_key });
    let unsealed = async || {
        let sent = world
            .stand
            .vault(reqwest::Method::PUT, "sys/unseal", Some(&body))
            .await?;
        ensure!(sent.0 == 200, "sys/unseal answered {}", sent.0);
        anyhow::Ok(())
    };
    unsealed().await?;
    // Unsealed is not active yet: what counts is from when others can read.
    let probe = format!("kv/data/{}/app", world.role);
    until(
        "OpenBao to serve",
        Duration::from_secs(60),
        async || match world.stand.vault(reqwest::Method::GET, &probe, None).await {
            Ok((200, _)) => Look::Ready(()),
            other => Look::NotYet(format!("{other:?}")),
        },
    )
    .await?;
    let serving = Instant::now();
    until(
        "the identity",
        Duration::from_secs(30),
        async || match read(world, &vault).await {
            Ok(()) => Look::Ready(()),
            Err(error) => Look::NotYet(error.to_string()),
        },
    )
    .await?;
    let took = serving.elapsed();
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    println!("identity after an unseal: {took:?}");
    stop.cancel();
    keeper.await?;
    Ok(())
}
