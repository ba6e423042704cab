//! Tests of the decision: every condition, every grant, and what a denial tells.

use super::*;
use std::collections::BTreeMap;

use proto::report::Mode;
use serde_json::Value;
use serde_json::json;

use crate::object::Gvk;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::Origin;
use crate::principal::PrincipalKind;
use crate::secret::VaultPath;
use crate::spec::OnDisconnect;
use crate::spec::Rollout;
use crate::spec::SecretSpec;
use crate::spec::Source;
use crate::spec::Spec;

const POLICY: &str = r#"
version = 1
[[rule]]
id = "flask-production"
[rule.match]
project_id = 42
namespace_id = 31
ref_path = ["refs/heads/main", "refs/tags/v*"]
ref_protected = true
environment = "production"
environment_protected = true
environment_action = ["start"]
pipeline_source = ["push", "web"]
user_access_level = "maintainer"
runner_id = 77
[rule.vault]
role = "flask-demo"
paths = ["kv/flask/*", "database/creds/flask"]
[rule.cluster.demo]
namespaces = ["flask"]
kinds = ["apps/Deployment", "v1/Service", "v1/ConfigMap", "v1/Secret:flask-*", "v1/Namespace", "example.com/Widget"]
secrets = ["flask-*"]
require_digest = true
images = ["registry.example.com/team/*"]
charts = ["oci://registry.example.com/team/*", "https://charts.example.com/stable/web"]
"#;

const CLAIMS: &[(&str, &str)] = &[
    ("project_id", "42"),
    ("job_project_id", "42"),
    ("namespace_id", "31"),
    ("job_id", "7"),
    ("ref_path", "refs/heads/main"),
    ("ref_protected", "true"),
    ("environment", "production"),
    ("environment_protected", "true"),
    ("environment_action", "start"),
    ("pipeline_source", "push"),
    ("user_access_level", "maintainer"),
    ("runner_id", "77"),
];

/// The good caller after some changes; an empty value takes the claim away.
fn caller(changes: &[(&str, &str)]) -> Principal {
    holder(PrincipalKind::GitlabJob, CLAIMS, changes)
}

fn holder(kind: PrincipalKind, base: &[(&str, &str)], changes: &[(&str, &str)]) -> Principal {
    let mut attributes: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in base.iter().chain(changes) {
        attributes.insert((*name).to_owned(), (*value).to_owned());
        if value.is_empty() {
            attributes.remove(*name);
        }
    }
    Principal::unchecked(kind, attributes)
}

fn policy(text: &str) -> Policy {
    Policy::parse(text).expect("the policy is valid")
}

fn small(conditions: &str, extra: &str) -> Policy {
    policy(&format!(
        "version = 1\n[[rule]]\nid = \"small\"\n{extra}\n[rule.match]\n{conditions}\n[rule.cluster.demo]\nnamespaces = [\"flask\"]\nkinds = [\"v1/ConfigMap\"]\nrequire_digest = false\n"
    ))
}

fn object(api_version: &str, kind: &str, name: &str) -> Object {
    Object {
        id: ObjectId {
            gvk: Gvk::new(api_version, kind),
            namespace: None,
            name: name.to_owned(),
        },
        body: json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}),
        origin: Origin {
            file: "k8s/all.yaml".to_owned(),
            line: 1,
        },
    }
}

fn with(mut object: Object, pointer: &str, value: Value) -> Object {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let place = object
        .body
        .pointer_mut(parent)
        .expect("the parent is there");
    place[key] = value;
    object
}

fn within(object: Object, namespace: &str) -> Object {
    with(object, "/metadata/namespace", json!(namespace))
}

fn deployment(image: &str) -> Object {
    let spec = json!({"template": {"spec": {"containers": [{"name": "web", "image": image}]}}});
    with(object("apps/v1", "Deployment", "web"), "/spec", spec)
}

