//! Flux's programs: two controllers that are built, and the custom resources of three modules.
//!
//! Called by `Stand::flux` on first use, because they cost minutes and most scenarios need none of them. Source
//! controller cannot be built (a module that it needs is not served), but its module can be had, and with it its
//! resources. Invariant: what is in the cache is whole.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use serde::Deserialize;
use serde::Serialize;
use tokio::process::Command;

use super::BUILD;
use super::GoProgram;
use super::build;
use super::folder;
use super::go;
use super::locate;
use super::turn;
use crate::progress::Event;
use crate::stand::layout::Settings;
use crate::stand::process;

const KUSTOMIZE: GoProgram = GoProgram {
    tool: "kustomize-controller",
    version: "1.9.5",
    binary: "kustomize-controller",
    package: "github.com/fluxcd/kustomize-controller",
    seconds: 200,
};

const HELM: GoProgram = GoProgram {
    tool: "helm-controller",
    version: "1.6.4",
    binary: "helm-controller",
    package: "github.com/fluxcd/helm-controller",
    seconds: 110,
};

/// The stand's source controller is `source`; of this one only the resources are taken.
const SOURCE: GoProgram = GoProgram {
    tool: "source-controller",
    version: "1.9.0",
    binary: "source-controller",
    package: "github.com/fluxcd/source-controller",
    seconds: 10,
};

/// Where Flux's programs and resources are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::stand) struct Flux {
    /// The controller of Kustomizations.
    pub kustomize: PathBuf,
    /// The controller of HelmReleases.
    pub helm: PathBuf,
    /// Folders with the definitions of their resources and of the sources.
    pub definitions: Vec<PathBuf>,
}

/// Says where Flux is, if all of it is there.
pub(in crate::stand) fn find(settings: &Settings) -> Option<Flux> {
    let program = |of: &GoProgram| locate(settings, of.tool, of.version, of.binary);
    let definitions = [&KUSTOMIZE, &HELM, &SOURCE].map(|of| definitions(settings, of));
    definitions.iter().all(|dir| dir.is_dir()).then_some(())?;
    Some(Flux {
        kustomize: program(&KUSTOMIZE)?,
        helm: program(&HELM)?,
        definitions: definitions.to_vec(),
    })
}

/// Gets what is missing of Flux; `tell` hears what happens meanwhile.
///
/// # Errors
/// When Go is missing or a module cannot be had.
pub(in crate::stand) async fn ensure(settings: &Settings, tell: fn(&Event)) -> Result<Flux> {
    if let Some(found) = find(settings) {
        return Ok(found);
    }
    let _turn = turn(settings, || {}).await?;
    let steps = [&SOURCE, &KUSTOMIZE, &HELM];
    for (i, program) in steps.into_iter().enumerate() {
        let what = format!("getting Flux's {} {}", program.tool, program.version);
        tell(&Event::Step {
            index: i + 1,
            of: steps.len(),
            what: what.clone(),
            seconds_left: steps[i..].iter().map(|program| program.seconds).sum(),
        });
        get(settings, program).await.context(what)?;
    }
    find(settings).context("Flux was built and is not there")
}

async fn get(settings: &Settings, program: &GoProgram) -> Result<()> {
    let built = program.tool == SOURCE.tool
        || locate(settings, program.tool, program.version, program.binary).is_some();
    if !built {
        build(settings, program).await?;
    }
    let to = definitions(settings, program);
    if to.is_dir() {
        return Ok(());
    }
    let from = module(program).await?.join("config/crd/bases");
    let dir = folder(settings, program.tool, program.version);
    fs::create_dir_all(&dir)?;
    let beside = tempfile::tempdir_in(&dir)?;
    for entry in fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        // Read and written, because files of the module cache cannot be written to.
        fs::write(
            beside.path().join(entry.file_name()),
            fs::read(entry.path())?,
        )?;
    }
    fs::rename(beside.keep(), &to).with_context(|| format!("making {}", to.display()))
}

fn definitions(settings: &Settings, program: &GoProgram) -> PathBuf {
    folder(settings, program.tool, program.version).join("crds")
}

/// Folder of a module's source, which is fetched if it is missing.
async fn module(program: &GoProgram) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("stand");
    let mut command = Command::new(go().context("go is missing")?);
    command
        // Its go.sum says what is right.
        .current_dir(source.join(program.tool))
        .env("GOTOOLCHAIN", "local")
        .args(["mod", "download", "-json"])
        .arg(format!("{}@v{}", program.package, program.version));
    let said = process::run_with(&mut command, None, BUILD).await?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let dir = said["Dir"].as_str().context("go names no folder")?;
    Ok(PathBuf::from(dir))
}
