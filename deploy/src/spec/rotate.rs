//! `rotate` of a Secret: how it is kept fresh after the deploy.
//!
//! Called by [`super::secrets`], which reads a Secret of the spec, and by [`crate::managed`], which
//! writes one down on the Secret itself in the very words of the spec, so that there is one reader.
//! Times of day are UTC: an agent and a cluster may be in two places.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::fields::Errors;
use super::fields::Spot;
use super::parse::timeout_of;
use crate::yaml::core::Scalar;
use crate::yaml::core::scalar;

/// How a Secret is kept fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotate {
    /// What is restarted when values change. Default: what refers to a changed key.
    pub restart: Restart,
    /// How long Vault may be away without a consumer seeing a credential that has ended. Default 5
    /// minutes.
    pub outage_budget: Duration,
    /// What happens when the version in Vault is deleted. Default: the values are kept.
    pub on_deleted: OnDeleted,
    /// The least time between two changes of the values that nothing forces; unset: none.
    pub min_age: Option<Duration>,
    /// A change that nothing forces comes up to this much later, by chance; unset: at once.
    pub jitter: Option<Duration>,
    /// When changes that nothing forces may come; none: at any time.
    pub windows: Vec<Window>,
}

impl Default for Rotate {
    fn default() -> Self {
        Self {
            restart: Restart::Auto,
            outage_budget: Duration::from_secs(5 * 60),
            on_deleted: OnDeleted::Keep,
            min_age: None,
            jitter: None,
            windows: Vec::new(),
        }
    }
}

/// What is restarted when values change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restart {
    /// Every workload of the namespace that refers to a changed key.
    Auto,
    /// Nothing: the app reads the Secret again by itself.
    Never,
    /// These, whatever they refer to.
    Named(Vec<Workload>),
}

/// A workload by kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.word(), self.name)
    }
}

/// The kinds that can be restarted by their pod template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` DaemonSet.
    DaemonSet,
}

impl WorkloadKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Deployment, Self::StatefulSet, Self::DaemonSet];

    /// Returns the kind as Kubernetes writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }
}

/// What happens when the version in Vault is deleted or destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDeleted {
    /// The values stay, and the status says so.
    Keep,
    /// As before, and the Secret counts as failed.
    Fail,
    /// The newest version before it that can be read is used.
    Previous,
}

impl OnDeleted {
    const fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Fail => "fail",
            Self::Previous => "previous",
        }
    }
}

/// Days of the week in the order of [`Window`].
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// A part of the week, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Monday to Sunday.
    days: [bool; 7],
    /// The first minute of the day.
    from: u16,
    /// The minute after the last one; not before `from`.
    to: u16,
}

impl Window {
    /// Reads `Mon-Fri 02:00-05:00`, `Sat,Sun 00:00-24:00` or `daily 01:00-02:00`.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "expected days and times in UTC, such as 'Mon-Fri 02:00-05:00' or \
                             'daily 01:00-02:00'";
        let (days, times) = text.split_once(' ').ok_or(SHAPE)?;
        let (from, to) = times.trim().split_once('-').ok_or(SHAPE)?;
        let window = Self {
            days: days_of(days).ok_or(SHAPE)?,
            from: minute(from).ok_or(SHAPE)?,
            to: minute(to).ok_or(SHAPE)?,
        };
        if window.from >= window.to {
            return Err("a window ends after it begins, on the same day; write two for a night");
        }
        Ok(window)
    }

    /// Says whether a time lies in it.
    #[must_use]
    pub fn contains(&self, time: Timestamp) -> bool {
        let minutes = time.as_second().div_euclid(60);
        let day = minutes.div_euclid(i64::from(DAY_MINUTES));
        let minute = minutes.rem_euclid(i64::from(DAY_MINUTES));
        // The first day of 1970 was a Thursday.
        let weekday = usize::try_from((day + 3).rem_euclid(7)).unwrap_or(0);
        self.days[weekday] && (i64::from(self.from)..i64::from(self.to)).contains(&minute)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = DAYS
            .iter()
            .zip(self.days)
            .filter_map(|(name, is_in)| is_in.then_some(*name))
            .collect();
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(
            f,
            "{} {}-{}",
            names.join(","),
            time(self.from),
            time(self.to)
        )
    }
}

fn days_of(text: &str) -> Option<[bool; 7]> {
    if text == "daily" {
        return Some([true; 7]);
    }
    let place = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (place(first)?, place(last)?),
            None => (place(part)?, place(part)?),
        };
        if first > last {
            return None;
        }
        days[first..=last].fill(true);
    }
    Some(days)
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !two(hours) || !two(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let whole = hours * 60 + minutes;
    (minutes < 60 && whole <= DAY_MINUTES).then_some(whole)
}