fn secret(name: &str, path: &str) -> SecretSpec {
    let path = VaultPath::parse(path).expect("the path is valid");
    let source = Source::Field {
        path,
        field: "password".to_owned(),
        version: None,
        parameters: crate::ports::Parameters::new(),
    };
    SecretSpec {
        name: name.to_owned(),
        kind: "Opaque".to_owned(),
        keys: BTreeMap::from([("password".to_owned(), source)]),
        rotate: None,
    }
}

fn request(secrets: Vec<SecretSpec>, objects: Vec<Object>) -> Request {
    Request {
        mode: Mode::Deploy,
        spec: Spec {
            name: "flask".parse().expect("a name"),
            cluster: None,
            namespace: None,
            secrets,
            kustomize: None,
            helm: None,
            flux: None,
            manifests: Vec::new(),
            duplicates: crate::spec::Duplicates::Refuse,
            images: BTreeMap::new(),
            registries: BTreeMap::new(),
            rollout: Rollout::default(),
            health: Vec::new(),
            conflicts: Vec::new(),
            adopt: Vec::new(),
            expose: BTreeMap::new(),
            text: String::new(),
        },
        objects,
        source: crate::request::Source::Manifests,
        origin: None,
        binding: Binding::default(),
        notes: Vec::new(),
    }
}

fn config_map() -> Request {
    request(Vec::new(), vec![object("v1", "ConfigMap", "conf")])
}

fn ask(principal: Principal, request: Request) -> Result<Permit, Denial> {
    authorize(&policy(POLICY), principal, request, &[], "d1")
}

fn permit_for(request: Request) -> Permit {
    ask(caller(&[]), request).expect("the rule grants it")
}

fn denial_for(request: Request) -> Denial {
    ask(caller(&[]), request).expect_err("the rule does not grant it")
}

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn a_full_request_is_granted_with_everything_filled_in() {
    let permit = permit_for(request(
        vec![secret("flask-db", "database/creds/flask")],
        vec![
            deployment(&format!("registry.example.com/team/flask:1@{DIGEST}")),
            object("v1", "Namespace", "flask"),
        ],
    ));
    assert_eq!(permit.rule(), "flask-production");
    assert_eq!(permit.decision(), "d1");
    assert_eq!(permit.policy(), policy(POLICY).hash());
    assert_eq!(permit.cluster().as_str(), "demo");
    assert_eq!(permit.namespace().as_str(), "flask");
    assert_eq!(permit.vault_role(), Some("flask-demo"));
    assert_eq!(permit.actor().user, "gitlab:ci_job:7");
    let [web, namespace] = permit.request().objects.as_slice() else {
        panic!("two objects");
    };
    assert_eq!(web.id.namespace.as_deref(), Some("flask"));
    assert_eq!(web.body["metadata"]["namespace"], "flask");
    assert_eq!(namespace.id.namespace, None);
    assert_eq!(namespace.body["metadata"].get("namespace"), None);
}

#[test]
fn every_condition_of_a_rule_denies_when_its_claim_differs_or_is_gone() {
    let flips = [
        ("project_id", "43"),
        ("namespace_id", "32"),
        ("ref_path", "refs/heads/other"),
        ("ref_path", "refs/heads/main2"),
        ("ref_path", "xrefs/tags/v1"),
        ("ref_protected", "false"),
        ("ref_protected", "TRUE"),
        ("ref_protected", "1"),
        ("environment", "production2"),
        ("environment_protected", "false"),
        ("environment_action", "stop"),
        ("pipeline_source", "merge_request_event"),
        ("user_access_level", "developer"),
        ("runner_id", "7"),
    ];
    let policy_of_one = policy(POLICY);
    let rule = &policy_of_one.rules()[0];
    for condition in &rule.conditions {
        let key = condition.subject.key();
        assert!(
            flips.iter().any(|(name, _)| *name == key),
            "no row for {key}"
        );
    }
    for (name, value) in flips {
        // Both ids move, as for a job of another project.
        let job = if name == "project_id" {
            "job_project_id"
        } else {
            name
        };
        for value in [value, ""] {
            let denial = ask(caller(&[(name, value), (job, value)]), config_map())
                .expect_err("a condition fails");
            assert_eq!(denial.decision, "d1", "{name}={value}");
            assert!(
                admit(
                    &policy(POLICY),
                    &caller(&[(name, value), (job, value)]),
                    "d"
                )
                .is_err()
            );
        }
    }
    assert!(ask(caller(&[]), config_map()).is_ok());
    assert!(ask(caller(&[("ref_path", "refs/tags/v2")]), config_map()).is_ok());
}

