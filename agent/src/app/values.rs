//! From a bundle to the values that its `expose` names: unpack, read, authorize, and ask Vault.
//!
//! Part of [`super::intake`], called by `http` through the brain. Every request that was decided is told in
//! the agent's log with names only, whatever became of it: who, which variables, which rule, which
//! decision. A value is nowhere but in the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deploy::authorize;
use deploy::authorize::Exposure;
use deploy::backoff::Patience;
use deploy::bundle;
use deploy::expose;
use deploy::expose::Variables;
use deploy::log::RunLog;
use deploy::principal::Principal;
use deploy::report::expose::of_expose;
use deploy::request;
use proto::error::Code;
use proto::error::Problem;
use proto::values::Encoded;
use proto::values::Values;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::intake::Intake;
use super::intake::Tokens;
use super::intake::login;
use crate::http::brain::Ask;
use crate::http::brain::denied;
use crate::http::brain::invalid;

/// How long a caller waits while Vault is away. Shorter than the client waits for an answer.
const WAIT: Duration = Duration::from_secs(30);

impl Intake {
    /// Reads the values that a bundle asks for.
    pub(super) async fn expose(self: Arc<Self>, asked: Ask) -> Result<Values, Problem> {
        let Ask {
            identity,
            decision,
            body,
            packing,
        } = asked;
        let limits = self.limits;
        // Parsing is pure computing: not on a worker that answers requests.
        let parsed = tokio::task::spawn_blocking(move || {
            request::exposed(&bundle::unpack(&body, packing, &limits)?)
        });
        let lost = |_| Problem::new(Code::Internal, "the bundle could not be read");
        let wanted = parsed.await.map_err(lost)?.map_err(invalid)?;
        let names = wanted.keys().cloned().collect::<Vec<_>>().join(" ");
        let tokens = Tokens {
            id_token: identity.id_token,
            vault_token: identity.vault_token,
        };
        let who = identity.principal;
        let exposure = authorize::expose(&self.policy, &who, wanted, &decision);
        let exposure = exposure.map_err(|denial| {
            let problem = denied(denial);
            tell(&who, &names, "", &decision, Err(&problem));
            problem
        })?;
        let read = self.read(&exposure, tokens).await;
        tell(
            &who,
            &names,
            exposure.rule(),
            &decision,
            read.as_ref().map(|_| ()),
        );
        Ok(Values {
            rule: exposure.rule().to_owned(),
            values: encoded(&read?),
            decision_id: decision,
        })
    }

    async fn read(&self, exposure: &Exposure, tokens: Tokens) -> Result<Variables, Problem> {
        let login = login(exposure.vault_role(), tokens);
        // What is told while Vault is waited for has no reader: the caller gets one answer.
        let log = RunLog::new(Arc::clone(&self.clock));
        let patience = Patience {
            deadline: Instant::now() + WAIT,
            stop: &CancellationToken::new(),
            log: &log,
            seed: 1,
        };
        let read = expose::values(exposure, login.as_ref(), &*self.secrets, &patience).await;
        read.map_err(|error| {
            let mut problem = of_expose(&error);
            problem.decision_id = Some(exposure.decision().to_owned());
            problem
        })
    }
}

fn encoded(values: &Variables) -> BTreeMap<String, Encoded> {
    let values = values.iter();
    values
        .map(|(name, value)| (name.clone(), Encoded::of(value.reveal())))
        .collect()
}

/// Tells a decided request to the operator.
fn tell(who: &Principal, names: &str, rule: &str, decision: &str, read: Result<(), &Problem>) {
    let outcome = match read {
        Ok(()) => "given",
        Err(problem) => problem.code.word(),
    };
    tracing::info!(
        project = who.project().unwrap_or_default(),
        job = who.attribute("job_id").unwrap_or_default(),
        rule,
        decision,
        names,
        outcome,
        "values for a job"
    );
}
