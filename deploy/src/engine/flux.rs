//! What is different for a run through Flux: the credential of the repository, the commit, Flux's own word
//! beside the watch, and the way back by a commit.
//!
//! Called by [`super`]. A run without `flux` passes through unchanged. The watch of the workloads and the
//! conditions of Flux are looked at together ([`delivery`]): what fails first and for good decides, and the watch
//! is given a moment to say why where only Flux has spoken. [`origin`] finds the images of a promotion.

mod delivery;
pub(super) mod origin;

use std::collections::BTreeMap;

use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Status;
use proto::report::Step;
use proto::report::saved::SavedStep;

use self::delivery::Delivery;
use super::Tools;
use super::back::again;
use super::back::tell_causes;
use super::back::told;
use super::course::Course;
use super::course::KEPT;
use super::values;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::fleet::message;
use crate::flux::land::Before;
use crate::flux::land::Pusher;
use crate::flux::scene;
use crate::flux::scene::Scene;
use crate::flux::wait::Pushed;
use crate::object::AppliedObject;
use crate::ports::CommitId;
use crate::ports::GitLogin;
use crate::ports::Login;
use crate::ports::Parameters;
use crate::report;
use crate::report::Verdict;
use crate::resolve::ResolvedSecrets;
use crate::resolve::Scope;
use crate::spec::Flux;
use crate::spec::GitCredential;
use crate::spec::SecretSpec;
use crate::spec::Source;

/// The name under which the credential is read; it becomes no Secret.
const CREDENTIAL: &str = "git";

/// What a run through Flux has in hand.
pub(super) struct Fleet {
    login: GitLogin,
    secrets: ResolvedSecrets,
    /// What was seen last; taken by the push.
    scene: Option<Scene>,
    /// What the commit replaced.
    before: Option<Before>,
}

