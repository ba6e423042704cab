//! What specs take and refuse, sentence by sentence of the contract.

use super::*;

const GOOD: &str = r#"
version: 1
name: flask-demo
target: { cluster: prod-eu, namespace: flask }
secrets:
  - name: flask-db
    keys:
      username: { vault: database/creds/flask, field: username }
      password: { vault: database/creds/flask, field: password }
      api-key:  { vault: kv/flask, field: api_key, version: 7 }
      DATABASE_URL: { template: "postgresql://{{ username }}:{{ password | url }}@db/flask" }
manifests: [k8s/, ./extra.yaml]
images: { flask: "registry.example.com/team/flask:1.4.2" }
rollout: { timeout: 1h30m, on_failure: keep, prune: false }
"#;

/// The paths (or, without one, the line) of every error.
fn wrong(text: &str) -> Vec<String> {
    let error = parse(text.as_bytes()).expect_err(text);
    assert_eq!(error.code, proto::error::Code::SpecInvalid);
    let at = |place: Place| {
        assert_eq!(place.file.as_deref(), Some(SPEC_FILE));
        assert!(place.line.is_some(), "{place:?}");
        place.path.unwrap_or_default()
    };
    error.places.into_iter().map(at).collect()
}

/// A good spec with one Secret that has these keys.
fn with_keys(kind: &str, keys: &str) -> String {
    format!("version: 1\nname: a\nsecrets:\n- name: s\n  type: {kind}\n  keys: {keys}\n")
}

#[test]
fn a_complete_spec_is_read() {
    let spec = parse(GOOD.as_bytes()).expect("valid");
    assert_eq!(spec.name.as_str(), "flask-demo");
    assert_eq!(
        spec.cluster.as_ref().map(ClusterName::as_str),
        Some("prod-eu")
    );
    assert_eq!(
        spec.namespace.as_ref().map(Namespace::as_str),
        Some("flask")
    );
    assert_eq!(spec.manifests, ["k8s/", "./extra.yaml"]);
    assert_eq!(spec.images["flask"].tag.as_deref(), Some("1.4.2"));
    assert_eq!(spec.rollout.timeout, Duration::from_secs(5_400));
    assert_eq!(spec.secrets.len(), 1);
    assert_eq!(spec.secrets[0].kind, "Opaque");
    assert_eq!(spec.secrets[0].keys.len(), 4);
    assert_eq!(
        spec.secrets[0].keys["api-key"],
        Source::Field {
            path: VaultPath::parse("kv/flask").expect("valid"),
            field: "api_key".to_owned(),
            version: Some(7),
            parameters: Parameters::new(),
        }
    );
}

#[test]
fn what_is_left_out_has_defaults() {
    let spec = parse(b"version: 1\nname: a\nmanifests: [k8s]\n").expect("valid");
    assert_eq!((spec.cluster, spec.namespace), (None, None));
    assert_eq!(spec.rollout.timeout, Duration::from_secs(600));
    assert!(spec.secrets.is_empty() && spec.images.is_empty());
}

#[test]
fn all_errors_come_at_once_with_their_places() {
    let text =
        "version: 2\nname: A\nextra: 1\ntarget: {zone: x}\nmanifests: []\nrollout: {timeout: 0s}\n";
    let paths = wrong(text);
    for path in [
        "extra",
        "version",
        "name",
        "target.zone",
        "manifests",
        "rollout.timeout",
    ] {
        assert!(
            paths.iter().any(|found| found == path),
            "{path} in {paths:?}"
        );
    }
    let error = parse(text.as_bytes()).expect_err("wrong");
    let zone = error
        .places
        .iter()
        .find(|place| place.path.as_deref() == Some("target.zone"));
    let zone = zone.expect("it is there");
    assert_eq!((zone.line, zone.column), (Some(4), Some(10)));
}

