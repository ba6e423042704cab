//! What the sockets ask of the rest: who is it, may they, and what is the work.
//!
//! Functions instead of modules, so that the server runs in tests without issuer, Vault and
//! cluster. `app` fills them with `auth`, `deploy::authorize` and the engine.

use std::sync::Arc;

use bytes::Bytes;
use deploy::authorize::Denial;
use deploy::bundle::InputError;
use deploy::bundle::Packing;
use deploy::principal::Principal;
use futures::future::BoxFuture;
use proto::app::App;
use proto::app::Rollback;
use proto::error::Code;
use proto::error::Place;
use proto::error::Problem;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use proto::report::Mode;
use proto::report::NearMiss;
use proto::report::Report;
use proto::values::Values;

use super::answer::Refusal;
use super::route::AppName;
use crate::auth::Identity;
use crate::auth::Presented;
use crate::gitlab::Herald;
use crate::journal::UnfinishedRun;
use crate::runs::Work;

/// Files of a bundle that the query of a request names.
#[derive(Debug, Default)]
pub struct Named {
    /// The saved plan which the run has to keep.
    pub plan: Option<String>,
    /// The spec of the environment whose images are promoted.
    pub promote: Option<String>,
}

/// What a submission brings.
pub enum Wish {
    /// A bundle to deploy.
    Bundle {
        /// The archive.
        body: Bytes,
        /// How it is packed.
        packing: Packing,
        /// Files of the bundle that the request names beside the spec.
        named: Named,
    },
    /// A recorded revision to go back to.
    Revision(Rollback),
}

/// A complete submission of a known caller.
pub struct Asked {
    /// Who asks, with the tokens.
    pub identity: Identity,
    /// What for.
    pub wish: Wish,
    /// Whether it writes.
    pub mode: Mode,
    /// The id of the policy decision.
    pub decision: String,
}

/// A complete request for variables by a known caller.
pub struct Ask {
    /// Who asks, with the tokens.
    pub identity: Identity,
    /// The id of the policy decision.
    pub decision: String,
    /// The archive with the spec.
    pub body: Bytes,
    /// How it is packed.
    pub packing: Packing,
}

/// A submission that is allowed and ready to run.
pub struct Prepared {
    /// The app's name.
    pub name: DeployName,
    /// The app's cluster.
    pub cluster: ClusterName,
    /// The app's namespace.
    pub namespace: Namespace,
    /// What to do.
    pub work: Work,
    /// Tells GitLab about it; unset: nobody does.
    pub herald: Option<Herald>,
}

/// Verifies tokens.
pub type Identify =
    Arc<dyn Fn(Presented) -> BoxFuture<'static, Result<Identity, Problem>> + Send + Sync>;
/// Says whether any rule matches a caller; asked before the body is read.
pub type Admit = Arc<dyn Fn(&Principal, &str) -> Result<(), Denial> + Send + Sync>;
/// Lists matching rules and the nearest misses.
pub type Explain = Arc<dyn Fn(&Principal) -> (Vec<String>, Vec<NearMiss>) + Send + Sync>;
/// Turns a bundle into permitted work.
pub type Prepare =
    Arc<dyn Fn(Asked) -> BoxFuture<'static, Result<Prepared, Problem>> + Send + Sync>;

/// Reads the values that a job may have.
pub type Expose = Arc<dyn Fn(Ask) -> BoxFuture<'static, Result<Values, Problem>> + Send + Sync>;

/// Tells what an app has; the text is the id of the decision.
pub type Look = Arc<
    dyn Fn(Principal, AppName, String) -> BoxFuture<'static, Result<App, Problem>> + Send + Sync,
>;
/// Makes the work of going on with a run that a former process left; `None` if it cannot be.
pub type Resume =
    Arc<dyn Fn(&UnfinishedRun, &Report) -> Option<(Work, Option<Herald>)> + Send + Sync>;

/// All of it.
#[derive(Clone)]
pub struct Brain {
    /// Verifies tokens.
    pub identify: Identify,
    /// Admits before the body.
    pub admit: Admit,
    /// Explains for `whoami`.
    pub explain: Explain,
    /// Prepares a run.
    pub prepare: Prepare,
    /// Tells what an app has.
    pub look: Look,
    /// Reads values for a job.
    pub expose: Expose,
    /// Prepares going on with a run.
    pub resume: Resume,
}

/// Tells a denial.
#[must_use]
pub fn denied(denial: Denial) -> Problem {
    let near = denial.nearest.into_iter().map(|miss| Place {
        path: Some(miss.attribute),
        ..Place::message(format!("rule {}: {}", miss.rule, miss.message))
    });
    let mut problem = Problem::new(Code::Denied, denial.message)
        .hint(denial.hint)
        .places(near);
    problem.decision_id = Some(denial.decision);
    problem
}

/// Tells invalid input.
#[must_use]
pub fn invalid(error: InputError) -> Problem {
    let count = error.places.len();
    let detail = match error.places.first() {
        Some(place) if count == 1 => place.message.clone(),
        Some(_) | None => format!("{count} places need a change"),
    };
    Problem::new(error.code, detail).places(error.places)
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        denied(denial).into()
    }
}
