//! Charts and kustomizations through the one engine: the same stages, causes and verdicts as for
//! manifests; Helm's own records kept; what is hostile or not granted found before the first write.

use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use tests::submission::Finished;
use tests::world::World;

/// A chart of one ConfigMap and one Deployment, and what a scenario changes of it.
struct Chart {
    files: Vec<(String, String)>,
    extra: String,
}

const VALUES: &str = "message: one\nreplicas: 1\nshell: exec sleep 3600\nimage: { repository: none, tag: \"\", digest: \"\" }\n";

const TEMPLATE: &str = r#"apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-conf
  labels: { chart: {{ .Chart.Name }}, by: {{ .Release.Service }} }
data:
  message: {{ .Values.message | quote }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}-web
spec:
  replicas: {{ .Values.replicas }}
  selector: { matchLabels: { app: web } }
  template:
    metadata:
      labels: { app: web }
      annotations: { checksum/conf: {{ .Values.message | sha256sum }} }
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: main
          image: "{{ .Values.image.repository }}{{ with .Values.image.tag }}:{{ . }}{{ end }}{{ with .Values.image.digest }}@{{ . }}{{ end }}"
          command: ["/bin/sh", "-c", {{ .Values.shell | quote }}]
"#;

impl Chart {
    fn new() -> Self {
        let mut chart = Self {
            files: Vec::new(),
            extra: String::new(),
        };
        chart.put(
            "chart/Chart.yaml",
            "apiVersion: v2\nname: demo\nversion: 1.2.3\nappVersion: \"7\"\n",
        );
        chart.put("chart/values.yaml", VALUES);
        chart.put("chart/templates/all.yaml", TEMPLATE);
        chart
    }

    /// A chart of one template that is no workload.
    fn of(template: &str) -> Self {
        let mut chart = Self::new();
        chart.put("chart/templates/all.yaml", template);
        chart
    }

    fn put(&mut self, name: &str, text: &str) -> &mut Self {
        self.files.retain(|(known, _)| known != name);
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Adds lines to the field `helm`.
    fn helm(&mut self, lines: &str) -> &mut Self {
        self.extra.push_str(lines);
        self
    }

    fn spec(&self, rest: &str) -> String {
        let extra: String = self
            .extra
            .lines()
            .map(|line| format!("  {line}\n"))
            .collect();
        format!("version: 1\nname: app\nhelm:\n  chart: chart/\n{extra}{rest}")
    }

    async fn deploy(&self, world: &World, rest: &str) -> Result<Finished> {
        world.deploy(&self.bundle(&self.spec(rest))).await
    }

    async fn plan(&self, world: &World, rest: &str) -> Result<Finished> {
        world.plan(&self.bundle(&self.spec(rest))).await
    }

    fn bundle<'a>(&'a self, spec: &'a str) -> Vec<(&'a str, &'a str)> {
        let files = self.files.iter();
        let files = files.map(|(name, text)| (name.as_str(), text.as_str()));
        std::iter::once(("quaymaster.yaml", spec))
            .chain(files)
            .collect()
    }
}

/// The rest of a spec that gives the chart the stand's image.
fn with_image(world: &World) -> String {
    let image = world.stand.busybox();
    format!(
        "  image: {{ main: {{ repository: image.repository, tag: image.tag, digest: image.digest }} }}\nimages: {{ main: {image:?} }}\nrollout: {{ timeout: 90s }}\n"
    )
}

/// Runs Helm as people do, with all rights, in the world's namespace.
async fn helm(world: &World, words: &[&str]) -> Result<String> {
    let (helm, _) = tests::stand::agent::render_programs()?;
    let output = tokio::process::Command::new(helm)
        .args(words)
        .args(["--namespace", &world.namespace])
        .env("KUBECONFIG", &world.stand.facts().kubeconfig_admin)
        .env("HOME", world.dir())
        .output()
        .await?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "helm {words:?}: {err}{out}");
    Ok(out.into_owned())
}

async fn history(world: &World) -> Result<Vec<Value>> {
    let text = helm(world, &["history", "app", "-o", "json"]).await?;
    Ok(serde_json::from_str(&text)?)
}

