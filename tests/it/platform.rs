//! What a platform team does for a project with one of the examples: namespaces, rules by environment, secrets, Flux.
//!
//! Used by scenarios that run the examples' pipelines or single jobs of them. Every environment has a namespace of its
//! own and a rule of its own; the tokens name the environment as GitLab's do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use serde_json::Value;
use serde_json::json;
use tests::example;
use tests::example::folder;
use tests::pipeline::Trigger;
use tests::pipeline::Variable;
use tests::stand::Stand;
use tests::stand::git::repository::Repository;
use tests::world::World;

use crate::leaks;

/// What jobs of the default branch may do in their environment.
const VERBS: &str = r#"["apply", "rollback", "commit", "reconcile", "revert"]"#;
/// The app's sources, which stand beside each way's own files.
const SOURCES: [&str; 5] = [
    "app.py",
    "test_app.py",
    "requirements.txt",
    "Dockerfile",
    ".dockerignore",
];

/// A project on the stand, with everything that its pipelines need.
pub(crate) struct Platform {
    pub(crate) world: World,
    way: &'static str,
    /// The repository that the cluster follows; unset where nothing does.
    fleet: Option<Repository>,
}

/// The variable that the build stage would give.
pub(crate) fn image(reference: &str) -> Variable {
    Variable::of("*", "IMAGE", reference)
}

/// An image by digest, as the rules here want it: the tiny one with more lines of a Dockerfile.
pub(crate) async fn small_image(stand: &Stand, name: &str, lines: &str) -> Result<String> {
    let dir = stand
        .facts()
        .site
        .folder(&format!("images/{}", name.replace(['/', ':'], "-")))?;
    let dockerfile = dir.join("Dockerfile");
    fs::write(&dockerfile, format!("ARG BASE\nFROM ${{BASE}}\n{lines}"))?;
    let base = stand.busybox();
    let arguments = [("BASE", base.as_str())];
    stand
        .build_and_push(&dir, &dockerfile, name, &arguments)
        .await
}

/// A small image that answers the probes of the examples.
pub(crate) async fn small_server(stand: &Stand) -> Result<String> {
    // As process 1 a program ends only on signals that it handles.
    let lines = r#"RUN mkdir /www && touch /www/healthz /www/readyz
CMD ["/bin/sh", "-c", "trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"]
"#;
    small_image(stand, "flask-small:server", lines).await
}

impl Platform {
    /// Grants a project what the way needs, and starts the agent.
    pub(crate) async fn new(way: &'static str) -> Result<Self> {
        let world = World::without_agent(way).await?;
        let mut platform = Self {
            world,
            way,
            fleet: None,
        };
        let world = &platform.world;
        for environment in ["staging", "review"] {
            let namespace = platform.namespace(environment);
            let stand = world.stand;
            stand.grant_project(&namespace, &world.project).await?;
        }
        let (host, _) = world
            .stand
            .facts()
            .postgres_for_pods
            .split_once(':')
            .context("PostgreSQL has a port")?;
        let fields = json!({ "api_key": leaks::CANARY, "db_host": host });
        world.put("app", fields).await?;
        if way == "flask-flux" {
            platform.fleet = Some(platform.follow().await?);
        }
        let policy = platform.policy();
        fs::write(platform.world.policy_path(), policy)?;
        platform.world.start_agent().await?;
        Ok(platform)
    }

    /// The namespace of an environment.
    pub(crate) fn namespace(&self, environment: &str) -> String {
        match environment {
            "production" => self.world.namespace.clone(),
            other => format!("{}-{other}", self.world.namespace),
        }
    }

    /// One rule for each environment, and one for plans of merge requests.
    fn policy(&self) -> String {
        let protected = "ref_protected = true";
        let plan = "environment_action = [\"verify\"]\npipeline_source = \"merge_request_event\"";
        let review = r#"["apply", "prune", "rollback"]"#;
        let rules = [
            ("staging", "staging", protected, VERBS),
            ("production", "production", protected, VERBS),
            ("plan", "production", plan, VERBS),
            ("review", "review/*", "", review),
        ];
        let rules = rules.map(|(id, environment, more, verbs)| {
            let namespace = match id {
                "plan" => self.namespace("production"),
                other => self.namespace(other),
            };
            self.rule(
                id,
                &format!("environment = \"{environment}\"\n{more}"),
                &namespace,
                verbs,
            )
        });
        format!("version = 1\n{}", rules.concat())
    }

