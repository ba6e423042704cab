//! The server in this process over real sockets, with a brain that needs no issuer or cluster.

use std::collections::BTreeSet;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use deploy::authorize::Denial;
use deploy::principal::Principal;
use deploy::principal::PrincipalKind;
use deploy::secret::Secret;
use futures::FutureExt;
use proto::app::App;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Body;
use proto::event::Event;
use proto::event::Level;
use proto::event::Stage;
use proto::managed::Freshness;
use proto::report::Accepted;
use proto::report::Action;
use proto::report::Mode;
use proto::report::Report;
use proto::report::RunList;
use proto::report::Status;
use proto::report::WhoAmI;
use proto::values::Encoded;
use proto::values::Values;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::brain::Ask;
use super::brain::Asked;
use super::brain::Brain;
use super::brain::Prepared;
use super::brain::Wish;
use super::route::AppName;
use crate::app::Bound;
use crate::app::Ending;
use crate::app::Parts;
use crate::auth::Identity;
use crate::auth::Presented;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::config::Environment;
use crate::lifecycle::EndSignal;
use crate::runs::RunTools;
use crate::runs::Work;

mod client;
mod drain;
mod limits;
mod runs;
mod secrets;
mod values;

use client::Reply;
use client::Tester;

/// A server for one test.
struct World {
    folder: tempfile::TempDir,
    signals: mpsc::Sender<EndSignal>,
    ended: JoinHandle<Ending>,
}

impl World {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts with more lines of configuration.
    async fn start_with(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::start_in(folder, more).await
    }

    async fn start_in(folder: tempfile::TempDir, more: &str) -> Self {
        let config = config(&folder, more);
        let bound = Bound::with_brain(
            &config,
            "hash".to_owned(),
            brain(),
            None,
            Arc::new(SystemClock),
            Vec::new(),
            Arc::new(|| None),
        );
        Self::run(bound.await.expect("it binds"), folder)
    }

    fn run(bound: Bound, folder: tempfile::TempDir) -> Self {
        let (signals, receiver) = mpsc::channel(2);
        let ended = tokio::spawn(bound.run(receiver));
        Self {
            folder,
            signals,
            ended,
        }
    }

    fn jobs(&self) -> Tester {
        Tester::new(self.folder.path().join("jobs/q.sock"))
    }

    fn admin(&self) -> Tester {
        Tester::new(self.folder.path().join("admin/q.sock"))
    }

    async fn signal(&self) {
        self.signals
            .send(EndSignal("TEST"))
            .await
            .expect("it listens");
    }

    async fn end(self) -> (Ending, tempfile::TempDir) {
        (
            soon(self.ended).await.expect("it does not panic"),
            self.folder,
        )
    }
}

/// A configuration with its files in a folder, and more lines.
fn config(folder: &tempfile::TempDir, more: &str) -> Config {
    let place = folder.path().display();
    let text = format!(
        "policy = \"/none\"\nstate_dir = \"{place}/state\"\n{more}\n\
         [socket]\njobs = \"{place}/jobs/q.sock\"\nadmin = \"{place}/admin/q.sock\"\n\
         [issuer]\nurl = \"https://gitlab\"\naudience = \"q\"\n\
         [vault]\naddress = \"https://vault\"\n\
         [cluster.demo]\nkubeconfig = \"/none\"\n"
    );
    Config::read(&text, Environment::default()).expect("it is valid")
}

/// Bounds a wait for something that is to happen at once.
async fn soon<T>(wait: impl Future<Output = T>) -> T {
    let bounded = tokio::time::timeout(Duration::from_secs(20), wait).await;
    bounded.expect("it happens soon")
}

/// Takes a token of N bytes as a job of project N; project 13 has no rule, 1 byte is no token. The
/// bundle is the name of what the run does.
fn brain() -> Brain {
    Brain {
        identify: Arc::new(|presented| identify(&presented).boxed()),
        admit: Arc::new(|who, decision| match who.project() {
            Some("13") => Err(denial(decision)),
            Some(_) | None => Ok(()),
        }),
        explain: Arc::new(|_| (vec!["rule-1".to_owned()], Vec::new())),
        prepare: Arc::new(|asked| prepare(&asked).boxed()),
        look: Arc::new(|who, app, decision| look(&who, app, &decision).boxed()),
        expose: Arc::new(|asked| expose(&asked).boxed()),
        resume: Arc::new(|_, _| None),
    }
}

