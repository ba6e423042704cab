//! Bad input and missing rights: the status, the stable code, and that nothing was written.
//!
//! One scenario a row of what the socket refuses; the finer rules are unit tests of the crates.

use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::client::Answer;
use tests::client::Client;
use tests::submission::bundle;
use tests::submission::post;
use tests::world::World;

use crate::samples::Deployment;
use crate::samples::config_map;
use crate::samples::spec;
use crate::samples::spec_with_secret;

fn expect(what: &str, answer: &Answer, status: u16, code: &str) -> Result<()> {
    // One line a row, for the table of bad input.
    let detail = answer
        .json()
        .ok()
        .and_then(|body| body["detail"].as_str().map(str::to_owned))
        .unwrap_or_default();
    println!(
        "| {what} | {} | {} | {detail} |",
        answer.status,
        answer.code()
    );
    ensure!(
        answer.status == status && answer.code() == code,
        "{what}: {} {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

async fn deploy_with(world: &World, token: &str) -> Result<Answer> {
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    post(
        &world.nobody().bearer(token),
        "/v1/deploys",
        &[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)],
    )
    .await
}

#[tokio::test]
async fn tokens_that_prove_nothing_are_refused_by_class() -> Result<()> {
    let world = World::new("tokens").await?;
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("k8s/c.yaml", conf.as_str()),
    ];
    expect(
        "no token",
        &post(&world.nobody(), "/v1/deploys", &files).await?,
        401,
        "token_missing",
    )?;
    let sign = |token| world.stand.sign(token);
    let good = || world.token();
    expect(
        "expired",
        &deploy_with(&world, &sign(good()?.expires_in(-120))?).await?,
        401,
        "token_expired",
    )?;
    let rows = [
        (
            "wrong issuer",
            good()?.claim("iss", "https://elsewhere.example"),
        ),
        (
            "wrong audience",
            good()?.claim("aud", "https://elsewhere.example"),
        ),
        (
            "two audiences",
            good()?.claim(
                "aud",
                json!(["https://quaymaster.example", "https://elsewhere.example"]),
            ),
        ),
    ];
    for (what, token) in rows {
        expect(
            what,
            &deploy_with(&world, &sign(token)?).await?,
            401,
            "token_untrusted",
        )?;
    }
    for claim in [
        "exp",
        "aud",
        "iss",
        "nbf",
        "iat",
        "jti",
        "sub",
        "project_id",
        "job_id",
    ] {
        let answer = deploy_with(&world, &sign(good()?.without(claim))?).await?;
        expect(&format!("missing {claim}"), &answer, 401, "token_malformed")?;
    }
    let answer = deploy_with(&world, &sign(good()?.claim("ref_protected", true))?).await?;
    expect(
        "boolean where GitLab sends text",
        &answer,
        401,
        "token_malformed",
    )?;
    let other = tests::stand::token::IssuerKey::generate()?;
    expect(
        "foreign key",
        &deploy_with(&world, &good()?.sign(&other)?).await?,
        401,
        "token_untrusted",
    )?;
    expect(
        "alg none",
        &deploy_with(&world, &good()?.unsigned()).await?,
        401,
        "token_untrusted",
    )?;
    let hmac = good()?.sign_hmac(
        world.stand.issuer_key().public_pem()?.as_bytes(),
        Some(world.stand.issuer_key().kid()),
    );
    expect(
        "HS256 with the public key",
        &deploy_with(&world, &hmac).await?,
        401,
        "token_untrusted",
    )?;
    expect(
        "not a token",
        &deploy_with(&world, "abc").await?,
        401,
        "token_malformed",
    )?;
    ensure!(
        world.kubectl(&["get", "configmap", "conf"]).await.is_err(),
        "nothing was written"
    );
    Ok(())
}

#[tokio::test]
async fn a_valid_token_without_a_rule_is_denied_and_whoami_says_why() -> Result<()> {
    let world = World::new("norule").await?;
    let token = world
        .stand
        .sign(world.token()?.claim("ref_protected", "false"))?;
    let answer = deploy_with(&world, &token).await?;
    expect("no rule", &answer, 403, "denied")?;
    ensure!(
        answer.json()?["decision_id"].is_string(),
        "{}",
        answer.text()
    );
    let who = world.nobody().bearer(&token).get("/v1/whoami").await?;
    ensure!(who.status == 200, "{}", who.text());
    let body = who.json()?;
    ensure!(
        body["rules"].as_array().is_some_and(Vec::is_empty),
        "{body}"
    );
    ensure!(body["nearest"][0]["attribute"] == "ref_protected", "{body}");
    let stranger = world
        .stand
        .sign(world.stand.token()?.project("999999", "x/y"))?;
    let body = world
        .nobody()
        .bearer(&stranger)
        .get("/v1/whoami")
        .await?
        .json()?;
    ensure!(
        body["nearest"].as_array().is_none_or(Vec::is_empty),
        "rules of others stay hidden: {body}"
    );
    Ok(())
}

