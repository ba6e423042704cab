//! Charts: values of images, and that a frozen chart means the same as what was decided on.

use serde_json::json;

use super::*;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Origin;
use crate::spec::ValuePath;

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn paths(given: [Option<&str>; 3]) -> ImagePaths {
    let [repository, tag, digest] =
        given.map(|path| path.map(|path| ValuePath::parse(path).expect("a good path")));
    ImagePaths {
        repository,
        tag,
        digest,
    }
}

fn put(given: [Option<&str>; 3], image: &str) -> Value {
    let mut values = Map::new();
    let image = ImageRef::parse(image).expect("a good image");
    put_image(&mut values, &paths(given), &image);
    Value::Object(values)
}

#[test]
fn a_digest_always_reaches_the_chart() {
    let (repo, tag, digest) = (Some("i.r"), Some("i.t"), Some("i.d"));
    let hex = &DIGEST["sha256:".len()..];
    assert_eq!(
        put([repo, tag, digest], &format!("r/a:1@{DIGEST}")),
        json!({ "i": { "r": "r/a", "t": "1", "d": DIGEST } })
    );
    assert_eq!(
        put([repo, tag, None], &format!("r/a:1@{DIGEST}")),
        json!({ "i": { "r": "r/a", "t": format!("1@{DIGEST}") } })
    );
    assert_eq!(
        put([repo, tag, None], &format!("r/a@{DIGEST}")),
        json!({ "i": { "r": "r/a@sha256", "t": hex } })
    );
    assert_eq!(
        put([repo, None, None], &format!("r/a:1@{DIGEST}")),
        json!({ "i": { "r": format!("r/a:1@{DIGEST}") } })
    );
    assert_eq!(
        put([repo, None, None], "r/a:1"),
        json!({ "i": { "r": "r/a:1" } })
    );
    assert_eq!(
        put([None, tag, None], "r/a:1"),
        json!({ "i": { "t": "1" } })
    );
}

fn object(kind: &str, file: &str, body: Value) -> Object {
    Object {
        id: ObjectId {
            gvk: Gvk::new("v1", kind),
            namespace: Some("app".to_owned()),
            name: "one".to_owned(),
        },
        body,
        origin: Origin {
            file: file.to_owned(),
            line: 0,
        },
    }
}

#[test]
fn a_frozen_file_reads_as_the_object_and_holds_no_action() {
    let body = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "one", "labels": {} },
        "data": {
            "yes": "no", "n": "1", "date": "2026-01-01", "space": " a ", "empty": "", "tilde": "~",
            "tpl": "{{ .Values.x }} {{{ }}} {", "lines": "a\n---\nb\n", "{{key}}": "x", "hash": "a #b",
            "star": "*a", "sep": "a\u{2028}b\u{85}c", "colon": "a: b", "nul": "\u{0}", "null": "null",
        },
        "list": [[], {}, [1, -2.5, true, null], { "a": { "b": ["c"] } }, "x"],
    });
    let files = frozen(
        &Files::new(),
        &helm(),
        &[object("ConfigMap", "app/templates/conf.yaml", body.clone())],
    );
    let file = &files["chart/templates/conf.yaml"];
    let text = String::from_utf8_lossy(file);
    assert!(!text.contains("{{"), "{text}");
    let nodes = legacy::documents(file, Form::Yaml, &mut Budget::default()).expect("it is YAML");
    assert_eq!(nodes.len(), 1, "{text}");
    assert_eq!(legacy::value(&nodes[0]), Ok(body), "{text}");
}

#[test]
fn objects_keep_the_names_of_their_templates_and_never_leave_the_chart() {
    let rows = [
        (
            "ConfigMap",
            "app/templates/web.yaml",
            "chart/templates/web.yaml",
        ),
        (
            "ConfigMap",
            "app/charts/sub/templates/a.tpl",
            "chart/templates/charts/sub/templates/a.yaml",
        ),
        (
            "ConfigMap",
            "app/templates/_x/_y.yaml",
            "chart/templates/x/y.yaml",
        ),
        ("ConfigMap", "app/../../etc/x.yaml", "chart/templates//"),
        (
            "ConfigMap",
            "app/crds/x.yaml",
            "chart/templates/crds/x.yaml",
        ),
    ];
    for (kind, file, expected) in rows {
        let home = home(&object(kind, file, Value::Null));
        assert!(
            home.starts_with("chart/templates/") && !home.contains(".."),
            "{home}"
        );
        if !expected.ends_with("//") {
            assert_eq!(home, expected);
        }
    }
    let mut crd = object("x", "app/crds/x.yaml", Value::Null);
    crd.id.gvk = Gvk::new("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    assert_eq!(home(&crd), "chart/crds/one.yaml");
}

fn helm() -> Helm {
    Helm {
        chart: ChartSource::Bundle("chart/".to_owned()),
        release: crate::ports::ReleaseName::parse("app").expect("a good name"),
        values: Vec::new(),
        set: BTreeMap::new(),
        image: BTreeMap::new(),
        timeout: None,
        hooks: crate::ports::Hooks::Run,
        crds: crate::ports::Crds::Install,
    }
}
