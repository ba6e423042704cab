//! Vault away, refusing or talking nonsense while credentials have to be extended: what is valid is never
//! dropped, nothing is issued meanwhile, and afterwards all is as before.
//!
//! The faults are played at the proxy between the agent and the real OpenBao; a lease lives for 30 s, so
//! that it has to be extended while a fault is on. Credentials are counted in OpenBao itself.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::faults::Fault;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;

/// How long a credential of these scenarios lives unless it is extended.
const LIFE: &str = "30s";
/// A fault is on until it was met so often.
const MET: usize = 6;

/// What the Secret is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// A KV value and a credential.
    OfBoth,
    /// KV values alone: no credential has to be extended, so nothing asks Vault but the look for versions.
    OfKv,
}

impl Made {
    const fn credentials(self) -> usize {
        match self {
            Self::OfBoth => 1,
            Self::OfKv => 0,
        }
    }
}

/// Deploys one Secret that is kept fresh; a credential in it is short-lived.
async fn deploy(world: &World, made: Made) -> Result<()> {
    let role = format!("database/roles/{}", world.role);
    let (_, like) = world.stand.vault(reqwest::Method::GET, &role, None).await?;
    let mut short = like["data"].clone();
    short["default_ttl"] = json!(LIFE);
    short["max_ttl"] = json!("1h");
    world.vault_write(&role, short).await?;
    let kv = world.put("app", json!({ "api": "first-value" })).await?;
    let password = match made {
        Made::OfBoth => format!(
            "      password: {{ vault: {}, field: password }}\n",
            world.creds()
        ),
        Made::OfKv => String::new(),
    };
    let spec = format!(
        "version: 1\nname: app\nsecrets:\n  - name: app-db\n    keys:\n      api: {{ vault: {kv}, field: api }}\n\
         {password}    rotate: {{ outage_budget: 10s }}\n"
    );
    let done = world.deploy(&[("quaymaster.yaml", &spec)]).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    Ok(())
}

async fn generation(world: &World) -> Result<u64> {
    let text = world
        .kubectl(&["get", "secret", "app-db", "-o", "json"])
        .await?;
    let body: Value = serde_json::from_str(&text)?;
    let record = &body["metadata"]["annotations"]["state.quaymaster.dev/managed"];
    let record: Value = serde_json::from_str(record.as_str().context("it has a record")?)?;
    record["state"]["generation"]
        .as_u64()
        .context("a record counts its changes")
}

/// One fault: on while the credential has to be extended, then off.
async fn outage(what: &str, made: Made, fault: Fault) -> Result<()> {
    let world = World::rotating("outage").await?;
    deploy(&world, made).await?;
    let told = || format!("{what}\n{}", world.agent_log().unwrap_or_default());
    let before = world.vault.met();
    world.vault.set(fault);
    until(
        "the fault to be met",
        Duration::from_secs(60),
        async || match world.vault.met() - before {
            met if met >= MET => Look::Ready(()),
            met => Look::NotYet(format!("met {met} times")),
        },
    )
    .await
    .with_context(told)?;
    ensure!(
        world.live_credentials().await? == made.credentials(),
        "{what}: nothing is issued and nothing dropped while it is on"
    );
    world.vault.set(Fault::None);
    world.put("app", json!({ "api": "second-value" })).await?;
    until(
        "a change to arrive",
        Duration::from_secs(60),
        async || match world.secret("app-db").await {
            Ok(values) if values["api"] == "second-value" => Look::Ready(()),
            Ok(_) => Look::NotYet("it has the first value".to_owned()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await
    .with_context(told)?;
    let generation = generation(&world).await?;
    ensure!(
        generation == 2,
        "{what}: only the new version changed the Secret, not the fault: generation {generation}\n{}",
        told()
    );
    ensure!(
        world.live_credentials().await? == made.credentials(),
        "{what}"
    );
    Ok(())
}

#[tokio::test]
async fn no_outage_drops_or_multiplies_a_valid_credential() -> Result<()> {
    let answer = |status: u16, headers: &str, body: &str| {
        Fault::Answer(status, headers.to_owned(), body.to_owned())
    };
    let rows = [
        (
            "sealed",
            answer(503, "", r#"{"errors":["Vault is sealed"]}"#),
        ),
        (
            "forbidden",
            answer(403, "", r#"{"errors":["permission denied"]}"#),
        ),
        (
            "throttling",
            answer(429, "retry-after: 1\r\n", r#"{"errors":["rate limit"]}"#),
        ),
        ("standby", answer(472, "", "")),
        ("a stale index", answer(412, "", r#"{"errors":["stale"]}"#)),
        ("an error page", answer(502, "", "<html>bad gateway</html>")),
        ("nonsense", answer(200, "", "{\"data\": 5}")),
        ("refusing", Fault::Refuse),
        ("cut", Fault::CutAnswer),
    ];
    // Those after which the look for versions alone has to notice that Vault is back.
    let of_kv = [&rows[0], &rows[1], &rows[7]].map(|(what, fault)| (*what, fault.clone()));
    let outages = rows.map(|(what, fault)| outage(what, Made::OfBoth, fault));
    let of_kv = of_kv.map(|(what, fault)| outage(what, Made::OfKv, fault));
    let ended = futures::future::join_all(outages.into_iter().chain(of_kv)).await;
    ended.into_iter().collect::<Result<Vec<()>>>().map(drop)
}

#[tokio::test]
async fn a_revoked_token_of_the_agent_is_noticed_and_everything_is_issued_anew() -> Result<()> {
    let world = World::rotating("tokendeath").await?;
    deploy(&world, Made::OfBoth).await?;
    let accessors = world
        .stand
        .vault("LIST".parse()?, "auth/token/accessors", None)
        .await?;
    let policy = world.agent_role();
    for accessor in accessors.1["data"]["keys"].as_array().into_iter().flatten() {
        let (status, token) = world
            .stand
            .vault(
                reqwest::Method::POST,
                "auth/token/lookup-accessor",
                Some(&json!({ "accessor": accessor })),
            )
            .await?;
        let data = &token["data"];
        let ours = data["policies"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| *one == json!(policy)));
        // The agent's own one: those of single credentials were made below it.
        if status == 200 && ours && data["path"] == "auth/approle/login" {
            world
                .vault_write(
                    "auth/token/revoke-accessor",
                    json!({ "accessor": accessor }),
                )
                .await?;
        }
    }
    until(
        "a new credential",
        Duration::from_secs(60),
        async || match generation(&world).await {
            Ok(2) => Look::Ready(()),
            Ok(other) => Look::NotYet(format!("generation {other}")),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await
    .with_context(|| world.agent_log().unwrap_or_default())?;
    until(
        "one credential",
        Duration::from_secs(30),
        async || match world.live_credentials().await {
            Ok(1) => Look::Ready(()),
            Ok(other) => Look::NotYet(format!("{other} are alive")),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await
}