#[test]
fn booleans_and_texts_of_a_policy_mean_the_same_claim() {
    for written in ["true", "\"true\"", "[true]"] {
        let policy = small(&format!("project_id = 42\nref_protected = {written}"), "");
        assert!(admit(&policy, &caller(&[]), "d").is_ok(), "{written}");
        let open = caller(&[("ref_protected", "false")]);
        assert!(admit(&policy, &open, "d").is_err(), "{written}");
    }
}

#[test]
fn fork_merge_requests_need_a_rule_that_allows_them() {
    let strict = small("project_id = 42", "");
    let open = small("project_id = 42", "allow_forks = true");
    let fork = caller(&[("project_id", "99")]);
    assert!(admit(&strict, &fork, "d").is_err());
    assert!(admit(&open, &fork, "d").is_ok());
    // The job of a fork's own pipeline is of no use either: it runs in the fork.
    let own = caller(&[("project_id", "42"), ("job_project_id", "99")]);
    assert!(admit(&open, &own, "d").is_err());
    let hidden = caller(&[("project_id", "")]);
    assert!(admit(&strict, &hidden, "d").is_err());
}

#[test]
fn older_gitlab_falls_back_to_the_project_and_refuses_merge_requests() {
    let strict = small("project_id = 42", "");
    let open = small("project_id = 42", "allow_forks = true");
    let old = |source| caller(&[("job_project_id", ""), ("pipeline_source", source)]);
    assert!(admit(&strict, &old("push"), "d").is_ok());
    for source in ["merge_request_event", ""] {
        assert!(admit(&strict, &old(source), "d").is_err(), "{source}");
        assert!(admit(&open, &old(source), "d").is_ok(), "{source}");
    }
}

#[test]
fn actions_that_skip_the_approval_of_deploys_are_refused() {
    let silent = small("project_id = 42", "");
    let listed = small("project_id = 42\nenvironment_action = [\"verify\"]", "");
    for (action, expected) in [
        ("start", true),
        ("stop", true),
        ("", true),
        ("verify", false),
        ("prepare", false),
        ("access", false),
    ] {
        let caller = caller(&[("environment_action", action)]);
        assert_eq!(admit(&silent, &caller, "d").is_ok(), expected, "{action}");
        assert_eq!(
            admit(&listed, &caller, "d").is_ok(),
            action == "verify",
            "{action}"
        );
    }
}

#[test]
fn vault_metadata_is_another_thing_than_claims() {
    let metadata = [
        ("project_id", "42"),
        ("job_project_id", "42"),
        ("job_id", "7"),
        ("team", "shop"),
    ];
    let token = |kind| holder(kind, &metadata, &[]);
    let named = small("\"vault:team\" = \"shop\"", "");
    assert!(admit(&named, &token(PrincipalKind::VaultToken), "d").is_ok());
    assert!(admit(&named, &token(PrincipalKind::GitlabJob), "d").is_err());
    let shared = small("project_id = 42", "");
    assert!(admit(&shared, &token(PrincipalKind::VaultToken), "d").is_ok());
}

#[test]
fn a_token_without_a_job_is_denied_with_a_hint() {
    let metadata = [("project_id", "42"), ("job_project_id", "42")];
    let token = holder(PrincipalKind::VaultToken, &metadata, &[]);
    let denial = admit(&small("project_id = 42", ""), &token, "d").expect_err("no actor");
    assert!(denial.hint.contains("job_id"), "{denial:?}");
}

