//! Bundles that scenarios deploy: small, readable, one thing changed at a time.

/// A spec with manifests only.
pub(crate) fn spec(extra: &str) -> String {
    format!("version: 1\nname: app\nmanifests: [k8s/]\nrollout: {{ timeout: 90s }}\n{extra}")
}

/// A spec with a shorter deadline, for rollouts that cannot be judged earlier.
pub(crate) fn spec_until(timeout: &str) -> String {
    format!("version: 1\nname: app\nmanifests: [k8s/]\nrollout: {{ timeout: {timeout} }}\n")
}

/// A spec with one Secret of one key.
pub(crate) fn spec_with_secret(vault: &str, field: &str) -> String {
    format!(
        "version: 1\nname: app\nsecrets:\n  - name: app-secret\n    keys:\n      value: {{ vault: {vault}, field: {field} }}\nrollout: {{ timeout: 60s }}\n"
    )
}

/// A Deployment of one pod; `container` is more of the container, `pod` more of the pod.
pub(crate) struct Deployment<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// The image.
    pub(crate) image: &'a str,
    /// The command, as a shell line.
    pub(crate) shell: &'a str,
    /// More lines of the container, each with its own indentation from the container's level.
    pub(crate) container: &'a str,
    /// More lines of the pod's spec.
    pub(crate) pod: &'a str,
}

impl Default for Deployment<'_> {
    fn default() -> Self {
        Self {
            name: "web",
            image: "",
            shell: "exec sleep 3600",
            container: "",
            pod: "",
        }
    }
}

impl Deployment<'_> {
    /// Returns the manifest.
    pub(crate) fn yaml(&self) -> String {
        let Self {
            name,
            image,
            shell,
            container,
            pod,
        } = self;
        let indent = |text: &str, by: usize| {
            text.lines()
                .map(|line| format!("{:by$}{line}\n", ""))
                .collect::<String>()
        };
        format!(
            r#"apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
spec:
  replicas: 1
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      terminationGracePeriodSeconds: 0
{pod}      containers:
        - name: main
          image: {image}
          command: ["/bin/sh", "-c", {shell:?}]
{container}"#,
            pod = indent(pod, 6),
            container = indent(container, 10),
        )
    }
}

/// A ConfigMap of one key.
pub(crate) fn config_map(name: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata: {{ key: {value:?} }}\n"
    )
}
