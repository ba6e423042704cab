//! The manifests of the table of rollouts, as few lines as YAML allows.
//!
//! Used by [`super`]; [`good`] becomes ready, [`bad`] does not. Each case has objects of its own names, so that
//! all fit into one namespace.

pub(super) mod bad;
pub(super) mod good;

/// A workload of one container: `kind`, more of the workload's spec, more of the pod, more of the container.
struct Workload<'a> {
    kind: &'a str,
    spec: &'a str,
    pod: &'a str,
    container: &'a str,
    shell: &'a str,
    annotations: &'a str,
}

/// A Deployment that sleeps.
const SLEEPS: Workload<'_> = Workload {
    kind: "Deployment",
    spec: "",
    pod: "",
    container: "",
    shell: "exec sleep 3600",
    annotations: "",
};

impl Workload<'_> {
    /// Every `""` field is left out; the others are one flow style line.
    fn yaml(&self, name: &str, image: &str) -> String {
        let Self {
            kind,
            spec,
            pod,
            container,
            shell,
            annotations,
        } = self;
        let of = |indent: &str, text: &str| match text {
            "" => String::new(),
            text => text
                .lines()
                .map(|line| format!("{indent}{line}\n"))
                .collect(),
        };
        let selector = match *kind {
            "Job" => String::new(),
            _ => format!("  selector: {{ matchLabels: {{ app: {name} }} }}\n"),
        };
        let version = if *kind == "Job" {
            "batch/v1"
        } else {
            "apps/v1"
        };
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {name}\n{annotations}spec:\n{selector}{spec}  template:\n    metadata: {{ labels: {{ app: {name} }} }}\n    spec:\n      terminationGracePeriodSeconds: 0\n{pod}      containers:\n        - name: main\n          image: {image}\n          command: [\"/bin/sh\", \"-c\", {shell:?}]\n{container}",
            annotations = of("  ", annotations),
            spec = of("  ", spec),
            pod = of("      ", pod),
            container = of("          ", container),
        )
    }
}
