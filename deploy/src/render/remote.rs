//! The chart of a registry or repository becomes an archive beside the bundle's files.
//!
//! Called by [`super::rendered`] with a permit, so the rule has granted the address already. From
//! here on the archive is treated as one of the bundle.

use super::RenderFailure;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::chart;
use crate::ports::ChartError;
use crate::ports::ChartRef;
use crate::ports::Ports;
use crate::request::Source;
use crate::spec::ChartSource;

/// Fetches the chart of the spec, if it is not in the bundle.
pub(super) async fn fetched(
    permit: Permit,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Permit, RenderFailure> {
    let helm = permit.request().spec.helm.as_ref();
    let Some(ChartSource::Remote(reference)) = helm.map(|helm| helm.chart.clone()) else {
        return Ok(permit);
    };
    let fetched = patience
        .retry(|| ports.renderer.fetch(&reference), reading)
        .await
        .map_err(|source| failed(&permit, &reference, source))?;
    let digest = fetched.digest.as_str().to_owned();
    let bytes = fetched.archive.len();
    let permit = permit.with_chart(fetched.archive);
    if !holds_chart(&permit) {
        let reason = "the archive holds no folder with Chart.yaml".to_owned();
        let source = ChartError::NotAChart { reason };
        return Err(failed(&permit, &reference, source));
    }
    patience
        .log
        .info(format!("chart {reference} {digest} fetched, {bytes} bytes"));
    Ok(permit)
}

fn holds_chart(permit: &Permit) -> bool {
    let request = permit.request();
    match (&request.source, &request.spec.helm) {
        (Source::Rendered(files), Some(helm)) => chart::is_chart(files, helm),
        (
            Source::Rendered(_) | Source::Manifests | Source::Revision(_) | Source::Environment,
            _,
        ) => false,
    }
}

fn failed(permit: &Permit, reference: &ChartRef, source: ChartError) -> RenderFailure {
    RenderFailure::Fetch {
        chart: reference.to_string(),
        spec: permit.request().spec.text.clone(),
        source,
    }
}

fn reading(error: &ChartError) -> Trouble {
    let retry_after_seconds = match error {
        ChartError::Unavailable {
            retry_after_seconds,
            ..
        } => *retry_after_seconds,
        ChartError::Missing { .. }
        | ChartError::Denied { .. }
        | ChartError::TooLarge { .. }
        | ChartError::Mismatch { .. }
        | ChartError::NotAChart { .. }
        | ChartError::Unfit { .. }
        | ChartError::Broken { .. } => None,
    };
    Trouble {
        class: error.class(),
        retry_after_seconds,
        reason: error.to_string(),
    }
}
