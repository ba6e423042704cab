//! Watches: list, then changes, mended after cuts, as one stream of observations.
//!
//! Called by [`super::Kube`] only. kube's watcher does the protocol; this file adds what it leaves
//! out: kinds that are not served yet, objects that vanished while the watch was down, and trouble
//! told in classes. Nothing is spawned, so dropping the stream ends all. Invariant: of Secrets the
//! server is asked for metadata only, so no value of one is ever here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::TryStreamExt;
use futures::stream;
use futures::stream::BoxStream;
use kube::Api;
use kube::api::ApiResource;
use kube::api::DynamicObject;
use kube::core::DynamicResourceScope;
use kube::core::PartialObjectMeta;
use kube::core::Status;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use deploy::class::Class;
use deploy::object::Resource;
use deploy::ports::Observation;
use deploy::ports::Scope;
use deploy::principal::Actor;

use super::address;
use super::causes;
use super::discovery::Catalog;
use super::objects;
use super::tracker::Tracker;
use super::wire::Wire;

/// The server ends a watch after this many seconds; a dead connection is noticed soon after.
const WATCH_SECONDS: u32 = 30;

/// Secrets of one page of a listing: the memory that a page takes while it is read is never given back.
const PAGE: u32 = 50;

/// The first and the longest wait before a broken watch is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// What all watches of one call share.
pub(super) struct Observer {
    /// The transport.
    pub(super) wire: Wire,
    /// The kinds.
    pub(super) catalog: Arc<Catalog>,
    /// Who watches.
    pub(super) actor: Actor,
}

type Events = BoxStream<'static, Result<Event<DynamicObject>, watcher::Error>>;

/// One scope's watch.
struct Watch {
    observer: Arc<Observer>,
    scope: Scope,
    phase: Phase,
    pending: VecDeque<Observation>,
    tracker: Tracker,
}

/// Where a watch stands.
enum Phase {
    /// The kind is looked up; the number counts the failures in a row.
    Finding(u32),
    /// Events come.
    Watching(Events),
    /// Nothing more can come.
    Over,
}

/// Watches all scopes.
pub(super) fn observe(observer: Observer, scopes: Vec<Scope>) -> BoxStream<'static, Observation> {
    let observer = Arc::new(observer);
    let watches = scopes.into_iter().map(|scope| {
        let watch = Watch {
            observer: Arc::clone(&observer),
            tracker: Tracker::new(scope.clone()),
            scope,
            phase: Phase::Finding(0),
            pending: VecDeque::new(),
        };
        stream::unfold(watch, |mut watch| async move {
            let observation = watch.next().await?;
            Some((observation, watch))
        })
        .boxed()
    });
    stream::select_all(watches).boxed()
}

impl Watch {
    async fn next(&mut self) -> Option<Observation> {
        loop {
            if let Some(observation) = self.pending.pop_front() {
                return Some(observation);
            }
            match &mut self.phase {
                Phase::Over => return None,
                Phase::Finding(failures) => {
                    let failures = *failures;
                    self.find(failures).await;
                }
                Phase::Watching(events) => match events.next().await {
                    Some(Ok(event)) => self.tracker.take(event, &mut self.pending),
                    Some(Err(error)) => {
                        let told = trouble(&error, &self.scope);
                        self.pending
                            .extend(told.map(|told| self.tracker.doubt(told)));
                    }
                    None => self.phase = Phase::Finding(1),
                },
            }
        }
    }

    async fn find(&mut self, failures: u32) {
        let gvk = &self.scope.gvk;
        if failures > 0 {
            let factor = 1 << failures.min(8);
            tokio::time::sleep((RETRY.0 * factor).min(RETRY.1)).await;
        }
        match self.observer.catalog.resource(gvk).await {
            Ok(resource) => match self.events(&resource) {
                Ok(events) => self.phase = Phase::Watching(events),
                Err(reason) => self.give_up(reason.to_owned()),
            },
            Err(error) => {
                self.phase = Phase::Finding(failures.saturating_add(1));
                self.pending.push_back(Observation::Trouble {
                    gvk: gvk.clone(),
                    class: error.class(),
                    reason: error.to_string(),
                });
            }
        }
    }

    fn give_up(&mut self, reason: String) {
        self.phase = Phase::Over;
        self.pending.push_back(Observation::Trouble {
            gvk: self.scope.gvk.clone(),
            class: Class::Bug,
            reason,
        });
    }

