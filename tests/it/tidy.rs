//! What the compiler cannot enforce about the repository: sizes, module comments, import order, lint
//! inheritance, forbidden words.
//!
//! Every check says which file breaks which rule. Each rule has been seen to find something: the
//! functions below are tried on bad input first.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Lines of production code that a file may have; the part below `#[cfg(test)]` does not count.
const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

/// Lists files below a folder that end in `ending`, without build output.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).expect("the folder is readable");
    for entry in entries {
        let path = entry.expect("the entry is readable").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        if path.is_dir() && name != "target" && name != ".git" {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> BTreeMap<String, String> {
    let root = root();
    let read = |path: PathBuf| {
        let name = path
            .strip_prefix(&root)
            .expect("it is below the root")
            .display()
            .to_string();
        (
            name,
            fs::read_to_string(path).expect("sources are readable"),
        )
    };
    files(&root, ".rs").into_iter().map(read).collect()
}

fn production(text: &str) -> usize {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .count()
}

fn has_module_comment(text: &str) -> bool {
    text.lines()
        .find(|line| !line.starts_with("#!") && !line.is_empty())
        .is_some_and(|line| line.starts_with("//! "))
}

/// Lists uses of later modules by earlier ones, given `lib.rs` and the modules' texts.
fn out_of_order(lib: &str, text_of: impl Fn(&str) -> String) -> Vec<String> {
    let modules: Vec<&str> = lib
        .lines()
        .filter_map(|line| {
            line.strip_prefix("pub mod ")
                .or_else(|| line.strip_prefix("mod "))
        })
        .map(|rest| rest.trim_end_matches(';'))
        .collect();
    let mut wrong = Vec::new();
    for (place, module) in modules.iter().enumerate() {
        let text = text_of(module);
        let code: Vec<&str> = text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .collect();
        for later in &modules[place + 1..] {
            let path = format!("crate::{later}::");
            let plain = format!("use crate::{later};");
            let uses = |line: &&&str| {
                !line.trim_start().starts_with("//")
                    && (line.contains(&path) || line.contains(&plain))
            };
            if let Some(line) = code.iter().find(uses) {
                wrong.push(format!(
                    "{module} uses {later}, which stands below it: {}",
                    line.trim()
                ));
            }
        }
    }
    wrong
}

/// Reads a module with everything in its folder.
fn module_text(src: &Path, module: &str) -> String {
    let mut text = fs::read_to_string(src.join(format!("{module}.rs"))).unwrap_or_default();
    let folder = src.join(module);
    if folder.is_dir() {
        for path in files(&folder, ".rs") {
            if path.file_name().is_some_and(|name| name == "tests.rs") {
                continue;
            }
            let part = fs::read_to_string(path).expect("sources are readable");
            let code: Vec<&str> = part
                .lines()
                .take_while(|line| !line.starts_with("#[cfg(test)]"))
                .collect();
            // The tests of the parent file come after its own code, so the parts go in front.
            text = format!("{}\n{text}", code.join("\n"));
        }
    }
    text
}

#[test]
fn every_source_file_opens_with_its_module_comment() {
    assert!(
        !has_module_comment("use std::fs;\n"),
        "the check finds a missing comment"
    );
    let missing: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| !has_module_comment(text))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

/// Lists files that no module declares: they are not compiled, so nobody would notice that they are dead.
fn undeclared(sources: &BTreeMap<String, String>) -> Vec<&str> {
    let mut declared = BTreeSet::new();
    let mut roots = BTreeSet::new();
    for (name, text) in sources {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let is_root = ["lib.rs", "main.rs", "build.rs"].contains(&file);
        let below = match is_root {
            true => folder,
            false => name.trim_end_matches(".rs"),
        };
        if is_root || folder.ends_with("src/bin") {
            roots.insert(name.as_str());
        }
        for line in text.lines().map(str::trim) {
            if let Some(beside) = line.strip_prefix("#[path = \"") {
                declared.insert(format!("{folder}/{}", beside.trim_end_matches("\"]")));
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [.., "mod", module] = words.as_slice()
                && let Some(module) = module.strip_suffix(';')
                && words[0] != "//"
            {
                declared.insert(format!("{below}/{module}.rs"));
            }
        }
    }
    let names = sources.keys().map(String::as_str);
    names
        .filter(|name| !declared.contains(*name) && !roots.contains(name))
        .collect()
}

#[test]
fn every_source_file_is_a_module() {
    let of = |files: &[(&str, &str)]| -> BTreeMap<String, String> {
        let files = files.iter();
        files
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    };
    let bad = of(&[
        ("a/src/lib.rs", "pub mod b;\n// mod dead;\n"),
        ("a/src/b.rs", "#[path = \"b_tests.rs\"]\nmod tests;\n"),
        ("a/src/b_tests.rs", ""),
        ("a/src/b/deep.rs", ""),
        ("a/src/dead.rs", ""),
    ]);
    assert_eq!(undeclared(&bad), ["a/src/b/deep.rs", "a/src/dead.rs"]);
    let sources = sources();
    assert_eq!(undeclared(&sources), Vec::<&str>::new());
}

#[test]
fn no_source_file_has_outgrown_its_job() {
    assert_eq!(production("a\nb\n#[cfg(test)]\nc\n"), 2);
    let is_tests = |name: &str| {
        name.ends_with("/tests.rs") || name.contains("/tests/") || name.starts_with("tests/it/")
    };
    let large: Vec<String> = sources()
        .into_iter()
        .filter(|(name, text)| !is_tests(name) && production(text) > MAX_LINES)
        .map(|(name, text)| format!("{name}: {} lines", production(&text)))
        .collect();
    assert_eq!(large, Vec::<String>::new());
}

#[test]
fn modules_use_only_those_above_them() {
    let text = |module: &str| {
        if module == "a" {
            "use crate::b::X;".to_owned()
        } else {
            String::new()
        }
    };
    assert_eq!(
        out_of_order("mod a;\nmod b;\n", text).len(),
        1,
        "the check finds a wrong use"
    );
    for name in ["proto", "deploy", "agent", "agent/client"] {
        let src = root().join(name).join("src");
        let top = [src.join("lib.rs"), src.join("main.rs")]
            .into_iter()
            .find(|path| path.exists());
        let lib = fs::read_to_string(top.expect("a crate has a top file")).expect("it is readable");
        assert_eq!(
            out_of_order(&lib, |module| module_text(&src, module)),
            Vec::<String>::new(),
            "{name}"
        );
    }
}

#[test]
fn every_crate_inherits_the_lints() {
    for manifest in files(&root(), "Cargo.toml") {
        let text = fs::read_to_string(&manifest).expect("manifests are readable");
        if text.contains("[package]") {
            assert!(
                text.contains("[lints]\nworkspace = true"),
                "{}",
                manifest.display()
            );
        }
    }
}

#[test]
fn no_test_is_ignored_and_nothing_sleeps() {
    // Spelled in two parts, so that this file does not find itself.
    let banned = [
        concat!("#[ig", "nore"),
        concat!("thread::sl", "eep("),
        concat!("to", "do!("),
        concat!("FIX", "ME"),
    ];
    let found: Vec<String> = sources()
        .iter()
        .flat_map(|(name, text)| {
            banned
                .iter()
                .filter(|word| text.contains(**word))
                .map(move |word| format!("{name}: {word}"))
        })
        .collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_brain_depends_on_nothing_that_reaches_the_world() {
    let manifest =
        fs::read_to_string(root().join("deploy/Cargo.toml")).expect("the manifest is readable");
    for name in [
        "hyper", "reqwest", "kube", "axum", "redb", "vaultrs", "rustix",
    ] {
        assert!(
            !manifest.contains(&format!("\n{name}")),
            "deploy must not depend on {name}"
        );
    }
}

#[test]
fn the_files_that_tools_look_for_are_there() {
    for name in [
        ".clippy.toml",
        ".rustfmt.toml",
        ".cargo/config.toml",
        ".ci/run",
        "deploy/.clippy.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "Dockerfile",
    ] {
        assert!(root().join(name).exists(), "{name}");
    }
}

#[test]
fn secrets_are_revealed_where_they_are_sent_or_verified_only() {
    let found: Vec<String> = sources()
        .iter()
        .filter(|(name, _)| !name.starts_with("tests/") && *name != "deploy/src/secret.rs")
        .filter(|(name, _)| {
            !name.starts_with("agent/src/vault")
                && !name.starts_with("agent/src/cluster")
                && *name != "agent/src/git/login.rs"
                && *name != "agent/src/registries/token.rs"
                && *name != "agent/src/auth.rs"
                && *name != "agent/src/app/values.rs"
                && *name != "agent/src/gitlab.rs"
        })
        .filter(|(_, text)| {
            text.lines()
                .take_while(|line| !line.starts_with("#[cfg(test)]"))
                .any(|line| line.contains(".reveal()"))
        })
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(found, Vec::<String>::new());
}