#[test]
fn near_misses_are_told_to_the_own_project_only() {
    let policy = policy(POLICY);
    let (rules, nearest) = explain(&policy, &caller(&[("ref_protected", "false")]));
    assert!(rules.is_empty());
    let [miss] = nearest.as_slice() else {
        panic!("one near miss: {nearest:?}");
    };
    assert_eq!(
        (miss.rule.as_str(), miss.attribute.as_str()),
        ("flask-production", "ref_protected")
    );
    for stranger in [
        caller(&[("project_id", "43"), ("job_project_id", "43")]),
        caller(&[("namespace_id", "32")]),
    ] {
        assert_eq!(explain(&policy, &stranger), (Vec::new(), Vec::new()));
        let denial = ask(stranger, config_map()).expect_err("no rule");
        assert!(
            !format!("{denial:?}").contains("flask-production"),
            "{denial:?}"
        );
    }
    let (rules, nearest) = explain(&policy, &caller(&[]));
    assert_eq!(
        (rules.as_slice(), nearest.len()),
        (["flask-production".to_owned()].as_slice(), 0)
    );
}

#[test]
fn what_is_not_granted_is_named() {
    let image = |image: &str| request(Vec::new(), vec![deployment(image)]);
    let one = |object| request(Vec::new(), vec![object]);
    let mut elsewhere = config_map();
    elsewhere.spec.namespace = Some("kube-system".parse().expect("a namespace"));
    let mut abroad = config_map();
    abroad.spec.cluster = Some("other".parse().expect("a cluster"));
    let typed = with(
        object("v1", "Secret", "flask-x"),
        "/type",
        json!("kubernetes.io/service-account-token"),
    );
    let mut helm = secret("flask-db", "kv/flask/db");
    helm.kind = "helm.sh/release.v1".to_owned();
    let rows = [
        (elsewhere, "target.namespace kube-system"),
        (abroad, "target.cluster other"),
        (
            request(vec![secret("other", "kv/flask/db")], Vec::new()),
            "v1/Secret flask/other",
        ),
        (
            request(vec![secret("flask-db", "kv/other/db")], Vec::new()),
            "kv/other/db",
        ),
        (
            request(vec![secret("flask-db", "kv/data/flask/db")], Vec::new()),
            "kv/data/flask/db",
        ),
        (request(vec![helm], Vec::new()), "helm.sh/release.v1"),
        (
            one(object("rbac.authorization.k8s.io/v1", "Role", "sneaky")),
            "Role flask/sneaky",
        ),
        (
            one(object("v1", "Secret", "other")),
            "v1/Secret flask/other",
        ),
        (one(typed), "v1/Secret flask/flask-x"),
        (
            one(object("v1", "Namespace", "kube-system")),
            "v1/Namespace kube-system",
        ),
        (
            one(within(object("v1", "ConfigMap", "conf"), "kube-system")),
            "v1/ConfigMap kube-system/conf",
        ),
        (
            one(within(object("v1", "Namespace", "flask"), "flask")),
            "v1/Namespace flask",
        ),
        (
            one(with(
                object("v1", "ConfigMap", "conf"),
                "/metadata/finalizers",
                json!(["x/y"]),
            )),
            "metadata.finalizers",
        ),
        (
            one(with(
                object("v1", "ConfigMap", "conf"),
                "/metadata/ownerReferences",
                json!([{}]),
            )),
            "metadata.ownerReferences",
        ),
        (
            image("registry.example.com/team/flask:1"),
            "registry.example.com/team/flask:1",
        ),
        (
            image(&format!("elsewhere.example.com/team/flask@{DIGEST}")),
            "elsewhere.example.com",
        ),
    ];
    for (request, named) in rows {
        let denial = denial_for(request);
        assert!(denial.message.contains(named), "{named}: {denial:?}");
        assert_eq!(denial.decision, "d1");
        assert!(!denial.hint.is_empty());
    }
}

#[test]
fn manifests_may_hold_secrets_of_granted_names() {
    let permit = permit_for(request(Vec::new(), vec![object("v1", "Secret", "flask-x")]));
    assert_eq!(permit.request().objects.len(), 1);
}