    fn events(&self, resource: &Resource) -> Result<Events, &'static str> {
        let client = self
            .observer
            .wire
            .client_as(&self.observer.actor)
            .map_err(|_fault| "the actor cannot be sent")?;
        let kind = ApiResource {
            group: resource.gvk.group.clone(),
            version: resource.gvk.version.clone(),
            api_version: resource.gvk.api_version(),
            kind: resource.gvk.kind.clone(),
            plural: resource.plural.clone(),
        };
        // kube writes these two into the URL and the selector as they are.
        let texts = [&self.scope.namespace, &self.scope.name];
        let fit = |text: &String| address::segment(text).as_ref() == Some(text);
        if !texts.into_iter().flatten().all(fit) {
            return Err("the name or namespace is not valid");
        }
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if let Some(name) = &self.scope.name {
            config = config.fields(&format!("metadata.name={name}"));
        }
        let namespace = match (resource.namespaced, &self.scope.namespace) {
            (true, Some(namespace)) => Some(namespace.as_str()),
            (false, None) => None,
            (true, None) | (false, Some(_)) => {
                return Err("the namespace does not fit the kind's scope");
            }
        };
        if objects::is_secret(&resource.gvk) {
            // kube asks for nothing but metadata where this is the type.
            let api = api::<PartialObjectMeta<DynamicObject>>(client, namespace, &kind);
            let events = watcher(api, config.page_size(PAGE)).map_ok(without_spec);
            return Ok(events.backoff(Retry::new()).boxed());
        }
        let api = api::<DynamicObject>(client, namespace, &kind);
        Ok(watcher(api, config).backoff(Retry::new()).boxed())
    }
}

fn api<K>(client: kube::Client, namespace: Option<&str>, kind: &ApiResource) -> Api<K>
where
    K: kube::Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, kind),
        None => Api::all_with(client, kind),
    }
}

/// Makes an event about metadata one about an object that has nothing else.
fn without_spec(event: Event<PartialObjectMeta<DynamicObject>>) -> Event<DynamicObject> {
    let object = |partial: PartialObjectMeta<DynamicObject>| DynamicObject {
        types: partial.types,
        metadata: partial.metadata,
        data: serde_json::Value::Null,
    };
    match event {
        Event::Init => Event::Init,
        Event::InitApply(partial) => Event::InitApply(object(partial)),
        Event::InitDone => Event::InitDone,
        Event::Apply(partial) => Event::Apply(object(partial)),
        Event::Delete(partial) => Event::Delete(object(partial)),
    }
}

/// The waits of kube's watcher after errors.
struct Retry {
    next: Duration,
    last: Instant,
}

impl Retry {
    fn new() -> Self {
        Self {
            next: RETRY.0,
            last: Instant::now(),
        }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = (wait * 2).min(RETRY.1);
        self.last = Instant::now();
        Some(wait)
    }
}

impl Backoff for Retry {
    /// Comes with every event, so a watch that lists and then breaks again must not start over.
    fn reset(&mut self) {
        if self.last.elapsed() > 2 * RETRY.1 {
            self.next = RETRY.0;
        }
    }
}

/// Tells an error of the watcher, unless it is only its sign to list again.
fn trouble(error: &watcher::Error, scope: &Scope) -> Option<Observation> {
    let (class, reason) = match error {
        watcher::Error::WatchError(status) if status.code == 410 => return None,
        watcher::Error::WatchError(status) => of_status(status),
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            if let kube::Error::Api(status) = error {
                if status.code == 410 {
                    return None;
                }
                of_status(status)
            } else {
                (Class::Upstream, "the watch was cut".to_owned())
            }
        }
        watcher::Error::NoResourceVersion => {
            (Class::Caller, "the kind cannot be watched".to_owned())
        }
    };
    Some(Observation::Trouble {
        gvk: scope.gvk.clone(),
        class,
        reason,
    })
}

fn of_status(status: &Status) -> (Class, String) {
    let class = match status.code {
        403 => Class::Denied,
        404 => Class::NotFound,
        405 => Class::Caller,
        _ => Class::Upstream,
    };
    let reason = causes::capped(&status.message);
    if reason.is_empty() {
        return (class, format!("status {}", status.code));
    }
    (class, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use deploy::object::Gvk;

    fn scope() -> Scope {
        Scope {
            gvk: Gvk::new("apps/v1", "Deployment"),
            namespace: Some("flask".to_owned()),
            name: None,
        }
    }

    #[test]
    fn a_denied_watch_is_told_and_an_outdated_one_is_not() {
        let failed = |code| {
            let status = Status::failure("no", "x").with_code(code).boxed();
            watcher::Error::InitialListFailed(kube::Error::Api(status))
        };
        let expected = Observation::Trouble {
            gvk: scope().gvk,
            class: Class::Denied,
            reason: "no".to_owned(),
        };
        assert_eq!(trouble(&failed(403), &scope()), Some(expected));
        assert_eq!(trouble(&failed(410), &scope()), None);
    }
}
