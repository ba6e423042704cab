//! Images in their registries: tags become digests, and what is not there ends the run before a write.

use proto::error::Code;

use super::*;
use crate::image;
use crate::ports::RegistryError;

const SERVER: &str = "registry.example.com";
const SPEC: &str = "version: 1\nname: app\nmanifests: [k8s/]\nimages: { web: \"registry.example.com/team/web:1\" }\n\
                    registries:\n  - server: registry.example.com\n    credential: { vault: kv/app/registry }\n";
/// Has a pod's template, and is ready at once.
const WEB: &str = "apiVersion: v1\nkind: PodTemplate\nmetadata: { name: web }\ntemplate:\n  \
                   spec: { containers: [{ name: web, image: web }] }\n";

fn digest(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

/// The policy of all runs, with digests required and images named.
fn strict(more: &str) -> Policy {
    with(&format!("require_digest = true\n{more}"))
}

fn with(more: &str) -> Policy {
    let images = format!("images = [\"{SERVER}/team/*\"]\n{more}");
    let text = POLICY.replace("require_digest = false\n", &images);
    let text = text.replace("apps/Deployment", "v1/PodTemplate");
    Policy::parse(&text).expect("the policy is valid")
}

/// A stage with a private registry that has the image.
fn stage() -> Stage {
    let stage = Stage::new();
    let fakes = &stage.fakes;
    fakes.registry.push(SERVER, "team/web", "1", &digest("a"));
    fakes
        .registry
        .lock_up(SERVER, "robot", "hunter2-of-the-registry");
    let fields = [
        ("username", "robot"),
        ("password", "hunter2-of-the-registry"),
    ];
    fakes.vault.put("kv/app/registry", &fields);
    stage
}

async fn run(stage: &Stage, spec: &str, mode: Mode) -> Report {
    let files = [("quaymaster.yaml", spec), ("k8s/all.yaml", WEB)];
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let bundle = Bundle {
        files: files.into(),
    };
    let request = request::read(&bundle, mode).expect("the bundle is valid");
    stage.run_under(&strict(""), request).await
}

fn images(stage: &Stage) -> Vec<String> {
    let id = id("v1", "PodTemplate", "web");
    let body = stage.fakes.cluster.object(&id).unwrap_or_default();
    let origin = crate::object::Origin {
        file: String::new(),
        line: 0,
    };
    image::images_of(&crate::object::Object { id, body, origin })
}

#[tokio::test(start_paused = true)]
async fn a_tag_becomes_its_digest_in_objects_log_and_report() {
    let stage = stage();
    let report = run(&stage, SPEC, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    let expected = format!("{SERVER}/team/web:1@{}", digest("a"));
    assert_eq!(images(&stage), std::slice::from_ref(&expected));
    assert_eq!(report.images[0].after, expected);
    assert_eq!(report.images[0].name, "web");
    let text = stage.text();
    let told = format!("image web: {SERVER}/team/web:1 is {}", digest("a"));
    assert!(text.contains(&told), "{text}");
    assert!(text.contains("comes from kv/app/registry"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(
        stage.fakes.registry.asked(),
        [format!("{SERVER}/team/web:1")]
    );
    assert_eq!(stage.fakes.vault.live_tokens(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_plan_looks_too_and_a_moved_tag_is_another_plan() {
    let stage = stage();
    let report = run(&stage, SPEC, Mode::DryRun).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(images(&stage), Vec::<String>::new());
    let saved = report.plan.expect("a dry run has a plan");
    stage
        .fakes
        .registry
        .push(SERVER, "team/web", "1", &digest("b"));
    let files = [("quaymaster.yaml", SPEC), ("k8s/all.yaml", WEB)];
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let bundle = Bundle {
        files: files.into(),
    };
    let mut request = request::read(&bundle, Mode::Deploy).expect("the bundle is valid");
    request.binding.plan = Some(saved);
    let report = stage.run_under(&strict(""), request).await;
    assert_eq!(report.code, Some(Code::PlanChanged), "{report:?}");
    assert_eq!(images(&stage), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_digest_is_looked_for_and_stays_what_it_is() {
    let stage = stage();
    let pinned = format!("team/web:old@{}", digest("a"));
    let report = run(&stage, &SPEC.replace("team/web:1", &pinned), Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(images(&stage), [format!("{SERVER}/{pinned}")]);
    assert!(stage.text().contains("is in its registry"));
    let gone = SPEC.replace("team/web:1", &format!("team/web:1@{}", digest("c")));
    let report = run(&stage, &gone, Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::ImageMissing), "{report:?}");
    assert_eq!(images(&stage), [format!("{SERVER}/{pinned}")]);
}

#[tokio::test(start_paused = true)]
async fn what_a_registry_refuses_ends_the_run_before_a_write() {
    let stage = stage();
    let rows = [
        (SPEC.replace("web:1", "web:2"), Code::ImageMissing, "web:2"),
        (
            SPEC.replace("    credential: { vault: kv/app/registry }\n", ""),
            Code::RegistryDenied,
            "401",
        ),
        (
            SPEC.replace("kv/app/registry }", "kv/app/registry, password: username }"),
            Code::RegistryDenied,
            "401",
        ),
        (
            SPEC.replace("kv/app/registry", "kv/app/nothing"),
            Code::SecretMissing,
            "kv/app/nothing",
        ),
        (
            SPEC.replace("kv/app/registry }", "kv/app/registry, username: user }"),
            Code::SecretMissing,
            "no field user",
        ),
    ];
    for (spec, code, words) in rows {
        let report = run(&stage, &spec, Mode::Deploy).await;
        assert_eq!(report.code, Some(code), "{report:?}");
        assert!(report.message.contains(words), "{}", report.message);
        assert!(report.problem.is_some_and(|problem| problem.hint.is_some()));
    }
    assert_eq!(stage.fakes.cluster.writes(), Vec::<String>::new());
    assert_eq!(stage.fakes.journal.entries(), []);
    assert_eq!(stage.fakes.vault.live_tokens(), 0);
    assert!(!stage.text().contains("hunter2"));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_is_waited_for_until_the_deadline() {
    let stage = stage();
    let away = || RegistryError::Unavailable {
        server: format!("https://{SERVER}"),
        reason: "429".to_owned(),
        retry_after_seconds: Some(20),
    };
    stage.fakes.registry.fail(away());
    let began = Instant::now();
    let report = run(&stage, SPEC, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert!(began.elapsed() >= Duration::from_secs(20));
    assert!(stage.text().contains("429; waiting and trying again"));
    (0..100).for_each(|_| stage.fakes.registry.fail(away()));
    let report = run(&stage, SPEC, Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::RegistryUnavailable), "{report:?}");
    assert!(report.problem.is_some_and(|problem| problem.retryable));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_nobody_lists_is_asked_where_the_rule_wants_it() {
    let stage = Stage::new();
    let spec = SPEC.split("registries:").next().unwrap_or_default();
    let files = [("quaymaster.yaml", spec), ("k8s/all.yaml", WEB)];
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let bundle = Bundle {
        files: files.into(),
    };
    let read = || request::read(&bundle, Mode::Deploy).expect("the bundle is valid");
    let loose = with("require_digest = false\n");
    let report = stage.run_under(&loose, read()).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(images(&stage), [format!("{SERVER}/team/web:1")]);
    assert_eq!(stage.fakes.registry.asked(), Vec::<String>::new());
    let denied = authorize::authorize(&strict(""), job(), read(), &[], "d1");
    let denied = denied.expect_err("a tag is no digest");
    assert!(denied.hint.contains("`registries`"), "{denied:?}");
    let report = stage
        .run_under(&strict("check_images = true\n"), read())
        .await;
    assert_eq!(report.code, Some(Code::ImageMissing), "{report:?}");
    stage
        .fakes
        .registry
        .push(SERVER, "team/web", "1", &digest("a"));
    let report = stage
        .run_under(&strict("check_images = true\n"), read())
        .await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(
        images(&stage),
        [format!("{SERVER}/team/web:1@{}", digest("a"))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_registry_without_an_image_is_told_and_not_asked() {
    let stage = stage();
    let spec = SPEC.replace("server: registry", "server: other");
    let spec = spec.replace("team/web:1", &format!("team/web:1@{}", digest("a")));
    let report = run(&stage, &spec, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(stage.fakes.registry.asked(), Vec::<String>::new());
    let text = stage.text();
    assert!(
        text.contains("is in other.example.com, so it is not asked"),
        "{text}"
    );
}
