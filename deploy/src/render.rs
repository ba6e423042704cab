//! What comes out of the kustomization or chart, and does the permit grant it?
//!
//! Called by [`crate::engine`] before anything else of a run. The programs behind
//! [`crate::ports::Renderer`] are not trusted: what they print is read as strictly as manifests of a
//! bundle, and the rule of the permit decides about every object of it, hooks and definitions too.
//! Runs without either pass through.

mod remote;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::error::Code;
use proto::error::Place;
use proto::event::Stage;
use serde_json::Value;
use tokio::time::Instant;

use crate::authorize::Denial;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::bundle::InputError;
use crate::chart;
use crate::class::Class;
use crate::image;
use crate::kinds::BUILT_IN;
use crate::manifest;
use crate::manifest::Manifests;
use crate::object::Gvk;
use crate::object::Object;
use crate::object::Origin;
use crate::object::Resource;
use crate::object::at;
use crate::plan::cluster_trouble;
use crate::ports::Chart;
use crate::ports::ChartError;
use crate::ports::ClusterError;
use crate::ports::Files;
use crate::ports::Lookup;
use crate::ports::Ports;
use crate::ports::Presence;
use crate::ports::Release;
use crate::ports::RenderError;
use crate::request::Source;
use crate::secret::Secret;
use crate::spec::Helm;

/// The longest that one rendering may take.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(60);
/// What Helm's record of a release is called before the release's name.
pub(crate) const RECORD: &str = "sh.helm.release.v1.";
/// The file name of what was rendered, where the template is not known.
const RENDERED: &str = "rendered";

