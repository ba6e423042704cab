//! What manifests are taken, changed and refused, sentence by sentence of the contract.

use serde_json::json;

use super::*;

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

fn bundle(files: &[(&str, &str)]) -> Bundle {
    let own = |(path, content): &(&str, &str)| ((*path).to_owned(), content.as_bytes().to_vec());
    Bundle {
        files: files.iter().map(own).collect(),
    }
}

fn all(files: &[(&str, &str)]) -> Result<Manifests, InputError> {
    read(&bundle(files), &[".".to_owned()], Duplicates::Refuse)
}

fn one(text: &str) -> Result<Manifests, InputError> {
    all(&[("a.yaml", text)])
}

/// The paths inside the object of every error.
fn wrong(text: &str) -> Vec<String> {
    let error = one(text).expect_err(text);
    assert_eq!(error.code, Code::ManifestInvalid, "{text}");
    let path = |place: Place| {
        assert_eq!(place.file.as_deref(), Some("a.yaml"));
        assert!(place.line.is_some());
        place.path.unwrap_or_default()
    };
    error.places.into_iter().map(path).collect()
}

fn map(name: &str) -> String {
    MAP.replace("name: a", &format!("name: {name}"))
}

fn places(read: &Manifests) -> Vec<String> {
    read.objects
        .iter()
        .map(|object| object.origin.to_string())
        .collect()
}

#[test]
fn folders_are_read_recursively_in_order_without_dot_files() {
    let (a, b, c, d) = (map("a"), map("b"), map("c"), map("d"));
    let files = [
        ("k8s/b.yaml", b.as_str()),
        ("k8s/a/z.yml", &a),
        (
            "k8s/c.json",
            r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "j"}}"#,
        ),
        ("k8s/.hidden.yaml", "]"),
        ("k8s/.git/x.yaml", "]"),
        ("k8s/README.md", "]"),
        ("k8s/values.YAML", "]"),
        ("k8s-other/x.yaml", "]"),
        ("extra.txt", &c),
        ("quaymaster.yaml", "]"),
        ("top.yaml", &d),
    ];
    let listed = |paths: &[&str]| {
        let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
        read(&bundle(&files), &paths, Duplicates::Refuse)
    };
    let folder = ["k8s/a/z.yml:1", "k8s/b.yaml:1", "k8s/c.json:1"];
    for path in ["k8s", "k8s/", "./k8s/", "k8s/."] {
        assert_eq!(places(&listed(&[path]).expect("valid")), folder, "{path}");
    }
    let mixed = listed(&["extra.txt", "k8s/b.yaml", "k8s"]).expect("valid");
    assert_eq!(
        places(&mixed),
        [
            "extra.txt:1",
            "k8s/b.yaml:1",
            "k8s/a/z.yml:1",
            "k8s/c.json:1"
        ]
    );
    assert!(mixed.notes.is_empty());
    for path in ["gone", "k8", "k8s/README", "extra.txt/", "k8s/b.yaml/x"] {
        let error = listed(&["k8s", path]).expect_err(path);
        assert_eq!(error.places[0].path.as_deref(), Some("manifests[1]"));
        assert_eq!(error.places[0].file.as_deref(), Some(SPEC_FILE));
    }
    let hidden = listed(&["k8s/.git"]);
    assert!(hidden.is_err(), "named, so it is read: {hidden:?}");
}

#[test]
fn files_without_any_object_are_an_error() {
    assert!(one("# nothing\n---\n").is_err());
    assert!(one("apiVersion: v1\nkind: List\nitems: []\n").is_err());
}

#[test]
fn documents_and_lists_become_objects_with_their_lines() {
    let text = format!(
        "{MAP}---\n# empty\n---\napiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: Pod, \
         metadata: {{name: p}}}}\n- apiVersion: v1\n  kind: PodList\n  items:\n  - metadata:\n      name: q\n"
    );
    let read = one(&text).expect("valid");
    assert_eq!(places(&read), ["a.yaml:1", "a.yaml:10", "a.yaml:14"]);
    assert_eq!(read.objects[2].id.to_string(), "v1/Pod q");
}

