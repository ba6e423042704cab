//! What a kustomization may ask for, checked in every kustomization of a bundle before one is built.
//!
//! Called by [`crate::request`]. Nothing remote, nothing outside the bundle, no plugins: kustomize
//! would fetch what it does not find, so everything that is named has to be in the bundle. A field
//! that this module does not know is kustomize's own to refuse.

use proto::error::Code;
use proto::error::Place;

use crate::bundle::Bundle;
use crate::bundle::InputError;
use crate::spec;
use crate::spec::SPEC_FILE;
use crate::yaml::legacy;
use crate::yaml::legacy::Form;
use crate::yaml::tree::Budget;
use crate::yaml::tree::Node;

/// The names that kustomize looks for.
const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// Lists of files and folders.
const LISTS: [&str; 4] = ["resources", "bases", "components", "crds"];
/// Lists of files, or of YAML written in place.
const INLINE: [&str; 2] = ["patchesStrategicMerge", "configurations"];
/// Lists of configurations of generators and transformers.
const PLUGINS: [&str; 3] = ["generators", "transformers", "validators"];
/// Lists of entries with a file at `path`.
const ENTRIES: [&str; 3] = ["patches", "patchesJson6902", "replacements"];
/// Fields through which kustomize runs Helm.
const HELM: [&str; 3] = ["helmCharts", "helmChartInflationGenerator", "helmGlobals"];

/// Checks every kustomization of a bundle; `folder` is the one to build.
///
/// # Errors
/// [`Code::SpecInvalid`] where the folder holds none, else [`Code::ManifestInvalid`] with every
/// place that is refused.
pub fn check(bundle: &Bundle, folder: &str) -> Result<(), InputError> {
    let folder = join("", folder).unwrap_or_default();
    let prefix = if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}/")
    };
    let found = |name: &&str| bundle.files.contains_key(&format!("{prefix}{name}"));
    if NAMES.iter().filter(|name| found(name)).count() != 1 {
        let message = "the bundle has no kustomization.yaml in this folder, or more than one";
        let file = bundle.files.get(SPEC_FILE).map(Vec::as_slice);
        let place = spec::place_of(file.unwrap_or_default(), &["kustomize"], message);
        return Err(InputError {
            code: Code::SpecInvalid,
            places: vec![place],
        });
    }
    let mut places = Vec::new();
    let mut budget = Budget::default();
    for (path, content) in &bundle.files {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !NAMES.contains(&name) {
            continue;
        }
        match legacy::documents(content, Form::Yaml, &mut budget) {
            Ok(nodes) => {
                let mut one = One {
                    bundle,
                    path,
                    dir,
                    places: &mut places,
                };
                nodes.iter().for_each(|node| one.check(node));
            }
            Err(flaw) => places.push(flaw.place(path)),
        }
    }
    if places.is_empty() {
        Ok(())
    } else {
        Err(InputError {
            code: Code::ManifestInvalid,
            places,
        })
    }
}

/// One kustomization.
struct One<'a> {
    bundle: &'a Bundle,
    path: &'a str,
    dir: &'a str,
    places: &'a mut Vec<Place>,
}

impl One<'_> {
    fn at(&mut self, node: &Node, field: &str, message: impl Into<String>) {
        self.places.push(Place {
            file: Some(self.path.to_owned()),
            line: Some(node.line),
            column: Some(node.column),
            path: Some(field.to_owned()),
            message: message.into(),
        });
    }

    fn check(&mut self, root: &Node) {
        for field in HELM {
            if let Some(node) = root.get(field) {
                let message = "kustomize does not run Helm here; name the chart under 'helm' in quaymaster.yaml";
                self.at(node, field, message);
            }
        }
        for field in LISTS {
            for item in items(root.get(field)) {
                self.local(item, field, item.scalar().unwrap_or_default());
            }
        }
        for field in INLINE {
            for item in items(root.get(field)) {
                let text = item.scalar().unwrap_or_default();
                if !text.contains('\n') {
                    self.local(item, field, text);
                }
            }
        }
        for field in PLUGINS {
            for item in items(root.get(field)) {
                self.plugin(item, field);
            }
        }
        for field in ENTRIES {
            for path in items(root.get(field)).filter_map(|item| item.get("path")) {
                self.local(path, field, path.scalar().unwrap_or_default());
            }
        }
        if let Some(path) = root.get("openapi").and_then(|node| node.get("path")) {
            self.local(path, "openapi", path.scalar().unwrap_or_default());
        }
        for field in ["configMapGenerator", "secretGenerator"] {
            for generator in items(root.get(field)) {
                self.generator(generator, field);
            }
        }
    }

    fn generator(&mut self, generator: &Node, field: &str) {
        let single = generator.get("env");
        let listed = items(generator.get("files")).chain(items(generator.get("envs")));
        for item in listed.chain(single) {
            let text = item.scalar().unwrap_or_default();
            let path = text.split_once('=').map_or(text, |(_, path)| path);
            self.local(item, field, path);
        }
    }

    /// Takes the transformers that are part of kustomize, in place or in a file; nothing that runs a
    /// program.
    fn plugin(&mut self, item: &Node, field: &str) {
        let text = item.scalar().unwrap_or_default();
        if !text.contains('\n') && !self.local(item, field, text) {
            return;
        }
        let file = join(self.dir, text).and_then(|path| self.bundle.files.get(&path));
        let content = file.map_or(text.as_bytes(), Vec::as_slice);
        let built_in = |node: &Node| {
            let read = |key| node.get(key).and_then(Node::scalar).unwrap_or_default();
            let annotations = node
                .get("metadata")
                .and_then(|metadata| metadata.get("annotations"));
            read("apiVersion") == "builtin"
                && !read("kind").starts_with("HelmChart")
                && annotations.is_none()
        };
        let nodes = legacy::documents(content, Form::Yaml, &mut Budget::default());
        if !nodes.is_ok_and(|nodes| !nodes.is_empty() && nodes.iter().all(built_in)) {
            let message =
                "plugins are not run; only kustomize's own (apiVersion: builtin) are taken";
            self.at(item, field, message);
        }
    }

    /// Refuses what is not a file or folder of the bundle.
    fn local(&mut self, node: &Node, field: &str, text: &str) -> bool {
        let remote = text.contains("://")
            || text.contains("::")
            || text.contains('?')
            || text.contains('@')
            || text.contains(':');
        let message = if text.is_empty() {
            "is empty; expected a path"
        } else if remote {
            "is remote; nothing is fetched for a deploy, put it into the bundle"
        } else if text.starts_with('/') {
            "the path is absolute; write it from the folder of this file"
        } else {
            match join(self.dir, text) {
                None => "the path leaves the bundle",
                Some(path) if self.has(&path) => return true,
                Some(_) => "the bundle has no such file or folder, and nothing is fetched",
            }
        };
        self.at(node, field, message);
        false
    }

    fn has(&self, path: &str) -> bool {
        let below = format!("{path}/");
        path.is_empty()
            || self.bundle.files.contains_key(path)
            || self
                .bundle
                .files
                .range(below.clone()..)
                .next()
                .is_some_and(|(first, _)| first.starts_with(&below))
    }
}