/// Why there are no objects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderFailure {
    /// The chart could not be fetched.
    #[error("fetching chart {chart}")]
    Fetch {
        /// Address and version.
        chart: String,
        /// The text of the spec that names it.
        spec: String,
        /// Why.
        source: ChartError,
    },
    /// The program did not do it.
    #[error("rendering {what}")]
    Program {
        /// The kustomization or chart.
        what: String,
        /// Why.
        source: RenderError,
    },
    /// What came out is not valid.
    #[error("reading what was rendered")]
    Output(#[from] InputError),
    /// The rule does not grant what came out.
    #[error("the rule does not grant what was rendered")]
    Denied(#[source] Box<Denial>),
    /// The cluster could not be asked.
    #[error("asking the cluster about {what}")]
    Cluster {
        /// About what.
        what: String,
        /// Why.
        source: ClusterError,
    },
}

/// Renders what the spec names and asks the permit about every object of it.
///
/// # Errors
/// Nothing was written then.
pub async fn rendered(
    permit: Permit,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Permit, RenderFailure> {
    if !matches!(permit.request().source, Source::Rendered(_)) {
        return Ok(permit);
    }
    patience.log.start(Stage::Render, "render");
    let completed = match remote::fetched(permit, ports, patience).await {
        Ok(permit) => whole(permit, ports, patience).await,
        Err(failure) => Err(failure),
    };
    patience.log.end_stage(Stage::Render);
    completed
}

/// Renders what is now complete: every file is there.
async fn whole(
    permit: Permit,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Permit, RenderFailure> {
    let Source::Rendered(files) = &permit.request().source else {
        return Ok(permit);
    };
    let spec = &permit.request().spec;
    let manifests = match (&spec.kustomize, &spec.helm) {
        (Some(folder), _) => kustomization(files, folder, &permit, ports, patience).await,
        (None, Some(helm)) => templates(files, helm, &permit, ports, patience).await,
        (None, None) => Ok(Manifests::default()),
    };
    complete(permit, manifests?, ports, patience).await
}

async fn complete(
    permit: Permit,
    manifests: Manifests,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Permit, RenderFailure> {
    for note in manifests.notes {
        patience.log.info(note);
    }
    learn(&manifests.objects, patience);
    if manifests.objects.is_empty() {
        let place = Place::message("what was rendered holds no object");
        return Err(InputError::one(Code::ManifestInvalid, place).into());
    }
    let served = served(&manifests.objects, ports, patience).await?;
    patience
        .log
        .info(format!("{} objects rendered", manifests.objects.len()));
    permit
        .complete(manifests.objects, &served)
        .map_err(RenderFailure::Denied)
}

async fn kustomization(
    files: &Files,
    folder: &str,
    permit: &Permit,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Manifests, RenderFailure> {
    let text = patience
        .retry(
            || ports.renderer.kustomize(files, folder, left(patience)),
            reading,
        )
        .await
        .map_err(|source| RenderFailure::Program {
            what: format!("the kustomization {folder}"),
            source,
        })?;
    let mut manifests = manifest::rendered(&format!("{folder} ({RENDERED})"), &text)?;
    let images = &permit.request().spec.images;
    let unused = image::substitute(&mut manifests.objects, images);
    if unused.is_empty() {
        return Ok(manifests);
    }
    let place = |name: &String| Place {
        path: Some(format!("images.{name}")),
        ..Place::message(
            "no container of what kustomize built has an image of this name; name it as it is there",
        )
    };
    Err(RenderFailure::Output(InputError {
        code: Code::SpecInvalid,
        places: unused.iter().map(place).collect(),
    }))
}

async fn templates(
    files: &Files,
    helm: &Helm,
    permit: &Permit,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Manifests, RenderFailure> {
    let chart = Chart {
        presence: presence(helm, permit, ports, patience).await?,
        release: release_of(helm, permit),
        files: files.clone(),
        chart: chart::path(helm),
        values: helm.values.iter().map(|path| chart::plain(path)).collect(),
        set: chart::values(helm, &permit.request().spec.images),
        hooks: helm.hooks,
        crds: helm.crds,
    };
    let failed = |source| RenderFailure::Program {
        what: format!("the chart {}", helm.chart),
        source,
    };
    let (lookup, first) = match template(&chart, Lookup::Cluster, permit, ports, patience).await {
        Err(RenderError::Refused { said, .. }) if cannot_look(&said) => {
            patience.log.warn(
                "the chart has objects of kinds that the cluster does not serve yet or does not \
                 let the job read, so it is rendered without looking at the cluster: `lookup` \
                 finds nothing",
            );
            let text = template(&chart, Lookup::Nothing, permit, ports, patience).await;
            (Lookup::Nothing, text.map_err(failed)?)
        }
        other => (Lookup::Cluster, other.map_err(failed)?),
    };
    let second = template(&chart, lookup, permit, ports, patience).await;
    if second.map_err(failed)? != first {
        patience.log.warn(differs(chart.presence));
    }
    let mut manifests = manifest::rendered(RENDERED, &first).map_err(|mut error| {
        let sources = Sources::of(&first);
        for place in &mut error.places {
            place.file = Some(sources.at(place.line.unwrap_or(0)));
        }
        error
    })?;
    let sources = Sources::of(&first);
    for object in &mut manifests.objects {
        object.origin = Origin {
            file: sources.at(object.origin.line),
            line: 0,
        };
    }
    Ok(manifests)
}

async fn template(
    chart: &Chart,
    lookup: Lookup,
    permit: &Permit,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<u8>, RenderError> {
    let actor = permit.actor();
    patience
        .retry(
            || {
                ports
                    .renderer
                    .template(actor, chart, lookup, left(patience))
            },
            reading,
        )
        .await
}

/// Returns which release the chart of a permit becomes.
pub(crate) fn release_of(helm: &Helm, permit: &Permit) -> Release {
    Release {
        name: helm.release.clone(),
        namespace: permit.namespace().to_string(),
    }
}

/// Says whether the release has records.
async fn presence(
    helm: &Helm,
    permit: &Permit,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Presence, RenderFailure> {
    let (actor, namespace) = (permit.actor(), permit.namespace().as_str());
    let secrets = patience
        .retry(|| ports.cluster.secrets(actor, namespace), cluster_trouble)
        .await;
    let secrets = match secrets {
        Err(ClusterError::Missing { .. }) => BTreeMap::new(),
        other => other.map_err(|source| RenderFailure::Cluster {
            what: format!("the records of release {}", helm.release),
            source,
        })?,
    };
    let prefix = format!("{RECORD}{}.v", helm.release);
    let installed = secrets.iter().any(|(name, view)| {
        name.starts_with(&prefix)
            && at(&view.rest, &["metadata", "labels", "status"])
                != Some(&Value::from("uninstalled"))
    });
    Ok(if installed {
        Presence::Installed
    } else {
        Presence::New
    })
}

/// What to tell of a chart that renders differently each time. What a release has, its chart may look up later.
const fn differs(presence: Presence) -> &'static str {
    match presence {
        Presence::Installed => {
            "the chart renders differently each time (random passwords, certificates, dates), so \
             every deploy changes it; what is written is exactly what this plan shows"
        }
        Presence::New => {
            "the chart renders differently each time (random passwords, certificates, dates), so \
             every deploy changes it, unless the chart then looks up what it has made; what is \
             written is exactly what this plan shows"
        }
    }
}

/// Tells the retry policy about a program that only reads.
fn reading(error: &RenderError) -> Trouble {
    Trouble {
        // A reading that took too long takes as long again.
        class: match error.class() {
            Class::OutcomeUnknown => Class::Caller,
            other => other,
        },
        retry_after_seconds: None,
        reason: error.to_string(),
    }
}

fn left(patience: &Patience<'_>) -> std::time::Duration {
    patience
        .deadline
        .saturating_duration_since(Instant::now())
        .min(LONGEST)
}

/// Says whether Helm could not look at the cluster because the chart brings its own definitions, or
/// has objects that the job may not read; whether it may have them is not Helm's to decide.
fn cannot_look(said: &str) -> bool {
    let words = [
        "no matches for kind",
        "ensure CRDs are installed first",
        "could not get information about the resource",
    ];
    words.iter().any(|word| said.contains(word))
}

/// Makes the log know what is in rendered Secrets: a chart may copy it anywhere.
fn learn(objects: &[Object], patience: &Patience<'_>) {
    for object in objects.iter().filter(|o| o.id.gvk.is("", "Secret")) {
        let data = at(&object.body, &["data"]).and_then(Value::as_object);
        for value in data.into_iter().flat_map(|data| data.values()) {
            let text: String = value
                .as_str()
                .unwrap_or_default()
                .split_whitespace()
                .collect();
            let bytes = STANDARD.decode(text).unwrap_or_default();
            patience.log.learn(&Secret::new(bytes));
        }
    }
}

/// Asks how the cluster serves kinds that are not its own.
async fn served(
    objects: &[Object],
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<Resource>, RenderFailure> {
    let own = |gvk: &Gvk| BUILT_IN.iter().any(|(group, _)| *group == gvk.group);
    let kinds: BTreeSet<&Gvk> = objects.iter().map(|object| &object.id.gvk).collect();
    let mut served = Vec::new();
    for gvk in kinds.into_iter().filter(|gvk| !own(gvk)) {
        let asked = patience
            .retry(|| ports.cluster.resource(gvk), cluster_trouble)
            .await;
        match asked {
            Ok(resource) => served.push(resource),
            // What is rendered may define it; else the check says so.
            Err(ClusterError::UnknownKind { .. }) => {}
            Err(source) => {
                return Err(RenderFailure::Cluster {
                    what: gvk.to_string(),
                    source,
                });
            }
        }
    }
    Ok(served)
}

/// Which template each line of Helm's output comes from, by its comments. A template can forge
/// them, so they are for people, and never decided on.
struct Sources(BTreeMap<u64, String>);

impl Sources {
    fn of(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let lines = text.lines().zip(1_u64..);
        let named = lines.filter_map(|(line, number)| {
            let file = line.strip_prefix("# Source: ")?;
            let file: String = file.chars().filter(|c| !c.is_control()).take(240).collect();
            Some((number, file))
        });
        Self(named.collect())
    }

    fn at(&self, line: u64) -> String {
        let last = self.0.range(..=line).next_back();
        last.map_or(RENDERED, |(_, file)| file).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_helms_output_lead_to_templates() {
        let text = b"---\n# Source: a/templates/x.yaml\nkind: A\n---\nkind: B\n---\n# Source: a/crds/y.yaml\nkind: C\n";
        let sources = Sources::of(text);
        let told: Vec<String> = [1, 3, 5, 8].iter().map(|line| sources.at(*line)).collect();
        assert_eq!(
            told,
            [
                "rendered",
                "a/templates/x.yaml",
                "a/templates/x.yaml",
                "a/crds/y.yaml"
            ]
        );
    }
}