#[test]
fn a_kind_that_only_sounds_like_a_list_is_an_object() {
    for items in ["", "items: {a: b}\n", "items: 1\n"] {
        let text = format!("apiVersion: x.io/v1\nkind: AllowList\nmetadata: {{name: a}}\n{items}");
        assert_eq!(
            one(&text).expect("valid").objects[0].id.gvk.kind,
            "AllowList"
        );
    }
}

#[test]
fn identity_is_needed() {
    assert_eq!(wrong("kind: Pod\nmetadata: {name: a}\n"), ["apiVersion"]);
    assert_eq!(wrong("apiVersion: v1\nmetadata: {name: a}\n"), ["kind"]);
    assert_eq!(wrong("apiVersion: v1\nkind: Pod\n"), ["metadata"]);
    assert_eq!(
        wrong("apiVersion: v1\nkind: Pod\nmetadata: {}\n"),
        ["metadata.name"]
    );
    assert_eq!(wrong("a: b\n"), [""]);
    assert_eq!(wrong("[a]\n"), [""]);
    assert_eq!(wrong("text\n"), [""]);
    for name in [
        "1", "true", "''", "~", "[a]", "a/b", "..", ".", "'a b'", "'a%2f'",
    ] {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n");
        assert_eq!(wrong(&text), ["metadata.name"], "{name}");
    }
    for version in ["1", "'/v1'", "a/b/c", "V1", "apps/", "v1.2"] {
        let text = format!("apiVersion: {version}\nkind: Pod\nmetadata: {{name: a}}\n");
        assert_eq!(wrong(&text), ["apiVersion"], "{version}");
    }
    for kind in ["pod", "Po-d", "1", "true"] {
        let text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a}}\n");
        assert_eq!(wrong(&text), ["kind"], "{kind}");
    }
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: 'a:b'}\n";
    assert!(one(role).is_ok());
}

#[test]
fn every_error_of_every_object_is_told() {
    let error = one("a: b\n---\nc: d\n").expect_err("wrong");
    let lines: Vec<_> = error.places.iter().filter_map(|place| place.line).collect();
    assert_eq!(lines, [1, 3]);
}

#[test]
fn generated_names_are_refused_without_a_name() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n";
    assert_eq!(wrong(text), ["metadata.generateName"]);
    assert!(one(&text.replace("a-}", "a-, name: a}")).is_ok());
}

#[test]
fn what_the_server_owns_is_dropped_with_a_note() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  managedFields: []\n  resourceVersion: '1'\n  uid: u\n  creationTimestamp: null\n  generation: 1\n  selfLink: x\n  labels: {a: b}\nstatus: {phase: x}\n";
    let read = one(text).expect("valid");
    assert_eq!(
        read.objects[0].body,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"}}})
    );
    assert_eq!(read.notes.len(), 1);
    for field in [
        "managedFields",
        "resourceVersion",
        "uid",
        "creationTimestamp",
        "generation",
        "selfLink",
        "status",
    ] {
        assert!(read.notes[0].contains(field), "{field}");
    }
}

#[test]
fn owners_and_finalizers_are_refused() {
    for field in [
        "ownerReferences: [{name: x}]",
        "finalizers: [x]",
        "finalizers: x",
    ] {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, {field}}}\n");
        assert_eq!(wrong(&text).len(), 1, "{field}");
    }
}

#[test]
fn names_of_ours_are_refused_on_objects_and_templates() {
    for name in [
        "state.quaymaster.dev/source",
        "applyset.kubernetes.io/part-of",
        "quaymaster.dev/wait",
        "other.quaymaster.dev/x",
    ] {
        for field in ["labels", "annotations"] {
            let metadata = format!("{{name: a, {field}: {{{name}: x}}}}");
            let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {metadata}\n");
            assert_eq!(wrong(&text), [format!("metadata.{field}")], "{name}");
            let text = format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\nspec: {{template: {{metadata: {metadata}}}}}\n"
            );
            assert_eq!(
                wrong(&text),
                [format!("spec.template.metadata.{field}")],
                "{name}"
            );
        }
    }
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {notquaymaster.dev/x: v, quaymaster.dev: w}}\n";
    assert!(one(text).is_ok());
}