#[test]
fn what_is_needed_is_missed() {
    assert_eq!(wrong("{}").len(), 3);
    assert_eq!(wrong("[]").len(), 1);
    assert_eq!(wrong("text").len(), 1);
    assert_eq!(wrong("version: 1\nname: a\n"), [""]);
    assert_eq!(
        wrong("version: 1\nname: a\nsecrets: [{}]\n"),
        ["secrets[0]", "secrets[0]"]
    );
}

#[test]
fn strings_are_strings() {
    for value in ["1", "1.5", "true", "~", "[a]", "{a: b}", "\"\"", ""] {
        let text = format!("version: 1\nname: {value}\nmanifests: [a]\n");
        assert_eq!(wrong(&text), ["name"], "{value}");
        let text = format!("version: 1\nname: a\nmanifests: [a, {value}, b]\n");
        if !value.is_empty() {
            assert_eq!(wrong(&text), ["manifests[1]"], "{value}");
        }
    }
    assert_eq!(
        wrong("version: '1'\nname: a\nmanifests: [a]\n"),
        ["version"]
    );
    assert!(parse(b"version: 1\nname: '1'\nmanifests: ['2']\n").is_ok());
}

#[test]
fn durations_are_checked() {
    for value in ["0s", "-1s", "25h", "90", "1.5", "forever", "''"] {
        let text = format!("version: 1\nname: a\nmanifests: [a]\nrollout: {{timeout: {value}}}\n");
        assert_eq!(wrong(&text), ["rollout.timeout"], "{value}");
    }
}

#[test]
fn variables_that_nobody_replaced_are_refused() {
    let text = "version: 1\nname: a\nmanifests: [a]\nimages: {flask: 'reg.io/flask:${CI_TAG}'}\n";
    assert!(wrong(text).iter().all(|path| path == "images.flask"));
    assert_eq!(
        wrong("version: 1\nname: a\nmanifests: ['${DIR}/k8s']\n"),
        ["manifests[0]"]
    );
    assert!(!wrong("version: 1\nname: a\nmanifests: [a]\nimages: {'${A}': b}\n").is_empty());
}

#[test]
fn paths_of_manifests_stay_in_the_bundle_and_are_no_globs() {
    for path in ["/etc", "../a", "a/../b", "k8s/*.yaml", "a?", "[ab]", "a\\b"] {
        let text = format!("version: 1\nname: a\nmanifests: ['{path}']\n");
        assert_eq!(wrong(&text), ["manifests[0]"], "{path}");
    }
}

const CHART: &str = "version: 1\nname: a\nimages: {web: 'r/web:1'}\n";

#[test]
fn a_chart_is_read_with_typed_values() {
    let text = format!(
        "{CHART}helm: {{chart: chart/, values: [v.yaml], timeout: 2m, hooks: skip, skip_crds: true, image: {{web: {{repository: i.r, tag: i.t}}}}, set: {{a.b: 1, a.c: 'x', d: true, e: [1.5, 'f'], 'g\\.h': 07}}}}\n"
    );
    let spec = parse(text.as_bytes()).expect("it is valid");
    let helm = spec.helm.expect("there is a chart");
    assert_eq!(helm.release.as_str(), "a");
    assert_eq!(
        (helm.hooks, helm.crds, helm.timeout),
        (Hooks::Skip, Crds::Skip, Some(Duration::from_secs(120)))
    );
    let values = crate::chart::values(&helm, &spec.images);
    assert_eq!(
        values,
        serde_json::json!({ "a": { "b": 1, "c": "x" }, "d": true, "e": [1.5, "f"], "g.h": 7, "i": { "r": "r/web", "t": "1" } })
    );
}