#[test]
fn an_unknown_kind_is_taken_as_namespaced_unless_somebody_knows_better() {
    let widget = || request(Vec::new(), vec![object("example.com/v1", "Widget", "w")]);
    let permit = permit_for(widget());
    assert_eq!(
        permit.request().objects[0].id.namespace.as_deref(),
        Some("flask")
    );
    let served = [Resource {
        gvk: Gvk::new("example.com/v1", "Widget"),
        plural: "widgets".to_owned(),
        namespaced: false,
    }];
    let permit = authorize(&policy(POLICY), caller(&[]), widget(), &served, "d")
        .expect("the kind is granted");
    assert_eq!(permit.request().objects[0].id.namespace, None);
}

#[test]
fn the_target_must_be_named_where_a_rule_grants_more_than_one() {
    let two = POLICY.replace(
        "namespaces = [\"flask\"]",
        "namespaces = [\"flask\", \"flask-*\"]",
    );
    let denial = authorize(&policy(&two), caller(&[]), config_map(), &[], "d").expect_err("two");
    assert!(denial.message.contains("target.namespace"), "{denial:?}");
    let open = POLICY.replace("namespaces = [\"flask\"]", "namespaces = [\"flask-*\"]");
    assert!(authorize(&policy(&open), caller(&[]), config_map(), &[], "d").is_err());
    let mut named = config_map();
    named.spec.namespace = Some("flask-review-7".parse().expect("a namespace"));
    let permit = authorize(&policy(&two), caller(&[]), named, &[], "d").expect("granted");
    assert_eq!(permit.namespace().as_str(), "flask-review-7");
    let more =
        format!("{POLICY}[rule.cluster.second]\nnamespaces = [\"flask\"]\nsecrets = [\"a\"]\n");
    let denial = authorize(&policy(&more), caller(&[]), config_map(), &[], "d").expect_err("two");
    assert!(denial.message.contains("target.cluster"), "{denial:?}");
}

#[test]
fn one_rule_grants_the_whole_request_or_none_does() {
    let rule = |id: &str, kinds: &str| {
        format!(
            "[[rule]]\nid = \"{id}\"\n[rule.match]\nproject_id = 42\n[rule.cluster.demo]\nnamespaces = [\"flask\"]\nkinds = [{kinds}]\n"
        )
    };
    let maps = rule("maps", "\"v1/ConfigMap\"");
    let services = rule("services", "\"v1/Service\"");
    let both = || {
        let objects = vec![
            object("v1", "ConfigMap", "conf"),
            object("v1", "Service", "web"),
        ];
        request(Vec::new(), objects)
    };
    let split = policy(&format!("version = 1\n{services}{maps}"));
    let denial =
        authorize(&split, caller(&[]), both(), &[], "d").expect_err("rights do not add up");
    // `maps` came farther, so its refusal is the one that is told.
    assert!(
        denial.message.contains("v1/Service flask/web"),
        "{denial:?}"
    );
    let all = rule("all", "\"v1/ConfigMap\", \"v1/Service\"");
    let joined = policy(&format!("version = 1\n{services}{maps}{all}"));
    let permit = authorize(&joined, caller(&[]), both(), &[], "d").expect("one rule grants both");
    assert_eq!(permit.rule(), "all");
}

#[test]
fn a_rule_without_the_verb_apply_does_not_deploy() {
    let text = POLICY.replace("require_digest = true", "verbs = [\"rollback\"]");
    let denial = authorize(&policy(&text), caller(&[]), config_map(), &[], "d").expect_err("verb");
    assert!(denial.message.contains("apply"), "{denial:?}");
}

#[test]
fn a_run_that_goes_back_when_it_is_left_needs_the_verb_for_it() {
    let text = POLICY.replace("require_digest = true", "verbs = [\"apply\"]");
    let asked = |on_disconnect| {
        let mut request = config_map();
        request.spec.rollout.on_disconnect = on_disconnect;
        authorize(&policy(&text), caller(&[]), request, &[], "d")
    };
    assert!(asked(OnDisconnect::Finish).is_ok() && asked(OnDisconnect::Cancel).is_ok());
    let denial = asked(OnDisconnect::Rollback).expect_err("verb");
    assert!(denial.message.contains("rollback"), "{denial:?}");
}

