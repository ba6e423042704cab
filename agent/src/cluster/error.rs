//! What a failed exchange means: status and transport fault to [`ClusterError`].
//!
//! Called by the rest of [`super`], and the one place where the API server's statuses are
//! interpreted. What surely had no effect is `Unavailable`; a write whose answer is missing or says
//! nothing about its effect is `Unanswered`.

use serde_json::Value;

use deploy::object::ObjectId;
use deploy::object::text;
use deploy::ports::ClusterError;

use super::causes;
use super::wire::Answer;
use super::wire::Fault;

/// Whether a call changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It does not.
    Read,
    /// It may.
    Write,
}

/// What was being done with what.
#[derive(Debug, Clone)]
pub(super) struct Doing {
    /// The verb, such as `patch`.
    pub(super) verb: &'static str,
    /// The object in words.
    pub(super) object: String,
    /// The kind in words.
    pub(super) kind: String,
    /// Whether it changes something.
    pub(super) effect: Effect,
}

impl Doing {
    /// Describes a call about one object.
    pub(super) fn to(verb: &'static str, id: &ObjectId, effect: Effect) -> Self {
        Self {
            verb,
            object: id.to_string(),
            kind: id.gvk.to_string(),
            effect,
        }
    }

    /// Describes a read of something that is no object.
    pub(super) fn read(verb: &'static str, what: String) -> Self {
        Self {
            verb,
            kind: what.clone(),
            object: what,
            effect: Effect::Read,
        }
    }

    fn lost(&self, reason: String) -> ClusterError {
        match self.effect {
            Effect::Read => unavailable(reason, None),
            Effect::Write => ClusterError::Unanswered {
                object: self.object.clone(),
            },
        }
    }
}

/// Maps a transport fault.
pub(super) fn fault(fault: Fault, doing: &Doing) -> ClusterError {
    match fault {
        Fault::NotSent { reason } => unavailable(reason, None),
        Fault::Cut { reason } => doing.lost(reason),
        Fault::Unbuildable { reason } => ClusterError::Unexpected {
            reason: reason.to_owned(),
        },
    }
}

/// Maps an answer whose body is not what was asked for.
pub(super) fn garbled(doing: &Doing) -> ClusterError {
    match doing.effect {
        Effect::Read => ClusterError::Unexpected {
            reason: format!("the answer for {} is not of its form", doing.object),
        },
        Effect::Write => doing.lost(String::new()),
    }
}

/// Maps an answer that is not a success.
pub(super) fn refused(answer: &Answer, doing: &Doing) -> ClusterError {
    let status: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let message = text(&status, &["message"]);
    if (400..500).contains(&answer.status) && is_admission(message) {
        return forbidden(message, doing);
    }
    let wait = answer.retry_after_seconds;
    match answer.status {
        // The agent's own credentials: no fault of the run's, and the operator's renewal mends it.
        401 => unavailable(
            "401, the agent's own credentials are not taken".to_owned(),
            wait,
        ),
        403 => forbidden(message, doing),
        404 => missing(&status, doing),
        400 | 422 => invalid(causes::invalid(&status), doing),
        405 => invalid(
            vec![format!("the kind does not take {}", doing.verb)],
            doing,
        ),
        413 => invalid(vec!["the object is too large".to_owned()], doing),
        409 => conflict(&status, doing),
        429 => unavailable("429, too many requests".to_owned(), wait),
        500 if causes::is_about_shape(message) => invalid(causes::invalid(&status), doing),
        // Webhooks are called before anything is stored.
        500 if message.contains("failed calling webhook") => {
            unavailable(causes::capped(message), wait)
        }
        503 if text(&status, &["kind"]) == "Status" => unavailable("status 503".to_owned(), wait),
        500..=599 => match doing.effect {
            Effect::Read => unavailable(format!("status {}", answer.status), wait),
            Effect::Write => doing.lost(String::new()),
        },
        code => ClusterError::Unexpected {
            reason: format!("status {code} for {} {}", doing.verb, doing.object),
        },
    }
}

/// Reads the machine's word for a refusal, such as `AlreadyExists`.
pub(super) fn reason(answer: &Answer) -> String {
    let status: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    text(&status, &["reason"]).to_owned()
}

/// Says whether a JSON patch could not be carried out, as when one of its tests does not hold. The
/// server says no more of it than that the request is in error; an object that is not valid comes
/// with causes.
pub(super) fn is_failed_test(answer: &Answer) -> bool {
    let status: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    answer.status == 422 && status["details"]["causes"].is_null()
}

/// Says whether a 404 is about the object itself and not about its kind or namespace.
pub(super) fn is_plainly_absent(answer: &Answer) -> bool {
    let status: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let kind = text(&status, &["details", "kind"]);
    answer.status == 404 && !kind.is_empty()
}

/// Reads a refusal by a webhook or an admission policy, whose statuses are anybody's choice.
fn is_admission(message: &str) -> bool {
    (message.starts_with("admission webhook ") && message.contains("denied the request"))
        || message.contains("ValidatingAdmissionPolicy '")
}

