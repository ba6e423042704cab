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
    // All methods of the identity are shown; only the keys of the one that is chosen may be used.
    let methods: [(&str, &[&str]); 5] = [
        ("approle", &["mount", "role_id", "secret_id_file"]),
        ("jwt", &["mount", "role", "jwt_file"]),
        ("kubernetes", &["mount", "role", "jwt_file"]),
        ("cert", &["mount", "role", "cert_file", "key_file"]),
        ("token_file", &["token_file"]),
    ];
    let (before, section) = every
        .split_once("[vault.identity]\n")
        .expect("the section is shown");
    let (section, after) = section.split_once("\n[").expect("another one follows");
    let mut shown: Vec<&str> = Vec::new();
    for (method, keys) in methods {
        let kept = section.lines().filter(|line| {
            let name = line.split(" =").next().unwrap_or_default();
            shown.extend(line.contains(" = ").then_some(name));
            keys.contains(&name)
        });
        let kept: Vec<&str> = kept.collect();
        let text = format!(
            "{before}[vault.identity]\nmethod = \"{method}\"\n{}\n[{after}",
            kept.join("\n")
        );
        let config = read(&text).expect("every documented key exists");
        assert_eq!(config.limits, HttpLimits::default());
        let identity = config.vault.identity.expect("it is set");
        assert_eq!(identity.method.name(), method);
    }
    for key in ["role_id_file", "method"] {
        assert!(shown.contains(&key), "{key} is not in the sample");
    }
}

fn identity(section: &str) -> Result<Option<Identity>, Vec<String>> {
    let text = format!("{MINIMAL}\n[vault.identity]\n{section}");
    read(&text).map(|config| config.vault.identity)
}

#[test]
fn an_identity_names_files_and_has_a_mount_by_its_method() {
    assert_eq!(identity(""), Ok(None));
    let approle = identity("method = 'approle'\nrole_id = 'r'\nsecret_id_file = '/s'");
    let expected = Identity {
        mount: "approle".to_owned(),
        method: Method::AppRole {
            role: RoleId::Text("r".to_owned()),
            secret_id_file: PathBuf::from("/s"),
        },
    };
    assert_eq!(approle, Ok(Some(expected)));
    let pairs = [
        ("QUAYMASTER_VAULT_IDENTITY_METHOD", "token_file"),
        ("QUAYMASTER_VAULT_IDENTITY_TOKEN_FILE", "/t"),
    ];
    let config = read_with(MINIMAL, &pairs).expect("it is valid");
    let method = config.vault.identity.map(|identity| identity.method);
    let token_file = PathBuf::from("/t");
    assert_eq!(method, Some(Method::TokenFile { token_file }));
}

#[test]
fn an_identity_tells_all_its_problems() {
    let rows: [(&str, &[&str]); 6] = [
        ("role = 'x'", &["method"]),
        ("method = 'ldap'\nrole = 'x'", &["method"]),
        ("method = 'approle'", &["role_id", "secret_id_file"]),
        (
            "method = 'jwt'\nrole_id = 'x'",
            &["role", "jwt_file", "role_id"],
        ),
        (
            "method = 'cert'\nkey_file = 'x'",
            &["cert_file", "key_file"],
        ),
        (
            "method = 'approle'\nrole_id = 'r'\nrole_id_file = '/r'\nsecret_id_file = '/s'",
            &["role_id_file"],
        ),
    ];
    for (section, keys) in rows {
        let expected = keys.iter().map(|key| format!("vault.identity.{key}"));
        assert_eq!(identity(section), Err(expected.collect()), "{section}");
    }
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