fn identify(presented: &Presented) -> impl Future<Output = Result<Identity, Problem>> + use<> {
    let length = presented.id_token.as_ref().map_or(0, Secret::len);
    async move {
        if length < 2 {
            return Err(Problem::new(Code::TokenUntrusted, "not a test token"));
        }
        let project = length.to_string();
        let attributes = [("project_id".to_owned(), project)].into();
        Ok(Identity {
            principal: Principal::unchecked(PrincipalKind::GitlabJob, attributes),
            id_token: None,
            vault_token: None,
        })
    }
}

fn denial(decision: &str) -> Denial {
    Denial {
        decision: decision.to_owned(),
        message: "no rule matches project 13".to_owned(),
        hint: "ask the operator".to_owned(),
        nearest: Vec::new(),
    }
}

/// Gives its own project number as a value.
fn expose(asked: &Ask) -> impl Future<Output = Result<Values, Problem>> + use<> {
    let project = asked.identity.principal.project().unwrap_or_default();
    let values = Values {
        rule: "rule-1".to_owned(),
        decision_id: asked.decision.clone(),
        values: [("PROJECT".to_owned(), Encoded::of(project.as_bytes()))].into(),
    };
    std::future::ready(Ok(values))
}

/// Every project but 99 may look.
fn look(
    who: &Principal,
    app: AppName,
    decision: &str,
) -> impl Future<Output = Result<App, Problem>> + use<> {
    let denied = (who.project() == Some("99")).then(|| super::brain::denied(denial(decision)));
    let told = App {
        name: app.name,
        cluster: app.cluster,
        namespace: app.namespace,
        current: Some(1),
        revisions: Vec::new(),
        objects: Vec::new(),
    };
    std::future::ready(denied.map_or(Ok(told), Err))
}

fn prepare(asked: &Asked) -> impl Future<Output = Result<Prepared, Problem>> + use<> {
    let mode = asked.mode;
    let word = match &asked.wish {
        Wish::Bundle { body, .. } => String::from_utf8_lossy(body).into_owned(),
        Wish::Revision(asked) => asked.name.to_string(),
    };
    async move {
        let work: Work = match word.as_str() {
            "succeed" => Box::new(move |run| {
                std::future::ready(finish(&run, mode, Status::Succeeded)).boxed()
            }),
            "fail" => {
                Box::new(move |run| std::future::ready(finish(&run, mode, Status::Failed)).boxed())
            }
            "wait" => Box::new(move |run| until_cancelled(run, mode).boxed()),
            "hang" => Box::new(|_| std::future::pending().boxed()),
            _ => return Err(Problem::new(Code::SpecInvalid, "not a word of the test")),
        };
        Ok(Prepared {
            herald: None,
            name: "flask".parse().expect("a name"),
            cluster: "demo".parse().expect("a name"),
            namespace: "flask".parse().expect("a name"),
            work,
        })
    }
}

fn finish(run: &RunTools, mode: Mode, status: Status) -> Report {
    run.log.start(Stage::Apply, "Apply");
    run.log.info("working");
    run.log.end_stage(Stage::Apply);
    run.log.end(status);
    report(run, mode, status)
}

async fn until_cancelled(run: RunTools, mode: Mode) -> Report {
    run.log.info("waiting");
    run.stop.cancelled().await;
    run.log.end(Status::Cancelled);
    report(&run, mode, Status::Cancelled)
}

fn report(run: &RunTools, mode: Mode, status: Status) -> Report {
    Report {
        id: run.id.clone(),
        mode,
        name: "flask".parse().expect("a name"),
        cluster: "demo".parse().expect("a name"),
        namespace: "flask".parse().expect("a name"),
        status,
        started: "2026-01-01T00:00:00.000Z".to_owned(),
        finished: Some("2026-01-01T00:00:01.000Z".to_owned()),
        message: format!("it {}", status.word()),
        code: None,
        revision: None,
        problem: None,
        steps: Vec::new(),
        images: Vec::new(),
        url: None,
        plan: None,
        causes: Vec::new(),
        warnings: Vec::new(),
    }
}

#[tokio::test]
async fn the_open_paths_need_no_header_and_no_token() {
    let world = World::start().await;
    let bare = world.jobs().bare();
    assert_eq!(bare.get("/ping").await.text(), "pong\n");
    assert_eq!(bare.get("/version").await.json()["api"][0], "v1");
    assert_eq!(bare.get("/openapi.json").await.json()["openapi"], "3.1.0");
}