fn items(node: Option<&Node>) -> impl Iterator<Item = &Node> {
    node.and_then(Node::sequence).unwrap_or_default().iter()
}

/// Joins a folder of the bundle and a path from it; none where it leaves the bundle.
fn join(dir: &str, path: &str) -> Option<String> {
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

    fn places(files: &[(&str, &str)]) -> Vec<String> {
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
            .collect();
        match check(&Bundle { files }, "over/prod/") {
            Ok(()) => Vec::new(),
            Err(error) => error
                .places
                .iter()
                .map(|place| format!("{:?}:{}", place.path, place.line.unwrap_or(0)))
                .collect(),
        }
    }

    #[test]
    fn a_tree_of_the_bundles_own_files_is_taken() {
        let overlay = "resources: [../../base, ns.yaml]\npatches:\n  - path: p.yaml\n  - patch: |\n      a: 1\ntransformers:\n  - |\n    apiVersion: builtin\n    kind: PrefixTransformer\n    metadata: { name: x }\nconfigMapGenerator:\n  - name: c\n    files: [app.conf=conf/app.conf]\n";
        let found = places(&[
            ("over/prod/kustomization.yaml", overlay),
            ("over/prod/ns.yaml", ""),
            ("over/prod/p.yaml", ""),
            ("over/prod/conf/app.conf", ""),
            ("base/kustomization.yml", "resources: [web.yaml]\n"),
            ("base/web.yaml", ""),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn what_is_remote_outside_or_a_plugin_is_refused_wherever_it_stands() {
        let rows = [
            "resources: [\"https://example.com/a.yaml\"]",
            "resources: [\"github.com/o/r//base?ref=v1\"]",
            "resources: [\"github.com/o/r\"]",
            "resources: [\"git@example.com:o/r.git\"]",
            "resources: [\"git::https://example.com/r\"]",
            "components: [\"ssh://example.com/r\"]",
            "bases: [../../../out]",
            "resources: [/etc]",
            "resources: [missing.yaml]",
            "patches: [{ path: \"https://example.com/p\" }]",
            "helmCharts: [{ name: x }]",
            "generators: [plugin.yaml]",
            "transformers: [\"apiVersion: v1\\nkind: Exec\\n\"]",
            "transformers: [\"apiVersion: builtin\\nkind: HelmChartInflationGenerator\\n\"]",
            "configMapGenerator: [{ name: a, files: [\"a=../../../secret\"] }]",
            "secretGenerator: [{ name: a, envs: [/proc/self/environ] }]",
            "openapi: { path: \"https://example.com/s.json\" }",
        ];
        for row in rows {
            let base = format!("kind: Kustomization\n{row}\n");
            let found = places(&[
                ("over/prod/kustomization.yaml", "resources: [../../base]\n"),
                ("base/kustomization.yaml", &base),
                ("base/plugin.yaml", "apiVersion: my/v1\nkind: Plugin\n"),
            ]);
            assert_eq!(found.len(), 1, "{row}: {found:?}");
            assert!(found[0].ends_with(":2"), "{row}: {found:?}");
        }
    }

    #[test]
    fn a_folder_without_a_kustomization_is_an_error_of_the_spec() {
        assert_eq!(
            places(&[("quaymaster.yaml", "version: 1\nkustomize: over/prod\n")]),
            ["Some(\"kustomize\"):2"]
        );
    }
}