fn ended_with(done: &Finished, status: u16) -> Result<()> {
    ensure!(
        done.status() == status,
        "{}\n{}",
        done.answer.text(),
        done.log
    );
    Ok(())
}

#[tokio::test]
async fn a_chart_is_installed_upgraded_and_left_alone_without_a_change() -> Result<()> {
    let world = World::new("helm").await?;
    let mut chart = Chart::new();
    let rest = with_image(&world);
    ended_with(&chart.deploy(&world, &rest).await?, 200)?;
    let message = async || {
        world
            .kubectl(&[
                "get",
                "configmap",
                "app-conf",
                "-o",
                "jsonpath={.data.message} {.metadata.labels.by}",
            ])
            .await
    };
    ensure!(message().await? == "one Helm", "{}", message().await?);
    let again = chart.deploy(&world, &rest).await?;
    ended_with(&again, 200)?;
    ensure!(again.log.contains("nothing to do"), "{}", again.log);
    ensure!(history(&world).await?.len() == 1, "no second revision");
    chart.helm("set: { message: two, replicas: 2 }\n");
    let upgraded = chart.deploy(&world, &rest).await?;
    ended_with(&upgraded, 200)?;
    ensure!(message().await? == "two Helm", "{}", message().await?);
    let revisions = history(&world).await?;
    ensure!(
        revisions.len() == 2
            && revisions[1]["status"] == "deployed"
            && revisions[1]["chart"] == "demo-1.2.3",
        "{revisions:?}"
    );
    let values: Value =
        serde_json::from_str(&helm(&world, &["get", "values", "app", "-o", "json"]).await?)?;
    ensure!(
        values["replicas"] == 2 && values["message"] == "two",
        "{values}"
    );
    Ok(())
}

#[tokio::test]
async fn a_kustomization_is_built_and_applied_with_the_images_of_the_spec() -> Result<()> {
    let world = World::new("kustomize").await?;
    let image = world.stand.busybox();
    let deployment = crate::samples::Deployment {
        image: "web-image",
        ..Default::default()
    }
    .yaml();
    let spec = format!(
        "version: 1\nname: app\nkustomize: overlays/production\nimages: {{ web-image: {image:?} }}\nrollout: {{ timeout: 90s }}\n"
    );
    let overlay = "resources: [../../base]\nnamePrefix: prod-\nconfigMapGenerator:\n  - name: conf\n    literals: [key=value]\n";
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("base/kustomization.yaml", "resources: [web.yaml]\n"),
        ("base/web.yaml", &deployment),
        ("overlays/production/kustomization.yaml", overlay),
    ];
    let done = world.deploy(&files).await?;
    ended_with(&done, 200)?;
    let seen = world
        .kubectl(&[
            "get",
            "deploy",
            "prod-web",
            "-o",
            "jsonpath={.spec.template.spec.containers[0].image}",
        ])
        .await?;
    ensure!(seen == image, "{seen}");
    let again = world.deploy(&files).await?;
    ended_with(&again, 200)?;
    let steps = again.json()?["steps"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ensure!(
        steps.len() == 2 && steps.iter().all(|step| step["action"] == "same"),
        "{steps:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_kind_that_is_not_granted_is_found_in_templates_and_hooks_before_the_first_write()
-> Result<()> {
    let world = World::new("helmkind").await?;
    let ordinary = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: ordinary }\n---\n";
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: { name: r";
    for (name, rest) in [
        ("plain", " }\n"),
        ("hook", ", annotations: { helm.sh/hook: post-install } }\n"),
        ("test", ", annotations: { helm.sh/hook: test } }\n"),
    ] {
        let chart = Chart::of(&format!("{ordinary}{role}{rest}"));
        let done = chart.deploy(&world, "").await?;
        ended_with(&done, 403)?;
        let detail = done.json()?["problem"]["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        ensure!(
            done.code() == "denied" && detail.contains("rbac.authorization.k8s.io/v1/Role"),
            "{name}: {detail}"
        );
    }
    ensure!(
        world
            .kubectl(&["get", "configmap", "ordinary"])
            .await
            .is_err(),
        "nothing is written"
    );
    let secrets = world.kubectl(&["get", "secret", "-o", "name"]).await?;
    ensure!(secrets.trim().is_empty(), "{secrets}");
    Ok(())
}
