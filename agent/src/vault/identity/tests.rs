//! The identity against a server that knows which of its tokens are alive.

use super::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;

use deploy::ports::Login;
use deploy::ports::Secrets;
use deploy::ports::SecretsError;
use deploy::secret::Accessor;
use tokio_util::sync::CancellationToken;

use crate::clock::SystemClock;
use crate::config::Identity as IdentityConfig;
use crate::config::Method;
use crate::config::RoleId;
use crate::vault::Vault;
use crate::vault::tests::envelope;
use crate::vault::tests::server::Asked;
use crate::vault::tests::server::Server;
use crate::vault::tests::vault_at;

const LOGIN: &str = "/v1/auth/approle/login";
const LOOKUP: &str = "/v1/auth/token/lookup-self";
const RENEW: &str = "/v1/auth/token/renew-self";
const END: &str = "/v1/auth/token/revoke-self";
/// What the callers of these tests do with the token.
const WORK: &str = "/v1/auth/token/renew-accessor";

/// The server's side: which tokens are alive, and how it is minded.
#[derive(Clone)]
struct State {
    alive: Arc<Mutex<BTreeSet<String>>>,
    mood: Arc<Mutex<Mood>>,
}

#[derive(Clone, Copy)]
struct Mood {
    sealed: bool,
    refuses_logins: bool,
    /// So many requests with a token are refused, whatever they are.
    forbids_next: u32,
    forbids_work: bool,
    life: u64,
    periodic: bool,
}

impl State {
    fn new() -> Self {
        Self {
            alive: Arc::default(),
            mood: Arc::new(Mutex::new(Mood {
                sealed: false,
                refuses_logins: false,
                forbids_next: 0,
                forbids_work: false,
                life: 3_600,
                periodic: true,
            })),
        }
    }

    fn set(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.mood.lock().expect("no holder panics"));
    }

    fn kill_tokens(&self) {
        self.alive.lock().expect("no holder panics").clear();
    }

    async fn serve(&self) -> Server {
        let state = self.clone();
        let made = Mutex::new(0);
        Server::start(move |asked| state.answer(asked, &made)).await
    }

    fn answer(&self, asked: &Asked, made: &Mutex<u32>) -> (u16, String) {
        let mood = *self.mood.lock().expect("no holder panics");
        let mut alive = self.alive.lock().expect("no holder panics");
        let refused = |code, why: &str| (code, format!(r#"{{"errors": ["{why}"]}}"#));
        let life = mood.life;
        let auth = |token: &str| {
            let text = envelope("null").replace(
                r#""auth": null"#,
                &format!(
                    r#""auth": {{"client_token": "{token}", "accessor": "a-{token}", "policies": [],
                    "token_policies": [], "metadata": null, "lease_duration": {life},
                    "renewable": true, "entity_id": "", "token_type": "service", "orphan": true}}"#
                ),
            );
            (200, text)
        };
        if mood.sealed {
            return refused(503, "Vault is sealed");
        }
        if asked.path == LOGIN {
            if mood.refuses_logins {
                return refused(400, "invalid secret id");
            }
            let mut made = made.lock().expect("no holder panics");
            *made += 1;
            let token = format!("s.{made}");
            alive.insert(token.clone());
            return auth(&token);
        }
        if mood.forbids_next > 0 {
            self.set(|mood| mood.forbids_next -= 1);
            return refused(403, "permission denied");
        }
        if asked.path == END {
            alive.remove(&asked.token);
            return (204, String::new());
        }
        if !alive.contains(&asked.token) {
            return refused(403, "permission denied");
        }
        let token = &asked.token;
        match asked.path.as_str() {
            LOOKUP => {
                let period = if mood.periodic { life } else { 0 };
                let data = format!(
                    r#"{{"accessor": "a-{token}", "ttl": {life}, "period": {period}, "type": "service",
                    "renewable": true, "path": "auth/approle/login"}}"#
                );
                (200, envelope(&data).to_owned())
            }
            WORK if mood.forbids_work => refused(403, "permission denied"),
            _ => auth(token),
        }
    }
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("secret_id"), "s\n").expect("the folder is ours");
        Self { folder }
    }

    fn vault(&self, server: &Server) -> Arc<Vault> {
        let identity = IdentityConfig {
            mount: "approle".to_owned(),
            method: Method::AppRole {
                role: RoleId::Text("quaymaster".to_owned()),
                secret_id_file: self.folder.path().join("secret_id"),
            },
        };
        let own = IdentitySettings {
            identity,
            state_dir: Some(self.folder.path().to_owned()),
            clock: Arc::new(SystemClock),
            ticket: [7; 32],
            jitter: 7,
        };
        Arc::new(
            vault_at(server.address())
                .with_identity(own)
                .expect("the settings are fine"),
        )
    }
}