#[test]
fn a_wrong_chart_is_refused_at_its_place() {
    let rows = [
        (
            "helm: {chart: c, image: {web: {tag: t}}, release: A_b}",
            "helm.release",
        ),
        ("helm: {chart: c}", "helm"),
        (
            "helm: {chart: c, image: {web: {tag: t}, other: {tag: t}}}",
            "helm.image.other",
        ),
        ("helm: {chart: c, image: {web: {}}}", "helm.image.web"),
        (
            "helm: {chart: c, image: {web: {tag: 'a[0]'}}}",
            "helm.image.web.tag",
        ),
        (
            "helm: {chart: '../c', image: {web: {tag: t}}}",
            "helm.chart",
        ),
        (
            "helm: {chart: 'https://r/c', version: 1.2.3, image: {web: {tag: t}}}",
            "helm.chart",
        ),
        (
            "helm: {chart: c, image: {web: {tag: t}}, hooks: maybe}",
            "helm.hooks",
        ),
        (
            "helm: {chart: c, image: {web: {tag: t}}, timeout: 5}",
            "helm.timeout",
        ),
        (
            "helm: {chart: c, image: {web: {tag: t}}, set: {a..b: 1}}",
            "helm.set[\"a..b\"]",
        ),
        (
            "helm: {chart: c, image: {web: {tag: t}}}\nkustomize: k",
            "helm",
        ),
        ("kustomize: /k", "kustomize"),
    ];
    for (line, path) in rows {
        let text = format!("{CHART}{line}\n");
        let found = wrong(&text);
        assert!(found.contains(&path.to_owned()), "{line}: {found:?}");
    }
}

#[test]
fn charts_of_registries_and_repositories_are_read() {
    let chart = |fields: &str| {
        let text = format!("version: 1\nname: a\nhelm: {{{fields}}}\n");
        let spec = parse(text.as_bytes()).expect(fields);
        let source = spec.helm.expect("there is a chart").chart;
        match source {
            ChartSource::Remote(reference) => (
                reference.to_string(),
                reference.digest.map(|digest| digest.as_str().to_owned()),
            ),
            ChartSource::Bundle(path) => panic!("{path} is in the bundle"),
        }
    };
    let digest = format!("sha256:{}", "0a".repeat(32));
    assert_eq!(
        chart("chart: 'oci://r.example.com/team/web', version: 1.2.3-rc.1"),
        ("oci://r.example.com/team/web 1.2.3-rc.1".to_owned(), None)
    );
    assert_eq!(
        chart(&format!(
            "chart: web, repo: 'https://c.example.com/a/', version: v1.2.3, digest: '{digest}'"
        )),
        (
            "https://c.example.com/a/web v1.2.3".to_owned(),
            Some(digest)
        )
    );
}

#[test]
fn a_wrong_reference_to_a_chart_is_refused_at_its_place() {
    let oci = "chart: 'oci://r.example.com/web'";
    let repo = "chart: web, repo: 'https://c.example.com'";
    let rows = [
        (oci.to_owned(), vec!["helm"]),
        (repo.to_owned(), vec!["helm"]),
        (format!("{oci}, version: latest"), vec!["helm.version"]),
        (format!("{oci}, version: 1.2"), vec!["helm.version"]),
        (format!("{oci}, version: '>=1.2.3'"), vec!["helm.version"]),
        (
            format!("{oci}, version: 1.2.3, digest: 'sha256:1'"),
            vec!["helm.digest"],
        ),
        (
            format!("{oci}, version: 1.2.3, repo: 'https://c.example.com'"),
            vec!["helm.repo"],
        ),
        (
            "chart: 'oci://r.example.com/web:1.2.3', version: 1.2.3".to_owned(),
            vec!["helm.chart"],
        ),
        (
            "chart: a/b, repo: 'http://c.example.com', version: x".to_owned(),
            vec!["helm.chart", "helm.repo", "helm.version"],
        ),
        (
            "chart: c/, version: 1.2.3, digest: 'sha256:1'".to_owned(),
            vec!["helm.version", "helm.digest"],
        ),
    ];
    for (fields, paths) in rows {
        let text = format!("version: 1\nname: a\nhelm: {{{fields}}}\n");
        assert_eq!(wrong(&text), paths, "{fields}");
    }
}

