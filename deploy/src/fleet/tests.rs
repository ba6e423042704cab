//! Places that are found, how they are written, and what is refused.

use super::*;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

fn images(list: &[(&str, &str)]) -> BTreeMap<String, ImageRef> {
    let parsed = list.iter().map(|(name, reference)| {
        let reference = ImageRef::parse(reference).expect("a reference");
        ((*name).to_owned(), reference)
    });
    parsed.collect()
}

fn files(list: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), text.as_bytes().to_vec());
    list.iter().map(owned).collect()
}

/// Edits one file; returns its new text, the old one where nothing changes.
fn edited(name: &str, text: &str, given: &[(&str, &str)]) -> Result<String, EditError> {
    let edited = edit(&files(&[(name, text)]), &images(given), &[])?;
    let new = edited.files.get(name).cloned();
    Ok(new.map_or_else(
        || text.to_owned(),
        |new| String::from_utf8(new).expect("UTF-8"),
    ))
}

/// Files as teams have them, with an image `web` at r.io/web:1; `@@` stands for what becomes the new text.
const REAL: &[(&str, &str, &str)] = &[
    (
        "plain",
        "image: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "r.io/web:1",
    ),
    (
        "no namespace of ours",
        "image: r.io/web:1 # {\"$imagepolicy\": \"apps:web\"}\n",
        "r.io/web:1",
    ),
    (
        "double quotes",
        "image: \"r.io/web:1\" # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "r.io/web:1",
    ),
    (
        "single quotes",
        "image:   'r.io/web:1'    # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "r.io/web:1",
    ),
    (
        "no end of line",
        "image: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}",
        "r.io/web:1",
    ),
    (
        "crlf",
        "# x\r\nimage: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\r\nb: 1\r\n",
        "r.io/web:1",
    ),
    (
        "bom",
        "\u{feff}image: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "r.io/web:1",
    ),
    (
        "unicode before it",
        "title: \"Grüße, 世界 🚢\"\nnote: ä # ß\nimage: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "r.io/web:1",
    ),
    (
        "deployment",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web # the web\nspec:\n  template:\n    spec:\n      containers:\n        - name: web\n          image: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n          env: [{ name: A, value: \"r.io/web:1\" }] # not marked\n",
        "r.io/web:1",
    ),
    (
        "several documents",
        "a: 1\n---\n# {\"$imagepolicy\": \"flux-system:other\"} alone\nimage: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n---\n\n...\n---\nb: 2\n",
        "r.io/web:1",
    ),
    (
        "an item of a list",
        "images:\n- r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n- r.io/web:1\n",
        "r.io/web:1",
    ),
    ("flow", "{ a: [ 1, r.io/web:1 ] } # x\nb: &x 1\n", ""),
    (
        "flow with a marker",
        "c: { image: r.io/web:1 } # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "r.io/web:1",
    ),
    (
        "merge keys",
        "base: &base { a: 1 }\nw:\n  <<: *base\n  image: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "r.io/web:1",
    ),
    (
        "block text before",
        "text: |\n  image: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\nimage: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "",
    ),
    (
        "helm release",
        "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: { name: web, namespace: apps }\nspec:\n  interval: 5m\n  values:\n    image: r.io/web:1  # {\"$imagepolicy\": \"flux-system:web\"}\n    resources:\n      limits: { cpu: 500m }\n",
        "r.io/web:1",
    ),
    (
        "cron job",
        "kind: CronJob\nspec: {schedule: \"0 1 * * *\", jobTemplate: {spec: {template: {spec: {containers: [{name: a,\n  image: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n}]}}}}}\n",
        "r.io/web:1",
    ),
    (
        "tabs in a comment",
        "image: r.io/web:1\t#\t{\"$imagepolicy\": \"flux-system:web\"}\t\n",
        "r.io/web:1",
    ),
    (
        "long lines",
        "a: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx yyyyyyyyyyyyyyyyyy\nimage: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "r.io/web:1",
    ),
    (
        "trailing spaces",
        "a:  1   \nimage:  r.io/web:1     # {\"$imagepolicy\": \"flux-system:web\"}   \n   \n",
        "r.io/web:1",
    ),
    (
        "twice in a file",
        "a: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\nb: \"r.io/web:1\" # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "r.io/web:1",
    ),
    (
        "json inside",
        "annotations:\n  config: '{\"image\": \"r.io/web:1\"}'\nimage: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
        "",
    ),
];

