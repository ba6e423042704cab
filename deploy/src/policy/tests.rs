//! Tests of loading: what is refused, and that everything wrong is told at once.

use super::*;

const GOOD: &str = r#"
version = 1
[[rule]]
id = "flask-production"
[rule.match]
project_id = 42
ref_path = ["refs/heads/main", "refs/tags/v*"]
ref_protected = true
environment = "production"
environment_action = ["start"]
[rule.vault]
role = "flask-demo"
paths = ["kv/flask/*", "database/creds/flask"]
[rule.cluster.demo]
namespaces = ["flask"]
kinds = ["apps/Deployment", "v1/Service", "v1/ConfigMap", "v1/Secret:flask-*"]
secrets = ["flask-*"]
images = ["registry.example.com/team/*"]
verbs = ["apply"]
"#;

fn problems(text: &str) -> Vec<String> {
    Policy::parse(text)
        .expect_err("the policy is refused")
        .problems
}

/// The one problem of the good policy after a change; it has to name rule and key.
fn problem_after(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let found = problems(&GOOD.replace(from, to));
    assert_eq!(found.len(), 1, "{to}: {found:?}");
    found.into_iter().next().unwrap_or_default()
}

#[test]
fn a_full_rule_is_read_with_its_defaults() {
    let policy = Policy::parse(GOOD).expect("the policy is valid");
    let [rule] = policy.rules() else {
        panic!("one rule");
    };
    assert_eq!(rule.id, "flask-production");
    assert!(!rule.allow_forks);
    let keys: Vec<String> = rule
        .conditions
        .iter()
        .map(|one| one.subject.key())
        .collect();
    assert_eq!(
        keys,
        [
            "environment",
            "environment_action",
            "project_id",
            "ref_path",
            "ref_protected"
        ]
    );
    let (name, grant) = rule.clusters.first_key_value().expect("one cluster");
    assert_eq!(name.as_str(), "demo");
    assert!(
        grant.require_digest,
        "digests are required unless told otherwise"
    );
    assert_eq!(grant.verbs, BTreeSet::from([Verb::Apply]));
    assert_eq!(
        rule.vault.as_ref().and_then(|vault| vault.role.as_deref()),
        Some("flask-demo")
    );
}

#[test]
fn the_hash_is_the_sha256_of_the_text() {
    let policy = Policy::parse("version = 1\n").expect("an empty policy denies everything");
    assert!(policy.rules().is_empty());
    assert_eq!(policy.hash(), sha256_hex("version = 1\n"));
    assert_eq!(policy.hash().len(), 64);
}

fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn every_unknown_key_is_named_with_its_place() {
    let rows = [
        ("version = 1\n", "version = 1\nrules = 1\n", "policy: rules"),
        (
            "id = \"",
            "name = \"x\"\nid = \"",
            "rule \"flask-production\": name",
        ),
        ("role = ", "roles = \"x\"\nrole = ", "vault: roles"),
        (
            "namespaces = ",
            "namespace = \"x\"\nnamespaces = ",
            "cluster.demo: namespace",
        ),
        (
            "project_id = 42",
            "project_id = 42\nprojekt = 1",
            "match: projekt",
        ),
        (
            "project_id = 42",
            "project_id = 42\naud = \"x\"",
            "match: aud",
        ),
        (
            "project_id = 42",
            "project_id = 42\ngroups_direct = \"x\"",
            "match: groups_direct",
        ),
        (
            "project_id = 42",
            "project_id = 42\nallow_forks = true",
            "match: allow_forks",
        ),
        (
            "project_id = 42",
            "project_id = 42\n\"vault:\" = \"x\"",
            "match: vault:",
        ),
    ];
    for (from, to, named) in rows {
        let problem = problem_after(from, to);
        assert!(problem.contains(named), "{problem}");
    }
}

#[test]
fn values_that_cannot_mean_anything_are_refused() {
    let rows = [
        ("project_id = 42", "project_id = \"4*\""),
        ("project_id = 42", "project_id = 0"),
        ("project_id = 42", "project_id = -42"),
        ("project_id = 42", "project_id = 4.2"),
        ("project_id = 42", "project_id = true"),
        ("project_id = 42", "project_id = []"),
        ("project_id = 42", "project_id = \"042\""),
        ("ref_protected = true", "ref_protected = \"yes\""),
        ("ref_protected = true", "ref_protected = 1"),
        ("environment = \"production\"", "environment = \"\""),
        ("environment = \"production\"", "environment = \"*\""),
        ("environment = \"production\"", "environment = \"*-prod\""),
        ("environment = \"production\"", "environment = true"),
        ("[\"refs/heads/main\", \"refs/tags/v*\"]", "\"main\""),
        (
            "ref_path = [\"refs/heads/main\", \"refs/tags/v*\"]",
            "ref = \"main\"",
        ),
        ("role = \"flask-demo\"", ""),
        ("role = \"flask-demo\"", "role = \"\""),
        ("\"kv/flask/*\"", "\"*\""),
        ("\"kv/flask/*\"", "\"sys/*\""),
        ("\"kv/flask/*\"", "\"kv/../x\""),
        ("[\"flask\"]", "[]"),
        ("[\"flask\"]", "\"flask\""),
        ("[\"flask\"]", "[\"*\"]"),
        ("[\"flask\"]", "[\"Flask\"]"),
        ("[\"flask\"]", "[5]"),
        ("v1/Secret:flask-*", "v1/Secret"),
        ("apps/Deployment", "apps/*"),
        ("secrets = [\"flask-*\"]", "secrets = [\"*\"]"),
        ("registry.example.com/team/*", "registry.example.com*"),
        ("verbs = [\"apply\"]", "verbs = [\"delete\"]"),
        ("verbs = [\"apply\"]", "require_digest = \"no\""),
        ("verbs = [\"apply\"]", "metadata = [\"labels\"]"),
        ("[rule.cluster.demo]", "[rule.cluster.Demo]"),
        ("version = 1", "version = 2"),
        ("id = \"flask-production\"", "id = \"a b\""),
        ("id = \"flask-production\"", ""),
    ];
    for (from, to) in rows {
        let problem = problem_after(from, to);
        assert!(problem.contains(": "), "{problem}");
    }
}

