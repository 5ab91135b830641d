//! What a report says of units of systemd that started while the run was on, and were followed.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::account::wall_time;
use super::assemble::Lens;
use super::{Parts, Time};
use crate::record::SubjectId;

/// What the program of a subject is called that stands for a unit: no process executes it.
const UNIT: &str = "unit:";

/// The kind of gap that is about what units did.
pub const FOLLOW_GAP: &str = "follow";

/// A unit of systemd that started while the run was on. It was observed, and nothing of what it did was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Followed {
    /// Its name.
    pub unit: String,
    /// The subject that stands for it: its processes descend from it.
    pub subject: Option<u64>,
    /// Its cgroup, below the top of the tree.
    pub cgroup: String,
    /// The sockets of systemd, or of the bus that leads to it, that the run had reached for before the unit started. If
    /// there are none, the unit may have started for reasons of its own, and no graph counts what it needs as the deployment's.
    /// None where the kernel does not show such sockets (before 6.7).
    pub asked: Option<Vec<String>>,
    /// When it was seen to start.
    pub started: Time,
    /// Up to when it was observed; none if that was not seen.
    pub ended: Option<Time>,
    /// Why not any longer; none if that was not seen.
    pub until: Option<FollowedUntil>,
    /// It is of a type (`simple`, `exec`, `idle`) that is active as soon as its process is there: what that did was not observed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
}

impl Followed {
    /// May the run have asked for its start?
    pub fn may_be_asked_for(&self) -> bool {
        self.asked.as_ref().is_none_or(|asked| !asked.is_empty())
    }
}

/// Why a unit was observed no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FollowedUntil {
    /// It was active.
    Active,
    /// It had done its work, or was stopped.
    Ended,
    /// It failed.
    Failed,
    /// It took too long.
    Time,
    /// The run was over first.
    RunEnded,
}

impl FollowedUntil {
    /// In words, behind "until".
    pub fn words(self) -> &'static str {
        match self {
            Self::Active => "it was active",
            Self::Ended => "it had ended",
            Self::Failed => "it failed",
            Self::Time => "it had taken too long",
            Self::RunEnded => "the run was over",
        }
    }
}

/// What is known of one besides the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedFacts {
    /// Its name.
    pub unit: String,
    /// The subject in the record that stands for it.
    pub root: SubjectId,
    /// Its cgroup.
    pub cgroup: String,
    /// The sockets through which the run may have asked for its start; none where that is not known.
    pub asked: Option<Vec<String>>,
    /// Wall-clock nanoseconds since the epoch.
    pub started_ns: i64,
    /// The same.
    pub ended_ns: Option<i64>,
    /// Why it was observed no longer.
    pub until: Option<FollowedUntil>,
    /// It was active as soon as its process was there.
    #[serde(default)]
    pub at_once: bool,
}

/// What the program of the subject is called that stands for this unit.
pub fn followed_exe(unit: &str) -> String {
    format!("{UNIT}{unit}")
}

/// Does a subject with this program stand for a unit?
pub fn is_followed_exe(exe: &str) -> bool {
    exe.starts_with(UNIT)
}

/// The processes of followed units whose start nothing of the run is known to have asked for: what they need is no need of
/// the deployment's.
pub fn strangers(report: &dyn Parts) -> HashSet<u64> {
    let followed = report.run().followed.iter();
    let unasked = followed.filter(|unit| !unit.may_be_asked_for());
    let mut strangers: HashSet<u64> = unasked.filter_map(|unit| unit.subject).collect();
    if strangers.is_empty() {
        return strangers;
    }
    // A parent comes before what it started.
    for subject in report.subjects() {
        if subject
            .parent
            .is_some_and(|parent| strangers.contains(&parent))
        {
            strangers.insert(subject.id);
        }
    }
    strangers
}

pub(super) fn followed(lens: &Lens<'_>) -> Vec<Followed> {
    let facts = lens.facts.followed.iter();
    facts
        .map(|it| Followed {
            unit: it.unit.clone(),
            subject: lens.record.number_of_id(it.root),
            cgroup: it.cgroup.clone(),
            asked: it.asked.clone(),
            started: wall_time(it.started_ns.into()),
            ended: it.ended_ns.map(|ns| wall_time(ns.into())),
            until: it.until,
            at_once: it.at_once,
        })
        .collect()
}