#[test]
fn only_the_marked_bytes_of_real_looking_files_change() {
    for (what, text, marked) in REAL {
        let given = [("web", "registry.example.com/web:2")];
        let result = edited("apps/web.yaml", text, &given);
        if marked.is_empty() {
            continue;
        }
        // Marked places are those before a marker on their line.
        let lines = text.split_inclusive('\n').map(|line| {
            let is_marked = line.contains("flux-system:web\"}") || line.contains("apps:web\"}");
            if is_marked && !line.trim_start().starts_with('#') {
                line.replacen(marked, "registry.example.com/web:2", 1)
            } else {
                line.to_owned()
            }
        });
        assert_eq!(result, Ok(lines.collect::<String>()), "{what}");
    }
}

#[test]
fn what_is_only_text_is_no_place() {
    let text = REAL
        .iter()
        .find(|real| real.0 == "block text before")
        .expect("it is there")
        .1;
    let new = edited("a.yaml", text, &[("web", "r.io/web:2")]).expect("it has a place");
    assert_eq!(new.matches("r.io/web:1").count(), 1, "{new}");
    assert!(new.contains("  image: r.io/web:1"), "{new}");
    let text = REAL
        .iter()
        .find(|real| real.0 == "json inside")
        .expect("it is there")
        .1;
    let new = edited("a.yaml", text, &[("web", "r.io/web:2")]).expect("it has a place");
    assert!(new.contains("{\"image\": \"r.io/web:1\"}"), "{new}");
}

#[test]
fn a_marker_takes_the_part_that_it_names() {
    let text = "image:\n  repository: r.io/web # {\"$imagepolicy\": \"flux-system:web:name\"}\n  tag: '1' # {\"$imagepolicy\": \"flux-system:web:tag\"}\n  digest: x # {\"$imagepolicy\": \"flux-system:web:digest\"}\n";
    let pinned = format!("r.io/new:1.10@{DIGEST}");
    let new = edited("a.yaml", text, &[("web", &pinned)]);
    let expected = text
        .replace("r.io/web", "r.io/new")
        .replace("'1'", "'1.10'")
        .replace("digest: x", &format!("digest: {DIGEST}"));
    assert_eq!(new, Ok(expected));
    // Without a place for it the digest goes with the tag.
    let alone = "tag: '1' # {\"$imagepolicy\": \"flux-system:web:tag\"}\n";
    let new = edited("a.yaml", alone, &[("web", &pinned)]);
    assert_eq!(new, Ok(alone.replace("'1'", &format!("'1.10@{DIGEST}'"))));
    // An entry of a kustomization is kustomize's, marked or not.
    let entry = "images:\n- name: web\n  newTag: v1 # {\"$imagepolicy\": \"flux-system:web:tag\"}\n  digest: x\n";
    let given = format!("web:v2@{DIGEST}");
    let new = edited("kustomization.yaml", entry, &[("web", &given)]);
    let expected = entry
        .replace("v1", "v2")
        .replace("digest: x", &format!("digest: {DIGEST}"));
    assert_eq!(new, Ok(expected));
    let missing = edited("a.yaml", text, &[("web", "r.io/new:1")]).expect_err("it has no digest");
    assert!(missing.to_string().contains("line 4"), "{missing}");
}

