//! The secret values of one run: read, issued, and cleaned up after.
//!
//! Called by [`super`]. Invariant: whatever happens, leases that are in no written Secret are
//! revoked, and the run's own Vault token is ended unless credentials live by it.

use std::collections::BTreeMap;

use proto::error::Problem;
use proto::event::Stage;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Tools;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::log::RunLog;
use crate::managed;
use crate::managed::Owner;
use crate::managed::Record;
use crate::object::ObjectId;
use crate::plan;
use crate::plan::Content;
use crate::plan::Plan;
use crate::ports::Entry;
use crate::ports::Login;
use crate::register;
use crate::register::Change;
use crate::report;
use crate::resolve;
use crate::resolve::Draft;
use crate::resolve::Keeping;
use crate::resolve::ResolvedSecrets;
use crate::resolve::Scope;
use crate::resolve::clean_up;
use crate::spec::SecretSpec;

/// How long cleaning up after a run may take.
const CLEAN_UP: std::time::Duration = std::time::Duration::from_secs(30);

/// Makes the log take out the values that stand in manifests.
pub(super) fn learn(wanted: &[(ObjectId, Content)], log: &RunLog) {
    for (id, content) in wanted {
        match content {
            Content::Object(body) if id.gvk.is("", "Secret") => {
                plan::secrets::values(body).for_each(|value| log.learn(&value));
            }
            Content::Object(_) | Content::Secret { .. } => {}
        }
    }
}

