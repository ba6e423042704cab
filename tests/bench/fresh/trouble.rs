//! A revoked token, a seal, refused renewals, kills: what each agent makes of the same trouble.
//!
//! Both run at once and meet the same trouble at the same moment: one token of one AppRole each, one
//! OpenBao, one policy. Credentials are counted in OpenBao, for each agent at a path of its own. Invariant:
//! an agent that does not recover in time is told as such, and the measurement goes on.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::rotations::Rotations;
use tests::stand::agent::Programs;
use tests::wait::Look;
use tests::wait::pause;
use tests::wait::until;
use tests::world::World;
use tokio::time::Instant;

use super::KEY;
use super::arrivals::Arrivals;
use super::beside;
use super::beside::Beside;
use super::managed;
use super::table;

/// Longest that anybody may take to recover.
const RECOVERS: Duration = Duration::from_secs(180);
/// How long OpenBao is sealed.
const SEALED: Duration = Duration::from_secs(60);
/// How long tokens live unless they are extended, where one is revoked.
const TOKEN: &str = "60s";
/// How long a credential lives unless it is extended, where that is refused.
const LIFE: &str = "90s";
/// When refusing begins: both extend their credentials when about a third of the life is left.
const REFUSED_AFTER: Duration = Duration::from_secs(48);
/// How long it is refused. It ends before the credential is near its end.
const REFUSED: Duration = Duration::from_secs(30);
/// How often an agent is killed.
const KILLS: usize = 5;

/// Prints the rows.
pub(super) async fn rows(programs: &Programs) -> Result<()> {
    tokio::try_join!(token(programs), refused(programs))?;
    seal(programs).await?;
    kills(programs).await
}

/// One world in which both keep the same secret fresh.
struct Pair {
    world: World,
    arrivals: Arrivals,
    beside: Beside,
}

impl Pair {
    async fn new(name: &str, programs: &Programs, period: &str) -> Result<Self> {
        let names = managed::names(1);
        let mut world = managed::world(name, programs).await?;
        let role = format!("auth/approle/role/{}", world.agent_role());
        world
            .vault_write(&role, json!({ "token_period": period }))
            .await?;
        managed::fill(&world, &names).await?;
        managed::ask_every(&world, "1s")?;
        world.start_agent().await?;
        managed::deploy(&world, &names, 1).await?;
        let arrivals = Arrivals::of(&world)?;
        let pages = [beside::of_kv(&world, "s0")];
        let mut beside = Beside::new(&world, "1s", &pages).await?;
        beside.start()?;
        beside.until("s0", "first", RECOVERS).await?;
        Ok(Self {
            world,
            arrivals,
            beside,
        })
    }