#[test]
fn words_that_mean_nothing_are_refused_where_they_stand() {
    for (field, path) in [
        ("on_failure: explode", "on_failure"),
        ("on_disconnect: leave", "on_disconnect"),
        ("when_locked: steal", "when_locked"),
    ] {
        let text = format!("version: 1\nname: a\nmanifests: [a]\nrollout: {{{field}}}\n");
        assert_eq!(wrong(&text), [format!("rollout.{path}")]);
    }
}

/// A Secret of a spec, with these lines below `rotate`.
fn rotated(rotate: &str) -> String {
    format!(
        "version: 1\nname: a\nsecrets:\n- name: s\n  keys:\n    a: {{vault: pki/issue/web, field: b, \
         params: {{common_name: web.example.com}}}}\n    t: {{template: 'x $${{y}} {{{{ a }}}}'}}\n  rotate: {rotate}\n"
    )
}

#[test]
fn how_a_secret_is_kept_fresh_is_read_with_defaults() {
    let spec = parse(rotated("{}").as_bytes()).expect("valid");
    assert_eq!(spec.secrets[0].rotate, Some(Rotate::default()));
    let text = "{restart: [Deployment/shop], outage_budget: 1h, on_deleted: previous, \
                min_age: 10m, jitter: 30s, windows: [Mon-Fri 02:00-05:00]}";
    let spec = parse(rotated(text).as_bytes()).expect("valid");
    let rotate = spec.secrets[0].rotate.as_ref().expect("it was given");
    assert_eq!(rotate.outage_budget, Duration::from_secs(3_600));
    assert_eq!(rotate.on_deleted, OnDeleted::Previous);
    assert_eq!(rotate.min_age, Some(Duration::from_secs(600)));
    assert_eq!(rotate.windows.len(), 1);
    let Restart::Named(named) = &rotate.restart else {
        panic!("workloads were named");
    };
    assert_eq!(named[0].to_string(), "Deployment/shop");
}

#[test]
fn what_is_wrong_about_rotate_is_told_where_it_stands() {
    for (text, path) in [
        ("{restart: maybe}", "restart"),
        ("{restart: [Job/a]}", "restart[0]"),
        ("{outage_budget: 5}", "outage_budget"),
        ("{on_deleted: empty}", "on_deleted"),
        ("{windows: [nightly]}", "windows[0]"),
        ("{every: 5m}", "every"),
        ("true", ""),
    ] {
        let expected = if path.is_empty() {
            "secrets[0].rotate".to_owned()
        } else {
            format!("secrets[0].rotate.{path}")
        };
        assert_eq!(wrong(&rotated(text)), [expected], "{text}");
    }
}

#[test]
fn a_secret_is_written_down_in_the_words_of_the_spec() {
    let text = "{restart: none, outage_budget: 2m, on_deleted: fail, min_age: 10m, jitter: 30s, \
                windows: ['Sat,Sun 02:00-05:00']}";
    let spec = parse(rotated(text).as_bytes()).expect("valid");
    let secret = &spec.secrets[0];
    let again = serde_json::json!({"version": 1, "name": "a", "secrets": [secret.to_value()]});
    let again = parse(again.to_string().as_bytes()).expect("what was written can be read");
    assert_eq!(&again.secrets[0], secret);
}

#[test]
fn keys_of_one_path_ask_with_the_same_parameters() {
    let text = "version: 1\nname: a\nsecrets:\n- name: s\n  keys:\n    a: {vault: pki/issue/w, field: \
                certificate, params: {common_name: a}}\n    b: {vault: pki/issue/w, field: private_key}\n";
    assert_eq!(wrong(text), ["secrets[0].keys.b"]);
}

