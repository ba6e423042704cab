//! What must hold of every plan, whatever is wanted and whatever is there: tried on generated input.
//!
//! Nobody calls this: it is made of tests. [`made`] generates apps, states of the cluster and Vault, [`runs`]
//! carries runs out on the doubles of the ports. Every property has been seen to fail on broken code. Inputs
//! are new in each test run; one that fails is printed in its smallest form.

mod made;
mod runs;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proptest::prelude::Just;
use proptest::prelude::ProptestConfig;
use proptest::prelude::Strategy as _;
use proptest::prelude::any;
use proptest::prelude::prop;
use proptest::prelude::prop_assert;
use proptest::prelude::prop_assert_eq;
use proptest::prelude::proptest;
use proto::report::Action;
use proto::report::Mode;
use proto::report::Status;
use serde_json::Value;

use self::runs::Scene;
use crate::field::FieldPath;
use crate::history::PART_OF;

/// Generated cases of one property.
const CASES: u32 = 64;

/// New cases each time, and no file that remembers the failed ones.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Names of the steps that do something, with what they do.
fn busy(report: &proto::report::Report) -> Vec<String> {
    let steps = report
        .steps
        .iter()
        .filter(|step| step.action != Action::Same);
    steps
        .map(|step| format!("{:?} {}: {}", step.action, step.object, step.reason))
        .collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_second_deploy_changes_nothing((app, live) in made::case()) {
        Scene::with(&app, &live, async |scene| {
            let first = scene.run(&app, Mode::Deploy).await;
            prop_assert_eq!(first.status, Status::Succeeded, "{:?}", first);
            let written = scene.writes();
            let plan = scene.run(&app, Mode::DryRun).await;
            prop_assert_eq!(plan.status, Status::Succeeded, "{:?}", plan);
            prop_assert_eq!(busy(&plan), Vec::<String>::new());
            let second = scene.run(&app, Mode::Deploy).await;
            prop_assert_eq!(second.status, Status::Succeeded, "{:?}", second);
            prop_assert_eq!(busy(&second), Vec::<String>::new());
            prop_assert_eq!(scene.writes(), written);
            Ok(())
        })?;
    }

    #[test]
    fn no_secret_value_leaves((app, live) in made::case(), contested in any::<bool>()) {
        Scene::with(&app, &live, async |scene| {
            if contested {
                scene.contest(&app);
            }
            for mode in [Mode::DryRun, Mode::Deploy, Mode::DryRun] {
                let report = scene.run(&app, mode).await;
                let told = serde_json::to_string(&report).expect("a report is JSON");
                let saved = serde_json::to_string(&report.plan).expect("a plan is JSON");
                let text = scene.text();
                for canary in made::canaries(&app, &live) {
                    prop_assert!(!told.contains(&canary), "{canary} in the report: {told}");
                    prop_assert!(!saved.contains(&canary), "{canary} in the saved plan: {saved}");
                    prop_assert!(!text.contains(&canary), "{canary} in the log: {text}");
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn the_order_of_the_manifests_does_not_matter(
        ((app, live), other) in made::case().prop_flat_map(|case| {
            let other = made::shuffled(&case.0);
            (Just(case), other)
        }),
    ) {
        Scene::with(&app, &live, async |scene| {
            let one = scene.run(&app, Mode::DryRun).await;
            let two = scene.run(&other, Mode::DryRun).await;
            let [one, two] = [one, two].map(|report| {
                let saved = report.plan.expect("a dry run has a plan");
                let told = report.steps.iter().map(|step| format!("{step:?}"));
                let kept = saved.steps.iter().map(|step| format!("{step:?}"));
                let told: BTreeSet<String> = told.collect();
                let kept: BTreeSet<String> = kept.collect();
                (report.message, told, kept)
            });
            prop_assert_eq!(one, two);
            Ok(())
        })?;
    }

    #[test]
    fn only_what_is_the_apps_and_not_wanted_is_deleted(
        before in made::app(),
        after in made::app(),
        strangers in prop::collection::vec(made::thing(), 0..4),
        fates in prop::collection::vec(made::fate(), 8),
    ) {
        Scene::with(&before, &[], async |scene| {
            let named = |id: &String| before.ids().chain(after.ids()).any(|own| own == *id);
            let strangers = strangers.iter().filter(|thing| !named(&thing.id().to_string()));
            scene.strangers(strangers).await;
            let first = scene.run(&before, Mode::Deploy).await;
            prop_assert_eq!(first.status, Status::Succeeded, "{:?}", first);
            let fated = scene.fates(&before, &after, &fates);
            let there = scene.objects();
            let second = scene.run(&after, Mode::Deploy).await;
            prop_assert_eq!(second.status, Status::Succeeded, "{:?}", second);
            let left = scene.objects();
            let wanted: BTreeSet<String> = after.ids().collect();
            let mine = before.ids().filter(|id| !fated.contains(id));
            let mine: BTreeSet<String> = mine.collect();
            for id in &wanted {
                prop_assert!(left.contains_key(id), "{id} is wanted and gone");
            }
            for id in there.keys().filter(|id| !left.contains_key(*id)) {
                let ours = mine.contains(id) && !wanted.contains(id);
                prop_assert!(ours, "{id} is not ours to delete");
            }
            for id in mine.iter().filter(|id| !wanted.contains(*id)) {
                prop_assert!(!left.contains_key(id), "{id} is not wanted and stays");
            }
            Ok(())
        })?;
    }

    #[test]
    fn planned_fields_are_fields_of_the_old_or_the_new_object(
        (app, live) in made::case(),
    ) {
        Scene::with(&app, &live, async |scene| {
            let old = scene.objects();
            let plan = scene.run(&app, Mode::DryRun).await;
            prop_assert_eq!(plan.status, Status::Succeeded, "{:?}", plan);
            scene.run(&app, Mode::Deploy).await;
            let new = scene.objects();
            let whole = |objects: &BTreeMap<String, Value>, id: &str| {
                objects.get(id).cloned().unwrap_or_default()
            };
            for step in &plan.steps {
                let (old, new) = (whole(&old, &step.object), whole(&new, &step.object));
                for field in &step.fields {
                    let path: FieldPath = field.field.parse().expect("a path can be read");
                    let (was, is) = (path.get(&old).is_some(), path.get(&new).is_some());
                    prop_assert_eq!(was, field.before.is_some(), "{:?} {}", field, old);
                    prop_assert_eq!(is, field.after.is_some(), "{:?} {}", field, new);
                    prop_assert!(was || is, "{field:?}");
                }
                let changes = step.action == Action::Change && !step.object.contains("/Secret ");
                prop_assert_eq!(changes, !step.fields.is_empty(), "{:?}", step);
            }
            Ok(())
        })?;
    }
}
