//! Which agents are alive, and which of them keeps what.
//!
//! Each agent renews a Lease of its own in the agents' namespace; whoever is not seen renewing for its
//! duration is taken as dead, by our own clock: clocks of two machines are never compared. Every app
//! falls to one of the living by a hash of both names, so that nothing but the share of a dead or new
//! agent moves. Two agents may disagree for a moment; the app's lock and the record decide then.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use deploy::object::Gvk;
use deploy::object::ObjectId;
use deploy::object::text;
use deploy::ports::Cluster;
use deploy::ports::ClusterError;
use deploy::register::Home;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;
use tokio::time::Instant;

use super::Tools;
use super::table::Place;

/// How long an agent counts as alive after it was last seen renewing.
const DURATION: Duration = Duration::from_secs(15);
/// How often an agent renews.
pub(super) const RENEW: Duration = Duration::from_secs(5);
/// The label that tells these Leases from others.
const LABEL: &str = "state.quaymaster.dev/agent";
/// The agent's own token in Vault, without the token: what it holds lives as long as the agent.
const TOKEN: &str = "state.quaymaster.dev/token";

/// The kind of the Leases.
pub(super) fn gvk() -> Gvk {
    Gvk::new("coordination.k8s.io/v1", "Lease")
}

/// What is seen of the agents in one cluster.
#[derive(Default)]
pub(super) struct Members {
    seen: BTreeMap<String, Seen>,
    /// When this agent's own renewal last arrived.
    own: Option<Instant>,
}

struct Seen {
    renewed: String,
    token: String,
    at: Instant,
}

impl Members {
    /// Takes in a Lease as it is now.
    pub(super) fn see(&mut self, lease: &Value, now: Instant) {
        let name = text(lease, &["metadata", "labels", LABEL]);
        if name.is_empty() {
            return;
        }
        let renewed = text(lease, &["spec", "renewTime"]);
        if self
            .seen
            .get(name)
            .is_some_and(|seen| seen.renewed == renewed)
        {
            return;
        }
        let seen = Seen {
            renewed: renewed.to_owned(),
            token: text(lease, &["metadata", "annotations", TOKEN]).to_owned(),
            at: now,
        };
        self.seen.insert(name.to_owned(), seen);
    }

    /// Returns the agents that are alive; this one only while its own renewals arrive.
    pub(super) fn alive(&self, me: &str, now: Instant) -> BTreeSet<String> {
        let is_alive = |at: Instant| now.duration_since(at) < DURATION;
        let others = self
            .seen
            .iter()
            .filter(|(name, seen)| name.as_str() != me && is_alive(seen.at));
        let mut alive: BTreeSet<String> = others.map(|(name, _)| name.clone()).collect();
        // Sure a little less long than the others are: they take over later than this one stops.
        let sure = DURATION - RENEW;
        if self.own.is_some_and(|at| now.duration_since(at) < sure) {
            alive.insert(me.to_owned());
        }
        alive
    }

    /// Returns the tokens of the other agents that are alive.
    pub(super) fn tokens(&self, now: Instant) -> BTreeSet<String> {
        let alive = self
            .seen
            .values()
            .filter(|seen| now.duration_since(seen.at) < DURATION && !seen.token.is_empty());
        alive.map(|seen| seen.token.clone()).collect()
    }

    /// Notes that this agent's own renewal arrived.
    pub(super) const fn renewed(&mut self, sent: Instant) {
        self.own = Some(sent);
    }
}

/// Renews this agent's own Lease; returns when the renewal was sent.
pub(super) async fn renew(cluster: &dyn Cluster, tools: &Tools) -> Result<Instant, ClusterError> {
    let id = ObjectId {
        gvk: gvk(),
        namespace: Some(tools.home.namespace.clone()),
        name: format!("agent-{}", tools.agent),
    };
    let actor = Home::actor();
    let sent = Instant::now();
    let there = cluster.get(&actor, &id).await?;
    let version = there
        .as_ref()
        .map(|there| text(there, &["metadata", "resourceVersion"]));
    let body = body(&id, version, tools);
    match version {
        Some(_) => cluster.replace(&actor, &id, &body).await?,
        None => cluster.create(&actor, &id, &body).await?,
    };
    Ok(sent)
}

fn body(id: &ObjectId, version: Option<&str>, tools: &Tools) -> Value {
    let now = format!("{:.6}", tools.clock.now());
    let token = tools.secrets.own().map(|own| own.id).unwrap_or_default();
    let mut body = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": id.name,
            "namespace": id.namespace,
            "labels": { LABEL: tools.agent, "app.kubernetes.io/managed-by": "quaymaster" },
            "annotations": { TOKEN: token },
        },
        "spec": {
            "holderIdentity": tools.agent,
            "leaseDurationSeconds": DURATION.as_secs(),
            "renewTime": now,
        },
    });
    if let Some(version) = version {
        body["metadata"]["resourceVersion"] = Value::from(version);
    }
    body
}

/// Chooses the agent that keeps an app.
pub(super) fn chosen<'m>(members: &'m BTreeSet<String>, place: &Place) -> Option<&'m str> {
    let app = format!("{}/{}/{}", place.cluster, place.namespace, place.app);
    let weight = |member: &&String| Sha256::digest(format!("{member}\n{app}").as_bytes());
    members.iter().max_by_key(weight).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(app: &str) -> Place {
        Place {
            cluster: "prod".parse().expect("valid"),
            namespace: "shop".parse().expect("valid"),
            app: app.parse().expect("valid"),
        }
    }

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_the_share_of_a_dead_agent_moves() {
        let three = names(&["a", "b", "c"]);
        let two = names(&["a", "c"]);
        let mut of_b = 0;
        for number in 0..300 {
            let place = place(&format!("app-{number}"));
            let before = chosen(&three, &place).expect("somebody is alive");
            let after = chosen(&two, &place).expect("somebody is alive");
            if before == "b" {
                of_b += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert!((60..140).contains(&of_b), "{of_b} of 300 is no third");
        assert_eq!(chosen(&names(&[]), &place("x")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_renew_is_dead_by_our_own_clock() {
        let lease = |name: &str, renewed: &str| {
            json!({
                "metadata": {"labels": {LABEL: name}, "annotations": {TOKEN: format!("of-{name}")}},
                "spec": {"renewTime": renewed},
            })
        };
        let mut members = Members::default();
        let start = Instant::now();
        members.see(&lease("a", "1"), start);
        members.see(&lease("b", "whatever its clock says"), start);
        assert_eq!(members.alive("me", start), names(&["a", "b"]));
        let later = start + Duration::from_secs(10);
        members.see(&lease("a", "2"), later);
        members.see(&lease("b", "whatever its clock says"), later);
        let end = start + DURATION;
        assert_eq!(members.alive("me", end), names(&["a"]));
        assert_eq!(members.tokens(end), names(&["of-a"]));
    }

    #[tokio::test(start_paused = true)]
    async fn this_agent_gives_up_before_the_others_take_over() {
        let mut members = Members::default();
        let start = Instant::now();
        assert_eq!(members.alive("me", start), names(&[]));
        members.own = Some(start);
        assert_eq!(members.alive("me", start), names(&["me"]));
        assert_eq!(members.alive("me", start + DURATION - RENEW), names(&[]));
    }
}
