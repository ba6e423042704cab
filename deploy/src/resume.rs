//! What is kept of a run so that it can go on after its agent was killed, and how far it had come.
//!
//! [`crate::engine`] journals a [`Brief`] before a run takes its lock; at the next start the agent
//! reads it, asks the policy again with the same principal and request, and lets the engine go on.
//! Invariants: a brief holds no secret value and no token, so a Secret that is written from values
//! cannot be written again; a permit is never kept, only what it takes to ask for one.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::ids::ClusterName;
use proto::ids::Namespace;
use proto::report::Action;
use proto::report::ImageChange;
use proto::report::Mode;
use proto::report::Step;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::authorize::Permit;
use crate::binding::Binding;
use crate::bundle::InputError;
use crate::image::ImageRef;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::Origin;
use crate::plan::Content;
use crate::plan::Plan;
use crate::ports::CommitId;
use crate::ports::Way;
use crate::principal::Principal;
use crate::principal::PrincipalKind;
use crate::request::Request;
use crate::request::Source;
use crate::spec;
use crate::spec::Spec;

/// How far a run had come when its agent ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It may have its lock; nothing was written.
    Planned,
    /// Writing had begun.
    Writing {
        /// The number of its lock; 0 without one.
        fence: u64,
    },
    /// Writing had begun and every Secret is written.
    Supplied {
        /// As above.
        fence: u64,
    },
    /// Everything is written.
    Applied {
        /// As above.
        fence: u64,
        /// As the cluster had it.
        objects: Vec<AppliedObject>,
    },
    /// It was on its way back to what worked before.
    Returning {
        /// As above.
        fence: u64,
    },
    /// Everything is written, and a commit was pushed for Flux or about to be.
    Pushed {
        /// As above.
        fence: u64,
        /// As above.
        objects: Vec<AppliedObject>,
        /// The commit.
        commit: CommitId,
        /// What it is for.
        way: Way,
    },
}

/// All that is needed to ask for the permit again and to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    attributes: BTreeMap<String, String>,
    principal: String,
    mode: Mode,
    spec: String,
    /// The images, which need not be those of the spec: a promotion found them, or their digests were looked up.
    #[serde(default)]
    images: BTreeMap<String, String>,
    objects: Vec<Kept>,
    /// The cluster that was granted.
    pub cluster: ClusterName,
    /// The namespace that was granted.
    pub namespace: Namespace,
    /// When the run's time is over.
    pub deadline: Timestamp,
    /// The plan as it was told.
    pub steps: Vec<Step>,
    /// Its images as they were told.
    #[serde(default)]
    pub image_changes: Vec<ImageChange>,
    /// Its address as it was told.
    #[serde(default)]
    pub url: Option<String>,
    /// Secrets that the plan writes with values that are not kept.
    pub blind: Vec<String>,
    /// Whether the run writes anything, and so needs the lock.
    pub writes: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    api_version: String,
    kind: String,
    namespace: Option<String>,
    name: String,
    body: Value,
    file: String,
    line: u64,
}

impl Kept {
    fn of(object: &Object) -> Self {
        let mut body = object.body.clone();
        if object.id.gvk.is("", "Secret")
            && let Some(body) = body.as_object_mut()
        {
            body.remove("data");
            body.remove("stringData");
        }
        Self {
            api_version: object.id.gvk.api_version(),
            kind: object.id.gvk.kind.clone(),
            namespace: object.id.namespace.clone(),
            name: object.id.name.clone(),
            body,
            file: object.origin.file.clone(),
            line: object.origin.line,
        }
    }

    fn object(&self) -> Object {
        Object {
            id: ObjectId {
                gvk: Gvk::new(&self.api_version, &self.kind),
                namespace: self.namespace.clone(),
                name: self.name.clone(),
            },
            body: self.body.clone(),
            origin: Origin {
                file: self.file.clone(),
                line: self.line,
            },
        }
    }
}

fn images(spec: &Spec) -> BTreeMap<String, String> {
    let images = spec.images.iter();
    images
        .map(|(name, image)| (name.clone(), image.to_string()))
        .collect()
}

impl Brief {
    /// Writes down a plan, with its steps as they are told and whether its run needs the lock.
    #[must_use]
    pub fn of(plan: &Plan, steps: &[Step], writes: bool, deadline: Timestamp) -> Self {
        let permit = plan.permit();
        let request = permit.request();
        let is_blind = |step: &&crate::plan::Step| {
            step.action != Action::Same
                && (matches!(step.content, Content::Secret { .. }) || step.id.gvk.is("", "Secret"))
        };
        let blind = plan.steps().iter().filter(is_blind);
        Self {
            attributes: permit.principal().attributes().clone(),
            principal: permit.principal().kind().word().to_owned(),
            mode: request.mode,
            spec: request.spec.text.clone(),
            images: images(&request.spec),
            objects: request.objects.iter().map(Kept::of).collect(),
            cluster: permit.cluster().clone(),
            namespace: permit.namespace().clone(),
            deadline,
            steps: steps.to_vec(),
            image_changes: Vec::new(),
            url: None,
            blind: blind.map(|step| step.id.name.clone()).collect(),
            writes,
        }
    }

    /// Returns it as JSON for the journal.
    #[must_use]
    pub fn to_value(&self) -> Value {
        // Texts, numbers and maps with text keys always have a JSON form.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads what [`Brief::to_value`] wrote; unset for that of a version that is not known.
    #[must_use]
    pub fn read(value: Value) -> Option<Self> {
        serde_json::from_value(value).ok()
    }

    /// Returns who asked. It was verified when the run began.
    #[must_use]
    pub fn principal(&self) -> Principal {
        let kind = if self.principal == PrincipalKind::VaultToken.word() {
            PrincipalKind::VaultToken
        } else {
            PrincipalKind::GitlabJob
        };
        Principal::unchecked(kind, self.attributes.clone())
    }

    /// Returns what was asked.
    ///
    /// # Errors
    /// When this version of the agent does not take the spec any more.
    pub fn request(&self) -> Result<Request, InputError> {
        let mut spec = spec::parse(self.spec.as_bytes())?;
        for (name, text) in &self.images {
            if let Ok(image) = ImageRef::parse(text) {
                spec.images.insert(name.clone(), image);
            }
        }
        Ok(Request {
            mode: self.mode,
            spec,
            objects: self.objects.iter().map(Kept::object).collect(),
            source: Source::Manifests,
            origin: None,
            binding: Binding::default(),
            notes: Vec::new(),
        })
    }

    /// Says whether a permit is for the place that the run was granted before.
    #[must_use]
    pub fn is_for(&self, permit: &Permit) -> bool {
        permit.cluster() == &self.cluster && permit.namespace() == &self.namespace
    }
}