#[test]
fn options_stand_in_the_annotations_of_the_object() {
    let with = |field: &str, value: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, {field}: {{quaymaster.dev/wait: {value}}}}}\n"
        )
    };
    assert!(one(&with("annotations", "skip")).is_ok());
    assert_eq!(wrong(&with("labels", "skip")), ["metadata.labels"]);
    assert_eq!(
        wrong(&with("annotations", "never")),
        ["metadata.annotations"]
    );
    assert_eq!(
        wrong(&with("annotations", "true")),
        ["metadata.annotations"]
    );
    let error = one(&with("annotations", "never")).expect_err("no such value");
    assert!(error.places[0].message.starts_with("'quaymaster.dev/wait'"));
}

#[test]
fn nulls_of_built_in_kinds_are_not_set_and_null_items_are_errors() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: null}\nspec:\n  clusterIP:\n  ports: [{port: 80, name: ~}]\n";
    let read = one(text).expect("nulls are dropped");
    assert_eq!(
        read.objects[0].body,
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}})
    );
    let note = &read.notes[0];
    for path in ["metadata.labels", "spec.clusterIP", "spec.ports[0].name"] {
        assert!(note.contains(path), "{note}");
    }
    let items = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: b, args: [x, ~]}]}\n";
    assert_eq!(wrong(items), ["spec.containers[0].args[1]"]);
    let custom = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a}\nspec: {x: ~}\n";
    let read = one(custom).expect("left to the server");
    assert_eq!(read.objects[0].body["spec"], json!({"x": null}));
}

#[test]
fn list_items_that_are_there_twice_are_named() {
    let pod = |inside: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{{inside}}}\n")
    };
    let container = |inside: &str| pod(&format!("containers: [{{name: c, {inside}}}]"));
    for (text, path) in [
        (
            container("env: [{name: A, value: x}, {name: A, value: y}]"),
            "spec.containers[0].env[name=\"A\"]",
        ),
        (
            container("ports: [{containerPort: 80}, {containerPort: 80, protocol: TCP}]"),
            "spec.containers[0].ports[containerPort=80,protocol=\"TCP\"]",
        ),
        (
            container("volumeMounts: [{mountPath: /a, name: x}, {mountPath: /a, name: y}]"),
            "spec.containers[0].volumeMounts[mountPath=\"/a\"]",
        ),
        (
            pod("volumes: [{name: v}, {name: v}]"),
            "spec.volumes[name=\"v\"]",
        ),
        (
            pod("initContainers: [{name: i}, {name: i}]"),
            "spec.initContainers[name=\"i\"]",
        ),
        (
            pod("hostAliases: [{ip: 1.1.1.1}, {ip: 1.1.1.1}]"),
            "spec.hostAliases[ip=\"1.1.1.1\"]",
        ),
    ] {
        assert_eq!(wrong(&text), [path]);
    }
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 53, name: a}, {port: 53, name: b}]}\n";
    assert_eq!(wrong(service), ["spec.ports[port=53,protocol=\"TCP\"]"]);
    let fine = service.replace("name: b", "protocol: UDP, name: b");
    assert!(one(&fine).is_ok());
}

#[test]
fn labels_and_annotations_are_text() {
    for value in ["1", "on", "1.0", "~", "[a]"] {
        let text =
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{x: {value}}}}}\n");
        assert_eq!(wrong(&text), ["metadata.labels"], "{value}");
    }
}