fn forbidden(message: &str, doing: &Doing) -> ClusterError {
    ClusterError::Forbidden {
        what: format!("{} {}", doing.verb, doing.object),
        reason: causes::capped(message),
    }
}

fn invalid(causes: Vec<String>, doing: &Doing) -> ClusterError {
    ClusterError::Invalid {
        object: doing.object.clone(),
        causes,
    }
}

fn missing(status: &Value, doing: &Doing) -> ClusterError {
    match text(status, &["details", "kind"]) {
        "" => ClusterError::UnknownKind {
            kind: doing.kind.clone(),
        },
        "namespaces" => ClusterError::Missing {
            object: format!("v1/Namespace {}", text(status, &["details", "name"])),
        },
        _ => ClusterError::Missing {
            object: doing.object.clone(),
        },
    }
}

fn conflict(status: &Value, doing: &Doing) -> ClusterError {
    let fields = causes::conflicts(status);
    if fields.is_empty() {
        // Two writers at the same moment; the server kept nothing of ours.
        return unavailable("the object changed at the same moment".to_owned(), None);
    }
    ClusterError::Conflict {
        object: doing.object.clone(),
        fields,
    }
}

fn unavailable(reason: String, retry_after_seconds: Option<u64>) -> ClusterError {
    ClusterError::Unavailable {
        reason,
        retry_after_seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deploy::class::Class;
    use deploy::object::Gvk;
    use serde_json::json;

    fn doing(effect: Effect) -> Doing {
        let id = ObjectId {
            gvk: Gvk::new("apps/v1", "Deployment"),
            namespace: Some("flask".to_owned()),
            name: "web".to_owned(),
        };
        Doing::to("patch", &id, effect)
    }

    fn answered(status: u16, body: &Value) -> Answer {
        Answer {
            status,
            retry_after_seconds: None,
            body: body.to_string().into_bytes(),
        }
    }

    fn class(status: u16, body: &Value, effect: Effect) -> Class {
        refused(&answered(status, body), &doing(effect)).class()
    }

    #[test]
    fn server_errors_are_away_for_reads_and_unknown_for_writes() {
        for status in [500, 502, 504] {
            assert_eq!(class(status, &json!({}), Effect::Read), Class::Upstream);
            assert_eq!(
                class(status, &json!({}), Effect::Write),
                Class::OutcomeUnknown
            );
        }
        let own = json!({"kind": "Status"});
        assert_eq!(class(503, &own, Effect::Write), Class::Upstream);
        assert_eq!(class(503, &json!({}), Effect::Write), Class::OutcomeUnknown);
        assert_eq!(class(429, &own, Effect::Write), Class::Upstream);
    }

    #[test]
    fn a_cut_write_is_unknown_and_a_refused_connection_is_not() {
        let reason = || "gone".to_owned();
        let cut = fault(Fault::Cut { reason: reason() }, &doing(Effect::Write));
        assert_eq!(cut.class(), Class::OutcomeUnknown);
        let unsent = fault(Fault::NotSent { reason: reason() }, &doing(Effect::Write));
        assert_eq!(unsent.class(), Class::Upstream);
    }

    #[test]
    fn the_three_kinds_of_404_differ() {
        let of = |body: Value| refused(&answered(404, &body), &doing(Effect::Write));
        let object = "apps/v1/Deployment flask/web".to_owned();
        assert_eq!(
            of(json!({"details": {"kind": "deployments", "name": "web"}})),
            ClusterError::Missing { object }
        );
        assert_eq!(
            of(json!({"details": {"kind": "namespaces", "name": "flask"}})),
            ClusterError::Missing {
                object: "v1/Namespace flask".to_owned()
            }
        );
        let kind = "apps/v1/Deployment".to_owned();
        assert_eq!(
            of(json!({"details": {}})),
            ClusterError::UnknownKind { kind }
        );
    }

    #[test]
    fn admission_is_a_denial_whatever_its_status() {
        let webhook = json!({"message": "admission webhook \"x\" denied the request: no"});
        for status in [400, 403, 422] {
            assert_eq!(class(status, &webhook, Effect::Write), Class::Denied);
        }
        let policy = json!({"message": "x is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"});
        assert_eq!(class(422, &policy, Effect::Write), Class::Denied);
    }

    #[test]
    fn a_409_without_managers_is_a_race() {
        assert_eq!(
            class(409, &json!({"reason": "Conflict"}), Effect::Write),
            Class::Upstream
        );
    }

    #[test]
    fn a_wrong_shape_comes_with_500_and_is_the_callers() {
        let body =
            json!({"message": "failed to create typed patch object (a/b; v1, Kind=X): .a: b"});
        assert_eq!(class(500, &body, Effect::Write), Class::Caller);
    }

    #[test]
    fn long_words_of_the_server_are_capped() {
        let body = json!({"message": "x".repeat(2000)});
        let ClusterError::Forbidden { reason, .. } =
            refused(&answered(403, &body), &doing(Effect::Read))
        else {
            panic!("403 is Forbidden");
        };
        assert_eq!(reason.chars().count(), 512);
    }
}