pub(super) async fn draft(
    permit: &Permit,
    login: Option<&Login>,
    scope: Scope,
    lost: BTreeMap<String, Record>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Option<Draft>, Problem> {
    let specs = &permit.request().spec.secrets;
    let draft = draft_of(specs, permit, login, (scope, lost), tools, patience).await?;
    if let Some(draft) = &draft {
        for spec in specs {
            for (key, source) in &spec.keys {
                let what = draft.describe(&spec.name, source);
                let name = &spec.name;
                tools.log.info(format!("Secret {name} key {key}: {what}"));
            }
        }
    }
    Ok(draft)
}

/// Reads the values that some specs ask for.
pub(super) async fn draft_of(
    specs: &[SecretSpec],
    permit: &Permit,
    login: Option<&Login>,
    (scope, lost): (Scope, BTreeMap<String, Record>),
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Option<Draft>, Problem> {
    if specs.is_empty() {
        // No Vault login happens for a run that needs no secret.
        return Ok(None);
    }
    let managed = specs.iter().any(|spec| spec.rotate.is_some());
    if managed && tools.home.is_none() {
        return Err(report::of_no_home());
    }
    let keeping = keeping(permit, scope, lost, tools);
    tools.log.start(Stage::Resolve, "read secrets");
    let draft = resolve::draft(specs, login, keeping, tools.ports, patience).await;
    tools.log.end_stage(Stage::Resolve);
    draft.map(Some).map_err(|error| report::of_resolve(&error))
}

/// What the records of Secrets that are kept fresh say about this run.
fn keeping(
    permit: &Permit,
    scope: Scope,
    lost: BTreeMap<String, Record>,
    tools: &Tools<'_>,
) -> Keeping {
    Keeping {
        actor: permit.actor().clone(),
        cluster: permit.cluster().clone(),
        namespace: permit.namespace().to_string(),
        app: permit.request().spec.name.clone(),
        owner: Owner::of(permit.principal()),
        rule: permit.rule().to_owned(),
        run: tools.id.to_string(),
        scope,
        lost,
    }
}

/// Puts the record of every Secret that is kept fresh onto it, as it is before anything is issued.
pub(super) fn mark_records(
    wanted: &mut [(ObjectId, Content)],
    permit: &Permit,
    draft: Option<&Draft>,
    tools: &Tools<'_>,
) {
    let Some(draft) = draft else {
        return;
    };
    let now = tools.ports.clock.now();
    for (_, content) in wanted {
        let Content::Secret { body, index } = content else {
            continue;
        };
        let spec = &permit.request().spec.secrets[*index];
        if let Some(text) = draft.provisional_record(spec, now) {
            managed::write_on(body, text);
        }
    }
}

/// Notes the Secrets that are about to be written and kept fresh, beside what is noted of them.
pub(super) async fn add_to_register(
    plan: &Plan,
    secrets: &ResolvedSecrets,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<(), Problem> {
    let owner = Owner::of(plan.permit().principal());
    let digests = digests(plan, secrets);
    let change = Change::Add {
        owner: &owner,
        digests: &digests,
    };
    change_register(plan, &change, &digests, tools, patience).await
}

/// Notes that the Secrets are written, so that nothing else is taken for theirs any more.
pub(super) async fn settle_register(
    plan: &Plan,
    secrets: &ResolvedSecrets,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<(), Problem> {
    let digests = digests(plan, secrets);
    let change = Change::Settle { digests: &digests };
    change_register(plan, &change, &digests, tools, patience).await
}

fn digests(plan: &Plan, secrets: &ResolvedSecrets) -> BTreeMap<String, String> {
    let namespace = plan.permit().namespace().as_str();
    let records = secrets.secrets.iter();
    records
        .filter_map(|secret| {
            let record = secret.record.as_ref()?;
            Some((secret.name.clone(), record.declaration.digest(namespace)))
        })
        .collect()
}

async fn change_register(
    plan: &Plan,
    change: &Change<'_>,
    digests: &BTreeMap<String, String>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<(), Problem> {
    let Some(home) = tools.home.filter(|_| !digests.is_empty()) else {
        return Ok(());
    };
    let permit = plan.permit();
    let app = (permit.namespace(), &permit.request().spec.name);
    let cluster = &*tools.ports.cluster;
    let changed = register::change(home, app, change, cluster, patience).await;
    changed.map_err(|error| report::of_register(home, &error))
}

pub(super) async fn close(draft: Option<Draft>, tools: &Tools<'_>, patience: &Patience<'_>) {
    if let Some(draft) = draft {
        draft.close(tools.ports, patience).await;
    }
}

pub(super) async fn issue(
    draft: Option<Draft>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<ResolvedSecrets, Problem> {
    let Some(draft) = draft else {
        return Ok(ResolvedSecrets::none());
    };
    match draft.issue(tools.ports, patience).await {
        Ok(secrets) => Ok(secrets),
        Err((error, secrets)) => {
            settle_secrets(secrets, &[], tools, patience).await;
            Err(report::of_resolve(&error))
        }
    }
}

/// Revokes every lease whose Secret was not written, and ends the session unless a credential that
/// is in a Secret now lives by it: Vault revokes the leases of a token together with the token.
pub(super) async fn settle_secrets(
    secrets: ResolvedSecrets,
    written: &[ObjectId],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) {
    let Some(session) = secrets.session else {
        return;
    };
    let in_use = |secret: &str| {
        written
            .iter()
            .any(|id| id.gvk.is("", "Secret") && id.name == secret)
    };
    let (kept, unused): (Vec<_>, Vec<_>) = secrets
        .leases
        .into_iter()
        .partition(|lease| in_use(&lease.secret));
    // Cleaning up has its own patience: a cancelled or timed out run still revokes.
    let stop = CancellationToken::new();
    let patience = Patience {
        deadline: Instant::now() + CLEAN_UP,
        stop: &stop,
        ..patience.clone()
    };
    for accessor in kept.iter().filter_map(|lease| lease.accessor.clone()) {
        let entry = Entry::TokenKept { accessor };
        if let Err(error) = tools.ports.journal.append(entry).await {
            tools.log.warn(error.to_string());
        }
    }
    let own = secrets.own.as_ref();
    clean_up::revoke(&unused, &session, own, tools.ports, &patience).await;
    let (lasting, kept): (Vec<_>, Vec<_>) =
        kept.into_iter().partition(|lease| lease.accessor.is_some());
    for lease in &lasting {
        tools.log.info(format!(
            "the credential from {} in Secret {} is granted for {} s and kept fresh from now on",
            lease.path, lease.secret, lease.seconds
        ));
    }
    if kept.is_empty() {
        clean_up::end_session(session, tools.ports, &patience).await;
        return;
    }
    for lease in &kept {
        tools.log.info(format!(
            "the credential from {} in Secret {} is granted for {} s, and not longer than the Vault token that issued it",
            lease.path, lease.secret, lease.seconds
        ));
    }
}