#[test]
fn identical_objects_count_once_and_different_ones_are_refused() {
    let read = all(&[("a.yaml", MAP), ("b.yaml", &format!("---\n{MAP}"))]).expect("valid");
    assert_eq!(read.objects.len(), 1);
    assert!(read.notes[0].contains("a.yaml:1") && read.notes[0].contains("b.yaml:2"));
    let empty = MAP.replace("name: a", "name: a, namespace: ''");
    assert_eq!(
        all(&[("a.yaml", MAP), ("b.yaml", &empty)])
            .expect("valid")
            .objects
            .len(),
        1
    );
    let other = format!("{MAP}data: {{x: y}}\n");
    let error = all(&[("a.yaml", MAP), ("b.yaml", &other)]).expect_err("different");
    assert_eq!(error.places[0].file.as_deref(), Some("b.yaml"));
    assert!(error.places[0].message.contains("a.yaml:1"));
    let versions = |version: &str| {
        format!("apiVersion: apps/{version}\nkind: Deployment\nmetadata: {{name: a}}\n")
    };
    let error = all(&[
        ("a.yaml", &versions("v1")),
        ("b.yaml", &versions("v1beta1")),
    ]);
    assert!(error.is_err());
    let elsewhere = MAP.replace("name: a", "name: a, namespace: other");
    assert_eq!(
        all(&[("a.yaml", MAP), ("b.yaml", &elsewhere)])
            .expect("valid")
            .objects
            .len(),
        2
    );
}

#[test]
fn namespaces_are_kept_as_written_and_empty_ones_are_none() {
    for (namespace, expected) in [("ns", Some("ns")), ("''", None), ("~", None)] {
        let text = MAP.replace("name: a", &format!("name: a, namespace: {namespace}"));
        let read = one(&text).expect("valid");
        assert_eq!(read.objects[0].id.namespace.as_deref(), expected);
        let written = read.objects[0]
            .body
            .pointer("/metadata/namespace")
            .and_then(Value::as_str);
        assert_eq!(written, expected);
    }
    for namespace in ["1", "A", "a.b", "[a]"] {
        let text = MAP.replace("name: a", &format!("name: a, namespace: {namespace}"));
        assert_eq!(wrong(&text), ["metadata.namespace"], "{namespace}");
    }
}

#[test]
fn a_namespace_on_a_cluster_scoped_kind_is_refused() {
    for (version, kind) in [
        ("v1", "Namespace"),
        ("v1", "PersistentVolume"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ] {
        let text =
            format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, namespace: b}}\n");
        assert_eq!(wrong(&text), ["metadata.namespace"], "{kind}");
        assert!(one(&text.replace(", namespace: b", "")).is_ok());
    }
}

#[test]
fn what_is_rendered_loses_the_namespace_of_a_cluster_scoped_kind() {
    let text = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: a, namespace: b}\n---\n";
    let read = rendered("chart", format!("{text}{MAP}").as_bytes()).expect("it is taken");
    assert_eq!(read.objects[0].id.namespace, None);
    assert_eq!(read.objects[0].body["metadata"], json!({"name": "a"}));
    assert_eq!(read.objects[1].id.name, "a");
    let [note] = &read.notes[..] else {
        panic!("one note: {:?}", read.notes);
    };
    assert!(note.contains("metadata.namespace dropped"), "{note}");
}

#[test]
fn secrets_are_written_as_data_and_some_types_never() {
    let secret =
        |rest: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\n{rest}\n");
    let read = one(&secret("stringData: {a: hi, b: ''}\ndata: {c: aGk=}")).expect("valid");
    assert_eq!(
        read.objects[0].body["data"],
        json!({"a": "aGk=", "b": "", "c": "aGk="})
    );
    assert_eq!(read.objects[0].body.get("stringData"), None);
    for kind in [
        "kubernetes.io/service-account-token",
        "bootstrap.kubernetes.io/token",
        "helm.sh/release.v1",
        "7",
    ] {
        assert_eq!(wrong(&secret(&format!("type: {kind}"))), ["type"], "{kind}");
    }
    assert_eq!(wrong(&secret("data: {a: 'not base64!'}")), ["data"]);
    assert_eq!(wrong(&secret("data: {a: 1}")), ["data"]);
    assert_eq!(wrong(&secret("data: [a]")), ["data"]);
    assert_eq!(wrong(&secret("stringData: {a: 1}")), ["stringData"]);
    let both = one(&secret("stringData: {a: b}\ndata: {a: aGk=}")).expect("stringData wins");
    assert_eq!(both.objects[0].body["data"], json!({ "a": "Yg==" }));
    assert!(one(&secret("data: {a: \"aG\\nk=\\n\"}")).is_ok());
    assert!(one(&secret("data:\nstringData:\n")).is_ok());
}