#[test]
fn a_tag_that_reads_as_a_number_is_put_in_quotes() {
    let text = "tag: v1 # {\"$imagepolicy\": \"flux-system:web:tag\"}\n";
    for (tag, written) in [
        ("1.10", "\"1.10\""),
        ("1.4.2", "1.4.2"),
        ("007", "\"007\""),
        ("1e5", "\"1e5\""),
    ] {
        let new = edited("a.yaml", text, &[("web", &format!("web:{tag}"))]);
        assert_eq!(
            new,
            Ok(text.replace("v1 ", &format!("{written} "))),
            "{tag}"
        );
    }
}

#[test]
fn a_kustomization_gets_name_tag_and_digest() {
    let rows = [
        (
            "images:\n- name: web\n  newTag: \"1\" # kept\n",
            "web:2",
            "images:\n- name: web\n  newTag: \"2\" # kept\n",
        ),
        (
            "images:\n- name: web\n  newTag: \"1\"\n",
            "r.io/web:2",
            "images:\n- name: web\n  newName: r.io/web\n  newTag: \"2\"\n",
        ),
        (
            "images:\n  - newName: r.io/old\n    name: web\n    newTag: v1\n",
            "r.io/web:v2",
            "images:\n  - newName: r.io/web\n    name: web\n    newTag: v2\n",
        ),
        (
            "images: [{ name: web, newTag: v1 }]\n",
            "r.io/web:v2",
            "images: [{ name: web, newName: r.io/web, newTag: v2 }]\n",
        ),
        (
            "images:\r\n- name: web\r\n  newTag: v1\r\n",
            "r.io/web:v2",
            "images:\r\n- name: web\r\n  newName: r.io/web\r\n  newTag: v2\r\n",
        ),
    ];
    for (text, image, expected) in rows {
        let new = edited("o/kustomization.yaml", text, &[("web", image)]);
        assert_eq!(new, Ok(expected.to_owned()), "{text}");
    }
    let text = format!("images:\n- name: web\n  newTag: v1\n  digest: {OTHER}\n");
    let pinned = edited(
        "kustomization.yaml",
        &text,
        &[("web", &format!("web:v2@{DIGEST}"))],
    );
    assert_eq!(pinned, Ok(text.replace("v1", "v2").replace(OTHER, DIGEST)));
    let loose = edited("kustomization.yaml", &text, &[("web", "web:v2")]);
    assert_eq!(loose, Ok("images:\n- name: web\n  newTag: v2\n".to_owned()));
    let added = edited(
        "Kustomization",
        "images:\n- name: web\n  newTag: v1\n",
        &[("web", &format!("web:v2@{DIGEST}"))],
    );
    assert_eq!(
        added,
        Ok(format!(
            "images:\n- name: web\n  digest: {DIGEST}\n  newTag: v2\n"
        ))
    );
    let shared = format!("images: [{{ name: web, digest: \"{OTHER}\", newTag: v1 }}]\n");
    assert!(edited("kustomization.yaml", &shared, &[("web", "web:v2")]).is_err());
}