/// Reads the field.
pub(super) fn rotate(spot: &Spot<'_>, errors: &mut Errors) -> Rotate {
    let mut rotate = Rotate::default();
    let known = &[
        "restart",
        "outage_budget",
        "on_deleted",
        "min_age",
        "jitter",
        "windows",
    ];
    let Some(fields) = spot.clone().fields(known, errors) else {
        return rotate;
    };
    if let Some(spot) = fields.take("restart") {
        rotate.restart = restart(&spot, errors);
    }
    if let Some(spot) = fields.take("outage_budget")
        && let Some(budget) = timeout_of(&spot, errors)
    {
        rotate.outage_budget = budget;
    }
    if let Some(spot) = fields.take("on_deleted") {
        let words = [OnDeleted::Keep, OnDeleted::Fail, OnDeleted::Previous];
        let text = spot.text(errors);
        match words.into_iter().find(|word| Some(word.word()) == text) {
            Some(word) => rotate.on_deleted = word,
            None if text.is_some() => errors.at(&spot, "expected keep, fail or previous"),
            None => {}
        }
    }
    let time = |name, errors: &mut Errors| {
        let spot = fields.take(name)?;
        timeout_of(&spot, errors)
    };
    rotate.min_age = time("min_age", errors);
    rotate.jitter = time("jitter", errors);
    if let Some(spot) = fields.take("windows") {
        let items = spot.items(errors);
        let windows = items.iter();
        rotate.windows = windows
            .filter_map(|item| item.parsed(errors, Window::parse))
            .collect();
    }
    rotate
}

fn restart(spot: &Spot<'_>, errors: &mut Errors) -> Restart {
    const SHAPE: &str = "expected auto, none, or a list such as [Deployment/shop]";
    match scalar(spot.node) {
        None => {}
        Some(Scalar::Text("auto")) => return Restart::Auto,
        Some(Scalar::Text("none")) => return Restart::Never,
        Some(Scalar::Text(_) | Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float | Scalar::Null) => {
            errors.at(spot, SHAPE);
            return Restart::Auto;
        }
    }
    let items = spot.items(errors);
    let named = items.iter();
    Restart::Named(
        named
            .filter_map(|item| item.parsed(errors, workload))
            .collect(),
    )
}

/// Reads `Deployment/shop`.
fn workload(text: &str) -> Result<Workload, &'static str> {
    const SHAPE: &str =
        "expected Deployment/NAME, StatefulSet/NAME or DaemonSet/NAME: other kinds do not restart";
    let (kind, name) = text.split_once('/').ok_or(SHAPE)?;
    let mut kinds = WorkloadKind::ALL.into_iter();
    let kind = kinds.find(|known| known.word() == kind).ok_or(SHAPE)?;
    if proto::ids::dns_subdomain(name).is_err() {
        return Err(SHAPE);
    }
    Ok(Workload {
        kind,
        name: name.to_owned(),
    })
}

impl Rotate {
    /// Writes it in the words of the spec.
    pub(super) fn to_value(&self) -> Value {
        let mut value = json!({
            "restart": match &self.restart {
                Restart::Auto => json!("auto"),
                Restart::Never => json!("none"),
                Restart::Named(list) => list.iter().map(Workload::to_string).collect(),
            },
            "outage_budget": seconds(self.outage_budget),
            "on_deleted": self.on_deleted.word(),
        });
        for (name, time) in [("min_age", self.min_age), ("jitter", self.jitter)] {
            if let Some(time) = time {
                value[name] = json!(seconds(time));
            }
        }
        if !self.windows.is_empty() {
            value["windows"] = self.windows.iter().map(Window::to_string).collect();
        }
        value
    }
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_days_and_times_in_utc() {
        let window = Window::parse("Mon-Wed,Sun 02:00-05:30").expect("valid");
        assert_eq!(window.to_string(), "Mon,Tue,Wed,Sun 02:00-05:30");
        let at = |text: &str| window.contains(text.parse().expect("a timestamp"));
        // 2026-11-23 was a Monday.
        assert!(at("2026-11-23T02:00:00Z"));
        assert!(at("2026-11-25T05:29:59Z"));
        assert!(at("2026-11-29T03:00:00Z"));
        assert!(!at("2026-11-23T01:59:59Z"));
        assert!(!at("2026-11-23T05:30:00Z"));
        assert!(!at("2026-11-26T03:00:00Z"));
        assert!(at("1969-12-31T03:00:00Z"), "a Wednesday before the epoch");
        assert!(Window::parse("daily 00:00-24:00").is_ok());
    }

    #[test]
    fn other_windows_are_refused() {
        for text in [
            "",
            "Mon",
            "Mon 2:00-5:00",
            "Mon 05:00-02:00",
            "Mon 02:00-02:00",
            "Fri-Mon 02:00-05:00",
            "Monday 02:00-05:00",
            "Mon 02:60-05:00",
            "Mon 02:00-24:01",
            "Mon 02:00 - 05:00",
        ] {
            assert!(Window::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_workloads_with_pod_templates_that_roll_can_be_named() {
        assert!(workload("Deployment/shop").is_ok());
        for text in [
            "shop",
            "Pod/shop",
            "Job/shop",
            "Deployment/",
            "Deployment/A B",
        ] {
            assert!(workload(text).is_err(), "{text}");
        }
    }
}
