//! The commands about Secrets that are kept fresh: `secrets` for a project, `managed` for the operator.
//!
//! Called by `commands`. `secrets apply` is a submission like a deploy; the others are one call each:
//! the agent begins what is due by itself, and tells how it stands when it is asked again.

use bytes::Bytes;
use proto::error::Code;
use proto::error::Problem;
use proto::managed::Changed;
use proto::managed::ManagedList;
use proto::managed::ManagedSecret;
use proto::managed::SecretName;
use proto::managed::Taken;

use crate::args::Apply;
use crate::args::Files;
use crate::args::Managed;
use crate::args::ManagedCommand;
use crate::args::SecretOf;
use crate::args::Secrets;
use crate::exit::Exit;
use crate::follow::Told;
use crate::kept;
use crate::session::Order;
use crate::session::Session;
use crate::session::ask;
use crate::session::bundled;
use crate::session::packed;
use crate::session::submit;
use crate::session::tell_end;
use crate::wire::Call;

/// Where a project's Secrets are.
const SECRETS: &str = "/v1/secrets";
/// Where the operator finds all of them.
const MANAGED: &str = "/v1/managed";
/// Shows a project's Secrets.
const LOOK: &str = "quaymaster secrets list";

/// Runs `quaymaster secrets`.
pub(crate) async fn secrets(session: &mut Session<'_>, command: Secrets) -> Result<Exit, Problem> {
    match command {
        Secrets::Apply(arguments) => apply(session, &arguments).await,
        Secrets::List => list(session, SECRETS).await,
        Secrets::Rotate(secret) => {
            let taken = name(session, "/v1/secrets/rotate", &secret).await?;
            Ok(tell(session, &taken, &kept::begun(&taken.value, LOOK)))
        }
        Secrets::Changed { paths } => {
            let taken = send(session, "/v1/secrets/changed", &Changed { paths }).await?;
            Ok(tell(session, &taken, &kept::begun(&taken.value, LOOK)))
        }
        Secrets::Forget(secret) => {
            let taken = name(session, "/v1/secrets/forget", &secret).await?;
            Ok(tell(session, &taken, &kept::forgotten(&taken.value)))
        }
    }
}

/// Runs `quaymaster managed`.
pub(crate) async fn managed(session: &mut Session<'_>, managed: Managed) -> Result<Exit, Problem> {
    match managed.command {
        ManagedCommand::List => list(session, MANAGED).await,
        ManagedCommand::Show { secret } => {
            let call = Call::get(format!("{MANAGED}/{secret}"));
            let told: Told<ManagedSecret> = ask(session.agent, &call).await?;
            session.output.answer(&told.json, &kept::one(&told.value));
            Ok(Exit::Done)
        }
        ManagedCommand::Rotate { secret } => {
            let call = Call::post(format!("{MANAGED}/{secret}/rotate"));
            let taken: Told<Taken> = ask(session.agent, &call).await?;
            let look = format!("quaymaster managed show {secret}");
            Ok(tell(session, &taken, &kept::begun(&taken.value, &look)))
        }
    }
}

async fn apply(session: &mut Session<'_>, arguments: &Apply) -> Result<Exit, Problem> {
    let (order, path) = match (arguments.dry_run, arguments.detach) {
        (true, _) => (Order::Plan, "/v1/secrets?dry_run=true"),
        (false, true) => (Order::Detached, SECRETS),
        (false, false) => (Order::Deploy, SECRETS),
    };
    let bundle = packed(session, &arguments.dir, &[])?;
    let submission = bundled(path, bundle, &arguments.key)?;
    let limit = arguments.waiting.timeout;
    let files = Files::default();
    let ended = submit(session, order, submission, limit, &files).await?;
    Ok(tell_end(session.output, &ended))
}

async fn list(session: &mut Session<'_>, path: &str) -> Result<Exit, Problem> {
    let told: Told<ManagedList> = ask(session.agent, &Call::get(path)).await?;
    session.output.answer(&told.json, &kept::list(&told.value));
    Ok(Exit::Done)
}

async fn name(
    session: &Session<'_>,
    path: &str,
    secret: &SecretOf,
) -> Result<Told<Taken>, Problem> {
    let name = SecretName {
        cluster: secret.cluster.clone(),
        namespace: secret.namespace.clone(),
        name: secret.name.clone(),
    };
    send(session, path, &name).await
}

async fn send(
    session: &Session<'_>,
    path: &str,
    body: &impl serde::Serialize,
) -> Result<Told<Taken>, Problem> {
    let body = serde_json::to_vec(body)
        .map_err(|error| Problem::new(Code::Internal, format!("writing the request: {error}")))?;
    ask(session.agent, &Call::post(path).json(Bytes::from(body))).await
}

fn tell(session: &mut Session<'_>, taken: &Told<Taken>, text: &str) -> Exit {
    session.output.answer(&taken.json, text);
    Exit::Done
}