    fn rule(&self, id: &str, matches: &str, namespace: &str, verbs: &str) -> String {
        let World { project, role, .. } = &self.world;
        let registry = &self.world.stand.facts().registry;
        let flux = self.fleet.as_ref().map(|fleet| {
            format!(
                "[[rule.cluster.stand.flux]]\nrepositories = [\"{}\"]\nbranches = [\"main\"]\nfiles = [\"apps/*\"]\nobjects = [\"{}/*\"]\n",
                fleet.url(),
                self.world.namespace
            )
        });
        format!(
            r#"
[[rule]]
id = "{id}"
[rule.match]
project_id = {project}
{matches}
[rule.vault]
role = "{role}"
paths = ["kv/{role}/*", "database/creds/flask"]
[rule.cluster.stand]
namespaces = ["{namespace}"]
kinds = ["apps/Deployment", "v1/Service", "v1/ConfigMap"]
secrets = ["flask-*"]
images = ["{registry}/team/*", "{registry}/flask-*"]
verbs = {verbs}
require_digest = true
{}"#,
            flux.unwrap_or_default()
        )
    }

    /// The project's files: the example as it stands, with its secrets where this project has them.
    pub(crate) fn files(&self) -> Result<BTreeMap<String, String>> {
        let mut files = example::files(&folder(self.way))?;
        files.retain(|name, _| name != "README.md");
        for name in SOURCES {
            files.insert(
                name.to_owned(),
                fs::read_to_string(folder("flask").join(name))?,
            );
        }
        let spec = files.get_mut("quaymaster.yaml").context("the spec")?;
        *spec = spec
            .replace("kv/flask/", &format!("kv/{}/", self.world.role))
            .replace("[fleet]", &format!("[{}/fleet]", self.world.namespace))
            .replace(
                "\"flask-${CI",
                &format!("\"{}/flask-${{CI", self.world.namespace),
            );
        Ok(files)
    }

    /// Variables of the project for a pipeline: a token and a namespace for each environment.
    pub(crate) fn variables(&self, trigger: Trigger) -> Result<Vec<Variable>> {
        match trigger {
            Trigger::Push => {
                let mut all = self.environment("staging", trigger, "start")?;
                all.extend(self.environment("production", trigger, "start")?);
                Ok(all)
            }
            Trigger::MergeRequest(number) => {
                let mut all = self.environment("production", trigger, "verify")?;
                all.extend(self.environment(&format!("review/{number}"), trigger, "start")?);
                Ok(all)
            }
        }
    }

    /// Variables for the job that stops a merge request's app.
    pub(crate) fn stopping(&self, trigger: Trigger) -> Result<Vec<Variable>> {
        match trigger {
            Trigger::Push => self.variables(trigger),
            Trigger::MergeRequest(number) => {
                self.environment(&format!("review/{number}"), trigger, "stop")
            }
        }
    }

    /// What a job of an environment finds set, as the example's pipeline says, but for the image.
    pub(crate) fn job(&self, environment: &str) -> Result<BTreeMap<String, String>> {
        let variables = self.environment(environment, Trigger::Push, "start")?;
        let variables = variables.into_iter();
        let mut all: BTreeMap<String, String> = variables
            .map(|variable| (variable.name, variable.value))
            .collect();
        for (name, value) in [
            ("GITLAB_CI", "true"),
            ("CI_ENVIRONMENT_NAME", environment),
            ("APP", "flask"),
            ("OVERLAY", environment),
        ] {
            all.insert(name.to_owned(), value.to_owned());
        }
        Ok(all)
    }