    /// Changes the secret, and says after which time each of them has it.
    async fn recover(&mut self, began: Instant) -> Result<(String, String)> {
        until(
            "OpenBao to take a change",
            RECOVERS,
            async || match managed::put(&self.world, "s0", "after").await {
                Ok(_) => Look::Ready(()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
        )
        .await?;
        let (theirs, ours) = tokio::join!(
            self.beside.until("s0", "after", RECOVERS),
            self.arrivals.until("app-s0", "after", RECOVERS)
        );
        self.beside.kill().await?;
        Ok((after(began, theirs), after(began, ours)))
    }
}

fn after(began: Instant, at: Result<Instant>) -> String {
    match at {
        Ok(at) => format!("{:.1} s", (at - began).as_secs_f64()),
        Err(_) => format!("> {} s", RECOVERS.as_secs()),
    }
}

async fn token(programs: &Programs) -> Result<()> {
    let mut pair = Pair::new("fresh-token", programs, TOKEN).await?;
    // In the middle of the time between two renewals of the token.
    pause(Duration::from_secs(10)).await;
    let began = Instant::now();
    let revoked = revoke_tokens(&pair.world).await?;
    ensure!(revoked >= 2, "each agent has a token");
    let (theirs, ours) = pair.recover(began).await?;
    let figure = format!("token (of {TOKEN}) revoked -> a change arrives again");
    table::row(&figure, &theirs, &ours, "<= 2 s");
    Ok(())
}

/// Revokes the tokens that agents of this world logged in for; returns how many.
async fn revoke_tokens(world: &World) -> Result<usize> {
    let stand = world.stand;
    let path = "auth/token/accessors";
    let (_, accessors) = stand.vault("LIST".parse()?, path, None).await?;
    let mut revoked = 0;
    for accessor in accessors["data"]["keys"].as_array().into_iter().flatten() {
        let asked = json!({ "accessor": accessor });
        let path = "auth/token/lookup-accessor";
        let (status, token) = stand
            .vault(reqwest::Method::POST, path, Some(&asked))
            .await?;
        let data = &token["data"];
        let policies = data["policies"].as_array().cloned().unwrap_or_default();
        let is_agents = policies.contains(&Value::String(world.agent_role()));
        if status == 200 && is_agents && data["path"] == "auth/approle/login" {
            world
                .vault_write("auth/token/revoke-accessor", asked)
                .await?;
            revoked += 1;
        }
    }
    Ok(revoked)
}

async fn seal(programs: &Programs) -> Result<()> {
    let mut pair = Pair::new("fresh-seal", programs, "1h").await?;
    let stand = pair.world.stand;
    let key = stand.facts().vault_unseal_key.clone();
    ensure!(
        !key.is_empty(),
        "an OpenBao that was named from outside is not sealed"
    );
    pair.world.vault_write("sys/seal", json!({})).await?;
    pause(SEALED).await;
    pair.world
        .vault_write("sys/unseal", json!({ "key": key }))
        .await?;
    until("OpenBao to be active", RECOVERS, async || {
        match stand.vault(reqwest::Method::GET, "sys/health", None).await {
            Ok((200, _)) => Look::Ready(()),
            Ok((status, _)) => Look::NotYet(format!("it answers {status}")),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    })
    .await?;
    let (theirs, ours) = pair.recover(Instant::now()).await?;
    let seconds = SEALED.as_secs();
    let figure = format!("sealed for {seconds} s, active again -> a change arrives");
    table::row(&figure, &theirs, &ours, "<= 5 s");
    Ok(())
}

/// The path of the credentials of the other agent.
fn beside_creds(world: &World) -> String {
    format!("database/creds/{}-beside", world.role)
}

/// Gives both agents roles for database credentials that live for a time.
async fn grant_credentials(world: &World, life: &str) -> Result<String> {
    let role = format!("database/roles/{}", world.role);
    let (_, like) = world.stand.vault(reqwest::Method::GET, &role, None).await?;
    let mut like = like["data"].clone();
    like["default_ttl"] = json!(life);
    world.vault_write(&role, like.clone()).await?;
    world.vault_write(&format!("{role}-beside"), like).await?;
    let policy = format!(
        "{}\npath \"{}\" {{ capabilities = [\"read\"] }}\n",
        world.agent_policy(),
        beside_creds(world)
    );
    world.let_agent(&policy).await?;
    Ok(policy)
}

/// Counts the live credentials of a path.
async fn alive(world: &World, creds: &str) -> Result<usize> {
    let path = format!("sys/leases/lookup/{creds}");
    let (_, told) = world.stand.vault("LIST".parse()?, &path, None).await?;
    Ok(told["data"]["keys"].as_array().map_or(0, Vec::len))
}

async fn start_beside(world: &World) -> Result<Beside> {
    let pages = [beside::of_credential(&beside_creds(world))];
    let mut beside = Beside::new(world, "10s", &pages).await?;
    beside.start()?;
    rendered(&beside).await?;
    Ok(beside)
}

async fn rendered(beside: &Beside) -> Result<()> {
    until(
        "`bao agent` to render a credential",
        RECOVERS,
        async || match beside.page("user") {
            Some(user) if !user.is_empty() => Look::Ready(()),
            _ => Look::NotYet("not yet".to_owned()),
        },
    )
    .await
}

async fn refused(programs: &Programs) -> Result<()> {
    let mut world = managed::world("fresh-refused", programs).await?;
    let policy = grant_credentials(&world, LIFE).await?;
    world.start_agent().await?;
    let creds = world.creds();
    let began = Instant::now();
    let spec = format!(
        "version: 1\nname: app\nsecrets:\n  - name: app-db\n    keys:\n      {KEY}: {{ vault: {creds}, field: username }}\n    rotate: {{ outage_budget: 10s }}\n"
    );
    let done = world.deploy(&[("quaymaster.yaml", &spec)]).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let mut beside = start_beside(&world).await?;
    pause(REFUSED_AFTER.saturating_sub(began.elapsed())).await;
    let refuse = format!("{policy}\npath \"sys/leases/renew\" {{ capabilities = [\"deny\"] }}\n");
    world.let_agent(&refuse).await?;
    pause(REFUSED).await;
    let theirs = alive(&world, &beside_creds(&world))
        .await?
        .saturating_sub(1);
    let ours = alive(&world, &creds).await?.saturating_sub(1);
    let told = managed::managed(&world).await?;
    beside.kill().await?;
    let path = format!("sys/leases/revoke-prefix/{}", beside_creds(&world));
    world.vault_write(&path, json!({})).await?;
    let left = told
        .first()
        .and_then(|secret| secret["expires_in_seconds"].as_u64())
        .context("the credential is kept")?;
    let seconds = REFUSED.as_secs();
    table::row(
        &format!("new credentials while extending is refused for {seconds} s"),
        &theirs.to_string(),
        &format!("{ours} (it had {left} s left)"),
        "0 while valid",
    );
    Ok(())
}

async fn kills(programs: &Programs) -> Result<()> {
    let mut world = managed::world("fresh-kills", programs).await?;
    grant_credentials(&world, "1h").await?;
    let mut beside = start_beside(&world).await?;
    for _ in 0..KILLS {
        beside.kill().await?;
        beside.start()?;
        rendered(&beside).await?;
    }
    let theirs = alive(&world, &beside_creds(&world))
        .await?
        .saturating_sub(1);
    beside.kill().await?;
    world.start_agent().await?;
    let mut sweep = Rotations::new(&mut world, 7919, KILLS).await?;
    let ran = sweep.run(KILLS).await;
    let ours = alive(&world, &world.creds()).await?.saturating_sub(KILLS);
    if let Err(error) = ran {
        println!("a kill during a rotation: {error:#}");
    }
    table::row(
        &format!("{KILLS} kills (ours: each in a rotation): credentials left over"),
        &theirs.to_string(),
        &ours.to_string(),
        "0",
    );
    Ok(())
}
