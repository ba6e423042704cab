//! Tests of reading values: what is refused before anything is read, and that no session is left.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::authorize;
use crate::fakes::FakeVault;
use crate::fakes::ManualClock;
use crate::log::RunLog;
use crate::policy::Policy;
use crate::principal::Principal;
use crate::principal::PrincipalKind;
use crate::spec;

const POLICY: &str = r#"
version = 1
[[rule]]
id = "build"
[rule.match]
project_id = 42
[rule.vault]
role = "build"
expose = ["kv/*", "kv1/*", "database/creds/*"]
"#;

/// Reads what these lines of a spec expose.
async fn exposed(vault: &FakeVault, lines: &str) -> Result<Variables, ExposeError> {
    let text = format!("version: 1\nname: shop\nexpose:\n{lines}");
    let spec = spec::parse(text.as_bytes()).expect("the spec is valid");
    let claims = [
        ("project_id", "42"),
        ("job_project_id", "42"),
        ("job_id", "7"),
    ];
    let claims = claims.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let principal = Principal::unchecked(PrincipalKind::GitlabJob, claims.into());
    let policy = Policy::parse(POLICY).expect("the policy is valid");
    let exposure = authorize::expose(&policy, &principal, spec.expose, "d1").expect("granted");
    let login = Login::Jwt {
        token: Secret::from_text("token".to_owned()),
        role: "build".to_owned(),
    };
    let log = RunLog::new(Arc::new(ManualClock::at_unix(0)));
    let patience = Patience {
        deadline: Instant::now() + Duration::from_secs(20),
        stop: &CancellationToken::new(),
        log: &log,
        seed: 1,
    };
    values(&exposure, Some(&login), vault, &patience).await
}

fn reads(vault: &FakeVault) -> usize {
    let calls = vault.calls();
    calls.iter().filter(|call| call.starts_with("read")).count()
}

#[tokio::test(start_paused = true)]
async fn fields_and_templates_are_read_and_the_session_ends() {
    let vault = FakeVault::default();
    vault.put("kv/a", &[("user", "u"), ("password", "p:w")]);
    vault.put("kv/a", &[("user", "u2"), ("password", "p:w2")]);
    let lines = "  USER_NAME: { vault: kv/a, field: user }\n  OLD: { vault: kv/a, field: password, version: 1 }\n  AUTH: { template: \"{{ USER_NAME }}:{{ OLD | url }}\" }\n";
    let values = exposed(&vault, lines).await.expect("they are there");
    let text = |name: &str| String::from_utf8_lossy(values[name].bytes()).into_owned();
    assert_eq!(
        (text("USER_NAME"), text("OLD"), text("AUTH")),
        ("u2".to_owned(), "p:w".to_owned(), "u2:p%3Aw".to_owned())
    );
    assert_eq!(vault.live_tokens(), 0);
    assert_eq!(reads(&vault), 2, "one read a path and version");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_issues_is_refused_before_anything_is_read() {
    let vault = FakeVault::default();
    vault.put("kv/a", &[("user", "u")]);
    let lines =
        "  A: { vault: kv/a, field: user }\n  B: { vault: database/creds/a, field: username }\n";
    let error = exposed(&vault, lines).await.expect_err("it is refused");
    assert!(
        matches!(&error, ExposeError::Dynamic { path, name } if path == "database/creds/a" && name == "B"),
        "{error}"
    );
    assert_eq!((reads(&vault), vault.live_tokens()), (0, 0));
    assert!(vault.live_leases().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_named_and_nothing_comes() {
    let vault = FakeVault::default();
    vault.put("kv/a", &[("user", "u")]);
    vault.put("kv1/a", &[("user", "u")]);
    let missing = exposed(&vault, "  A: { vault: kv/a, field: pass }\n").await;
    assert_eq!(
        missing.expect_err("no field").to_string(),
        "the secret at kv/a has no field pass (variable A)"
    );
    let gone = exposed(&vault, "  A: { vault: kv/b, field: user }\n").await;
    assert_eq!(gone.expect_err("no secret").class(), Class::NotFound);
    let version = exposed(&vault, "  A: { vault: kv1/a, field: user, version: 1 }\n").await;
    assert!(matches!(version, Err(ExposeError::NoVersions { .. })));
    assert_eq!(vault.live_tokens(), 0, "also after errors");
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_is_away_is_waited_for() {
    let vault = FakeVault::default();
    vault.put("kv/a", &[("user", "u")]);
    vault.fail_next(SecretsError::Unavailable {
        reason: "sealed".to_owned(),
        retry_after_seconds: None,
    });
    let values = exposed(&vault, "  A: { vault: kv/a, field: user }\n").await;
    assert_eq!(values.expect("it came back").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn values_that_no_process_can_get_are_refused_without_being_shown() {
    let vault = FakeVault::default();
    let large = "canary".repeat(20_000);
    vault.put("kv/a", &[("zero", "canary\0canary"), ("large", &large)]);
    for field in ["zero", "large"] {
        let error = exposed(&vault, &format!("  A: {{ vault: kv/a, field: {field} }}\n")).await;
        let told = error.expect_err(field).to_string();
        assert!(
            told.contains("variable A") && !told.contains("canary"),
            "{told}"
        );
    }
}