    fn environment(&self, name: &str, trigger: Trigger, action: &str) -> Result<Vec<Variable>> {
        let token = self.world.token()?.environment(name);
        let token = token.claim("environment_action", action);
        let token = match trigger {
            Trigger::Push => token,
            Trigger::MergeRequest(_) => token
                .reference("a-change", "branch")
                .claim("ref_protected", "false")
                .claim("pipeline_source", "merge_request_event"),
        };
        let token = self.world.stand.sign(token)?;
        let kind = name.split('/').next().unwrap_or_default();
        let mut all = vec![
            Variable::of(name, "QUAYMASTER_ID_TOKEN", &token),
            Variable::of(name, "NAMESPACE", &self.namespace(kind)),
        ];
        if let Some(fleet) = &self.fleet {
            all.push(Variable::of(name, "FLEET_REPOSITORY", &fleet.url()));
        }
        Ok(all)
    }

    /// Values of the Secrets that a namespace has from Vault, but for the database's address, which is none.
    pub(crate) async fn secrets(&self, namespace: &str) -> Result<Vec<String>> {
        use base64::Engine as _;
        let words = ["-n", namespace, "get", "secrets", "-o", "json"];
        let list: Value = serde_json::from_str(&self.world.stand.kubectl(&words).await?)?;
        let mut values = Vec::new();
        let secrets = list["items"].as_array().into_iter().flatten();
        // Not the one with which Flux reads its repository.
        for secret in secrets.filter(|secret| secret["data"]["api-key"].is_string()) {
            for key in ["username", "password", "api-key", "DATABASE_URL"] {
                if let Some(text) = secret["data"][key].as_str() {
                    let bytes = base64::engine::general_purpose::STANDARD.decode(text)?;
                    values.push(String::from_utf8(bytes)?);
                }
            }
        }
        Ok(values)
    }

    /// Ends the apps: their probes would keep the node busy for all scenarios that follow.
    pub(crate) async fn leave(&self) -> Result<()> {
        let names = ["staging", "production", "review"].map(|name| self.namespace(name));
        let mut words = vec!["delete", "namespace", "--wait=false"];
        words.extend(names.iter().map(String::as_str));
        self.world.stand.kubectl(&words).await.map(drop)
    }

    /// Lets the cluster follow a repository of the example's layout.
    async fn follow(&self) -> Result<Repository> {
        let world = &self.world;
        world.stand.flux().await?;
        let files = example::files(&folder(self.way).join("fleet"))?;
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        let repository = world.fleet_repository("fleet", &files).await?;
        let accounts = &world.stand.facts().git_accounts;
        let (reader, writer) = (&accounts.reader, &accounts.writer);
        let fields = json!({ "username": writer.name, "password": writer.password });
        world.put("fleet", fields).await?;
        let meta = json!({ "name": "fleet", "namespace": world.namespace });
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Secret", "metadata": meta,
                "stringData": { "username": reader.name, "password": reader.password } },
            { "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": meta,
                "spec": { "interval": "1h", "url": repository.url(), "ref": { "branch": "main" },
                    "secretRef": { "name": "fleet" } } },
        ] });
        world.stand.cluster().apply(&objects).await?;
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/dist/rbac/flux.yaml");
        let rights = fs::read_to_string(sample)?
            .replace(
                "[\"shop-staging\"]",
                "[\"flask-staging\", \"flask-production\"]",
            )
            .replace("project:42", &format!("project:{}", world.project));
        self.apply(&rights).await?;
        for environment in ["staging", "production"] {
            let name = format!("clusters/{environment}/flask.yaml");
            let text = fs::read_to_string(folder(self.way).join("fleet").join(name))?;
            let target = text
                .lines()
                .find(|line| line.contains("targetNamespace:"))
                .context("Flux is told where to")?;
            let there = format!("  targetNamespace: {}", self.namespace(environment));
            self.apply(&text.replace(target, &there)).await?;
        }
        Ok(repository)
    }

    /// Applies objects that the samples have in flux-system, in this world's namespace.
    async fn apply(&self, text: &str) -> Result<()> {
        let here = format!("namespace: {}", self.world.namespace);
        let file = self.world.dir().join("applied.yaml");
        fs::write(&file, text.replace("namespace: flux-system", &here))?;
        let file = file.display().to_string();
        self.world.kubectl(&["apply", "-f", &file]).await.map(drop)
    }
}
