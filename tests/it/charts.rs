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
    // What goes away changes no object that is still there, and is Helm's to delete.
    let small = TEMPLATE.split("---\n").nth(1).unwrap_or_default();
    chart.put("chart/templates/all.yaml", small);
    ended_with(&chart.deploy(&world, &rest).await?, 200)?;
    ensure!(message().await.is_err(), "the ConfigMap is deleted");
    chart.put("chart/templates/all.yaml", TEMPLATE);
    chart.helm("set: { message: two, replicas: 2 }\n");
    let upgraded = chart.deploy(&world, &rest).await?;
    ended_with(&upgraded, 200)?;
    ensure!(message().await? == "two Helm", "{}", message().await?);
    let revisions = history(&world).await?;
    ensure!(
        revisions.len() == 3
            && revisions[2]["status"] == "deployed"
            && revisions[2]["chart"] == "demo-1.2.3",
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

/// The names of the stages of a run, in order.
pub(crate) fn stages(log: &str) -> Vec<String> {
    let starts = log.split("section_start:").skip(1);
    starts
        .filter_map(|text| text.split(['\r', '\u{1b}', '\n', '[']).next())
        .filter_map(|text| text.split("quaymaster_").nth(1).map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn a_bad_image_has_the_same_cause_in_a_chart_as_in_manifests() -> Result<()> {
    let world = World::new("helmimage").await?;
    let bad = "localhost:5000/quaymaster/none:nope";
    let chart = Chart::new();
    let rest = with_image(&world).replace(&world.stand.busybox(), bad);
    let helm_way = chart.deploy(&world, &rest).await?;
    let deployment = crate::samples::Deployment {
        image: bad,
        ..Default::default()
    };
    let (spec, web) = (crate::samples::spec(""), deployment.yaml());
    let plain_way = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/web.yaml", &web)])
        .await?;
    ended_with(&helm_way, 424)?;
    ended_with(&plain_way, 424)?;
    ensure!(
        !helm_way.causes().is_empty() && helm_way.causes() == plain_way.causes(),
        "{:?} and {:?}",
        helm_way.causes(),
        plain_way.causes()
    );
    let mut helm_stages = stages(&helm_way.log);
    ensure!(
        helm_stages.iter().any(|stage| stage == "render"),
        "{helm_stages:?}"
    );
    helm_stages.retain(|stage| stage != "render");
    ensure!(helm_stages == stages(&plain_way.log), "{helm_stages:?}");
    Ok(())
}

#[tokio::test]
async fn a_failed_upgrade_goes_back_to_the_revision_that_worked() -> Result<()> {
    let world = World::new("helmback").await?;
    let rest = with_image(&world).replace("timeout: 90s", "timeout: 90s, on_failure: rollback");
    let mut chart = Chart::new();
    ended_with(&chart.deploy(&world, &rest).await?, 200)?;
    chart.helm("set: { message: broken }\n");
    let bad = rest.replace(
        &world.stand.busybox(),
        "localhost:5000/quaymaster/none:nope",
    );
    let done = chart.deploy(&world, &bad).await?;
    ended_with(&done, 424)?;
    let report = done.json()?;
    ensure!(report["status"] == "rolled_back", "{report}\n{}", done.log);
    ensure!(!done.causes().is_empty(), "{report}");
    let message = world
        .kubectl(&[
            "get",
            "configmap",
            "app-conf",
            "-o",
            "jsonpath={.data.message}",
        ])
        .await?;
    ensure!(message == "one", "{message}");
    let revisions = history(&world).await?;
    ensure!(
        revisions.len() == 3 && revisions[2]["status"] == "deployed",
        "{revisions:?}"
    );
    // People's Helm works on it as before, and the next deploy on theirs.
    helm(&world, &["rollback", "app", "1"]).await?;
    chart.extra.clear();
    chart.helm("set: { message: three }\n");
    ended_with(&chart.deploy(&world, &rest).await?, 200)?;
    ensure!(
        history(&world).await?.len() == 5,
        "every step is in the history"
    );
    Ok(())
}

const HOOK: &str = "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: {{ .Release.Name }}-migrate\n  annotations: { helm.sh/hook: \"pre-install,pre-upgrade\" }\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      restartPolicy: Never\n      terminationGracePeriodSeconds: 0\n      containers:\n        - name: main\n          image: \"{{ .Values.image.repository }}:{{ .Values.image.tag }}\"\n          command: [\"/bin/sh\", \"-c\", {{ .Values.hook | quote }}]\n";

#[tokio::test]
async fn hooks_run_again_with_every_change_and_a_failing_one_says_why() -> Result<()> {
    let world = World::new("helmhook").await?;
    let rest = with_image(&world);
    let mut chart = Chart::new();
    chart.put("chart/templates/hook.yaml", HOOK);
    for message in ["one", "two"] {
        chart.extra = format!("set: {{ hook: \"true\", message: {message} }}\n");
        ended_with(&chart.deploy(&world, &rest).await?, 200)?;
    }
    let same = chart.deploy(&world, &rest).await?;
    ended_with(&same, 200)?;
    ensure!(same.log.contains("nothing to do"), "{}", same.log);
    chart.extra = "set: { hook: \"echo the-schema-is-gone; exit 3\" }\n".to_owned();
    let done = chart.deploy(&world, &rest).await?;
    ended_with(&done, 424)?;
    ensure!(
        !done.causes().is_empty() && done.log.contains("the-schema-is-gone"),
        "{}\n{}",
        done.answer.text(),
        done.log
    );
    let message = world
        .kubectl(&[
            "get",
            "configmap",
            "app-conf",
            "-o",
            "jsonpath={.data.message}",
        ])
        .await?;
    ensure!(
        message == "two",
        "what comes after the hook is not written: {message}"
    );
    Ok(())
}

/// Lists the processes whose command line names this world's folder or its Helm, without the agent.
fn children(world: &World) -> Vec<(u32, String)> {
    let place = format!("{}/state/render/", world.dir().display());
    let ids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| {
        let cwd = std::fs::read_link(format!("/proc/{id}/cwd")).ok()?;
        let read = |file| {
            let bytes = std::fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let inside = cwd.to_string_lossy().starts_with(&place);
        inside.then(|| (id, format!("{} {}", read("cmdline"), read("environ"))))
    })
    .collect()
}

async fn child_of(world: &World, word: &str) -> Result<(u32, String)> {
    tests::wait::until(
        "the child",
        std::time::Duration::from_secs(40),
        async || {
            let found = children(world);
            match found.iter().find(|(_, words)| words.contains(word)) {
                Some(found) => tests::wait::Look::Ready(found.clone()),
                None => tests::wait::Look::NotYet(format!("{found:?}")),
            }
        },
    )
    .await
}

#[tokio::test]
async fn a_killed_agent_leaves_no_helm_and_the_next_deploy_puts_the_release_right() -> Result<()> {
    let mut world = World::new("helmkill").await?;
    let rest = with_image(&world);
    let mut chart = Chart::new();
    chart.put("chart/templates/hook.yaml", HOOK);
    for (round, revisions) in [("install", 1), ("upgrade", 4)] {
        chart.extra = format!("set: {{ hook: \"sleep 60\", message: {round}-slow }}\n");
        let spec = chart.spec(&rest);
        ensure!(world.post(&chart.bundle(&spec)).await?.status == 202);
        let (child, _) = child_of(&world, "upgrade").await?;
        let record = "jsonpath={.items[*].metadata.labels.status}";
        tests::wait::until(
            "the pending record",
            std::time::Duration::from_secs(30),
            async || {
                let words = ["get", "secret", "-l", "owner=helm", "-o", record];
                match world.kubectl(&words).await {
                    Ok(text) if text.contains("pending-") => tests::wait::Look::Ready(()),
                    Ok(text) => tests::wait::Look::NotYet(text),
                    Err(error) => tests::wait::Look::Hopeless(error),
                }
            },
        )
        .await?;
        world.kill_agent().await?;
        tests::wait::until(
            "the child to be gone",
            std::time::Duration::from_secs(5),
            async || match std::fs::read_to_string(format!("/proc/{child}/comm")) {
                Err(_gone) => tests::wait::Look::Ready(()),
                Ok(name) => tests::wait::Look::NotYet(name),
            },
        )
        .await?;
        world.start_agent().await?;
        chart.extra = format!("set: {{ hook: \"true\", message: {round} }}\n");
        let done = chart.deploy(&world, &rest).await?;
        ended_with(&done, 200)?;
        ensure!(
            done.log.contains("an earlier deploy was killed"),
            "{}",
            done.log
        );
        let found = history(&world).await?;
        ensure!(found.len() == revisions, "{round}: {found:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_release_that_somebody_elses_helm_works_on_is_left_alone() -> Result<()> {
    let world = World::new("helmbusy").await?;
    let chart = Chart::of("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: conf }\n");
    ended_with(&chart.deploy(&world, "").await?, 200)?;
    let labels = [
        "label",
        "secret",
        "sh.helm.release.v1.app.v1",
        "--overwrite",
        "status=pending-upgrade",
        "state.quaymaster.dev/decision-",
    ];
    world.kubectl(&labels).await?;
    let mut changed =
        Chart::of("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: conf }\ndata: { a: b }\n");
    let done = changed.helm("").deploy(&world, "").await?;
    ensure!(done.code() == "locked", "{}", done.answer.text());
    Ok(())
}

#[tokio::test]
async fn an_object_that_is_no_releases_is_a_conflict_already_in_the_plan() -> Result<()> {
    let world = World::new("helmothers").await?;
    world
        .kubectl(&["create", "configmap", "conf", "--from-literal=a=theirs"])
        .await?;
    let chart =
        Chart::of("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: conf }\ndata: { a: ours }\n");
    for done in [
        chart.plan(&world, "").await?,
        chart.deploy(&world, "").await?,
    ] {
        ended_with(&done, 424)?;
        ensure!(
            done.code() == "apply_conflict" && done.answer.text().contains("ConfigMap"),
            "{}",
            done.answer.text()
        );
    }
    let value = world
        .kubectl(&["get", "configmap", "conf", "-o", "jsonpath={.data.a}"])
        .await?;
    ensure!(value == "theirs", "{value}");
    Ok(())
}

#[tokio::test]
async fn a_chart_with_a_secret_has_nothing_to_do_the_second_time() -> Result<()> {
    let mut world = World::without_agent("helmsecret").await?;
    let policy = world
        .policy()
        .replace("kinds = [", "kinds = [\"v1/Secret:app-own\", ");
    std::fs::write(world.policy_path(), policy)?;
    world.start_agent().await?;
    let template = "apiVersion: v1\nkind: Secret\nmetadata: { name: app-own, labels: { a: b } }\nstringData: { password: quite-secret, user: me }\n";
    let mut chart = Chart::of(template);
    for (round, expected) in [(1, "Helm wrote release"), (2, "nothing to do")] {
        let done = chart.deploy(&world, "").await?;
        ended_with(&done, 200)?;
        ensure!(done.log.contains(expected), "{round}: {}", done.log);
        ensure!(!done.log.contains("quite-secret"), "{}", done.log);
    }
    ensure!(history(&world).await?.len() == 1);
    for changed in [
        template.replace("a: b", "a: c"),
        template.replace(", user: me", ""),
        template.replace("quite", "very"),
    ] {
        chart.put("chart/templates/all.yaml", &changed);
        let done = chart.deploy(&world, "").await?;
        ended_with(&done, 200)?;
        ensure!(done.log.contains("~ change v1/Secret"), "{}", done.log);
    }
    ensure!(history(&world).await?.len() == 4);
    Ok(())
}

#[tokio::test]
async fn a_cluster_scoped_object_of_a_chart_may_name_a_namespace() -> Result<()> {
    let mut world = World::without_agent("helmwide").await?;
    let policy = world.policy().replace(
        "kinds = [",
        "kinds = [\"scheduling.k8s.io/PriorityClass\", ",
    );
    std::fs::write(world.policy_path(), policy)?;
    world.grant_all().await?;
    world.start_agent().await?;
    let chart = Chart::of(
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: { name: {{ .Release.Namespace }}-low, namespace: {{ .Release.Namespace }} }\nvalue: 1\n",
    );
    for expected in ["metadata.namespace dropped", "nothing to do"] {
        let done = chart.deploy(&world, "").await?;
        ended_with(&done, 200)?;
        ensure!(done.log.contains(expected), "{}", done.log);
    }
    let name = format!("{}-low", world.namespace);
    world
        .stand
        .kubectl(&["get", "priorityclass", &name])
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_template_that_fails_or_is_not_yaml_is_named() -> Result<()> {
    let world = World::new("helmbad").await?;
    let rows = [
        (
            "a: {{ required \"say a title\" .Values.title }}\n",
            "say a title",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\ndata: { a: 1, a: 2 }\n",
            "templates/all.yaml",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\nspec: { x: 1 }\n",
            "spec",
        ),
        ("{{ $_ := set .Values \"x\" 1 }}\n", "holds no object"),
    ];
    for (template, word) in rows {
        let done = Chart::of(template).deploy(&world, "").await?;
        ended_with(&done, 422)?;
        ensure!(
            done.answer.text().contains(word),
            "{word}: {}",
            done.answer.text()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_hostile_template_is_ended_and_the_agent_goes_on() -> Result<()> {
    let world = World::new("helmbomb").await?;
    let filler = "x".repeat(1000);
    let endless = format!(
        "{{{{- range until 100000 }}}}\n# {filler}\n{{{{- end }}}}\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: a }}\n"
    );
    let greedy = "{{- $all := dict }}{{- range until 2000000000 }}{{- $_ := set $all (toString .) . }}{{- end }}\n";
    for (name, template) in [("endless", endless.as_str()), ("greedy", greedy)] {
        let done = Chart::of(template)
            .deploy(&world, "rollout: { timeout: 45s }\n")
            .await?;
        ended_with(&done, 422)?;
        ensure!(
            done.code() == "manifest_invalid",
            "{name}: {}",
            done.answer.text()
        );
    }
    ensure!(children(&world).is_empty(), "{:?}", children(&world));
    let after = Chart::of("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\n");
    ended_with(&after.deploy(&world, "").await?, 200)
}

#[tokio::test]
async fn lookup_sees_what_the_job_may_see_and_nothing_else() -> Result<()> {
    let world = World::new("helmlook").await?;
    let other = World::without_agent("helmother").await?;
    other
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "foreign",
            "--from-literal=a=foreign-value",
        ])
        .await?;
    world
        .kubectl(&["create", "configmap", "own", "--from-literal=a=own-value"])
        .await?;
    let template = |kind: &str, namespace: &str, name: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: seen }}\ndata:\n  a: {{{{ (lookup \"v1\" {kind:?} {namespace:?} {name:?}).data | toJson | quote }}}}\n"
        )
    };
    let own = Chart::of(&template("ConfigMap", &world.namespace, "own"));
    ended_with(&own.deploy(&world, "").await?, 200)?;
    let seen = world
        .kubectl(&["get", "configmap", "seen", "-o", "jsonpath={.data.a}"])
        .await?;
    ensure!(seen.contains("own-value"), "{seen}");
    let foreign = Chart::of(&template("Secret", &other.namespace, "foreign"));
    let done = foreign.deploy(&world, "").await?;
    ended_with(&done, 422)?;
    ensure!(
        done.answer.text().contains("forbidden") && !done.log.contains("foreign-value"),
        "{}",
        done.log
    );
    Ok(())
}

#[tokio::test]
async fn a_plan_of_a_chart_writes_nothing_and_tells_of_random_output() -> Result<()> {
    let world = World::new("helmplan").await?;
    let chart = Chart::of(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\ndata: { a: {{ randAlphaNum 12 | quote }} }\n",
    );
    let done = chart.plan(&world, "").await?;
    ended_with(&done, 200)?;
    ensure!(
        done.log.contains("renders differently each time"),
        "{}",
        done.log
    );
    ensure!(done.log.contains("+ create v1/ConfigMap"), "{}", done.log);
    let there = world
        .kubectl(&["get", "secret,configmap", "-o", "name"])
        .await?;
    ensure!(
        !there.contains("configmap/a") && !there.contains("secret/"),
        "{there}"
    );
    Ok(())
}

#[tokio::test]
async fn random_values_that_a_chart_looks_up_again_stay() -> Result<()> {
    let world = World::new("helmkeep").await?;
    let chart = Chart::of(
        "{{ $old := lookup \"v1\" \"ConfigMap\" .Release.Namespace \"a\" }}apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\ndata: { a: \"{{ if $old }}{{ $old.data.a }}{{ else }}{{ randAlphaNum 12 }}{{ end }}\" }\n",
    );
    let first = chart.deploy(&world, "").await?;
    ended_with(&first, 200)?;
    let unless = "every deploy changes it, unless the chart then looks up what it has made";
    ensure!(first.log.contains(unless), "{}", first.log);
    let again = chart.deploy(&world, "").await?;
    ended_with(&again, 200)?;
    ensure!(
        again.log.contains("nothing to do") && !again.log.contains("renders differently"),
        "{}",
        again.log
    );
    Ok(())
}

#[tokio::test]
async fn what_is_remote_or_a_plugin_in_a_kustomization_is_refused_by_the_post() -> Result<()> {
    let world = World::new("kustremote").await?;
    let spec = "version: 1\nname: app\nkustomize: over\n";
    for line in [
        "resources: [\"https://example.com/a.yaml\"]",
        "resources: [\"github.com/o/r//base?ref=v1\"]",
        "resources: [../../etc]",
        "generators: [plugin.yaml]",
        "helmCharts: [{ name: x }]",
    ] {
        let answer = world
            .post(&[
                ("quaymaster.yaml", spec),
                ("over/kustomization.yaml", &format!("{line}\n")),
                (
                    "over/plugin.yaml",
                    "apiVersion: v1\nkind: Exec\nmetadata: { name: x }\n",
                ),
            ])
            .await?;
        ensure!(
            answer.status == 422 && answer.code() == "manifest_invalid",
            "{line}: {}",
            answer.text()
        );
        ensure!(
            answer.text().contains("over/kustomization.yaml"),
            "{}",
            answer.text()
        );
    }
    Ok(())
}

#[tokio::test]
async fn no_secret_and_no_credential_is_in_a_childs_words_environment_or_folder() -> Result<()> {
    let world = World::new("helmcanary").await?;
    let path = world
        .put("app", serde_json::json!({ "value": "canary-value-77" }))
        .await?;
    let rest = with_image(&world)
        + &format!(
            "secrets:\n  - name: app-secret\n    keys:\n      value: {{ vault: {path}, field: value }}\n"
        );
    let mut chart = Chart::new();
    // The hook prints what it gets from the Secret, as a careless script does.
    let printing = HOOK.to_owned()
        + "          env:\n            - name: VALUE\n              valueFrom: { secretKeyRef: { name: app-secret, key: value } }\n";
    chart.put("chart/templates/hook.yaml", &printing);
    chart.helm("set: { hook: \"sleep 8; echo $VALUE; exit 1\" }\n");
    let spec = chart.spec(&rest);
    let job = world.job()?;
    let answer = tests::submission::post(&job, "/v1/deploys", &chart.bundle(&spec)).await?;
    ensure!(answer.status == 202, "{}", answer.text());
    let id = answer.json()?["id"].as_str().unwrap_or_default().to_owned();
    let (child, words) = child_of(&world, "upgrade").await?;
    let kubeconfig = std::fs::read_to_string(&world.stand.facts().kubeconfig_agent)?;
    let key = kubeconfig.lines().find_map(|line| {
        let line = line.trim();
        line.strip_prefix("client-key-data: ")
            .or(line.strip_prefix("token: "))
    });
    ensure!(words.contains("KUBECONFIG=/proc/self/fd/0"), "{words}");
    for secret in [Some("canary-value-77"), key].into_iter().flatten() {
        ensure!(!words.contains(secret), "{words}");
        let place = format!("{}/state/render", world.dir().display());
        let found = std::process::Command::new("grep")
            .args(["-rlF", "--", secret, &place])
            .output()?;
        ensure!(
            found.stdout.is_empty(),
            "{}",
            String::from_utf8_lossy(&found.stdout)
        );
    }
    let input = std::fs::read_link(format!("/proc/{child}/fd/0"))?;
    ensure!(
        input.to_string_lossy().contains("memfd:kubeconfig"),
        "{}",
        input.display()
    );
    let done = world.finish(&job, &id).await?;
    ended_with(&done, 424)?;
    ensure!(
        !done.log.contains("canary-value-77") && !done.answer.text().contains("canary-value-77"),
        "{}",
        done.log
    );
    ensure!(!world.agent_log()?.contains("canary-value-77"));
    let left = std::fs::read_dir(world.dir().join("state/render"))?.count();
    ensure!(left == 0, "{left} folders are left");
    Ok(())
}

#[tokio::test]
async fn an_agent_without_the_programs_says_so_to_runs_that_need_them() -> Result<()> {
    let mut world = World::without_agent("helmnone").await?;
    let config = std::fs::read_to_string(world.config_path())?;
    let without: String = config
        .lines()
        .filter(|line| !line.starts_with("helm = ") && !line.starts_with("kubectl = "))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(world.config_path(), without)?;
    world.start_agent().await?;
    let chart = Chart::of("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\n");
    let done = chart.deploy(&world, "").await?;
    ended_with(&done, 422)?;
    ensure!(
        done.answer.text().contains("render.helm"),
        "{}",
        done.answer.text()
    );
    let spec = crate::samples::spec("");
    let conf = crate::samples::config_map("conf", "v");
    let plain = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
        .await?;
    ended_with(&plain, 200)
}
