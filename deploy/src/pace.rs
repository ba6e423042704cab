//! As fast as the API server can take it: how many requests are in flight, for all runs together.
//!
//! [`Paced`] decorates the `Cluster` port; `agent` makes one a cluster, so all runs share it. Requests
//! get their turns in the order in which they came, so no run waits for another's whole deploy.
//! [`Controller`] decides, pure: one more for every good answer at first, one more a round after the
//! first trouble, half as many when the server pushes back, whose Retry-After holds for everybody.
//! Watches and logs do not count, and the locks of apps (Lease objects) never wait: they must not
//! expire because a deploy is large. Cancel safe: a dropped call gives its turn back.

mod control;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::control::Controller;
use self::control::Seen;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Resource;
use crate::ports::Access;
use crate::ports::Cluster;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::Force;
use crate::ports::LogRequest;
use crate::ports::Observation;
use crate::ports::Payload;
use crate::ports::Scope;
use crate::ports::SecretView;
use crate::ports::Write;
use crate::principal::Actor;
use crate::secret::Secret;

/// A cluster whose requests keep the pace that its server can take.
pub struct Paced {
    cluster: Arc<dyn Cluster>,
    turns: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    control: Controller,
    /// Turns that exist; permits are added and taken away until it is what the controller wants.
    turns: usize,
}

impl Paced {
    /// Decorates a cluster.
    #[must_use]
    pub fn new(cluster: Arc<dyn Cluster>) -> Self {
        let control = Controller::new();
        let turns = control.limit();
        Self {
            cluster,
            turns: Arc::new(Semaphore::new(turns)),
            state: Mutex::new(State { control, turns }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole numbers are changed under the lock, so the state is good after a panic too.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, makes the call, learns from its answer.
    async fn in_turn<T>(
        &self,
        call: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let turn = self.turn().await;
        let began = Instant::now();
        let answer = call.await;
        let now = Instant::now();
        let seen = match &answer {
            Err(ClusterError::Unavailable {
                retry_after_seconds,
                ..
            }) => Seen::Trouble {
                retry_after_seconds: *retry_after_seconds,
            },
            Err(ClusterError::Unanswered { .. }) => Seen::Trouble {
                retry_after_seconds: None,
            },
            Ok(_)
            | Err(
                ClusterError::Forbidden { .. }
                | ClusterError::Invalid { .. }
                | ClusterError::UnknownKind { .. }
                | ClusterError::Missing { .. }
                | ClusterError::Conflict { .. }
                | ClusterError::Exists { .. }
                | ClusterError::Raced { .. }
                | ClusterError::Unexpected { .. },
            ) => Seen::Answer {
                took: now.duration_since(began),
                crowded: self.turns.available_permits() == 0,
            },
        };
        self.learn(now, began, seen, turn);
        answer
    }

    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed; were it, calls would only lose their pace.
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        loop {
            let until = self.state().control.held_until();
            match until {
                Some(until) if Instant::now() < until => tokio::time::sleep_until(until).await,
                Some(_) | None => return turn,
            }
        }
    }

    /// Takes an answer into account, and makes as many turns as there shall be.
    fn learn(&self, now: Instant, began: Instant, seen: Seen, turn: Option<OwnedSemaphorePermit>) {
        let mut state = self.state();
        state.control.learn(now, began, seen);
        let wanted = state.control.limit();
        if wanted > state.turns {
            self.turns.add_permits(wanted - state.turns);
            state.turns = wanted;
        } else if wanted < state.turns
            && let Some(turn) = turn
        {
            // One a call: the others are in use now and come back one by one.
            turn.forget();
            state.turns -= 1;
        }
    }
}

/// Says whether a call about this object never waits.
fn is_lock(gvk: &Gvk) -> bool {
    gvk.is("coordination.k8s.io", "Lease")
}

impl Cluster for Paced {
    fn resource<'a>(&'a self, gvk: &'a Gvk) -> BoxFuture<'a, Result<Resource, ClusterError>> {
        // Mostly answered from memory.
        self.cluster.resource(gvk)
    }

    fn may<'a>(
        &'a self,
        actor: &'a Actor,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Result<(), String>, ClusterError>> {
        self.in_turn(self.cluster.may(actor, access)).boxed()
    }

    fn get<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<Value>, ClusterError>> {
        self.paced(&id.gvk, self.cluster.get(actor, id))
    }

    fn list<'a>(
        &'a self,
        actor: &'a Actor,
        gvk: &'a Gvk,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Value>, ClusterError>> {
        self.paced(gvk, self.cluster.list(actor, gvk, namespace))
    }

    fn secret<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<SecretView>, ClusterError>> {
        self.paced(&id.gvk, self.cluster.secret(actor, id))
    }

    fn values<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, Secret>>, ClusterError>> {
        self.paced(&id.gvk, self.cluster.values(actor, id))
    }

    fn secrets<'a>(
        &'a self,
        actor: &'a Actor,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<String, SecretView>, ClusterError>> {
        self.in_turn(self.cluster.secrets(actor, namespace)).boxed()
    }

    fn apply<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        payload: Payload<'a>,
        write: Write,
        force: Force,
    ) -> BoxFuture<'a, Result<(AppliedObject, Value), ClusterError>> {
        self.paced(
            &id.gvk,
            self.cluster.apply(actor, id, payload, write, force),
        )
    }

    fn create<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        self.paced(&id.gvk, self.cluster.create(actor, id, body))
    }

    fn replace<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        self.paced(&id.gvk, self.cluster.replace(actor, id, body))
    }

    fn patch<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        patch: &'a Value,
        write: Write,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        self.paced(&id.gvk, self.cluster.patch(actor, id, patch, write))
    }

    fn delete<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        deletion: &'a Deletion,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        self.paced(&id.gvk, self.cluster.delete(actor, id, deletion))
    }

    fn observe(&self, actor: &Actor, scopes: Vec<Scope>) -> BoxStream<'static, Observation> {
        self.cluster.observe(actor, scopes)
    }

    fn log<'a>(
        &'a self,
        actor: &'a Actor,
        request: &'a LogRequest,
    ) -> BoxFuture<'a, Result<String, ClusterError>> {
        self.cluster.log(actor, request)
    }
}

impl Paced {
    /// Lets a call about a lock through at once, and any other in its turn.
    fn paced<'a, T: Send + 'a>(
        &'a self,
        gvk: &Gvk,
        call: BoxFuture<'a, Result<T, ClusterError>>,
    ) -> BoxFuture<'a, Result<T, ClusterError>> {
        if is_lock(gvk) {
            call
        } else {
            self.in_turn(call).boxed()
        }
    }
}

#[cfg(test)]
mod tests;