#[test]
fn images_need_valid_references() {
    for (name, value) in [
        ("flask", "Flask"),
        ("flask", "'flask:'"),
        ("'flask:1'", "a"),
        ("Flask", "a"),
        ("flask", "1"),
    ] {
        let text = format!("version: 1\nname: a\nmanifests: [a]\nimages: {{{name}: {value}}}\n");
        assert_eq!(wrong(&text).len(), 1, "{name}: {value}");
    }
}

#[test]
fn sources_are_a_field_or_a_template() {
    for keys in [
        "{a: {vault: kv/a}}",
        "{a: {field: b}}",
        "{a: {}}",
        "{a: x}",
        "{a: {vault: kv/a, field: b, extra: c}}",
        "{a: {vault: kv/a, field: b, version: 0}}",
        "{a: {vault: kv/a, field: b, version: -1}}",
        "{a: {vault: kv/a, field: b, version: latest}}",
        "{a: {vault: kv/a, field: ''}}",
        "{a: {vault: kv/a, field: 7}}",
        "{'a b': {vault: kv/a, field: b}}",
        "{'..a': {vault: kv/a, field: b}}",
        "{a: {template: '{{ b }}'}}",
        "{a: {template: '{{ a }}'}}",
        "{a: {template: '{% set x = 1 %}'}}",
        "{}",
        "[]",
    ] {
        let found = wrong(&with_keys("Opaque", keys));
        assert!(
            !found.is_empty() && found.iter().all(|path| path.starts_with("secrets[0]")),
            "{keys}"
        );
    }
    let cycle = "{x: {vault: kv/a, field: b}, a: {template: '{{ b }}'}, b: {template: '{{ a }}'}}";
    assert_eq!(
        wrong(&with_keys("Opaque", cycle)),
        ["secrets[0].keys.a", "secrets[0].keys.b"]
    );
    let both = "{a: {vault: kv/a, field: b, template: x}}";
    assert_eq!(wrong(&with_keys("Opaque", both)).len(), 2);
}

#[test]
fn vault_paths_are_checked_where_they_stand() {
    for path in [
        "kv", "/kv/a", "kv/a/", "kv//a", "kv/../a", "kv/./a", "kv/+/a", "kv/*", "kv/%2e",
    ] {
        let text = with_keys("Opaque", &format!("{{a: {{vault: '{path}', field: b}}}}"));
        assert_eq!(wrong(&text), ["secrets[0].keys.a.vault"], "{path}");
    }
}

#[test]
fn types_need_their_keys_and_take_no_others() {
    let key = |name: &str| format!("'{name}': {{vault: kv/a, field: b}}");
    let keys = |names: &[&str]| {
        let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
        format!("{{{}}}", keys.join(", "))
    };
    for (kind, names, good) in [
        ("kubernetes.io/tls", vec!["tls.crt", "tls.key"], true),
        (
            "kubernetes.io/tls",
            vec!["tls.crt", "tls.key", "ca.crt"],
            true,
        ),
        ("kubernetes.io/tls", vec!["tls.crt"], false),
        (
            "kubernetes.io/tls",
            vec!["tls.crt", "tls.key", "other"],
            false,
        ),
        (
            "kubernetes.io/dockerconfigjson",
            vec![".dockerconfigjson"],
            true,
        ),
        ("kubernetes.io/dockerconfigjson", vec!["config"], false),
        ("kubernetes.io/dockercfg", vec![".dockercfg"], true),
        ("kubernetes.io/basic-auth", vec!["username"], true),
        (
            "kubernetes.io/basic-auth",
            vec!["username", "password"],
            true,
        ),
        ("kubernetes.io/basic-auth", vec!["user"], false),
        ("kubernetes.io/ssh-auth", vec!["ssh-privatekey"], true),
        ("kubernetes.io/ssh-auth", vec!["id_rsa"], false),
        ("example.com/own", vec!["anything"], true),
        ("kubernetes.io/service-account-token", vec!["token"], false),
        ("bootstrap.kubernetes.io/token", vec!["token"], false),
        ("helm.sh/release.v1", vec!["release"], false),
        ("kubernetes.io/tsl", vec!["tls.crt", "tls.key"], false),
        ("opaque", vec!["a"], false),
    ] {
        let text = with_keys(kind, &keys(&names));
        assert_eq!(parse(text.as_bytes()).is_ok(), good, "{kind} {names:?}");
    }
    let composed = format!(
        "{{{}, {}, .dockerconfigjson: {{template: '{{{{ (user ~ pass) | b64 }}}}'}}}}",
        key("user"),
        key("pass")
    );
    let text = with_keys("kubernetes.io/dockerconfigjson", &composed);
    assert!(
        parse(text.as_bytes()).is_ok(),
        "{:?}",
        parse(text.as_bytes())
    );
}

