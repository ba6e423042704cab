//! Does a rule let the agent fetch the chart of a request?
//!
//! Called by [`super::grant`] before anything is fetched. An address has one spelling
//! ([`crate::ports::ChartAddress`]), and that is what the rule's patterns are about, never a version.

use super::grant::Refusal;
use super::grant::any;
use super::grant::refuse;
use crate::policy::ClusterGrant;
use crate::request::Request;
use crate::spec::ChartSource;

/// Decides whether the chart may be fetched; one of the bundle is part of the request itself.
pub(super) fn fetch(grant: &ClusterGrant, request: &Request) -> Result<(), Refusal> {
    let source = request.spec.helm.as_ref().map(|helm| &helm.chart);
    let Some(ChartSource::Remote(chart)) = source else {
        return Ok(());
    };
    let address = chart.address.to_string();
    if any(&grant.charts, &address) {
        return Ok(());
    }
    Err(refuse(
        format!("helm.chart: fetching {address} is not granted by `charts` of the rule"),
        "ask the operator to add it to the rule's key `charts`, naming the decision id; or put the \
         chart into the bundle (`helm pull --untar`)",
    ))
}