fn identity(vault: &Vault) -> &Identity {
    vault.identity.as_ref().expect("it was given one")
}

async fn work(vault: &Vault) -> Result<u64, SecretsError> {
    let session = vault.login(&Login::Own).await?;
    vault.extend(&session, &Accessor("x".to_owned())).await
}

#[tokio::test]
async fn a_dead_token_is_replaced_by_one_login_whoever_finds_it_dead() {
    let (state, place) = (State::new(), Place::new());
    let server = state.serve().await;
    let vault = place.vault(&server);
    assert_eq!(vault.own(), None);
    assert_eq!(work(&vault).await, Ok(3_600));
    let first = vault.own().expect("it is logged in");
    assert_eq!(first.ends, None);
    state.kill_tokens();
    let calls = (0..8).map(|_| work(&vault));
    let all = futures::future::join_all(calls).await;
    assert_eq!(all, vec![Ok(3_600); 8]);
    assert_eq!(server.count(LOGIN), 2);
    assert_ne!(vault.own().expect("it is logged in").id, first.id);
}

#[tokio::test]
async fn a_refusal_with_a_token_that_is_alive_is_real() {
    let (state, place) = (State::new(), Place::new());
    let server = state.serve().await;
    let vault = place.vault(&server);
    assert_eq!(work(&vault).await, Ok(3_600));
    let lookups = server.count(LOOKUP);
    state.set(|mood| mood.forbids_work = true);
    let expected = SecretsError::Forbidden {
        path: "auth/token/renew-accessor".to_owned(),
    };
    assert_eq!(work(&vault).await, Err(expected));
    assert_eq!(server.count(LOOKUP), lookups + 1);
    assert_eq!((server.count(LOGIN), server.count(WORK)), (1, 2));
}

#[tokio::test]
async fn refusals_of_everything_for_a_while_do_not_cost_the_token() {
    let (state, place) = (State::new(), Place::new());
    let server = state.serve().await;
    let vault = place.vault(&server);
    assert_eq!(work(&vault).await, Ok(3_600));
    let first = vault.own();
    // The work and the question whether the token is alive.
    state.set(|mood| mood.forbids_next = 2);
    assert_eq!(work(&vault).await, Ok(3_600));
    assert_eq!(vault.own(), first);
    assert_eq!((server.count(LOGIN), server.count(END)), (2, 1));
    let alive = state.alive.lock().expect("no holder panics").clone();
    assert_eq!(alive, BTreeSet::from(["s.1".to_owned()]));
    assert_eq!(work(&place.vault(&server)).await, Ok(3_600));
    assert_eq!(server.count(LOGIN), 2, "the next process has it too");
}

#[tokio::test]
async fn a_restart_keeps_the_token_and_replaces_a_dead_one() {
    let (state, place) = (State::new(), Place::new());
    let server = state.serve().await;
    let first = place.vault(&server);
    assert_eq!(work(&first).await, Ok(3_600));
    let second = place.vault(&server);
    assert_eq!(work(&second).await, Ok(3_600));
    assert_eq!(server.count(LOGIN), 1);
    assert_eq!(first.own(), second.own());
    state.kill_tokens();
    let third = place.vault(&server);
    assert_eq!(work(&third).await, Ok(3_600));
    assert_eq!(server.count(LOGIN), 2);
    let fourth = place.vault(&server);
    assert_eq!(work(&fourth).await, Ok(3_600));
    assert_eq!(fourth.own(), third.own());
}

