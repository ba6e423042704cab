//! Finds the files that a kustomization needs: its folder, and what it and its bases name elsewhere.
//!
//! Called by `pack`. Every text of a kustomization that is the path of something in the bundle's
//! folder counts; the agent is the one who judges what a kustomization may name.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::walk;
use crate::walk::WalkError;
use crate::yaml;
use crate::yaml::Role;

/// The names that kustomize looks for.
const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// Bytes of a kustomization that is looked into.
const LONGEST: u64 = 1 << 20;

/// Returns the files of a kustomization and of all that it leads to. `root` is canonical.
///
/// # Errors
/// The first thing that cannot be packed.
pub(crate) fn files(root: &Path, entry: &str) -> Result<BTreeMap<String, PathBuf>, WalkError> {
    let mut found = walk::whole(root, entry)?;
    let mut seen = BTreeSet::new();
    loop {
        let new: Vec<(String, PathBuf)> = found
            .iter()
            .filter(|(name, _)| is_kustomization(name) && !seen.contains(*name))
            .map(|(name, path)| (name.clone(), path.clone()))
            .collect();
        if new.is_empty() {
            return Ok(found);
        }
        for (name, path) in new {
            let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
            for text in texts(&path) {
                let there = join(dir, &text).filter(|path| !path.is_empty());
                if let Some(there) = there.filter(|there| root.join(there).exists()) {
                    found.extend(walk::whole(root, &there)?);
                }
            }
            seen.insert(name);
        }
    }
}

fn is_kustomization(name: &str) -> bool {
    NAMES.contains(&name.rsplit('/').next().unwrap_or_default())
}

/// Reads the values of a kustomization; `key=path` of a generator counts as its path.
fn texts(path: &Path) -> Vec<String> {
    let small = fs::metadata(path).is_ok_and(|about| about.len() <= LONGEST);
    let text = small.then(|| fs::read_to_string(path).ok()).flatten();
    let scalars = yaml::scalars(&text.unwrap_or_default()).unwrap_or_default();
    let values = scalars.into_iter().filter(|one| one.role == Role::Value);
    values
        .map(|one| match one.value.split_once('=') {
            Some((_, path)) => path.to_owned(),
            None => one.value,
        })
        .filter(|text| !text.is_empty() && text.len() < 240 && !text.contains(['\n', ':', '\0']))
        .collect()
}

/// Joins a folder and a path from it; none where it leaves the bundle.
fn join(dir: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut segments: Vec<&str> = dir.split('/').filter(|one| !one.is_empty()).collect();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()?),
            other => segments.push(other),
        }
    }
    Some(segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_brings_its_bases_and_their_files() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let root = fs::canonicalize(dir.path()).expect("it is there");
        for (name, text) in [
            (
                "over/prod/kustomization.yaml",
                "resources: [../../base]\nconfigMapGenerator: [{name: c, files: [app.conf=../app.conf]}]\nnamePrefix: web\n",
            ),
            ("over/app.conf", "x"),
            ("over/test/kustomization.yaml", "resources: []\n"),
            (
                "base/kustomization.yml",
                "resources: [web.yaml, https://x/y]\n",
            ),
            ("base/web.yaml", "x"),
            ("unrelated.yaml", "x"),
        ] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
            fs::write(path, text).expect("it can be written");
        }
        let found = files(&root, "over/prod").expect("it can be packed");
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "base/kustomization.yml",
                "base/web.yaml",
                "over/app.conf",
                "over/prod/kustomization.yaml"
            ]
        );
    }
}
