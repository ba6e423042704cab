//! Tells why fields cannot be written: others own them, or they cannot change.
//!
//! Called by [`super::of_check`]. Every field is a place of its own, with the file and line of its
//! object; values of Secrets are masked before they get here.

use proto::error::Code;
use proto::error::Place;
use proto::error::Problem;
use proto::report::FieldChange;

use crate::check::Subject;
use crate::check::fields::Contested;
use crate::check::fixed::Obstacle;

/// Makes a place in the manifest of an object.
fn place_of(subject: &Subject, field: &str, message: String) -> Place {
    let origin = subject.origin.as_ref();
    Place {
        file: origin.map(|origin| origin.file.clone()),
        line: origin.map(|origin| origin.line).filter(|line| *line > 0),
        path: Some(field.to_owned()),
        ..Place::message(message)
    }
}

/// Tells fields that other managers own and that no rule gives away.
pub(super) fn contested(objects: &[(Subject, Vec<Contested>)]) -> Problem {
    let places = objects.iter().flat_map(|(subject, fields)| {
        fields.iter().map(move |field| {
            let since = match field.since.as_str() {
                "" => String::new(),
                time => format!(" since {time}"),
            };
            let message = format!(
                "{} {}: manager {} has {}{since}, the manifest has {}",
                subject.object, field.field, field.manager, field.theirs, field.ours
            );
            place_of(subject, &field.field, message)
        })
    });
    let places: Vec<Place> = places.collect();
    let told: Vec<&str> = places.iter().map(|place| place.message.as_str()).collect();
    Problem::new(
        Code::ApplyConflict,
        format!("fields belong to other managers: {}", told.join("; ")),
    )
    .hint(
        "take the field out of the manifest, or say in quaymaster.yaml what happens to it, such as \
         'conflicts: [{ field: .spec.replicas, then: leave }]' (or take), or 'adopt: [manager]'",
    )
    .places(places)
}

/// Tells fields that cannot change.
pub(super) fn fixed(objects: &[(Subject, Vec<FieldChange>, Obstacle)]) -> Problem {
    let places = objects.iter().flat_map(|(subject, fields, _)| {
        fields.iter().map(move |change| {
            let values = match (&change.before, &change.after) {
                (Some(before), Some(after)) => {
                    format!(" (it has {before}, the manifest has {after})")
                }
                (None, Some(after)) => format!(" (the manifest has {after})"),
                (Some(_), None) | (None, None) => String::new(),
            };
            let message = format!("{} {} cannot change{values}", subject.object, change.field);
            place_of(subject, &change.field, message)
        })
    });
    let places: Vec<Place> = places.collect();
    let told: Vec<&str> = places.iter().map(|place| place.message.as_str()).collect();
    let hint = match objects.first().map(|(_, _, why)| *why) {
        Some(Obstacle::HoldsData) => {
            "objects of this kind hold data or carry others, so the agent never makes them anew: \
             take the change back, or use another name"
        }
        Some(Obstacle::Kept) => {
            "quaymaster.dev/keep says that this object is never deleted: take the change back, or \
             use another name"
        }
        Some(Obstacle::Secret) => {
            "the Secret is immutable or of another type, and what uses it would be without it while it \
             is made anew: give it another name here and in what uses it, then delete the old one"
        }
        Some(Obstacle::NotAllowed) | None => {
            "take the change back, use another name, or let the object be deleted and made anew \
             with the annotation quaymaster.dev/recreate: allow"
        }
    };
    Problem::new(Code::ObjectInvalid, told.join("; "))
        .hint(hint)
        .places(places)
}
