//! What a job gets back for GitLab: the report and the dotenv file, images in the log, also of runs
//! that failed or were refused.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use tests::world::World;

use crate::client::folder;
use crate::client::quaymaster;
use crate::client::told;
use crate::samples::Deployment;

const FILES: [&str; 5] = [
    "deploy",
    "--report",
    "deploy.json",
    "--dotenv",
    "deploy.env",
];

fn report(dir: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(dir.join("deploy.json"))?)?)
}

fn dotenv(dir: &Path) -> Result<String> {
    Ok(fs::read_to_string(dir.join("deploy.env"))?)
}

fn spec_with(image: &str) -> String {
    format!(
        "version: 1\nname: app\nmanifests: [k8s/]\nimages: {{ shop: {image:?} }}\nrollout: {{ timeout: 60s }}\n"
    )
}

#[tokio::test]
async fn the_report_and_the_variables_tell_how_a_deploy_ended() -> Result<()> {
    let world = World::new("feedback").await?;
    let image = world.stand.busybox();
    let web = Deployment {
        image: "shop",
        ..Deployment::default()
    };
    let dir = folder(
        &world,
        &[
            ("quaymaster.yaml", &spec_with(&image)),
            ("k8s/web.yaml", &web.yaml()),
        ],
    )?;
    let job = [
        ("CI_ENVIRONMENT_NAME", "production"),
        ("CI_ENVIRONMENT_URL", "https://shop.example.com"),
    ];
    let done = quaymaster(&world, &FILES, dir.path(), &job).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    let log = told(&done);
    for line in [
        format!("image shop: {image}\n"),
        "environment production: https://shop.example.com\n".to_owned(),
    ] {
        ensure!(log.contains(&line), "no {line:?} in: {log}");
    }
    let written = report(dir.path())?;
    ensure!(
        written["status"] == "succeeded" && written["images"][0]["after"] == *image,
        "{written}"
    );
    let variables = dotenv(dir.path())?;
    let run = written["id"].as_str().context("the run has an id")?;
    for line in [
        "QUAYMASTER_STATUS=succeeded\n".to_owned(),
        format!("QUAYMASTER_RUN={run}\n"),
        "QUAYMASTER_REVISION=1\n".to_owned(),
        "QUAYMASTER_URL=https://shop.example.com\n".to_owned(),
        format!("QUAYMASTER_IMAGE_SHOP={image}\n"),
    ] {
        ensure!(variables.contains(&line), "no {line:?} in: {variables}");
    }

    let (name, _) = image.rsplit_once(':').context("the image has a tag")?;
    let missing = format!("{name}-gone:1");
    fs::write(dir.path().join("quaymaster.yaml"), spec_with(&missing))?;
    let failed = quaymaster(&world, &FILES, dir.path(), &[]).await?;
    ensure!(failed.status.code() == Some(10), "{}", told(&failed));
    let line = format!("image shop: {image} -> {missing}\n");
    ensure!(told(&failed).contains(&line), "{}", told(&failed));
    ensure!(report(dir.path())?["status"] == "failed");
    let variables = dotenv(dir.path())?;
    ensure!(
        variables.starts_with("QUAYMASTER_STATUS=failed\n") && !variables.contains("IMAGE"),
        "{variables}"
    );
    Ok(())
}

#[tokio::test]
async fn a_refused_deploy_has_its_files_too() -> Result<()> {
    let world = World::new("refused-files").await?;
    let dir = folder(
        &world,
        &[("quaymaster.yaml", "version: 1\nname: app\nmanifest: []\n")],
    )?;
    let invalid = quaymaster(&world, &FILES, dir.path(), &[]).await?;
    ensure!(invalid.status.code() == Some(21), "{}", told(&invalid));
    let written = report(dir.path())?;
    ensure!(
        written["status"] == "invalid" && written["code"] == "spec_invalid",
        "{written}"
    );
    let variables = dotenv(dir.path())?;
    ensure!(variables == "QUAYMASTER_STATUS=invalid\n", "{variables}");
    let nowhere = ["deploy", "--report", "no/such/folder/deploy.json"];
    let invalid = quaymaster(&world, &nowhere, dir.path(), &[]).await?;
    ensure!(
        invalid.status.code() == Some(21) && told(&invalid).contains("no/such/folder"),
        "a file that cannot be written changes no exit code: {}",
        told(&invalid)
    );
    Ok(())
}