#[tokio::test]
async fn a_kept_token_is_not_given_up_while_vault_is_away() {
    let (state, place) = (State::new(), Place::new());
    let server = state.serve().await;
    let first = place.vault(&server);
    assert_eq!(work(&first).await, Ok(3_600));
    state.set(|mood| mood.sealed = true);
    let second = place.vault(&server);
    let error = work(&second).await.expect_err("it is sealed");
    assert!(
        matches!(error, SecretsError::Unavailable { .. }),
        "{error:?}"
    );
    state.set(|mood| mood.sealed = false);
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(Arc::clone(&second).keep_identity(stop.clone()));
    assert_eq!(second.identity_ready().await, Ok(()));
    assert_eq!(second.own(), first.own());
    assert_eq!(server.count(LOGIN), 1);
    stop.cancel();
    keeper.await.expect("it ends in order");
}

#[tokio::test]
async fn a_refused_login_is_not_repeated_by_every_caller() {
    let (state, place) = (State::new(), Place::new());
    state.set(|mood| mood.refuses_logins = true);
    let server = state.serve().await;
    let vault = place.vault(&server);
    let all = futures::future::join_all((0..20).map(|_| work(&vault))).await;
    for error in all {
        let Err(SecretsError::LoginRefused { reason }) = error else {
            panic!("the login is refused: {error:?}");
        };
        assert_eq!(reason, "the agent's own login: invalid secret id");
    }
    assert_eq!(server.count(LOGIN), 1);
    let status = vault.identity_status().expect("it has an identity");
    assert_eq!((status.method, status.since), ("approle", None));
    assert!(status.last_error.is_some());
    assert!(vault.identity_ready().await.is_err());
}

#[tokio::test]
async fn a_periodic_token_is_renewed_in_time() {
    let (state, place) = (State::new(), Place::new());
    state.set(|mood| mood.life = 2);
    let server = state.serve().await;
    let vault = place.vault(&server);
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(Arc::clone(&vault).keep_identity(stop.clone()));
    vault.identity_ready().await.expect("it logs in");
    let renewed = server.count(RENEW);
    let id = vault.own().expect("it is logged in").id;
    let mut news = identity(&vault).held.subscribe();
    while server.count(RENEW) < renewed + 2 {
        let change = tokio::time::timeout(Duration::from_secs(10), news.changed()).await;
        change.expect("it is renewed").expect("it lives on");
    }
    assert_eq!(vault.own().expect("it lives on").id, id);
    assert_eq!(server.count(LOGIN), 1);
    stop.cancel();
    keeper.await.expect("it ends in order");
}

#[tokio::test]
async fn a_token_that_ends_is_replaced_before_its_end_and_lives_on_beside_the_next() {
    let (state, place) = (State::new(), Place::new());
    state.set(|mood| (mood.life, mood.periodic) = (3, false));
    let server = state.serve().await;
    let vault = place.vault(&server);
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(Arc::clone(&vault).keep_identity(stop.clone()));
    vault.identity_ready().await.expect("it logs in");
    let first = vault.own().expect("it is logged in");
    assert!(first.ends.is_some());
    // From now on a renewal grants what is left of a life that ends.
    state.set(|mood| mood.life = 1);
    let mut news = identity(&vault).held.subscribe();
    while vault.own().is_some_and(|own| own.id == first.id) {
        let change = tokio::time::timeout(Duration::from_secs(10), news.changed()).await;
        change.expect("it is replaced").expect("it lives on");
    }
    assert!(vault.own().is_some(), "there is no gap");
    assert!(
        state
            .alive
            .lock()
            .expect("no holder panics")
            .contains("s.1")
    );
    stop.cancel();
    keeper.await.expect("it ends in order");
}

#[tokio::test]
async fn an_agent_without_an_identity_says_what_to_set() {
    let server = State::new().serve().await;
    let error = vault_at(server.address()).login(&Login::Own).await;
    let Err(SecretsError::LoginRefused { reason }) = error else {
        panic!("there is no identity: {error:?}");
    };
    assert!(reason.contains("vault.identity.method"));
}
