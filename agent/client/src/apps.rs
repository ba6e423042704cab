//! Which app is meant, and its history as a table. Pure.
//!
//! Called by `commands`. A job of a project with one app need not name it: its runs do. Where they
//! do not agree nothing is guessed, for a rollback of the wrong app is worse than a question.

use proto::app::App;
use proto::app::Revision;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use proto::report::RunList;

use crate::args::AppOf;
use crate::log::clean;

/// One app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Its cluster.
    pub(crate) cluster: ClusterName,
    /// Its namespace.
    pub(crate) namespace: Namespace,
    /// Its name.
    pub(crate) name: DeployName,
}

impl Place {
    /// Returns the path of the app.
    pub(crate) fn path(&self) -> String {
        let Self {
            cluster,
            namespace,
            name,
        } = self;
        format!("/v1/apps/{cluster}/{namespace}/{name}")
    }
}

/// Returns the app if it was named to the end.
pub(crate) fn named(app: &AppOf) -> Option<Place> {
    Some(Place {
        cluster: app.cluster.clone()?,
        namespace: app.namespace.clone()?,
        name: app.name.clone()?,
    })
}

/// Finds the one app among the project's runs that fits what was named.
pub(crate) fn found(app: &AppOf, runs: &RunList) -> Result<Place, Problem> {
    let fits = |place: &Place| {
        app.name.as_ref().is_none_or(|name| *name == place.name)
            && app
                .cluster
                .as_ref()
                .is_none_or(|name| *name == place.cluster)
            && app
                .namespace
                .as_ref()
                .is_none_or(|name| *name == place.namespace)
    };
    let places = runs.runs.iter().map(|run| Place {
        cluster: run.cluster.clone(),
        namespace: run.namespace.clone(),
        name: run.name.clone(),
    });
    let mut places: Vec<Place> = places.filter(fits).collect();
    places.sort();
    places.dedup();
    match places.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Problem::new(
            Code::NotFound,
            "no run of the project tells which app is meant",
        )
        .hint("name it: NAME --cluster CLUSTER --namespace NAMESPACE")),
        several => {
            let names = several.iter().map(|one| {
                format!(
                    "{} (--cluster {} --namespace {})",
                    one.name, one.cluster, one.namespace
                )
            });
            let names = names.collect::<Vec<_>>().join(", ");
            let text = format!("the project has several apps that fit: {names}");
            Err(Problem::new(Code::BadRequest, text).hint("name one of them"))
        }
    }
}

/// Renders the revisions, the newest first.
pub(crate) fn table(app: &App) -> String {
    let mut rows = vec![
        [
            "REVISION", "STATUS", "TIME", "PIPELINE", "COMMIT", "REF", "USER",
        ]
        .map(str::to_owned),
    ];
    rows.extend(app.revisions.iter().map(|one| row(one, app.current)));
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = format!("{}/{}/{}\n", app.cluster, app.namespace, app.name);
    for row in &rows {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn row(revision: &Revision, current: Option<u64>) -> [String; 7] {
    let told = |text: &Option<String>| {
        text.as_deref()
            .map_or_else(|| "-".to_owned(), |text| clean(text).replace('\n', " "))
    };
    let mark = if current == Some(revision.number) {
        "*"
    } else {
        ""
    };
    let commit = told(&revision.commit);
    [
        format!("{}{mark}", revision.number),
        revision.status.word().to_owned(),
        clean(&revision.time),
        revision
            .pipeline
            .map_or_else(|| "-".to_owned(), |number| number.to_string()),
        commit.chars().take(8).collect(),
        told(&revision.reference),
        told(&revision.user),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(apps: &[(&str, &str)]) -> RunList {
        let run = |(namespace, name): &(&str, &str)| {
            serde_json::json!({ "id": format!("r{:032x}", 1), "mode": "deploy", "name": name,
                "cluster": "demo", "namespace": namespace, "status": "succeeded",
                "started": "", "message": "" })
        };
        let list: Vec<_> = apps.iter().map(run).collect();
        serde_json::from_value(serde_json::json!({ "runs": list })).expect("a list of runs")
    }

    fn app(name: Option<&str>) -> AppOf {
        AppOf {
            name: name.map(|name| name.parse().expect("a name")),
            cluster: None,
            namespace: None,
        }
    }

    #[test]
    fn the_only_app_need_not_be_named() {
        let place = found(&app(None), &runs(&[("flask", "web"), ("flask", "web")])).expect("one");
        assert_eq!(place.path(), "/v1/apps/demo/flask/web");
    }

    #[test]
    fn of_several_apps_none_is_guessed() {
        let two = runs(&[("flask", "web"), ("flask", "db")]);
        let code = |name| found(&app(name), &two).map_err(|problem| problem.code);
        assert_eq!(code(None).map(drop), Err(Code::BadRequest));
        assert_eq!(code(Some("other")).map(drop), Err(Code::NotFound));
        assert_eq!(
            code(Some("db")).map(|place| place.name.to_string()),
            Ok("db".to_owned())
        );
    }

    #[test]
    fn the_current_revision_is_marked_and_unknown_cells_are_dashes() {
        let revision = |number, status| {
            serde_json::json!({ "number": number, "status": status, "can_come_back": true,
                "run": "r1", "time": "2026-01-02T03:04:05Z", "commit": "0123456789abcdef" })
        };
        let app: App =
            serde_json::from_value(serde_json::json!({ "name": "web", "cluster": "demo",
            "namespace": "flask", "current": 1, "objects": [],
            "revisions": [revision(2, "rolled_back"), revision(1, "deployed")] }))
            .expect("an app");
        let table = table(&app);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "demo/flask/web");
        let cells = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(cells(lines[2])[..2], ["2", "rolled_back"]);
        let newest = [
            "1*",
            "deployed",
            "2026-01-02T03:04:05Z",
            "-",
            "01234567",
            "-",
            "-",
        ];
        assert_eq!(cells(lines[3]), newest);
    }
}
