//! What a drill showed: does the command fail, hang, or manage while something is down?

use std::collections::HashSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::assemble::Lens;
use super::exit_code::GATED;
use super::ledger::Slot;
use super::whole::is_whole;
use super::{Finding, Guarded, Severity, Verdict};
use crate::drill::{self, Fault};
use crate::policy::time_text;
use crate::tables::RuleId;

/// The outage of some services, played for one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Drill {
    /// The services that were down.
    pub down: Vec<String>,
    /// How their outage looked.
    pub fault: Fault,
    /// What it made of the command.
    pub outcome: DrillOutcome,
    /// Attempts to reach what was down, lookups that were refused among them.
    pub attempts: u64,
    /// Of a run that failed or hung: the process behind it, then its ancestors. Empty if none of those that reached
    /// for what was down ended badly.
    pub subjects: Vec<u64>,
    /// How long the same command took in its runs without a drill, if there were some on this host: the median, in
    /// seconds.
    pub usual_seconds: Option<f64>,
    /// How many runs that was taken from.
    pub usual_runs: u64,
    /// How much longer this one took; negative if it was done sooner, as one that fails may be.
    pub lost_seconds: Option<f64>,
}

/// What a drill made of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrillOutcome {
    /// It succeeded all the same.
    Managed,
    /// It did not.
    Failed,
    /// The time limit had to end it.
    Hung,
    /// Nobody saw its end, or not all of what it reached for: it may have reached what was down.
    Unknown,
}

/// What is known of a drill besides the kernel's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillFacts {
    /// What was to be played.
    pub drill: drill::Drill,
    /// What the same command usually takes, if that is known.
    #[serde(default)]
    pub usual: Option<Usual>,
}

/// How long a command usually takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    /// The median.
    pub seconds: f64,
    /// Of how many runs.
    pub runs: u64,
}

/// What was reached for in vain.
#[derive(Default)]
struct Vain {
    attempts: u64,
    /// By whom, with the time of the last attempt.
    by: Vec<(u64, u64)>,
}

impl Vain {
    fn meet(&mut self, lens: &Lens<'_>, subject: Slot, attempts: u64, last_ns: u64) {
        self.attempts = self.attempts.saturating_add(attempts);
        self.by
            .extend(lens.subject(subject).map(|number| (last_ns, number)));
    }

    fn of(lens: &Lens<'_>) -> Self {
        let policy = lens.facts.policy;
        let played = |rule: RuleId| {
            let rule = policy.and_then(|policy| policy.rule(rule));
            rule.is_some_and(|rule| rule.derived.as_ref().is_some_and(|derived| derived.drill))
        };
        let record = lens.record;
        let mut vain = Self::default();
        for row in &record.flows {
            if row.verdict == Verdict::Deny && played(row.rule) && !row.told_by_another {
                vain.meet(lens, row.subject, row.attempts, row.last_ns);
            }
        }
        for row in &record.queries {
            if row.verdict == Verdict::Deny && played(row.rule) {
                vain.meet(lens, row.subject, row.queries, row.last_ns);
            }
        }
        for row in &record.delegates {
            if row.verdict == Verdict::Deny && played(row.rule) {
                // When it was met is not recorded.
                vain.meet(lens, row.subject, row.attempts, 0);
            }
        }
        // The last attempt first: what fails or hangs is, as a rule, what was tried last.
        vain.by.sort_unstable_by(|a, b| b.cmp(a));
        vain
    }
}

/// What the drill of this run showed.
pub(super) fn drill(lens: &Lens<'_>) -> Option<Drill> {
    let facts = lens.facts.drill.as_ref()?;
    let vain = Vain::of(lens);
    let outcome = outcome(lens);
    let wall = lens.facts.usage.wall_seconds;
    Some(Drill {
        down: facts.drill.down.clone(),
        fault: facts.drill.fault,
        outcome,
        attempts: vain.attempts,
        subjects: behind(lens, outcome, &vain)
            .map(|number| lens.chain_of(number))
            .unwrap_or_default(),
        usual_seconds: facts.usual.map(|usual| usual.seconds),
        usual_runs: facts.usual.map_or(0, |usual| usual.runs),
        lost_seconds: facts.usual.and_then(|usual| Some(wall? - usual.seconds)),
    })
}

