//! What a reader of the end of a log looks for: which images came, and where the app can be seen.
//!
//! Called by [`super`] with the plan and what was there before. Pure. Nothing here is proof of
//! anything: a run that failed may have put the images of before back.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proto::report::ImageChange;
use serde_json::Value;

use crate::image;
use crate::object::ObjectId;
use crate::object::list;
use crate::object::text;
use crate::plan::Content;
use crate::plan::Live;
use crate::plan::Plan;

/// Lists every image of a plan with the one that stood in its place, each once. Where Flux applies,
/// what is there is in its repository, and the plan's steps tell it line by line.
pub(super) fn images(plan: &Plan, observed: &BTreeMap<ObjectId, Live>) -> Vec<ImageChange> {
    let spec = &plan.permit().request().spec;
    let mut found = BTreeSet::new();
    if spec.flux.is_some() {
        found.extend(spec.images.iter().map(|(name, reference)| ImageChange {
            name: name.clone(),
            before: None,
            after: reference.to_string(),
        }));
    }
    for step in plan.steps() {
        let Content::Object(body) = &step.content else {
            continue;
        };
        let there = match observed.get(&step.id) {
            Some(Live::Object(there)) => image::of_containers(&step.id.gvk, there),
            Some(Live::Absent | Live::Secret(_)) | None => BTreeMap::new(),
        };
        for (container, after) in image::of_containers(&step.id.gvk, body) {
            let named = |(name, reference): (&String, &image::ImageRef)| {
                (reference.to_string() == after).then(|| name.clone())
            };
            let name = spec.images.iter().find_map(named);
            found.insert(ImageChange {
                name: name.unwrap_or_else(|| image::name_of(after).to_owned()),
                before: there.get(container).map(|before| (*before).to_owned()),
                after: after.to_owned(),
            });
        }
    }
    found.into_iter().collect()
}

/// Returns the address of a plan's only host of an Ingress; where there are several, none of them is
/// the app's by itself.
pub(super) fn url(plan: &Plan) -> Option<String> {
    let ingresses = plan.steps().iter().filter_map(|step| match &step.content {
        Content::Object(body) if step.id.gvk.is("networking.k8s.io", "Ingress") => Some(body),
        Content::Object(_) | Content::Secret { .. } => None,
    });
    let addresses: BTreeSet<String> = ingresses.flat_map(addresses).collect();
    let mut addresses = addresses.into_iter();
    addresses.next().filter(|_| addresses.next().is_none())
}

/// Lists the addresses of an Ingress, without those for any host.
fn addresses(ingress: &Value) -> Vec<String> {
    let secured: BTreeSet<&str> = list(ingress, &["spec", "tls"])
        .iter()
        .flat_map(|tls| list(tls, &["hosts"]))
        .filter_map(Value::as_str)
        .collect();
    list(ingress, &["spec", "rules"])
        .iter()
        .map(|rule| text(rule, &["host"]))
        .filter(|host| !host.is_empty() && !host.contains('*'))
        .map(|host| match secured.contains(host) {
            true => format!("https://{host}/"),
            false => format!("http://{host}/"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::addresses;

    #[test]
    fn an_ingress_has_an_address_for_every_host_that_is_named() {
        let ingress = json!({ "spec": {
            "tls": [{ "hosts": ["shop.example.com"] }],
            "rules": [{ "host": "shop.example.com" }, { "host": "*.example.com" }, {}, { "host": "old.example.com" }],
        }});
        assert_eq!(
            addresses(&ingress),
            ["https://shop.example.com/", "http://old.example.com/"]
        );
    }
}
