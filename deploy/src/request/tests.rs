//! Whole requests, and that no error repeats a value from any file.

use super::*;

const SPEC: &str = "version: 1\nname: a\nmanifests: [k8s]\nimages: {flask: 'reg.io/flask:2'}\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: c\n    image: flask:1\n";

fn bundle(files: &[(&str, &str)]) -> Bundle {
    let own = |(path, content): &(&str, &str)| ((*path).to_owned(), content.as_bytes().to_vec());
    Bundle {
        files: files.iter().map(own).collect(),
    }
}

#[test]
fn a_request_holds_objects_with_images_put_in() {
    let bundle = bundle(&[(SPEC_FILE, SPEC), ("k8s/web.yaml", POD), ("other", "\u{0}")]);
    let request = read(&bundle, Mode::DryRun).expect("valid");
    assert_eq!(request.mode, Mode::DryRun);
    assert_eq!(request.spec.name.as_str(), "a");
    assert_eq!(image::images_of(&request.objects[0]), ["reg.io/flask:2"]);
    assert!(request.notes.is_empty());
}

#[test]
fn an_image_that_nothing_uses_is_an_error_where_it_stands() {
    let pod = POD.replace("flask", "nginx");
    let error = read(
        &bundle(&[(SPEC_FILE, SPEC), ("k8s/web.yaml", &pod)]),
        Mode::Deploy,
    );
    let error = error.expect_err("unused");
    assert_eq!(error.code, Code::SpecInvalid);
    assert_eq!(
        (error.places[0].line, error.places[0].column),
        (Some(4), Some(17))
    );
    assert_eq!(error.places[0].path.as_deref(), Some("images.flask"));
}

#[test]
fn a_missing_spec_gets_a_hint() {
    for files in [
        vec![],
        vec![("README", "")],
        vec![("app/quaymaster.yaml", SPEC)],
        vec![("quaymaster.yml", SPEC)],
        vec![("Quaymaster.yaml", SPEC)],
    ] {
        let error = read(&bundle(&files), Mode::Deploy).expect_err("missing");
        assert_eq!(error.code, Code::SpecInvalid);
        assert!(error.places[0].message.contains("root"));
    }
}

#[test]
fn errors_of_the_spec_come_before_those_of_manifests() {
    let bundle = bundle(&[(SPEC_FILE, "version: 9\nname: a\nmanifests: [gone]\n")]);
    let error = read(&bundle, Mode::Deploy).expect_err("wrong");
    assert_eq!(error.code, Code::SpecInvalid);
    assert_eq!(error.places.len(), 1);
}

#[test]
fn a_spec_with_secrets_only_needs_no_manifests() {
    let spec = "version: 1\nname: a\nsecrets: [{name: s, keys: {a: {vault: kv/a, field: b}}}]\n";
    let request = read(&bundle(&[(SPEC_FILE, spec)]), Mode::Deploy).expect("valid");
    assert!(request.objects.is_empty());
    let both = format!("{spec}manifests: [k8s]\n");
    assert!(read(&bundle(&[(SPEC_FILE, &both)]), Mode::Deploy).is_err());
}

#[test]
fn no_error_repeats_a_value_of_a_manifest() {
    let canaries = [
        "CANARY",
        "\"CANARY",
        "'CANARY",
        "[CANARY",
        "{CANARY",
        "{CANARY: [CANARY}",
        "*CANARY",
        "!CANARY x",
        "!!CANARY x",
        "!!int CANARY",
        "!!binary CANARY",
        "&CANARY *CANARY",
        "`CANARY",
        "@CANARY",
        "%CANARY",
        "CANARY: CANARY: CANARY",
        "|CANARY",
        ">9\n CANARY",
        "\"\\CANARY\"",
        "\"\\xCANARY\"",
        "'a' CANARY",
        "[CANARY, CANARY: CANARY: x]",
        "{<<: CANARY}",
        "- CANARY\n x",
        "\tCANARY",
        "? CANARY",
        "\u{0}CANARY",
        "\u{feff}CANARY",
        "{a: CANARY, a: CANARY}",
    ];
    let good = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: web\n  namespace: ns\n  labels:\n    a: b\ntype: Opaque\ndata:\n  k: djE=\nstringData:\n  s: v2\n";
    let positions = [
        "v1\n", "Secret", "web", "ns\n", "b\n", "Opaque", "djE=", "v2",
    ];
    let mut refused = 0;
    for canary in canaries {
        for position in positions {
            let text = good.replacen(position, &format!("{canary}\n"), 1);
            for file in ["k8s/a.yaml", "k8s/a.json"] {
                let bundle = bundle(&[(SPEC_FILE, SPEC), (file, &text)]);
                if let Err(error) = manifest::read(&bundle, &["k8s".to_owned()], Duplicates::Refuse)
                {
                    refused += 1;
                    assert!(
                        !format!("{error} {error:?}").contains("CANARY"),
                        "{error:?}\n{text}"
                    );
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn every_cut_and_many_damages_get_an_answer() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- &a {apiVersion: v1, kind: Secret, metadata: {name: x}}\n- <<: *a\n  stringData: {a: !!str 1}\n";
    for length in 0..text.len() {
        let cut = bundle(&[("a.yaml", &text[..length])]);
        drop(manifest::read(
            &cut,
            &["a.yaml".to_owned()],
            Duplicates::Refuse,
        ));
        for byte in [b'[', b'{', b'"', b'\t', b'\n', b'&', b'*', 0xff, 0] {
            let mut bytes = text.as_bytes().to_vec();
            bytes[length] = byte;
            let mut damaged = Bundle::default();
            damaged.files.insert("a.yaml".to_owned(), bytes);
            drop(manifest::read(
                &damaged,
                &["a.yaml".to_owned()],
                Duplicates::Refuse,
            ));
        }
    }
}

#[test]
fn a_rollback_can_be_taken_up_again() {
    for (cluster, namespace, timeout) in
        [(None, None, None), (Some("main"), Some("web"), Some("90s"))]
    {
        let asked = Rollback {
            name: "app".parse().expect("a name"),
            cluster: cluster.map(|name| name.parse().expect("a cluster")),
            namespace: namespace.map(|name| name.parse().expect("a namespace")),
            revision: Some(3),
            timeout: timeout.map(str::to_owned),
        };
        let spec = rollback(asked).expect("it is valid").spec;
        let again = spec::parse(spec.text.as_bytes()).expect("the text is a spec");
        assert_eq!(again.name, spec.name);
        assert_eq!(again.cluster, spec.cluster);
        assert_eq!(again.namespace, spec.namespace);
        assert_eq!(again.rollout, spec.rollout);
    }
}