#[test]
fn objects_that_turn_out_to_be_one_count_once_or_are_refused() {
    let conf = || object("v1", "ConfigMap", "conf");
    let permit = permit_for(request(Vec::new(), vec![conf(), within(conf(), "flask")]));
    assert_eq!(permit.request().objects.len(), 1);
    assert_eq!(permit.request().notes.len(), 1);
    let other = with(within(conf(), "flask"), "/data", json!({"a": "b"}));
    let denial = denial_for(request(Vec::new(), vec![conf(), other]));
    assert!(
        denial.message.contains("v1/ConfigMap flask/conf"),
        "{denial:?}"
    );
    let both = request(
        vec![secret("flask-db", "kv/flask/db")],
        vec![object("v1", "Secret", "flask-db")],
    );
    assert!(
        denial_for(both)
            .message
            .contains("v1/Secret flask/flask-db")
    );
}

#[test]
fn a_chart_is_fetched_only_from_where_the_rule_says() {
    let asked = |fields: &str| {
        let text = format!("version: 1\nname: flask\nhelm: {{version: 1.2.3, {fields}}}\n");
        let files = BTreeMap::from([("quaymaster.yaml".to_owned(), text.into_bytes())]);
        let bundle = crate::bundle::Bundle { files };
        crate::request::read(&bundle, Mode::DryRun).expect(fields)
    };
    for granted in [
        "chart: 'oci://registry.example.com/team/web'",
        "chart: web, repo: 'https://charts.example.com/stable/'",
    ] {
        permit_for(asked(granted));
    }
    let rows = [
        (
            "chart: 'oci://registry.example.com/other/web'",
            "oci://registry.example.com/other/web",
        ),
        (
            "chart: 'oci://registry.example.com/team'",
            "oci://registry.example.com/team",
        ),
        (
            "chart: 'oci://registry.example.com:444/team/web'",
            "oci://registry.example.com:444/team/web",
        ),
        (
            "chart: 'oci://127.0.0.1:5000/team/web'",
            "oci://127.0.0.1:5000/team/web",
        ),
        (
            "chart: web2, repo: 'https://charts.example.com/stable'",
            "https://charts.example.com/stable/web2",
        ),
        (
            "chart: web, repo: 'https://registry.example.com/team'",
            "https://registry.example.com/team/web",
        ),
    ];
    for (fields, address) in rows {
        let denial = denial_for(asked(fields));
        assert!(
            denial.message.contains(address) && denial.message.contains("`charts`"),
            "{}",
            denial.message
        );
    }
    let none = policy(&POLICY.replace("charts = ", "# "));
    let request = asked("chart: 'oci://registry.example.com/team/web'");
    assert!(
        authorize(&none, caller(&[]), request, &[], "d1").is_err(),
        "the default grants none"
    );
}

/// A policy whose rule gives one folder to jobs, and another one to Secrets only.
fn exposing() -> Policy {
    let text = POLICY.replace("paths = [", "expose = [\"kv/flask/build/*\"]\npaths = [");
    policy(&text)
}

fn wanted(paths: &[&str]) -> BTreeMap<String, Source> {
    let field = |(number, path): (usize, &&str)| {
        let source = Source::Field {
            path: VaultPath::parse(path).expect("a path"),
            field: "value".to_owned(),
            version: None,
            parameters: BTreeMap::new(),
        };
        (format!("V{number}"), source)
    };
    paths.iter().enumerate().map(field).collect()
}

#[test]
fn a_job_gets_the_values_that_the_rule_lists_for_jobs() {
    let exposure = expose(
        &exposing(),
        &caller(&[]),
        wanted(&["kv/flask/build/npm"]),
        "d1",
    );
    let exposure = exposure.expect("it is granted");
    assert_eq!(
        (exposure.rule(), exposure.vault_role()),
        ("flask-production", Some("flask-demo"))
    );
}

