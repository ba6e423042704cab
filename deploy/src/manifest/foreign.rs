//! Files beside manifests that are none: told for what they are, instead of as broken objects.
//!
//! Called by [`super::read`] for every document. kubectl refuses them too ("apiVersion not set");
//! passing over them would hide a manifest with a misspelt field, so they are refused with a hint.

use serde_json::Value;

use crate::object::Gvk;
use crate::yaml::Flaw;

/// What to do about any of them.
const ADVICE: &str = "name the files of this deploy under `manifests`, or keep this one elsewhere";

/// Says what a document is that is no Kubernetes object; unset where it is, or nobody knows.
pub(super) fn what(file: &str, value: &Value) -> Option<String> {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    if let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) {
        let gvk = Gvk::new(version, kind);
        let client_side = gvk.group == "kustomize.config.k8s.io";
        return client_side.then(|| {
            format!("this is a file of kustomize, not an object for the cluster; {ADVICE}")
        });
    }
    let object = value.as_object()?;
    let version_alone = text("apiVersion").is_some() && !is_chart(file);
    if object.contains_key("kind") || version_alone {
        // One of the two is missing or wrong: the ordinary errors name which.
        return None;
    }
    let is = kind_of(file, value);
    Some(format!(
        "{is}apiVersion and kind are missing, so it is no Kubernetes object; {ADVICE}"
    ))
}

fn name(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

fn is_chart(file: &str) -> bool {
    matches!(name(file), "Chart.yaml" | "Chart.yml")
}

fn kind_of(file: &str, value: &Value) -> &'static str {
    let name = name(file);
    if is_chart(file) {
        "this describes a Helm chart: "
    } else if name.starts_with("values") {
        "this looks like the values of a Helm chart: "
    } else if name.starts_with("kustomization") {
        "this is a file of kustomize: "
    } else if name.contains("compose") || value.get("services").is_some_and(Value::is_object) {
        "this looks like a Compose file: "
    } else if name.contains("gitlab-ci") {
        "this is a GitLab pipeline: "
    } else if value.get("bundle").is_some() && value.get("steps").is_some() {
        "this looks like a saved plan: "
    } else {
        ""
    }
}

/// Adds to a flaw of YAML what the file seems to be.
pub(super) fn explained(mut flaw: Flaw, content: &[u8]) -> Flaw {
    let has = |mark: &[u8]| content.windows(mark.len()).any(|part| part == mark);
    if has(b"{{") && (has(b".Values") || has(b".Release") || has(b"include \"")) {
        flaw.message.push_str(
            "; the file looks like a template of a Helm chart, which has to be rendered first",
        );
    }
    flaw
}