#[test]
fn names_of_secrets_are_valid_and_different() {
    let key = "keys: {a: {vault: kv/a, field: b}}";
    let text = |first: &str, second: &str| {
        format!(
            "version: 1\nname: a\nsecrets:\n- name: {first}\n  {key}\n- name: {second}\n  {key}\n"
        )
    };
    assert!(parse(text("a", "a.b").as_bytes()).is_ok());
    assert_eq!(wrong(&text("a", "a")), ["secrets[1].name"]);
    assert_eq!(wrong(&text("A_b", "a")), ["secrets[0].name"]);
}

#[test]
fn images_are_found_again_for_later_errors() {
    let place = image_error(GOOD.as_bytes(), "flask", "nothing uses it");
    assert_eq!((place.line, place.column), (Some(13), Some(18)));
    assert_eq!(place.path.as_deref(), Some("images.flask"));
}

#[test]
fn no_error_repeats_what_was_written() {
    for (from, to) in [
        ("version: 1", "version: CANARY"),
        ("flask-demo", "CANARY"),
        ("flask-demo", "[CANARY"),
        ("flask-demo", "\"CANARY"),
        ("flask-demo", "!CANARY x"),
        ("flask-demo", "&CANARY x"),
        ("flask-demo", "*CANARY"),
        ("flask-demo", "`CANARY"),
        ("flask-demo", "'CANARY' CANARY"),
        ("flask-demo", "a: CANARY: b"),
        ("prod-eu", "CANARY"),
        ("flask-db", "CANARY"),
        ("database/creds/flask", "/CANARY"),
        ("version: 7", "version: CANARY"),
        ("{{ username }}", "{{ 'CANARY' | CANARY }}"),
        ("{{ username }}", "{{ CANARY-x }}"),
        ("{{ username }}", "{% CANARY %}"),
        ("k8s/", "../CANARY"),
        (
            "registry.example.com/team/flask:1.4.2",
            "CANARY/CANARY/CANARY",
        ),
        ("1h30m", "CANARY"),
        ("keep", "CANARY"),
        ("prune: false", "prune: CANARY"),
        ("prune: false", "prune: '${CANARY}'"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD);
        let error = parse(text.as_bytes()).expect_err(&text);
        assert!(
            !format!("{error} {error:?}").contains("CANARY"),
            "{to}: {error:?}"
        );
    }
}

#[test]
fn every_cut_and_many_damages_get_an_answer() {
    for length in 0..GOOD.len() {
        drop(parse(&GOOD.as_bytes()[..length]));
        for byte in [b'[', b'{', b'"', b'\t', b'\n', b'&', 0xff, 0] {
            let mut text = GOOD.as_bytes().to_vec();
            text[length] = byte;
            drop(parse(&text));
        }
    }
}

#[test]
fn an_escaped_variable_is_a_literal_and_a_plain_one_is_refused() {
    let spec = |text: &str| with_keys("Opaque", &format!("{{ a: {{ template: \"{text}\" }} }}"));
    let read = parse(spec("x $${HOME} $${B} y").as_bytes()).expect("literals");
    assert_eq!(
        read.secrets[0].keys["a"],
        parse_template("x ${HOME} ${B} y")
    );
    assert_eq!(wrong(&spec("$${A} ${B}")), ["secrets[0].keys.a.template"]);
    assert_eq!(wrong("version: 1\nname: a\n$${A}: 1\n").len(), 3);
}

