//! What goes into a bundle, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use proto::error::Code;
use tempfile::TempDir;

use super::Bundle;
use super::PackError;
use super::exposing;
use super::pack;
use super::promotion;
use crate::expand::Environment;
use crate::walk::WalkError;

/// Makes a folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("parents");
        fs::write(path, content).expect("a file");
    }
    dir
}

/// Packs and returns the archive's entries.
fn packed(dir: &Path) -> Vec<(String, String)> {
    unpacked(&pack(dir, &[], &Environment::new()).expect("the folder is good"))
}

fn unpacked(bundle: &Bundle) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(bundle.archive.as_slice());
    let entries = archive.entries().expect("an archive");
    entries
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            assert_eq!(entry.header().mode().expect("a mode"), 0o644);
            assert_eq!(entry.header().mtime().expect("a time"), 0);
            let path = entry.path().expect("a path").display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            (path, text)
        })
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    packed(dir).into_iter().map(|(name, _)| name).collect()
}

fn walk_error(dir: &Path) -> WalkError {
    match pack(dir, &[], &Environment::new()) {
        Err(PackError::Manifest { source, .. }) => source,
        other => panic!("expected a refused entry, got {other:?}"),
    }
}

#[test]
fn for_values_only_their_part_of_the_spec_is_packed() {
    let text = "version: 1\nname: ${NAME}\nmanifests: [gone/]\nimages: { a: \"${NOT_SET}\" }\nexpose:\n  A: { vault: kv/a, field: b }\n";
    let dir = folder(&[("quaymaster.yaml", text), ("build.yaml", text)]);
    let environment = Environment::from([("NAME".to_owned(), "shop".to_owned())]);
    let expected =
        "version: 1\nname: shop\n\n\nexpose:\n  A: { vault: kv/a, field: b }\n".to_owned();
    for path in [
        dir.path().to_owned(),
        dir.path().join("quaymaster.yaml"),
        dir.path().join("build.yaml"),
    ] {
        let bundle = exposing(&path, &environment).expect("the file is good");
        let entry = ("quaymaster.yaml".to_owned(), expected.clone());
        assert_eq!(unpacked(&bundle), [entry], "{}", path.display());
    }
    assert!(matches!(
        exposing(dir.path(), &Environment::new()),
        Err(PackError::Spec(places)) if places[0].line == Some(2)
    ));
    let gone = exposing(&dir.path().join("gone.yaml"), &environment);
    assert_eq!(
        gone.map_err(|error| error.problem().code).err(),
        Some(Code::BundleInvalid)
    );
}

#[test]
fn only_what_the_spec_names_is_packed_and_in_order() {
    let dir = folder(&[
        ("quaymaster.yaml", "manifests: [k8s/, ./extra.txt]\n"),
        ("k8s/b.yaml", "b"),
        ("k8s/a/z.yml", "z"),
        ("k8s/a/c.json", "c"),
        ("k8s/readme.md", "no"),
        ("k8s/.hidden.yaml", "no"),
        ("k8s/.git/x.yaml", "no"),
        ("extra.txt", "named"),
        ("secret.env", "no"),
    ]);
    let expected = [
        "quaymaster.yaml",
        "extra.txt",
        "k8s/a/c.json",
        "k8s/a/z.yml",
        "k8s/b.yaml",
    ];
    assert_eq!(names(dir.path()), expected);
}

#[test]
fn the_spec_is_packed_expanded() {
    let dir = folder(&[("quaymaster.yaml", "images: { flask: \"${IMAGE}\" }\n")]);
    let environment = BTreeMap::from([("IMAGE".to_owned(), "r/x:1".to_owned())]);
    let bundle = pack(dir.path(), &[], &environment).expect("good");
    let text = String::from_utf8_lossy(&bundle.archive).into_owned();
    assert!(text.contains("images: { flask: \"r/x:1\" }\n"));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let files = [
        ("quaymaster.yaml", "manifests: [b, a]\n"),
        ("a/1.yaml", "1"),
        ("b/2.yaml", "2"),
    ];
    let one = pack(folder(&files).path(), &[], &Environment::new())
        .expect("good")
        .archive;
    let two = pack(folder(&files).path(), &[], &Environment::new())
        .expect("good")
        .archive;
    assert_eq!(one, two);
}