fn outcome(lens: &Lens<'_>) -> DrillOutcome {
    let facts = lens.facts;
    if facts.guarded == Guarded::No {
        return DrillOutcome::Unknown;
    }
    if facts.limits.overtime.is_some() {
        return DrillOutcome::Hung;
    }
    match facts.exit_code {
        // What went on out of sight may be why it succeeded.
        Some(0 | GATED) if !is_whole(lens) => DrillOutcome::Unknown,
        Some(0 | GATED) => DrillOutcome::Managed,
        Some(_) => DrillOutcome::Failed,
        None => DrillOutcome::Unknown,
    }
}

/// The process that a bad end is to be looked for in. Of those that reached for what was down, the last one that
/// the time limit found alive, or that ended badly; of a run that hung without any of these, what was started
/// last.
fn behind(lens: &Lens<'_>, outcome: DrillOutcome, vain: &Vain) -> Option<u64> {
    match outcome {
        DrillOutcome::Managed | DrillOutcome::Unknown => None,
        DrillOutcome::Failed => vain.by.iter().map(|(_, number)| *number).find(|number| {
            let image = lens.record.image(*number);
            image.ended_ns != 0 && !image.replaced && image.wait_status != 0
        }),
        DrillOutcome::Hung => {
            let over = lens.facts.limits.overtime.as_ref()?;
            let alive: HashSet<u32> = over.ended.iter().map(|one| one.tgid).collect();
            let waits = |number: &u64| alive.contains(&lens.record.image(*number).tgid);
            vain.by
                .iter()
                .map(|(_, number)| *number)
                .find(waits)
                .or_else(|| alive.iter().filter_map(|tgid| lens.last_image(*tgid)).max())
        }
    }
}

/// A drill that did not go well.
pub(super) fn drill_finding(lens: &Lens<'_>) -> Option<Finding> {
    let told = drill(lens)?;
    let (kind, word) = match told.outcome {
        DrillOutcome::Failed => ("drill_failed", "fails"),
        DrillOutcome::Hung => ("drill_hung", "hangs"),
        DrillOutcome::Managed | DrillOutcome::Unknown => return None,
    };
    let down = told.down.join(", ");
    let what = match &lens.facts.service {
        Some(service) => format!("the deploy of {service}"),
        None => "the command".to_owned(),
    };
    let process = told.subjects.first().copied();
    let name = process.map(|number| lens.name_of(number));
    let by = name
        .as_ref()
        .map_or(String::new(), |name| format!(", in {name}"));
    let title = match (told.attempts, told.outcome) {
        (0, _) => format!(
            "{what} {word}, and not for the drill: it reached for nothing that is down ({down})"
        ),
        (_, DrillOutcome::Hung) => {
            let limit = lens.facts.limits.limits.time;
            let after = limit.map_or(String::new(), |limit| {
                format!(
                    ": it was ended after {}",
                    time_text(Duration::from_secs_f64(limit.value))
                )
            });
            format!("{what} {word} while {down} is down{by}{after}")
        }
        _ => format!("{what} {word} while {down} is down{by}"),
    };
    // Over runs and hosts the same, whatever the process was called.
    let about = [
        &down,
        lens.facts.service.as_deref().unwrap_or_default(),
        &told.fault.to_string(),
    ];
    let found = Finding {
        fix: (told.attempts > 0).then(|| {
            "let the deployment do without what was refused, or have it from elsewhere".to_owned()
        }),
        ..Finding::new(kind, Severity::Error, &title, &about)
    };
    Some(found.by(lens, process))
}