/// Reads the credential of the repository; nothing for a run without `flux`.
pub(super) async fn open(
    permit: &Permit,
    login: Option<&Login>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Option<Fleet>, Problem> {
    let Some(flux) = &permit.request().spec.flux else {
        return Ok(None);
    };
    let mut fleet = Fleet {
        login: GitLogin::Nobody,
        secrets: ResolvedSecrets::none(),
        scene: None,
        before: None,
    };
    let Some(credential) = &flux.credential else {
        return Ok(Some(fleet));
    };
    tools.log.info(format!(
        "the credential of {} comes from {}",
        flux.branch.repository,
        credential.path()
    ));
    let spec = [spec_of(credential)];
    let draft = values::draft_of(
        &spec,
        permit,
        login,
        (Scope::Alive, BTreeMap::new()),
        tools,
        patience,
    );
    fleet.secrets = values::issue(draft.await?, tools, patience).await?;
    match login_of(credential, &mut fleet.secrets) {
        Some(login) => {
            fleet.login = login;
            Ok(Some(fleet))
        }
        None => {
            fleet.close(tools, patience).await;
            let detail = format!("the credential in {} is not text", credential.path());
            Err(Problem::new(Code::SecretMissing, detail).hint("store it as text"))
        }
    }
}

fn spec_of(credential: &GitCredential) -> SecretSpec {
    let (path, first, second) = match credential {
        GitCredential::Password {
            path,
            username,
            password,
        } => (path, username, password),
        GitCredential::Key {
            path,
            identity,
            known_hosts,
        } => (path, identity, known_hosts),
    };
    let field = |field: &String| Source::Field {
        path: path.clone(),
        field: field.clone(),
        version: None,
        parameters: Parameters::default(),
    };
    SecretSpec {
        name: CREDENTIAL.to_owned(),
        kind: "Opaque".to_owned(),
        keys: [("1", first), ("2", second)]
            .map(|(key, name)| (key.to_owned(), field(name)))
            .into(),
        rotate: None,
    }
}

fn login_of(credential: &GitCredential, secrets: &mut ResolvedSecrets) -> Option<GitLogin> {
    let mut data = std::mem::take(&mut secrets.secrets.first_mut()?.data);
    let (first, second) = (data.remove("1")?, data.remove("2")?);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(match credential {
        GitCredential::Password { .. } => GitLogin::Password {
            user: text(first.bytes())?,
            password: second,
        },
        GitCredential::Key { .. } => GitLogin::Key {
            key: first,
            known_hosts: text(second.bytes())?,
        },
    })
}

impl Fleet {
    /// Looks at Flux and at the branch; returns the steps of the plan.
    pub(super) async fn look(
        &mut self,
        permit: &Permit,
        tools: &Tools<'_>,
        patience: &Patience<'_>,
    ) -> Result<Vec<Step>, Problem> {
        let Some(flux) = &permit.request().spec.flux else {
            return Ok(Vec::new());
        };
        tools
            .log
            .start(Stage::Plan, "look at Flux and its repository");
        let seen = scene::look(permit, flux, &self.login, tools.ports, patience).await;
        tools.log.end_stage(Stage::Plan);
        let seen = seen.map_err(|error| report::flux::of_flux(&error))?;
        seen.notes.iter().for_each(|note| tools.log.warn(note));
        let steps = seen.steps(flux);
        self.scene = Some(seen);
        Ok(steps)
    }

    /// Writes down the files as they were seen, for a plan that is saved.
    pub(super) fn saved(&self, permit: &Permit) -> Vec<SavedStep> {
        let flux = permit.request().spec.flux.as_deref();
        let seen = self.scene.as_ref().zip(flux);
        seen.map(|(scene, flux)| scene.saved(flux))
            .unwrap_or_default()
    }

    /// Says whether there is a commit to make.
    pub(super) fn changes(&self) -> bool {
        self.scene.as_ref().is_some_and(Scene::changes)
    }

    /// Ends what the credential was read with.
    pub(super) async fn close(self, tools: &Tools<'_>, patience: &Patience<'_>) {
        values::settle_secrets(self.secrets, &[], tools, patience).await;
    }
}

/// Pushes, waits for Flux, and judges what it made of it.
pub(super) async fn deliver(
    course: &mut Course<'_>,
    own: &[AppliedObject],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Option<Verdict> {
    let permit = course.plan.permit();
    let flux = permit.request().spec.flux.as_deref()?;
    let fleet = course.fleet.as_deref_mut()?;
    let seen = fleet.scene.take()?;
    let pusher = Pusher {
        permit,
        flux,
        login: &fleet.login,
        ports: tools.ports,
    };
    let writing = Patience {
        stop: &course.reins.writing,
        ..patience.clone()
    };
    tools.log.start(Stage::Apply, "change the branch");
    let landed = pusher
        .push(seen, &words(permit, flux, tools), &writing)
        .await;
    tools.log.end_stage(Stage::Apply);
    let landed = match landed {
        Ok(landed) => landed,
        Err(error) => return Some(Verdict::problem(report::flux::of_flux(&error))),
    };
    if landed.before.is_none() {
        let short = landed.commit.short();
        tools.log.info(format!(
            "the branch names these images already: no commit, Flux has to be at {short}"
        ));
    }
    fleet.before = landed.before;
    let delivery = Delivery {
        permit,
        flux,
        login: &fleet.login,
        pushed: Pushed::Surely,
        tools,
        patience: Patience {
            stop: &course.reins.watching,
            ..patience.clone()
        },
        own,
    };
    Some(delivery.verdict(&landed.commit).await)
}

/// Waits for a commit that a former process has pushed, or was about to. There is no credential any more: what
/// Flux has tells whether the commit arrived.
pub(super) async fn go_on(
    course: &Course<'_>,
    commit: &CommitId,
    own: &[AppliedObject],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Option<Verdict> {
    let permit = course.plan.permit();
    let flux = permit.request().spec.flux.as_deref()?;
    let delivery = Delivery {
        permit,
        flux,
        login: &GitLogin::Nobody,
        pushed: Pushed::Perhaps,
        tools,
        patience: Patience {
            stop: &course.reins.watching,
            ..patience.clone()
        },
        own,
    };
    Some(delivery.verdict(commit).await)
}

/// The commit's message.
fn words(permit: &Permit, flux: &Flux, tools: &Tools<'_>) -> String {
    let principal = permit.principal();
    let claim = |name: &str| principal.attribute(name).unwrap_or_default().to_owned();
    let page = |what: &str, id: &str| principal.page(what, id).unwrap_or_default();
    let facts = message::Facts {
        app: permit.request().spec.name.to_string(),
        run: tools.id.to_string(),
        job: page("jobs", "job_id"),
        pipeline: page("pipelines", "pipeline_id"),
        project: claim("project_path"),
        environment: claim("environment"),
        commit: claim("sha"),
        images: permit
            .request()
            .spec
            .images
            .iter()
            .map(|(name, image)| (name.clone(), image.to_string()))
            .collect(),
    };
    message::message(flux.message.as_deref(), &facts)
}

/// Takes the commit back, waits for Flux again, and tells both stories.
pub(super) async fn revert(
    course: &mut Course<'_>,
    failed: Verdict,
    own: &[AppliedObject],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    let permit = course.plan.permit();
    let Some(flux) = &permit.request().spec.flux else {
        return failed;
    };
    let Some(fleet) = course.fleet.as_deref_mut() else {
        let what = "; the commit was not taken back: the credential of the repository ended with the agent's former \
                    process";
        return told(failed, Status::RollbackFailed, what);
    };
    let Some(before) = fleet.before.take() else {
        let message = format!(
            "{}; no commit was made, so there is none to revert",
            failed.message
        );
        return Verdict { message, ..failed };
    };
    let patience = again(permit, patience);
    tell_causes(&failed, tools);
    let pusher = Pusher {
        permit,
        flux,
        login: &fleet.login,
        ports: tools.ports,
    };
    tools.log.start(Stage::Apply, "take the commit back");
    let message = format!("Revert \"{}\"\n", words(permit, flux, tools).trim_end());
    let taken = pusher.take_back(&before, &message, &patience).await;
    tools.log.end_stage(Stage::Apply);
    let commit = match taken {
        Ok(commit) => commit,
        Err(error) => {
            let problem = report::flux::of_flux(&error);
            let what = format!("; the commit was not taken back: {}", problem.detail);
            return told(failed, Status::RollbackFailed, &what);
        }
    };
    let delivery = Delivery {
        permit,
        flux,
        login: &fleet.login,
        pushed: Pushed::Surely,
        tools,
        patience: Patience {
            stop: &course.reins.watching,
            ..patience
        },
        own,
    };
    let back = delivery.verdict(&commit).await;
    let short = commit.short();
    let (status, what) = match back.status {
        Status::Succeeded => (
            Status::RolledBack,
            format!("; commit {short} takes it back and is ready"),
        ),
        _ => (
            Status::RollbackFailed,
            format!(
                "; commit {short} takes it back, but {}",
                back.message.replace(KEPT, "")
            ),
        ),
    };
    let mut all = told(failed, status, &what);
    all.causes.extend(back.causes);
    all.warnings.extend(back.warnings);
    all
}