#[test]
fn rights_hang_on_ids() {
    for conditions in [
        "",
        "project_path = \"shop/flask\"",
        "sub = \"project_path:shop/flask:ref_type:branch:ref:main\"",
        "user_id = 9",
        "runner_id = 7",
        "ref_protected = true",
        "\"vault:project_path\" = \"shop/flask\"",
    ] {
        let text = format!(
            "version = 1\n[[rule]]\nid = \"a\"\n[rule.match]\n{conditions}\n[rule.cluster.demo]\nnamespaces = [\"a\"]\nkinds = [\"v1/Service\"]\n"
        );
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{conditions}: {found:?}");
        assert!(found[0].starts_with("rule \"a\": match: "), "{found:?}");
    }
    for conditions in [
        "project_id = [42, \"43\"]",
        "job_project_id = 42",
        "namespace_id = 3",
        "\"vault:role_name\" = \"deployer\"",
    ] {
        let text = format!(
            "version = 1\n[[rule]]\nid = \"a\"\n[rule.match]\n{conditions}\n[rule.cluster.demo]\nnamespaces = [\"a\"]\nkinds = [\"v1/Service\"]\n"
        );
        assert!(Policy::parse(&text).is_ok(), "{conditions}");
    }
}

#[test]
fn duplicate_ids_are_refused() {
    let twice = format!("{GOOD}{}", GOOD.replace("version = 1\n", ""));
    let found = problems(&twice);
    assert_eq!(found, ["rule \"flask-production\": id: is used twice"]);
}

#[test]
fn all_problems_come_at_once() {
    let text = GOOD
        .replace("project_id = 42", "project_id = \"x\"")
        .replace("\"kv/flask/*\"", "\"kv\"")
        .replace("apps/Deployment", "apps/*")
        .replace("[\"flask\"]", "[\"*\"]");
    assert_eq!(problems(&text).len(), 4, "{:?}", problems(&text));
}

#[test]
fn values_for_jobs_are_granted_by_a_list_of_their_own() {
    let grant = |text: &str| {
        let policy = Policy::parse(text).expect("the policy is valid");
        policy.rules()[0].vault.clone().expect("a table")
    };
    assert_eq!(grant(GOOD).expose, [], "`paths` exposes nothing");
    let beside = GOOD.replace("paths = ", "expose = [\"kv/flask/build/*\"]\npaths = ");
    let beside = grant(&beside);
    assert_eq!((beside.paths.len(), beside.expose.len()), (2, 1));
    let start =
        "version = 1\n[[rule]]\nid = \"build\"\n[rule.match]\nproject_id = 42\n[rule.vault]\n";
    let alone = format!("{start}role = \"build\"\nexpose = [\"kv/flask/build/*\"]\n");
    assert_eq!(grant(&alone).paths, [], "a rule without clusters");
    for bad in [
        "role = \"build\"\n",
        "role = \"build\"\nexpose = []\n",
        "role = \"build\"\nexpose = [\"*\"]\n",
        "role = \"build\"\npaths = [\"kv/a\"]\n",
        "expose = [\"kv/a\"]\n",
    ] {
        assert!(Policy::parse(&format!("{start}{bad}")).is_err(), "{bad}");
    }
}

#[test]
fn broken_toml_is_located() {
    let found = problems("version = 1\n[[rule]\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("line 2: "), "{found:?}");
    let found = problems("version = 1\nversion = 1\n");
    assert!(found[0].starts_with("line 2: "), "{found:?}");
}

#[test]
fn the_sample_that_is_shipped_is_valid() {
    let policy = Policy::parse(include_str!("../../../agent/dist/policy.toml"));
    let policy = policy.expect("the sample is valid");
    assert_eq!(policy.rules().len(), 1);
}

#[test]
fn charts_are_granted_by_address_and_the_server_is_always_named() {
    let with = |charts: &str| GOOD.replace("verbs = ", &format!("charts = [{charts}]\nverbs = "));
    let granted = |text: &str| {
        let policy = Policy::parse(text).expect("the policy is valid");
        let clusters = policy
            .rules()
            .iter()
            .flat_map(|rule| rule.clusters.values());
        clusters.map(|grant| grant.charts.len()).sum::<usize>()
    };
    assert_eq!(granted(GOOD), 0, "none unless told otherwise");
    let good =
        r#""oci://r.example.com/team/*", "https://c.example.com/*", "http://127.0.0.1:5000/a/web""#;
    assert_eq!(granted(&with(good)), 3);
    for bad in [
        "*",
        "oci://*",
        "oci://r.example.com*",
        "https://*.example.com/web",
        "https:///web",
        "r.example.com/team/*",
        "oci://R.example.com/*",
        "https://u@c.example.com/*",
        "file:///charts/*",
    ] {
        let found = problems(&with(&format!("{bad:?}")));
        assert!(
            found.len() == 1
                && found[0].contains("charts")
                && found[0].contains("flask-production"),
            "{bad}: {found:?}"
        );
    }
}
