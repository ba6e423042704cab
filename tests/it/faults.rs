//! Vault and the API server away, slow, throttling or cut: the run waits within its deadline, says so, goes on.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use serde_json::json;
use tests::faults::Fault;
use tests::submission::Finished;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;

use crate::samples::config_map;
use crate::samples::spec;
use crate::samples::spec_with_secret;

async fn deploy_one_secret(world: &World) -> Result<Finished> {
    let path = world
        .put("app", json!({ "password": "kept-secret" }))
        .await?;
    let spec = spec_with_secret(&path, "password");
    world.deploy(&[("quaymaster.yaml", &spec)]).await
}

#[tokio::test]
async fn vault_that_is_away_for_a_while_is_waited_for() -> Result<()> {
    let rows = [
        (
            "sealed",
            Fault::Answer(
                503,
                String::new(),
                r#"{"errors":["Vault is sealed"]}"#.to_owned(),
            ),
        ),
        (
            "throttling",
            Fault::Answer(
                429,
                "retry-after: 1\r\n".to_owned(),
                r#"{"errors":["rate limit"]}"#.to_owned(),
            ),
        ),
        (
            "an error page",
            Fault::Answer(502, String::new(), "<html>bad gateway</html>".to_owned()),
        ),
        ("refusing", Fault::Refuse),
        ("cut", Fault::CutAnswer),
    ];
    for (what, fault) in rows {
        let world = World::new("vaultaway").await?;
        world.vault.set_times(fault, 2);
        let done = deploy_one_secret(&world).await?;
        ensure!(
            done.status() == 200,
            "{what}: {}\n{}",
            done.answer.text(),
            done.log
        );
        ensure!(
            world.vault.met() >= 2,
            "{what}: the fault was met {} times",
            world.vault.met()
        );
        ensure!(
            done.log.contains("trying again"),
            "{what}: the log says so:\n{}",
            done.log
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_really_sealed_vault_is_waited_for_and_named_at_the_deadline() -> Result<()> {
    // The stand's own OpenBao is shared by all scenarios, so the seal is played at the proxy.
    let world = World::new("sealed").await?;
    world.vault.set(Fault::Answer(
        503,
        String::new(),
        r#"{"errors":["Vault is sealed"]}"#.to_owned(),
    ));
    let path = world
        .put("app", json!({ "password": "kept-secret" }))
        .await?;
    let spec = spec_with_secret(&path, "password").replace("60s", "4s");
    let done = world.deploy(&[("quaymaster.yaml", &spec)]).await?;
    ensure!(
        done.status() == 424 && done.json()?["code"] == "vault_unavailable",
        "{}",
        done.answer.text()
    );
    ensure!(
        world
            .kubectl(&["get", "secret", "app-secret"])
            .await
            .is_err(),
        "no Secret is written"
    );
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_restarts_is_waited_for() -> Result<()> {
    let world = World::new("apiaway").await?;
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    // The first deploy makes the agent know the kinds; then the server goes away under the second.
    ensure!(
        world
            .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
            .await?
            .status()
            == 200
    );
    world.api.set(Fault::Refuse);
    let conf = config_map("conf", "w");
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("k8s/c.yaml", conf.as_str()),
    ];
    let back = async {
        until(
            "the agent to meet the fault",
            Duration::from_secs(30),
            async || match world.api.met() {
                met if met >= 3 => Look::Ready(()),
                met => Look::NotYet(format!("met {met} times")),
            },
        )
        .await?;
        world.api.set(Fault::None);
        anyhow::Ok(())
    };
    let (done, back) = tokio::join!(world.deploy(&files), back);
    back?;
    let done = done?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    ensure!(done.log.contains("trying again"), "{}", done.log);
    Ok(())
}

#[tokio::test]
async fn a_write_without_an_answer_is_looked_at_first() -> Result<()> {
    let world = World::new("unanswered").await?;
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    ensure!(
        world
            .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
            .await?
            .status()
            == 200
    );
    let conf = config_map("conf", "w");
    world.api.set_times(Fault::CutAnswer, 4);
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
        .await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let value = world
        .kubectl(&["get", "configmap", "conf", "-o", "jsonpath={.data.key}"])
        .await?;
    ensure!(value == "w", "{value}");
    Ok(())
}

#[tokio::test]
async fn credentials_of_a_run_that_writes_nothing_are_revoked() -> Result<()> {
    let world = World::new("revoke").await?;
    // The rule grants two paths that issue; Vault's own policy refuses the second.
    let creds = world.creds();
    let policy = format!(
        "path \"{creds}\" {{ capabilities = [\"read\"] }}\npath \"database/creds/flask\" {{ capabilities = [\"list\"] }}\npath \"sys/internal/ui/mounts/*\" {{ capabilities = [\"read\"] }}\npath \"sys/leases/revoke\" {{ capabilities = [\"update\"] }}\npath \"auth/token/revoke-self\" {{ capabilities = [\"update\"] }}\n"
    );
    world
        .vault_write(
            &format!("sys/policies/acl/{}", world.role),
            json!({ "policy": policy }),
        )
        .await?;
    let spec = format!(
        "version: 1\nname: app\nsecrets:\n  - name: app-a\n    keys: {{ user: {{ vault: {creds}, field: username }} }}\n  - name: app-b\n    keys: {{ user: {{ vault: database/creds/flask, field: username }} }}\nrollout: {{ timeout: 20s }}\n"
    );
    let done = world.deploy(&[("quaymaster.yaml", &spec)]).await?;
    ensure!(
        done.status() == 403 && done.json()?["code"] == "vault_denied",
        "{}",
        done.answer.text()
    );
    ensure!(
        done.log.contains("issued a credential") && done.log.contains("revoked the credential"),
        "{}",
        done.log
    );
    ensure!(
        world.live_credentials().await? == 0,
        "the issued credential is gone"
    );
    for name in ["app-a", "app-b"] {
        ensure!(
            world.kubectl(&["get", "secret", name]).await.is_err(),
            "{name} is not written"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_login_token_of_a_run_without_leases_is_revoked() -> Result<()> {
    let world = World::new("logout").await?;
    let tokens = async || -> Result<usize> {
        let (_, body) = world
            .stand
            .vault("LIST".parse()?, "auth/token/accessors", None)
            .await?;
        let accessors: Vec<String> = body["data"]["keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|key| key.as_str().map(str::to_owned))
            .collect();
        let mut ours = 0;
        for accessor in accessors {
            let ask = json!({ "accessor": accessor });
            let (_, found) = world
                .stand
                .vault(
                    reqwest::Method::POST,
                    "auth/token/lookup-accessor",
                    Some(&ask),
                )
                .await?;
            ours += usize::from(found["data"]["meta"]["project_id"] == world.project.as_str());
        }
        Ok(ours)
    };
    let done = deploy_one_secret(&world).await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    ensure!(tokens().await? == 0, "the run's token is revoked");
    Ok(())
}