#[test]
fn yaml_errors_name_file_and_line() {
    for (text, line) in [
        (format!("{MAP}a: 1\na: 2\n"), 5),
        (format!("{MAP}a: [\n"), 4),
        (format!("{MAP}---\n{MAP}b: .inf\n"), 8),
    ] {
        let error = one(&text).expect_err(&text);
        assert_eq!(error.code, Code::ManifestInvalid);
        assert_eq!(error.places[0].line, Some(line), "{text}");
    }
}

#[test]
fn sizes_are_limited() {
    let many = |count: usize| {
        (0..count)
            .map(|name| map(&format!("n{name}")) + "---\n")
            .collect::<String>()
    };
    assert_eq!(one(&many(10_000)).expect("valid").objects.len(), 10_000);
    assert_eq!(one(&many(10_001)).expect_err("many").code, Code::TooLarge);
    let big = |bytes: usize| format!("{MAP}data: {{x: {}}}\n", "y".repeat(bytes));
    assert!(one(&big((3 << 20) - 100)).is_ok());
    assert_eq!(one(&big(3 << 20)).expect_err("big").code, Code::TooLarge);
}

#[test]
fn values_are_read_as_kubectl_reads_them() {
    let text = format!("{MAP}data: {{a: on, b: 0644, c: 1.0, d: !!str on}}\n");
    let read = one(&text).expect("valid");
    assert_eq!(
        read.objects[0].body["data"],
        json!({"a": true, "b": 420, "c": 1, "d": "on"})
    );
}

#[test]
fn the_later_of_two_objects_counts_where_the_spec_says_so() {
    let (first, second) = (map("a"), format!("{}data: {{k: v}}\n", map("a")));
    let files = [
        ("1.yaml", first.as_str()),
        ("2.yaml", &second),
        ("3.yaml", &second),
    ];
    let error = all(&files).expect_err("two readings");
    assert!(error.places[0].message.contains("duplicates: last"));
    let paths = [".".to_owned()];
    let read = read(&bundle(&files), &paths, Duplicates::Last).expect("the last counts");
    assert_eq!(places(&read), ["2.yaml:1"]);
    assert_eq!(read.objects[0].body["data"]["k"], "v");
    assert_eq!(read.notes.len(), 2, "{:?}", read.notes);
}

#[test]
fn files_that_are_no_manifests_are_told_for_what_they_are() {
    for (file, text, expected) in [
        ("values.yaml", "replicas: 1\n", "values of a Helm chart"),
        (
            "Chart.yaml",
            "apiVersion: v2\nname: x\nversion: 1.0.0\n",
            "describes a Helm chart",
        ),
        ("kustomization.yaml", "resources: [a.yaml]\n", "kustomize"),
        (
            "kustomization.yaml",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n",
            "kustomize",
        ),
        (
            "docker-compose.yml",
            "services: {web: {image: x}}\n",
            "Compose",
        ),
        (
            "ci.yaml",
            "build: {script: [make]}\n",
            "no Kubernetes object",
        ),
        ("t.yaml", "a: {{ .Values.x }}b\n", "rendered first"),
    ] {
        let error = all(&[(file, text)]).expect_err(file);
        assert_eq!(error.places.len(), 1, "{file}: {error:?}");
        let place = &error.places[0];
        assert!(
            place.message.contains(expected),
            "{file}: {}",
            place.message
        );
        assert_eq!((place.file.as_deref(), place.line), (Some(file), Some(1)));
    }
    assert_eq!(wrong("kind: Pod\nmetadata: {name: a}\n"), ["apiVersion"]);
    assert_eq!(wrong("apiVersion: v1\nmetadata: {name: a}\n"), ["kind"]);
}