#[test]
fn values_are_found_by_the_paths_of_the_spec() {
    let release = "kind: HelmRelease\nmetadata:\n  name: web\nspec:\n  values:\n    image: { repository: r.io/web, tag: \"1\" }\n---\nkind: HelmRelease\nmetadata: { name: other }\nspec: { values: { image: { tag: \"1\" } } }\n";
    let rule = |object: Option<&str>, path: &str, part| ValueRule {
        object: object.map(str::to_owned),
        path: path.to_owned(),
        image: "web".to_owned(),
        part,
    };
    let given = images(&[("web", "r.io/new:2")]);
    let rules = [
        rule(Some("HelmRelease/web"), "image.repository", Part::Name),
        rule(Some("HelmRelease/web"), "image.tag", Part::Tag),
        rule(None, "web.image", Part::Reference),
    ];
    let all = files(&[
        ("release.yaml", release),
        ("values.yaml", "web:\n  image: r.io/web:1\n"),
    ]);
    let done = edit(&all, &given, &rules).expect("they have places");
    let text = |name: &str| String::from_utf8_lossy(&done.files[name]).into_owned();
    assert_eq!(
        text("release.yaml"),
        release.replacen(
            "repository: r.io/web, tag: \"1\"",
            "repository: r.io/new, tag: \"2\"",
            1
        )
    );
    assert_eq!(text("values.yaml"), "web:\n  image: r.io/new:2\n");
    assert_eq!(done.changes.len(), 3);
    for (rule, expected) in [
        (
            rule(Some("HelmRelease/web"), "image.tags", Part::Tag),
            "the last key that is there is spec.values.image",
        ),
        (
            rule(Some("HelmRelease/none"), "image.tag", Part::Tag),
            "no file has HelmRelease/none",
        ),
        (
            rule(None, "nowhere.tag", Part::Tag),
            "no file has its first key",
        ),
    ] {
        let error = edit(&all, &given, &[rule]).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn an_image_without_a_place_is_named_with_what_was_looked_for() {
    let text = "image: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n";
    let error = edited(
        "a.yaml",
        text,
        &[("web", "r.io/web:2"), ("api", "r.io/api:2")],
    )
    .expect_err("api has no place");
    assert_eq!(
        error,
        EditError::NoPlace {
            images: vec!["api".to_owned()],
            files: 1
        }
    );
    assert!(error.to_string().contains("api"), "{error}");
}

#[test]
fn places_that_cannot_be_written_are_told_with_their_line() {
    for (text, expected) in [
        (
            "a: 1\nimage: &x r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
            "line 2: an image with an anchor",
        ),
        (
            "image: !!str r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
            "line 1: an image with an anchor or a tag",
        ),
        (
            "# {\"$imagepolicy\": \"flux-system:web\"}\nimage: r.io/web:1\n",
            "line 1: a marker stands here",
        ),
        (
            "a: &y r.io/web:1\nb: { c: x, d: *y } # {\"$imagepolicy\": \"flux-system:web\"}\n",
            "line 2: a marker stands here",
        ),
        (
            "{{ if .x }}\nimage: r.io/web:1 # {\"$imagepolicy\": \"flux-system:web\"}\n",
            "is not valid YAML",
        ),
    ] {
        let error = edited("a.yaml", text, &[("web", "r.io/web:2")]).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
    // What is no YAML and has no marker is somebody else's.
    let all = files(&[
        ("t.yaml", "{{ x }}: {{\n"),
        ("bin.yaml", "a\0"),
        ("a.yaml", "i: r.io/web:1 # {\"$imagepolicy\": \"x:web\"}\n"),
        ("README.md", "# x"),
    ]);
    assert!(edit(&all, &images(&[("web", "r.io/web:2")]), &[]).is_ok());
}

#[test]
fn a_place_that_says_it_already_is_no_change() {
    let text = "image: r.io/web:2 # {\"$imagepolicy\": \"flux-system:web\"}\n";
    let done = edit(
        &files(&[("a.yaml", text)]),
        &images(&[("web", "r.io/web:2")]),
        &[],
    )
    .expect("fine");
    assert_eq!(
        (done.files.len(), done.changes.len(), done.same.len()),
        (0, 0, 1)
    );
}

#[test]
fn what_is_no_image_is_not_told() {
    let text = "image: \"my secret pass phrase\" # {\"$imagepolicy\": \"flux-system:web\"}\n";
    let done = edit(
        &files(&[("a.yaml", text)]),
        &images(&[("web", "r.io/web:2")]),
        &[],
    )
    .expect("fine");
    assert_eq!(done.changes[0].old, "(something else)");
    assert_eq!(shown("https://user:pass@host/x"), "(something else)");
    assert_eq!(
        shown("cGFzc3dvcmQgb2YgdGhlIGRhdGFiYXNl+/"),
        "(something else)"
    );
    for told in [
        "1.4.2",
        "v1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        DIGEST,
        "r.io/web",
        "",
    ] {
        assert_eq!(shown(told), told);
    }
    assert_eq!(done.changes[0].line, 1);
}