#[test]
fn links_that_stay_inside_are_packed_as_files() {
    let dir = folder(&[
        ("quaymaster.yaml", "manifests: [k8s]\n"),
        ("base/a.yaml", "a"),
    ]);
    fs::create_dir(dir.path().join("k8s")).expect("a folder");
    symlink("../base/a.yaml", dir.path().join("k8s/link.yaml")).expect("a link");
    symlink("../base", dir.path().join("k8s/all")).expect("a link");
    let expected = [("k8s/all/a.yaml", "a"), ("k8s/link.yaml", "a")];
    let found = packed(dir.path());
    let found: Vec<(&str, &str)> = found[1..]
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn links_that_lead_out_or_in_circles_are_refused() {
    let out = folder(&[("x.yaml", "x")]);
    let dir = folder(&[
        ("quaymaster.yaml", "manifests: [k8s]\n"),
        ("k8s/a.yaml", "a"),
    ]);
    symlink(out.path().join("x.yaml"), dir.path().join("k8s/x.yaml")).expect("a link");
    assert!(
        matches!(walk_error(dir.path()), WalkError::LinkOutside { path } if path == "k8s/x.yaml")
    );
    fs::remove_file(dir.path().join("k8s/x.yaml")).expect("gone");
    symlink("..", dir.path().join("k8s/up")).expect("a link");
    assert!(
        matches!(walk_error(dir.path()), WalkError::Name { path, .. } if path.contains("up/k8s"))
    );
}

#[test]
fn entries_that_leave_the_folder_are_refused() {
    for entry in ["../x", "/etc", "k8s/../../x"] {
        let dir = folder(&[("quaymaster.yaml", &format!("manifests: [\"{entry}\"]\n"))]);
        assert!(
            matches!(walk_error(dir.path()), WalkError::Outside { .. }),
            "{entry}"
        );
    }
}

#[test]
fn a_missing_path_is_named_with_its_place() {
    let dir = folder(&[("quaymaster.yaml", "name: x\nmanifests:\n  - k8s/\n")]);
    let problem = pack(dir.path(), &[], &Environment::new())
        .expect_err("missing")
        .problem();
    assert_eq!(problem.code, Code::BundleInvalid);
    assert_eq!(
        (problem.errors[0].line, problem.errors[0].column),
        (Some(3), Some(5))
    );
    assert!(problem.errors[0].message.contains("k8s"));
}

#[test]
fn an_empty_folder_is_refused() {
    let dir = folder(&[
        ("quaymaster.yaml", "manifests: [k8s]\n"),
        ("k8s/readme.md", "x"),
    ]);
    assert!(matches!(walk_error(dir.path()), WalkError::Nothing { .. }));
}

#[test]
fn a_folder_without_a_spec_is_refused() {
    let dir = folder(&[]);
    let error = pack(dir.path(), &[], &Environment::new()).expect_err("no spec");
    assert!(matches!(error, PackError::Read { .. }));
}

#[test]
fn sizes_over_the_contract_are_refused() {
    let spec = format!("# {}\n", "x".repeat(256 << 10));
    let error = pack(
        folder(&[("quaymaster.yaml", &spec)]).path(),
        &[],
        &Environment::new(),
    );
    assert!(matches!(
        error,
        Err(PackError::TooLarge { limit: 262_144, .. })
    ));

    let dir = folder(&[("quaymaster.yaml", "manifests: [a.yaml]\n")]);
    let file = fs::File::create(dir.path().join("a.yaml")).expect("a file");
    file.set_len((8 << 20) + 1).expect("a size");
    let error = pack(dir.path(), &[], &Environment::new()).expect_err("too large");
    assert!(matches!(&error, PackError::TooLarge { what, .. } if what == "a.yaml"));
    assert_eq!(error.problem().code, Code::TooLarge);
}

#[test]
fn long_names_survive_and_too_long_ones_are_refused() {
    let name = format!("k8s/{}.yaml", "x".repeat(150));
    let dir = folder(&[("quaymaster.yaml", "manifests: [k8s]\n"), (&name, "x")]);
    assert_eq!(names(dir.path())[1], name);

    let deep = format!("{}a.yaml", "d/".repeat(16));
    let dir = folder(&[
        ("quaymaster.yaml", &format!("manifests: [{deep}]\n")),
        (&deep, "x"),
    ]);
    assert!(matches!(walk_error(dir.path()), WalkError::Name { .. }));
}

#[test]
fn an_unset_variable_is_a_problem_with_a_place_and_no_value() {
    let dir = folder(&[("quaymaster.yaml", "name: ${NO_SUCH}\n")]);
    let problem = pack(dir.path(), &[], &Environment::new())
        .expect_err("unset")
        .problem();
    assert_eq!(problem.code, Code::SpecInvalid);
    assert_eq!(
        (problem.errors[0].line, problem.errors[0].column),
        (Some(1), Some(7))
    );
    assert!(problem.errors[0].message.contains("NO_SUCH"));
}

#[test]
fn a_promotion_has_both_specs_and_needs_no_image() {
    let root = folder(&[
        (
            "staging/quaymaster.yaml",
            "name: ${APP}\nimages: { web: \"${IMAGE}\" }\n",
        ),
        (
            "live/quaymaster.yaml",
            "name: live\nimages: { web: \"${IMAGE}\" }\n",
        ),
    ]);
    let (from, to) = (root.path().join("staging"), root.path().join("live"));
    let environment = Environment::from([("APP".to_owned(), "shop".to_owned())]);
    let bundle = promotion(&from, &to, &environment).expect("both are good");
    let mut archive = tar::Archive::new(bundle.archive.as_slice());
    let entries = archive.entries().expect("an archive");
    let texts: Vec<String> = entries
        .map(|entry| {
            let mut text = String::new();
            let read = entry.expect("an entry").read_to_string(&mut text);
            read.expect("text");
            text
        })
        .collect();
    assert_eq!(
        texts,
        [
            "name: live\nimages: { web: \"web\" }\n",
            "name: shop\nimages: { web: \"web\" }\n"
        ]
    );
    match promotion(&from, &to, &Environment::new()) {
        Err(PackError::Spec(places)) => {
            let file = places[0].file.clone().unwrap_or_default();
            assert!(file.ends_with("staging/quaymaster.yaml"), "{file}");
        }
        other => panic!("APP is not set: {other:?}"),
    }
}