#[test]
fn paths_for_secrets_are_not_for_jobs() {
    let denied = |paths: &[&str]| {
        let denial = expose(&exposing(), &caller(&[]), wanted(paths), "d1");
        denial.expect_err("it is denied")
    };
    let denial = denied(&["kv/flask/build/npm", "kv/flask/db"]);
    assert!(
        denial.message.contains("kv/flask/db") && denial.message.contains("flask-production"),
        "{denial:?}"
    );
    assert!(denial.hint.contains("`secrets`"), "{denial:?}");
    assert!(denied(&["kv/other/a"]).hint.contains("operator"));
    assert!(denied(&["kv/data/flask"]).hint.contains("data/"));
    let none = expose(
        &policy(POLICY),
        &caller(&[]),
        wanted(&["kv/flask/build/npm"]),
        "d1",
    );
    assert!(none.is_err(), "a rule without `expose` gives nothing");
}

#[test]
fn conditions_hold_for_values_as_for_deploys() {
    for (change, attribute) in [
        (("ref_protected", "false"), "ref_protected"),
        (("job_project_id", "43"), ""),
        (("environment_action", "prepare"), "environment_action"),
    ] {
        let denial = expose(
            &exposing(),
            &caller(&[change]),
            wanted(&["kv/flask/build/npm"]),
            "d1",
        );
        let denial = denial.expect_err(attribute);
        let nearest = denial.nearest.first().map(|miss| miss.attribute.as_str());
        assert_eq!(nearest.unwrap_or_default(), attribute, "{denial:?}");
    }
}

/// A request with one image, looked for in its registry.
fn looked_up(image: &str, credential: &str) -> Request {
    let reference = crate::image::ImageRef::parse(image).expect("a good reference");
    let credential = crate::spec::RegistryCredential {
        path: VaultPath::parse(credential).expect("the path is valid"),
        username: "username".to_owned(),
        password: "password".to_owned(),
    };
    let registry = reference.registry().to_owned();
    let mut request = request(Vec::new(), vec![deployment(image)]);
    request.spec.images.insert("web".to_owned(), reference);
    request.spec.registries.insert(registry, Some(credential));
    request
}

#[test]
fn registries_are_asked_for_named_images_with_granted_credentials_only() {
    let tag = "registry.example.com/team/flask:1";
    let permit = permit_for(looked_up(tag, "kv/flask/registry"));
    assert_eq!(permit.images_to_find().len(), 1);
    for (image, credential, named) in [
        (tag, "kv/other/registry", "kv/other/registry"),
        (
            "registry.example.com/others/flask:1",
            "kv/flask/registry",
            "asking registry.example.com",
        ),
        (
            "169.254.169.254/team/flask:1",
            "kv/flask/registry",
            "asking 169.254.169.254",
        ),
    ] {
        let denial = denial_for(looked_up(image, credential));
        assert!(denial.message.contains(named), "{named}: {denial:?}");
    }
    // Any image may be deployed by this rule, and so no registry may be asked.
    let any = POLICY.replace("images = [\"registry.example.com/team/*\"]\n", "");
    let request = looked_up(tag, "kv/flask/registry");
    let denial = authorize(&policy(&any), caller(&[]), request, &[], "d1");
    let denial = denial.expect_err("no images are named");
    assert!(
        denial.message.contains("`images` of the rule"),
        "{denial:?}"
    );
}

#[test]
fn digests_that_were_found_stand_in_the_objects() {
    let permit = permit_for(looked_up(
        "registry.example.com/team/flask:1",
        "kv/flask/registry",
    ));
    let pinned = format!("registry.example.com/team/flask:1@{DIGEST}");
    let found = crate::image::ImageRef::parse(&pinned).expect("a good reference");
    let permit = permit.with_digests(BTreeMap::from([("web".to_owned(), found)]));
    let permit = permit.expect("the rule grants it");
    let objects = &permit.request().objects;
    assert_eq!(crate::image::images_of(&objects[0]), [pinned]);
    // A tag that nobody found a digest for is no digest.
    let open = permit_for(looked_up(
        "registry.example.com/team/flask:1",
        "kv/flask/registry",
    ));
    let denial = open.with_digests(BTreeMap::new()).expect_err("no digest");
    assert!(denial.message.contains("has no digest"), "{denial:?}");
}
