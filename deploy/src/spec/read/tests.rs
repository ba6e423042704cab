//! Good specs as values; bad ones as places.

use super::*;
use crate::spec::Source;

const GOOD: &str = r#"version: 1
name: flask-demo
target: { cluster: prod-eu, namespace: flask }
secrets:
  - name: flask-db
    keys:
      username: { vault: database/creds/flask, field: username }
      api-key: { vault: kv/flask, field: api_key, version: 7 }
      URL: { template: "pg://{{ username }}@db" }
manifests: [k8s/, ./more/one.yaml]
images: { flask: "registry.example.com/team/flask:1.4.2" }
rollout: { timeout: 1h30m }
"#;

fn wrong(text: &str) -> Vec<(Option<u64>, Option<String>, String)> {
    let error = spec(text.as_bytes()).expect_err("the spec is wrong");
    assert_eq!(error.code, Code::SpecInvalid);
    error
        .places
        .into_iter()
        .map(|place| (place.line, place.path, place.message))
        .collect()
}

#[test]
fn a_good_spec_is_read_whole() {
    let spec = spec(GOOD.as_bytes()).expect("it is valid");
    assert_eq!(spec.name.as_str(), "flask-demo");
    assert_eq!(spec.manifests, ["k8s", "more/one.yaml"]);
    assert_eq!(spec.rollout.timeout, Duration::from_secs(5400));
    let secret = &spec.secrets[0];
    assert_eq!(secret.kind, "Opaque");
    assert!(matches!(
        &secret.keys["api-key"],
        Source::Field {
            version: Some(7),
            ..
        }
    ));
    assert!(
        matches!(&secret.keys["URL"], Source::Template(template) if template.names.contains("username"))
    );
    assert_eq!(spec.images["flask"].tag.as_deref(), Some("1.4.2"));
}

#[test]
fn byte_order_mark_and_windows_line_ends_are_fine() {
    let text = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
    assert!(spec(text.as_bytes()).is_ok());
}

#[test]
fn all_errors_come_at_once_with_line_and_path() {
    let found = wrong(
        "version: 2\nname: Flask\nmanifest: []\nsecrets:\n  - name: a\n    keys: { k: { vault: kv/../x } }\n",
    );
    let paths: Vec<&str> = found
        .iter()
        .filter_map(|(_, path, _)| path.as_deref())
        .collect();
    assert_eq!(
        paths,
        [
            "version",
            "name",
            "manifest",
            "secrets[0].keys.k.field",
            "secrets[0].keys.k.vault"
        ]
    );
    assert_eq!(found[2].0, Some(3));
}

#[test]
fn words_of_later_versions_are_refused_and_never_ignored() {
    for text in [
        "helm: {}",
        "flux: {}",
        "kustomize: x",
        "rollout: { prune: true }",
        "rollout: { on_failure: rollback }",
    ] {
        let found = wrong(&format!("version: 1\nname: a\nmanifests: [k]\n{text}\n"));
        assert!(
            found[0].2.contains("supported by this version"),
            "{text}: {found:?}"
        );
    }
    assert!(
        spec(b"version: 1\nname: a\nmanifests: [k]\nrollout: { prune: false, on_failure: keep }\n")
            .is_ok()
    );
}

#[test]
fn numbers_where_names_belong_say_to_quote() {
    let found = wrong("version: 1\nname: 42\nmanifests: [k]\n");
    assert!(found[0].2.contains("quotes"), "{found:?}");
}

#[test]
fn an_unexpanded_variable_is_an_error() {
    let found = wrong("version: 1\nname: a\nmanifests: [k]\nimages: { x: \"${IMAGE}\" }\n");
    assert!(found[0].2.contains("client"), "{found:?}");
}

#[test]
fn durations_have_their_form_and_bounds() {
    for (text, seconds) in [("90s", 90), ("10m", 600), ("1h30m", 5400), ("24h", 86_400)] {
        assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
    }
    for text in [
        "0s",
        "",
        "10",
        "-1s",
        "25h",
        "1d",
        "30m1h",
        "1m1m",
        "1.5h",
        "99999999999999999999s",
    ] {
        assert_eq!(duration(text), None, "{text}");
    }
}

#[test]
fn types_have_their_keys() {
    let secret = |kind: &str, keys: &str| {
        format!("version: 1\nname: a\nsecrets:\n  - name: s\n    type: {kind}\n    keys: {keys}\n")
    };
    let field = "{ vault: kv/x, field: f }";
    assert!(
        spec(
            secret(
                "kubernetes.io/tls",
                &format!("{{ tls.crt: {field}, tls.key: {field} }}")
            )
            .as_bytes()
        )
        .is_ok()
    );
    assert!(
        wrong(&secret(
            "kubernetes.io/tls",
            &format!("{{ tls.crt: {field} }}")
        ))[0]
            .2
            .contains("tls.key")
    );
    assert!(
        wrong(&secret(
            "kubernetes.io/dockerconfigjson",
            &format!("{{ .dockerconfigjson: {field}, x: {field} }}")
        ))[0]
            .2
            .contains("only")
    );
    assert!(
        wrong(&secret("helm.sh/release.v1", &format!("{{ x: {field} }}")))[0]
            .2
            .contains("never")
    );
}

#[test]
fn templates_use_fields_of_their_own_secret_only() {
    let secret = |keys: &str| {
        format!("version: 1\nname: a\nsecrets:\n  - name: s\n    keys: {{ {keys} }}\n")
    };
    for keys in [
        "a: { template: \"{{ missing }}\" }",
        "a: { template: \"{{ b }}\" }, b: { template: \"{{ a }}\" }",
        "a: { template: \"{% set x = 1 %}\" }",
        "a: { template: \"x\", field: y }",
    ] {
        assert!(!wrong(&secret(keys)).is_empty(), "{keys}");
    }
}

#[test]
fn no_error_quotes_the_file() {
    let canary = "canary77";
    for text in [
        format!("version: {canary}\nname: {canary}_\nmanifests: {canary}\n"),
        format!(
            "version: 1\nname: a\nmanifests: [\"/{canary}\"]\nimages: {{ x: \"{canary}:{canary}:{canary}\" }}\n"
        ),
        format!(
            "version: 1\nname: a\nsecrets: [{{ name: \"{canary}!\", type: 1, keys: {{ k: {{ vault: \"{canary}\", field: 1 }} }} }}]\n"
        ),
        format!("version: 1\nname: [{canary}\n"),
        format!("version: 1\nname: *{canary}\n"),
        format!("version: 1\nname: !{canary} x\n"),
        format!("version: 1\nname: a\nrollout: {{ timeout: {canary} }}\nmanifests: [k]\n"),
    ] {
        let found = wrong(&text);
        assert!(!format!("{found:?}").contains(canary), "{found:?}");
    }
}
