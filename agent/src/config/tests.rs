//! Configuration from text and environment: good ones as values, bad ones with every problem.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::*;

const MINIMAL: &str = r#"
policy = "/etc/quaymaster/policy.toml"
state_dir = "/var/lib/quaymaster"

[socket]
jobs = "/run/quaymaster/jobs/quaymaster.sock"
admin = "/run/quaymaster/admin.sock"

[issuer]
url = "https://gitlab.example.com"
audience = "quaymaster"

[vault]
address = "https://vault.example.com"

[cluster.demo]
kubeconfig = "/etc/quaymaster/demo.kubeconfig"
"#;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment::collect(
        pairs
            .iter()
            .map(|(name, value)| (name.into(), value.into())),
    )
}

fn read(text: &str) -> Result<Config, Vec<String>> {
    read_with(text, &[])
}

fn read_with(text: &str, pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let read = Config::read(text, environment(pairs));
    read.map_err(|error| {
        error
            .problems
            .into_iter()
            .map(|problem| problem.key)
            .collect()
    })
}

#[test]
fn a_minimal_file_gets_the_defaults_of_the_contract() {
    let config = read(MINIMAL).expect("it is valid");
    assert_eq!(config.limits, HttpLimits::default());
    assert_eq!(config.socket.jobs_mode, 0o666);
    assert_eq!(config.vault.jwt_mount, "jwt");
    assert_eq!(config.issuer.max_age, HOUR);
    assert_eq!(config.issuer.leeway, 30 * SECOND);
    assert_eq!(config.clusters.len(), 1);
}

#[test]
fn the_documented_sample_is_valid() {
    let sample = include_str!("../../dist/quaymaster.toml");
    let config = read(sample).expect("the sample is valid");
    assert_eq!(config.limits, HttpLimits::default());
    let mut every: String = sample.lines().map(uncommented).collect();
    // Both ways to name the jobs socket are shown; only one may be used.
    every = every.replace("\njobs_dir =", "\n#jobs_dir =");
    let config = read(&every).expect("every documented key exists");
    assert_eq!(config.limits, HttpLimits::default());
}

/// Turns `#key = value` of the sample into `key = value`; prose has a space after the sign.
fn uncommented(line: &str) -> String {
    let bare = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
    format!("{}\n", bare.unwrap_or(line))
}

#[test]
fn all_problems_are_told_at_once() {
    let text = r#"
        polcy = "/x"
        state_dir = "relative"
        [socket]
        jobs_mode = "0888"
        [limits]
        connections = 0
        body_time = "60"
        [issuer]
        url = "gitlab"
        [cluster.Bad_Name]
        kubeconfig = 3
    "#;
    let mut keys = read(text).expect_err("it is invalid");
    keys.sort();
    let expected = [
        "cluster.Bad_Name",
        "cluster.Bad_Name.kubeconfig",
        "issuer.audience",
        "issuer.url",
        "limits.body_time",
        "limits.connections",
        "polcy",
        "policy",
        "socket.admin",
        "socket.jobs",
        "socket.jobs_mode",
        "state_dir",
        "vault.address",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn problems_never_repeat_values() {
    let text = MINIMAL.replace("https://vault.example.com", "hunter2 hunter2");
    let error = Config::read(
        &text,
        environment(&[("QUAYMASTER_VAULT_TIMEOUT", "hunter2")]),
    );
    assert!(
        !error
            .expect_err("it is invalid")
            .to_string()
            .contains("hunter2")
    );
    let broken = Config::read("password = \"hunter2", Environment::default());
    assert!(
        !broken
            .expect_err("it is invalid")
            .to_string()
            .contains("hunter2")
    );
}

#[test]
fn the_environment_wins_and_its_mistakes_are_named() {
    let pairs = [
        ("QUAYMASTER_VAULT_ADDRESS", "http://localhost:8200"),
        ("QUAYMASTER_LOG_FORMAT", "text"),
        ("OTHER", "x"),
    ];
    let config = read_with(MINIMAL, &pairs).expect("it is valid");
    assert_eq!(config.vault.address, "http://localhost:8200");
    assert_eq!(config.log.format, Format::Text);
    let pairs = [
        ("QUAYMASTER_VAULT_ADRESS", "x"),
        ("QUAYMASTER_policy", "/x"),
        ("QUAYMASTER_STATE_DIR", "x"),
    ];
    let mut keys = read_with(MINIMAL, &pairs).expect_err("it is invalid");
    keys.sort();
    assert_eq!(
        keys,
        [
            "QUAYMASTER_STATE_DIR",
            "QUAYMASTER_VAULT_ADRESS",
            "QUAYMASTER_policy"
        ]
    );
}

#[test]
fn variables_that_are_not_utf_8_hurt_only_when_they_are_ours() {
    let odd = || OsString::from_vec(vec![0xff]);
    let foreign = Environment::collect([(odd(), odd()), ("PATH".into(), odd())]);
    assert!(Config::read(MINIMAL, foreign).is_ok());
    let ours = Environment::collect([("QUAYMASTER_POLICY".into(), odd())]);
    let error = Config::read(MINIMAL, ours).expect_err("it is ours");
    assert_eq!(error.problems[0].key, "QUAYMASTER_POLICY");
}

#[test]
fn the_jobs_socket_has_one_place() {
    let folder = MINIMAL.replace(
        "jobs = \"/run/quaymaster/jobs/quaymaster.sock\"",
        "jobs_dir = \"/run/j\"",
    );
    let config = read(&folder).expect("it is valid");
    assert_eq!(config.socket.jobs, PathBuf::from("/run/j/quaymaster.sock"));
    let both = MINIMAL.replace("[socket]", "[socket]\njobs_dir = \"/run/j\"");
    assert_eq!(read(&both), Err(vec!["socket.jobs_dir".to_owned()]));
}