#[tokio::test]
async fn a_broken_spec_is_located_and_never_quoted() -> Result<()> {
    let world = World::new("spec").await?;
    let canary = "canary-5f0e77";
    let rows = [
        (
            "unknown field",
            format!("version: 1\nname: app\nmanifests: [k8s/]\nmanifest: {canary}\n"),
            4,
        ),
        (
            "duplicate key",
            format!("version: 1\nname: app\nname: {canary}\nmanifests: [k8s/]\n"),
            3,
        ),
        (
            "bad YAML",
            format!("version: 1\nname: [{canary}\nmanifests: [k8s/]\n"),
            0,
        ),
        (
            "tag",
            format!("version: 1\nname: !!str {canary}\nmanifests: [k8s/]\n"),
            2,
        ),
        (
            "alias",
            format!("version: 1\nname: &a {canary}\nmanifests: [*a]\n"),
            0,
        ),
        (
            "number for a name",
            "version: 1\nname: 42\nmanifests: [k8s/]\n".to_owned(),
            2,
        ),
        (
            "deep nesting",
            format!(
                "version: 1\nname: {}{}\n",
                "[".repeat(20_000),
                "]".repeat(20_000)
            ),
            0,
        ),
        ("nothing to do", "version: 1\nname: app\n".to_owned(), 0),
    ];
    let conf = config_map("conf", "v");
    for (what, text, line) in rows {
        let answer = world
            .post(&[("quaymaster.yaml", &text), ("k8s/c.yaml", &conf)])
            .await?;
        expect(what, &answer, 422, "spec_invalid")?;
        ensure!(
            !answer.text().contains(canary),
            "{what} quotes: {}",
            answer.text()
        );
        let place = answer.json()?["errors"][0].clone();
        ensure!(place["file"] == "quaymaster.yaml", "{what}: {place}");
        ensure!(line == 0 || place["line"] == line, "{what}: {place}");
    }
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    let spec = spec("");
    let answer = world
        .post(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", bomb)])
        .await?;
    expect("alias bomb in a manifest", &answer, 422, "manifest_invalid")
}

fn entry(name: &str, kind: tar::EntryType, size: u64, content: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    let place = &mut header.as_old_mut().name;
    place[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
        header.set_link_name("/etc/passwd")?;
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().div_ceil(512) * 512, 0);
    bytes.resize(bytes.len() + 1024, 0);
    Ok(bytes)
}

#[tokio::test]
async fn hostile_archives_are_refused_whole() -> Result<()> {
    let world = World::new("tars").await?;
    let job = world.job()?.with("content-type", "application/x-tar");
    let rows = [
        (
            "..",
            entry("../evil", tar::EntryType::Regular, 1, b"x")?,
            422,
        ),
        (
            "absolute path",
            entry("/etc/evil", tar::EntryType::Regular, 1, b"x")?,
            422,
        ),
        (
            "symbolic link",
            entry("link", tar::EntryType::Symlink, 0, b"")?,
            422,
        ),
        (
            "hard link",
            entry("link", tar::EntryType::Link, 0, b"")?,
            422,
        ),
        ("device", entry("dev", tar::EntryType::Char, 0, b"")?, 422),
        (
            "2 GB in the header",
            entry("big", tar::EntryType::Regular, 2 << 30, b"x")?,
            413,
        ),
        ("not an archive", b"this is not a tar".repeat(100), 422),
    ];
    for (what, bytes, status) in rows {
        let answer = job.send("POST", "/v1/deploys", bytes).await?;
        let code = if status == 413 {
            "too_large"
        } else {
            "bundle_invalid"
        };
        expect(what, &answer, status, code)?;
    }
    let names: Vec<String> = (0..6_000).map(|number| format!("f{number}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    expect(
        "6,000 files",
        &job.send("POST", "/v1/deploys", bundle(&files)?).await?,
        413,
        "too_large",
    )?;
    let large = vec![0_u8; 40 << 20];
    // The agent may answer and close before it has read 40 MiB.
    if let Ok(answer) = job.send("POST", "/v1/deploys", large).await {
        expect("40 MiB", &answer, 413, "too_large")?;
    }
    Ok(())
}

#[tokio::test]
async fn vault_paths_and_fields_that_cannot_be_had_are_named_without_values() -> Result<()> {
    let world = World::new("paths").await?;
    let path = world
        .put("app", json!({ "password": "never-to-be-seen" }))
        .await?;
    world
        .put("gone", json!({ "password": "never-to-be-seen" }))
        .await?;
    let (status, _) = world
        .stand
        .vault(
            reqwest::Method::DELETE,
            &format!("kv/data/{}/gone", world.role),
            None,
        )
        .await?;
    ensure!(status == 204, "deleting works");
    let role = world.role.clone();
    let rows = [
        (
            "path outside the rule",
            spec_with_secret("kv/other/app", "password"),
            403,
            "denied",
        ),
        (
            "missing secret",
            spec_with_secret(&format!("kv/{role}/nothing"), "password"),
            424,
            "secret_missing",
        ),
        (
            "missing field",
            spec_with_secret(&path, "nothing"),
            424,
            "secret_missing",
        ),
        (
            "deleted version",
            spec_with_secret(&format!("kv/{role}/gone"), "password"),
            424,
            "secret_missing",
        ),
        (
            "data/ in the path",
            spec_with_secret(&format!("kv/data/{role}/app"), "password"),
            403,
            "denied",
        ),
    ];
    for (what, spec, status, code) in rows {
        let done = world.deploy(&[("quaymaster.yaml", &spec)]).await?;
        expect(what, &problem(&done.answer)?, status, code)?;
        ensure!(!done.log.contains("never-to-be-seen"), "{}", done.log);
    }
    ensure!(
        world
            .kubectl(&["get", "secret", "app-secret"])
            .await
            .is_err(),
        "no Secret is written"
    );
    Ok(())
}

/// A result's body is the report; its problem is what the table is about.
fn problem(answer: &Answer) -> Result<Answer> {
    let body = answer.json()?;
    let inner = match body.get("problem") {
        Some(problem) => problem.clone(),
        None => body,
    };
    Ok(Answer {
        status: answer.status,
        headers: answer.headers.clone(),
        body: inner.to_string().into(),
    })
}

#[tokio::test]
async fn kinds_and_namespaces_that_the_rule_does_not_grant_are_named() -> Result<()> {
    let world = World::new("kinds").await?;
    let spec = spec("");
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: { name: sneaky }\nrules: []\n";
    let elsewhere =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: conf, namespace: kube-system }\n";
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: { name: app-x }\n";
    for (what, text, named) in [
        ("kind", role, "sneaky"),
        ("namespace", elsewhere, "kube-system"),
        ("Secret", secret, "app-x"),
    ] {
        let answer = world
            .post(&[("quaymaster.yaml", &spec), ("k8s/x.yaml", text)])
            .await?;
        expect(
            &format!("{what} that the rule does not grant"),
            &answer,
            403,
            "denied",
        )?;
        ensure!(
            answer.json()?["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(named)),
            "{}",
            answer.text()
        );
    }
    Ok(())
}

#[tokio::test]
async fn rbac_of_the_cluster_is_a_second_fence() -> Result<()> {
    let world = World::new("rbac").await?;
    world
        .kubectl(&["delete", "rolebinding", "gitlab-deployer"])
        .await?;
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
        .await?;
    let answer = problem(&done.answer)?;
    expect(
        "rule allows it, RBAC does not",
        &answer,
        403,
        "cluster_denied",
    )?;
    let detail = answer.json()?["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    for word in ["ConfigMap", "conf", "gitlab:ci_job:"] {
        ensure!(detail.contains(word), "{detail}");
    }
    Ok(())
}

#[tokio::test]
async fn a_field_of_another_manager_is_named_with_both_values() -> Result<()> {
    let world = World::new("conflict").await?;
    let conf = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "conf", "namespace": world.namespace }, "data": { "key": "theirs" } });
    let mut file = tempfile::NamedTempFile::new()?;
    std::io::Write::write_all(&mut file, conf.to_string().as_bytes())?;
    let name = file.path().display().to_string();
    world
        .kubectl(&[
            "apply",
            "--server-side",
            "--field-manager=somebody",
            "-f",
            &name,
        ])
        .await?;
    let (spec, ours) = (spec(""), config_map("conf", "ours"));
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &ours)])
        .await?;
    let answer = problem(&done.answer)?;
    expect("server-side apply conflict", &answer, 424, "apply_conflict")?;
    for word in [".data.key", "somebody", "theirs", "ours"] {
        ensure!(answer.text().contains(word), "{word}: {}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn http_is_strict_where_two_readings_exist() -> Result<()> {
    let world = World::new("http").await?;
    let job = world.job()?;
    let rows: Vec<(&str, Client, &str, &str, u16)> = vec![
        (
            "no client header",
            world.job()?.without("x-quaymaster-client"),
            "GET",
            "/v1/whoami",
            400,
        ),
        (
            "Origin",
            world.job()?.with("origin", "https://evil.example"),
            "GET",
            "/v1/whoami",
            403,
        ),
        (
            "unknown parameter",
            job.clone(),
            "GET",
            "/v1/deploys?dryrun=true",
            400,
        ),
        (
            "repeated parameter",
            job.clone(),
            "GET",
            "/v1/deploys?limit=1&limit=2",
            400,
        ),
        ("unknown path", job.clone(), "GET", "/v1/nothing", 404),
        ("doubled slash", job.clone(), "GET", "/v1//whoami", 404),
        ("encoded path", job.clone(), "GET", "/v1/%77hoami", 404),
        ("wrong method", job.clone(), "DELETE", "/v1/whoami", 405),
        (
            "two tokens",
            job.clone().bearer("x"),
            "GET",
            "/v1/whoami",
            400,
        ),
        (
            "wrong media type",
            job.clone().with("content-type", "text/plain"),
            "POST",
            "/v1/deploys",
            415,
        ),
        ("no media type", job.clone(), "POST", "/v1/deploys", 415),
        (
            "bad idempotency key",
            job.clone()
                .with("content-type", "application/x-tar")
                .with("idempotency-key", "a b"),
            "POST",
            "/v1/deploys",
            400,
        ),
    ];
    for (what, client, method, path, status) in rows {
        let answer = client.send(method, path, Vec::new()).await?;
        println!("| {what} | {} | {} |", answer.status, answer.code());
        ensure!(
            answer.status == status,
            "{what}: {} {}",
            answer.status,
            answer.text()
        );
    }
    for path in ["/ping", "/version", "/openapi.json"] {
        ensure!(
            world
                .nobody()
                .without("x-quaymaster-client")
                .get(path)
                .await?
                .status
                == 200,
            "{path}"
        );
    }
    let openapi: Value = world.nobody().get("/openapi.json").await?.json()?;
    ensure!(
        openapi["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1")),
        "{openapi}"
    );
    Ok(())
}