#[tokio::test]
async fn problems_have_their_media_type_and_members() {
    let world = World::start().await;
    let reply = world.jobs().bare().get("/v1/whoami").await;
    assert_eq!(reply.code(), Code::ClientHeaderMissing);
    assert_eq!(
        reply.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(reply.json()["instance"], "/v1/whoami");
    assert_eq!(reply.json()["status"], 400);
}

#[tokio::test]
async fn refusals_carry_the_headers_that_belong_to_them() {
    let world = World::start().await;
    let jobs = world.jobs();
    let method = jobs.send("DELETE", "/v1/deploys", &[], b"").await;
    assert_eq!(
        (method.status, method.header("allow")),
        (405, Some("GET, POST"))
    );
    let token = jobs.get("/v1/whoami").await;
    assert_eq!(token.code(), Code::TokenMissing);
    assert_eq!(token.header("www-authenticate"), Some("Bearer"));
    assert_eq!(jobs.get("/v1/no-such").await.code(), Code::NotFound);
}

#[tokio::test]
async fn whoami_shows_the_caller_and_its_rules() {
    let world = World::start().await;
    let reply = world.jobs().project(42).get("/v1/whoami").await;
    let who: WhoAmI = serde_json::from_value(reply.json()).expect("the wire type");
    assert_eq!(who.attributes["project_id"], "42");
    assert_eq!(who.rules, ["rule-1"]);
}

#[tokio::test]
async fn the_admin_socket_is_for_the_operator_alone() {
    let world = World::start().await;
    let path = world.folder.path().join("admin/q.sock");
    let mode = std::fs::metadata(path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let admin = world.admin();
    assert_eq!(admin.get("/livez").await.status, 200);
    assert_eq!(admin.get("/readyz?verbose").await.json()["ready"], true);
    assert_eq!(admin.get("/v1/status").await.json()["policy"], "hash");
    assert_eq!(admin.get("/v1/deploys").await.status, 404);
    assert_eq!(world.jobs().get("/metrics").await.status, 404);
    let metrics = admin.get("/metrics").await.text();
    assert!(
        metrics.contains("route=\"/livez\",status=\"200\""),
        "{metrics}"
    );
}

/// Every path and method of the document is served, and every served one is in the document.
#[test]
fn the_openapi_document_and_the_routes_agree() {
    use super::route::Socket;
    use super::route::find;
    let document: serde_json::Value = serde_json::from_str(super::OPENAPI).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let id = "r0123456789abcdef0123456789abcdef";
    let mut listed = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("a path item") {
            let upper: http::Method = method.to_uppercase().parse().expect("a method");
            let real = path.replace("{id}", id).replace(['{', '}'], "");
            let jobs = find(Socket::Jobs, &upper, &real);
            let found = jobs.or_else(|_| find(Socket::Admin, &upper, &real));
            let endpoint = found.unwrap_or_else(|_| panic!("{method} {path} is not served"));
            assert_eq!(endpoint.route(), path);
            let names = operation["parameters"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let query = names.iter().filter(|parameter| parameter["in"] == "query");
            let query: Vec<_> = query.filter_map(|one| one["name"].as_str()).collect();
            assert_eq!(query, endpoint.parameters(), "{method} {path}");
            listed.push(format!("{method} {path}"));
        }
    }
    assert_eq!(listed.len(), 26, "{listed:?}");
}

/// The words that a type takes, as its reader lists them when it meets another.
fn words<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
    let refused = serde_json::from_str::<T>("\"no-such-word\"").err();
    let text = refused.expect("it is no word").to_string();
    let listed = text.split_once("expected").expect("it lists the words").1;
    listed
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_openapi_document_knows_every_word() {
    let document: serde_json::Value = serde_json::from_str(super::OPENAPI).expect("JSON");
    for (schema, words) in [
        ("Code", words::<Code>()),
        ("Status", words::<Status>()),
        ("Mode", words::<Mode>()),
        ("Action", words::<Action>()),
        ("Stage", words::<Stage>()),
        ("Freshness", words::<Freshness>()),
    ] {
        let told = document["components"]["schemas"][schema]["enum"].as_array();
        let told = told.into_iter().flatten().filter_map(|word| word.as_str());
        let told: BTreeSet<String> = told.map(str::to_owned).collect();
        assert_eq!(told, words, "{schema}");
    }
}

/// Every reference of the document leads somewhere.
#[test]
fn the_references_of_the_openapi_document_hold() {
    let document: serde_json::Value = serde_json::from_str(super::OPENAPI).expect("JSON");
    for part in super::OPENAPI.split("\"$ref\": \"#").skip(1) {
        let pointer = part.split('"').next().expect("a pointer");
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}
