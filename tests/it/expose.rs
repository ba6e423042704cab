//! Values for the job itself: who gets them, what a command sees, and that they are found nowhere else.
//!
//! The real client against a real agent and a real OpenBao. The rule of these worlds lists the folder
//! `build` for jobs; everything else is for Secrets only.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tests::submission::post;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tests::world::programs;
use tokio::process::Child;
use tokio::process::Command;

use crate::client::folder;
use crate::client::told;
use crate::leaks::CANARY;
use crate::leaks::clean;
use crate::leaks::walk;
use crate::samples::config_map;

/// Makes a world whose rule gives jobs what is in the folder `build`.
async fn building(name: &str) -> Result<World> {
    let mut world = World::without_agent(name).await?;
    let role = &world.role;
    let lists = format!(
        "expose = [\"kv/{role}/build/*\", \"kv1/{role}/build/*\", \"database/creds/{role}\"]\npaths = ["
    );
    let policy = world.policy().replace("paths = [", &lists);
    fs::write(world.policy_path(), policy)?;
    world.start_agent().await?;
    Ok(world)
}

fn spec(lines: &str) -> String {
    format!("version: 1\nname: app\nexpose:\n{lines}")
}

/// Makes a client that a job would run.
async fn client(world: &World, dir: &Path, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(&programs().await?.client);
    command
        .args(words)
        .current_dir(dir)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("QUAYMASTER_SOCKET", world.socket())
        .env("QUAYMASTER_ID_TOKEN", world.stand.sign(world.token()?)?)
        .kill_on_drop(true);
    Ok(command)
}