#[tokio::test]
async fn a_run_is_invisible_to_other_projects() -> Result<()> {
    let world = World::new("owner").await?;
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
        .await?;
    let stranger = world.nobody().bearer(
        &world
            .stand
            .sign(world.stand.token()?.project("424242", "x/y"))?,
    );
    for tail in ["", "/events", "/result"] {
        let answer = stranger
            .get(&format!("/v1/deploys/{}{tail}", done.id))
            .await?;
        ensure!(answer.status == 404, "{tail}: {}", answer.text());
    }
    let answer = stranger
        .send(
            "POST",
            &format!("/v1/deploys/{}/cancel", done.id),
            Vec::new(),
        )
        .await?;
    ensure!(answer.status == 404, "{}", answer.text());
    Ok(())
}

#[tokio::test]
async fn an_invalid_object_is_refused_before_anything_is_written() -> Result<()> {
    let world = World::new("invalid").await?;
    let image = world.stand.busybox();
    let deployment = Deployment {
        image: &image,
        container: "imagePolicy: Always",
        ..Deployment::default()
    };
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    let done = world
        .deploy(&[
            ("quaymaster.yaml", &spec),
            ("k8s/c.yaml", &conf),
            ("k8s/web.yaml", &deployment.yaml()),
        ])
        .await?;
    let answer = problem(&done.answer)?;
    expect(
        "unknown field in a manifest",
        &answer,
        422,
        "object_invalid",
    )?;
    ensure!(answer.text().contains("imagePolicy"), "{}", answer.text());
    ensure!(
        world.kubectl(&["get", "configmap", "conf"]).await.is_err(),
        "nothing was written"
    );
    Ok(())
}