fn parse_template(text: &str) -> Source {
    Source::Template(Template::parse(text).expect("a template"))
}

#[test]
fn two_readings_of_duplicates_are_known() {
    let read = |word: &str| {
        let text = format!("version: 1\nname: a\nmanifests: [k8s]\nduplicates: {word}\n");
        parse(text.as_bytes()).map(|spec| spec.duplicates)
    };
    assert_eq!(read("last"), Ok(Duplicates::Last));
    assert_eq!(read("refuse"), Ok(Duplicates::Refuse));
    assert!(read("first").is_err() && read("true").is_err());
}

#[test]
fn health_rules_are_read_and_bad_ones_are_refused_at_their_place() {
    let spec = |rules: &str| {
        parse(format!("version: 1\nname: app\nmanifests: [k8s/]\nhealth:\n{rules}").as_bytes())
    };
    let good = spec("  - kind: example.com/Widget\n    ready: status.phase == 'Done'\n");
    let good = good.expect("the spec is valid");
    assert_eq!(
        (good.health[0].group.as_str(), good.health[0].kind.as_str()),
        ("example.com", "Widget")
    );
    let bad = spec("  - kind: apps/Deployment\n    ready: status.phase ==\n    failed: 'true'\n");
    let places = bad.expect_err("two fields are wrong").places;
    let at: Vec<_> = places
        .iter()
        .map(|place| (place.line, place.column))
        .collect();
    assert_eq!(at, [(Some(5), Some(11)), (Some(6), Some(12))]);
}

#[test]
fn rules_about_conflicts_fit_by_kind_name_field_and_manager() {
    let text = format!(
        "{GOOD}conflicts:\n- {{ kind: apps/Deployment, name: web, field: .spec.replicas, manager: \"*\", then: leave }}\n- {{ kind: v1/ConfigMap, field: .data, manager: kubectl-edit, then: take }}\nadopt: [helm]\n"
    );
    let spec = parse(text.as_bytes()).expect("valid");
    assert_eq!(spec.adopt, ["helm"]);
    let fits = |rule: usize, api: &str, kind: &str, field: &str, manager: &str| {
        let id = crate::object::ObjectId {
            gvk: crate::object::Gvk::new(api, kind),
            namespace: None,
            name: "web".to_owned(),
        };
        let field = field.parse().expect("a path");
        spec.conflicts[rule].fits(&id, &field, manager)
    };
    assert!(fits(0, "apps/v1", "Deployment", ".spec.replicas", "any"));
    assert!(!fits(0, "apps/v1", "StatefulSet", ".spec.replicas", "any"));
    assert!(!fits(0, "apps/v1", "Deployment", ".spec.paused", "any"));
    assert!(fits(1, "v1", "ConfigMap", ".data.key", "kubectl-edit"));
    assert!(!fits(1, "v1", "ConfigMap", ".data.key", "other"));
    assert_eq!(spec.conflicts[1].then, conflicts::Then::Take);
}

#[test]
fn rules_about_conflicts_are_strict() {
    for (rule, path) in [
        ("{ field: spec, then: take }", "conflicts[0].field"),
        ("{ field: .spec, then: force }", "conflicts[0].then"),
        ("{ then: take }", "conflicts[0]"),
        (
            "{ field: .spec, then: take, force: true }",
            "conflicts[0].force",
        ),
    ] {
        assert_eq!(wrong(&format!("{GOOD}conflicts: [{rule}]\n")), [path]);
    }
    assert_eq!(wrong(&format!("{GOOD}adopt: [\"*\"]\n")), ["adopt[0]"]);
}
