//! Manifests as kubectl reads them, and what is refused.

use serde_json::json;

use super::*;

fn bundle(files: &[(&str, &str)]) -> Bundle {
    let files = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect();
    Bundle { files }
}

fn read_one(text: &str) -> Result<Manifests, InputError> {
    read(&bundle(&[("k8s/a.yaml", text)]), &["k8s".to_owned()])
}

fn refusal(text: &str) -> String {
    let error = read_one(text).expect_err("it is refused");
    error
        .places
        .into_iter()
        .map(|place| place.message)
        .collect()
}

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\n";

#[test]
fn folders_are_read_sorted_and_each_file_once() {
    let map =
        |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\n");
    let (a, b, c) = (map("a"), map("b"), map("c"));
    let files = [
        ("k8s/z.yaml", a.as_str()),
        ("k8s/sub/b.yml", &b),
        ("k8s/.hidden.yaml", "x"),
        ("k8s/notes.txt", "x"),
        ("one.txt", &c),
    ];
    let paths = ["one.txt", "k8s", "k8s/z.yaml"].map(str::to_owned);
    let found = read(&bundle(&files), &paths).expect("it is valid");
    let names: Vec<&str> = found
        .objects
        .iter()
        .map(|object| object.id.name.as_str())
        .collect();
    assert_eq!(names, ["c", "b", "a"]);
}

#[test]
fn lists_documents_and_empty_documents() {
    let text = format!(
        "---\n# nothing\n---\n{MAP}---\napiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: b}}}}\n"
    );
    let found = read_one(&text).expect("it is valid");
    assert_eq!(found.objects.len(), 2);
    assert_eq!(found.objects[0].origin.line, 4);
}

#[test]
fn what_belongs_to_the_server_is_dropped_and_told() {
    let found = read_one("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a, uid: x, resourceVersion: '1' }\nstatus: {}\n").expect("valid");
    assert_eq!(
        found.objects[0].body,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
    );
    assert_eq!(found.notes.len(), 3);
}

#[test]
fn the_same_object_twice_counts_once_and_two_different_ones_are_refused() {
    assert_eq!(
        read_one(&format!("{MAP}---\n{MAP}")).map(|found| (found.objects.len(), found.notes.len())),
        Ok((1, 1))
    );
    assert!(refusal(&format!("{MAP}---\n{MAP}data: {{ x: y }}\n")).contains("k8s/a.yaml:1"));
}

#[test]
fn string_data_becomes_data() {
    let found =
        read_one("apiVersion: v1\nkind: Secret\nmetadata: { name: a }\nstringData: { k: v }\n")
            .expect("valid");
    assert_eq!(found.objects[0].body["data"], json!({"k": "dg=="}));
    assert_eq!(found.objects[0].body.get("stringData"), None);
    assert!(
        refusal("apiVersion: v1\nkind: Secret\nmetadata: { name: a }\nstringData: { k: 1 }\n")
            .contains("quotes")
    );
}

#[test]
fn refused_objects_say_why() {
    for (text, word) in [
        ("kind: ConfigMap\nmetadata: { name: a }\n", "apiVersion"),
        ("apiVersion: v1\nmetadata: { name: a }\n", "kind"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: { generateName: a- }\n",
            "generateName",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\n", "metadata.name"),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: { name: a, namespace: b }\n",
            "no namespace",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: { name: a, finalizers: [x] }\n",
            "finalizers",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: { name: a, labels: { state.quaymaster.dev/x: y } }\n",
            "belongs to the agent",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: { name: a, annotations: { quaymaster.dev/x: y } }\n",
            "does not exist",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: { name: a }\ntype: helm.sh/release.v1\n",
            "never",
        ),
        ("- 1\n", "expected an object"),
        (
            "apiVersion: v1\nkind: ConfigMap\nkind: Pod\nmetadata: { name: a }\n",
            "twice",
        ),
    ] {
        let message = refusal(text);
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
fn values_are_read_as_kubectl_reads_them() {
    let found = read_one(&format!("{MAP}x: [on, 0644, 1_000, 1.0, 1e3, ~]\n")).expect("valid");
    assert_eq!(
        found.objects[0].body["x"],
        json!([true, 420, 1000, 1, 1000, null])
    );
}

#[test]
fn nothing_found_is_an_error() {
    assert!(read(&bundle(&[("k8s/readme.txt", "x")]), &["k8s".to_owned()]).is_err());
    assert!(read(&bundle(&[("k8s/a.yaml", "# empty\n")]), &["k8s".to_owned()]).is_err());
    assert_eq!(read(&bundle(&[]), &[]), Ok(Manifests::default()));
}