/// Runs a shell script below `quaymaster exec`.
async fn exec(world: &World, dir: &TempDir, script: &str) -> Result<Output> {
    let words = ["exec", "--", "sh", "-c", script];
    Ok(client(world, dir.path(), &words).await?.output().await?)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn got(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap_or_default()
}

#[tokio::test]
async fn a_command_gets_its_values_and_its_output_is_masked() -> Result<()> {
    let world = building("exec").await?;
    let fields = json!({ "token": "npm_s3cret-0815", "user": "ci", "key": "-----BEGIN-----\nMIIEvQIBADAN\n-----END-----\n" });
    let path = world.put("build/npm", fields).await?;
    let text = spec(&format!(
        "  TOKEN: {{ vault: {path}, field: token }}\n  LOGIN: {{ vault: {path}, field: user }}\n  KEY: {{ vault: {path}, field: key }}\n  AUTH: {{ template: \"{{{{ LOGIN }}}}:{{{{ TOKEN | url }}}}\" }}\nmanifests: [k8s/]\nimages: {{ app: \"${{NOT_BUILT_YET}}\" }}\n"
    ));
    let dir = folder(&world, &[("quaymaster.yaml", &text)])?;
    let script = r#"
printf %s "$TOKEN" > token; printf %s "$AUTH" > auth; printf %s "$KEY" > key
echo "raw $TOKEN"; printf 'base64 '; printf %s "$TOKEN" | base64
printf 'split npm_s3'; sleep 0.5; printf 'cret-0815 end\n'
echo "$KEY" | sed -n 2p; echo "err $TOKEN" >&2
echo "short $LOGIN"; echo "id ${QUAYMASTER_ID_TOKEN-none} ${VAULT_TOKEN-none}""#;
    let words = ["exec", "--", "sh", "-c", script];
    let mut command = client(&world, dir.path(), &words).await?;
    let output = command.env("VAULT_TOKEN", "").output().await?;
    println!("{}", told(&output));
    ensure!(output.status.code() == Some(0), "{}", told(&output));
    ensure!(got(&dir, "token") == "npm_s3cret-0815" && got(&dir, "auth") == "ci:npm_s3cret-0815");
    ensure!(got(&dir, "key") == "-----BEGIN-----\nMIIEvQIBADAN\n-----END-----\n");
    let lines = [
        "raw [MASKED]",
        "base64 [MASKED]",
        "split [MASKED] end",
        "[MASKED]",
        "short ci",
        "id none none",
    ];
    ensure!(stdout(&output).lines().eq(lines), "{}", stdout(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let told = ["err [MASKED]", "LOGIN has fewer than 4 bytes"];
    ensure!(told.iter().all(|line| stderr.contains(line)), "{stderr}");
    Ok(())
}

#[tokio::test]
async fn what_the_rule_does_not_list_is_denied_and_not_read() -> Result<()> {
    let world = building("exec-denied").await?;
    let mine = world
        .put("build/npm", json!({ "token": "t0ken-value" }))
        .await?;
    let other = world
        .put("db", json!({ "password": "s3cret-value" }))
        .await?;
    let text = spec(&format!(
        "  A: {{ vault: {mine}, field: token }}\n  B: {{ vault: {other}, field: password }}\n"
    ));
    let dir = folder(&world, &[("quaymaster.yaml", &text)])?;
    let denied = exec(&world, &dir, "touch started").await?;
    println!("{}", told(&denied));
    ensure!(denied.status.code() == Some(20), "{}", told(&denied));
    for word in [
        other.as_str(),
        world.role.as_str(),
        "vault.expose",
        "`secrets`",
    ] {
        ensure!(told(&denied).contains(word), "no {word}: {}", told(&denied));
    }
    let text = spec(&format!("  A: {{ vault: {mine}, field: token }}\n"));
    let dir = folder(&world, &[("quaymaster.yaml", &text)])?;
    let token = world.token()?.claim("ref_protected", "false");
    let words = ["exec", "--", "touch", "started"];
    let mut command = client(&world, dir.path(), &words).await?;
    command.env("QUAYMASTER_ID_TOKEN", world.stand.sign(token)?);
    let unprotected = command.output().await?;
    println!("{}", told(&unprotected));
    ensure!(
        unprotected.status.code() == Some(20) && told(&unprotected).contains("ref_protected"),
        "{}",
        told(&unprotected)
    );
    ensure!(!dir.path().join("started").exists());
    ensure!(world.vault.passed("kv/data") == 0, "nothing was read");
    ensure!(
        world.vault.passed("auth/jwt/login") == 0,
        "nobody logged in"
    );
    let log = world.agent_log()?;
    ensure!(
        log.contains("values for a job") && log.contains("denied"),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn the_exit_code_is_that_of_the_command() -> Result<()> {
    let world = building("exec-codes").await?;
    let path = world
        .put("build/npm", json!({ "token": "t0ken-value" }))
        .await?;
    let text = spec(&format!("  TOKEN: {{ vault: {path}, field: token }}\n"));
    let dir = folder(
        &world,
        &[("quaymaster.yaml", &text), ("data", "no program")],
    )?;
    for (script, code) in [("exit 7", 7), ("kill -KILL $$", 137), ("true", 0)] {
        let output = exec(&world, &dir, script).await?;
        ensure!(
            output.status.code() == Some(code),
            "{script}: {}",
            told(&output)
        );
    }
    for (program, code) in [("no-such-program", 127), ("./data", 126)] {
        let mut command = client(&world, dir.path(), &["exec", "--", program]).await?;
        let output = command.output().await?;
        println!("{program}: {:?} {}", output.status, told(&output));
        ensure!(
            output.status.code() == Some(code),
            "{program}: {}",
            told(&output)
        );
    }
    let leaves = exec(&world, &dir, "sleep 60 & echo left");
    let left = tokio::time::timeout(Duration::from_secs(30), leaves).await??;
    ensure!(
        left.status.code() == Some(0) && stdout(&left) == "left\n",
        "what a command leaves behind is not waited for: {}",
        told(&left)
    );
    Ok(())
}

/// Starts a command that goes on until it is told to end, and waits until it runs.
async fn lasting(world: &World, dir: &TempDir, script: &str) -> Result<Child> {
    let script = format!("{script}; echo $$ > pid; while :; do sleep 0.05; done");
    let words = ["exec", "--", "sh", "-c", &script];
    let mut command = client(world, dir.path(), &words).await?;
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    until(
        "the command to run",
        Duration::from_secs(30),
        async || match got(dir, "pid").trim() {
            "" => Look::NotYet("it has not begun".to_owned()),
            _ => Look::Ready(()),
        },
    )
    .await?;
    Ok(child)
}

#[tokio::test]
async fn signals_reach_the_command() -> Result<()> {
    use rustix::process::Pid;
    use rustix::process::Signal;
    use rustix::process::kill_process;
    let world = building("exec-signals").await?;
    let path = world
        .put("build/npm", json!({ "token": "t0ken-value" }))
        .await?;
    let text = spec(&format!("  TOKEN: {{ vault: {path}, field: token }}\n"));
    for (trap, signal, code, line) in [
        (
            "trap 'echo ended by TERM; exit 3' TERM",
            Signal::TERM,
            3,
            "ended by TERM\n",
        ),
        (
            "trap 'echo ended by INT; exit 4' INT",
            Signal::INT,
            4,
            "ended by INT\n",
        ),
        ("printf prompt:", Signal::TERM, 143, "prompt:"),
    ] {
        let dir = folder(&world, &[("quaymaster.yaml", &text)])?;
        let child = lasting(&world, &dir, trap).await?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(Pid::from_raw).context("it runs")?;
        kill_process(id, signal)?;
        let output = child.wait_with_output().await?;
        println!("{trap}: {:?} {}", output.status, told(&output));
        ensure!(
            output.status.code() == Some(code) && stdout(&output) == line,
            "{trap}: {:?} {}",
            output.status,
            told(&output)
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_value_that_a_job_got_is_found_nowhere_else() -> Result<()> {
    let mut world = building("exec-canary").await?;
    let path = world
        .put("build/app", json!({ "password": CANARY }))
        .await?;
    let text = spec(&format!("  P: {{ vault: {path}, field: password }}\n"));
    let dir = folder(&world, &[("quaymaster.yaml", &text)])?;
    let trap = r#"trap 'echo "got $P"; printf %s "$P" | base64; exit 0' TERM"#;
    let child = lasting(&world, &dir, trap).await?;
    let client = child.id().context("it runs")?;
    let below = got(&dir, "pid").trim().to_owned();
    let read = |path: String| Ok::<_, anyhow::Error>(fs::read(path)?);
    let environment = read(format!("/proc/{below}/environ"))?;
    let environment = String::from_utf8_lossy(&environment).into_owned();
    ensure!(
        environment.contains(CANARY) && !environment.contains("QUAYMASTER_ID_TOKEN"),
        "the command has the value and not the token"
    );
    for path in [
        format!("/proc/{below}/cmdline"),
        format!("/proc/{client}/cmdline"),
    ] {
        clean(&path, &String::from_utf8_lossy(&read(path.clone())?))?;
    }
    // Who may not trace every process may not read this one at all.
    let own = read(format!("/proc/{client}/environ")).unwrap_or_default();
    clean("the client's environment", &String::from_utf8_lossy(&own))?;
    let id = rustix::process::Pid::from_raw(i32::try_from(client)?).context("an id")?;
    rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
    let output = child.wait_with_output().await?;
    ensure!(
        stdout(&output) == "got [MASKED]\n[MASKED]\n",
        "{}",
        told(&output)
    );
    let files = [("quaymaster.yaml", text.as_str())];
    let answer = post(&world.job()?, "/v1/values", &files).await?;
    ensure!(answer.status == 200 && answer.headers["cache-control"] == "no-store");
    let runs = world.job()?.get("/v1/deploys").await?;
    ensure!(
        runs.json()?["runs"] == json!([]),
        "there is no run: {}",
        runs.text()
    );
    let log = world.agent_log()?;
    let line = log.lines().find(|line| line.contains("values for a job"));
    let line = line.with_context(|| log.clone())?;
    println!("{line}");
    for word in [&world.project, &world.role, "given", "names", "job"] {
        ensure!(line.contains(word), "no {word} in {line}");
    }
    let admin = world.admin().get("/v1/status").await?.text()
        + &world.admin().get("/metrics").await?.text();
    for (what, text) in [("the agent's log", &log), ("the admin socket", &admin)] {
        clean(what, text)?;
    }
    let agent = world.agent_pid().unwrap_or_default();
    for file in ["environ", "cmdline"] {
        let bytes = read(format!("/proc/{agent}/{file}"))?;
        clean(file, &String::from_utf8_lossy(&bytes))?;
    }
    world.kill_agent().await?;
    let kept = walk(&world.dir().join("state"))?;
    ensure!(!kept.is_empty(), "there is a journal to search");
    for file in kept.into_iter().chain(walk(dir.path())?) {
        let bytes = fs::read(&file)?;
        clean(
            &file.display().to_string(),
            &String::from_utf8_lossy(&bytes),
        )?;
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_given_is_a_clear_error() -> Result<()> {
    let world = building("exec-errors").await?;
    let path = world
        .put("build/npm", json!({ "token": "t0ken-value" }))
        .await?;
    let creds = world.creds();
    for (source, code, words) in [
        (
            format!("{{ vault: {creds}, field: username }}"),
            21,
            "issues credentials",
        ),
        (
            format!("{{ vault: {path}, field: tokn }}"),
            10,
            "has no field tokn",
        ),
        (
            format!("{{ vault: {path}x, field: token }}"),
            10,
            "there is no secret",
        ),
        (
            format!("{{ vault: {path}, field: token, version: 9 }}"),
            10,
            "version 9",
        ),
        ("{ template: '{{ OTHER }}' }".to_owned(), 21, "OTHER"),
    ] {
        let dir = folder(
            &world,
            &[("quaymaster.yaml", &spec(&format!("  VALUE: {source}\n")))],
        )?;
        let output = exec(&world, &dir, "touch started").await?;
        println!("{source}: {:?}\n{}", output.status.code(), told(&output));
        ensure!(
            output.status.code() == Some(code) && told(&output).contains(words),
            "{source}: {:?} {}",
            output.status,
            told(&output)
        );
        ensure!(!dir.path().join("started").exists());
    }
    ensure!(
        world.vault.passed("/v1/database/creds") == 0,
        "no credential was issued"
    );
    let path_taken = spec(&format!("  PATH: {{ vault: {path}, field: token }}\n"));
    let dir = folder(&world, &[("quaymaster.yaml", &path_taken)])?;
    let output = exec(&world, &dir, "true").await?;
    ensure!(
        output.status.code() == Some(21) && told(&output).contains("quaymaster.yaml:4"),
        "{}",
        told(&output)
    );
    let key = world.job()?.with("idempotency-key", "again");
    let refused = post(&key, "/v1/values", &[("quaymaster.yaml", &path_taken)]).await?;
    ensure!(refused.status == 400, "{}", refused.text());
    Ok(())
}

#[tokio::test]
async fn a_deploy_reads_nothing_that_is_for_jobs() -> Result<()> {
    let world = building("exec-deploy").await?;
    let path = world
        .put("build/npm", json!({ "token": "t0ken-value" }))
        .await?;
    let exposes = format!("expose:\n  TOKEN: {{ vault: {path}, field: token }}\n");
    let both = crate::samples::spec(&exposes);
    let conf = config_map("conf", "v");
    let files = [
        ("quaymaster.yaml", both.as_str()),
        ("k8s/c.yaml", conf.as_str()),
    ];
    let done = world.deploy(&files).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    ensure!(
        world.vault.passed("kv/data") == 0,
        "the deploy read nothing"
    );
    let alone = format!("version: 1\nname: app\n{exposes}");
    let refused = world.post(&[("quaymaster.yaml", &alone)]).await?;
    ensure!(
        refused.status == 422 && refused.text().contains("nothing to deploy"),
        "{}",
        refused.text()
    );
    let values = post(&world.job()?, "/v1/values", &files).await?;
    let body: Value = values.json()?;
    ensure!(
        values.status == 200 && body["values"]["TOKEN"] == "dDBrZW4tdmFsdWU=",
        "{}",
        values.text()
    );
    Ok(())
}

#[tokio::test]
async fn a_shell_reads_the_variables_and_the_jobs_log_does_not_get_them() -> Result<()> {
    let world = building("env").await?;
    let value = "it's \"a\" $VALUE\nof `two` lines";
    let path = world.put("build/npm", json!({ "token": value })).await?;
    let text = spec(&format!("  TOKEN: {{ vault: {path}, field: token }}\n"));
    let dir = folder(&world, &[("quaymaster.yaml", &text)])?;
    let program = programs().await?.client.display().to_string();
    let run = async |shell: &str, script: &str| -> Result<Output> {
        let mut command = Command::new(shell);
        command
            .args(["-e", "-c", &script.replace("quaymaster", &program)])
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("QUAYMASTER_SOCKET", world.socket())
            .env("QUAYMASTER_ID_TOKEN", world.stand.sign(world.token()?)?)
            // As a runner starts the shell of a job.
            .process_group(0);
        Ok(command.output().await?)
    };
    for shell in ["sh", "bash"] {
        for script in [
            r#"values="$(quaymaster env)" && eval "$values"; printf %s "$TOKEN" > got"#,
            r#"eval "$(cd . && quaymaster env)"; printf %s "$TOKEN" > got"#,
            r#"quaymaster env --format json | grep -c TOKEN > count; quaymaster env > file; . ./file; printf %s "$TOKEN" > got; rm file"#,
        ] {
            let output = run(shell, script).await?;
            ensure!(
                output.status.success(),
                "{shell} {script}: {}",
                told(&output)
            );
            ensure!(got(&dir, "got") == value, "{shell} {script}");
            fs::remove_file(dir.path().join("got"))?;
        }
        let plain = run(shell, "quaymaster env; true").await?;
        println!("{}", told(&plain));
        ensure!(
            plain.status.code() == Some(21) && plain.stdout.is_empty(),
            "{}",
            told(&plain)
        );
        ensure!(told(&plain).contains("the job's log"), "{}", told(&plain));
        let shown = run(shell, "quaymaster env --show; true").await?;
        ensure!(
            stdout(&shown).starts_with("export TOKEN='it'"),
            "{}",
            told(&shown)
        );
        let script = r#"eval "$(quaymaster env --file no-such-file)"; touch went-on"#;
        let failed = run(shell, script).await?;
        ensure!(
            !failed.status.success() && !dir.path().join("went-on").exists(),
            "a failure ends the script: {}",
            told(&failed)
        );
    }
    let output = run("sh", "quaymaster env --format dotenv | cat").await?;
    ensure!(told(&output).contains("line breaks"), "{}", told(&output));
    Ok(())
}
