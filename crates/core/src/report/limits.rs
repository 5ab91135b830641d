//! What a run was allowed to use, what came of it, and who was ended or held back for it.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::assemble::{Leftover, Lens};
use super::findings::processes;
use super::ledger::Slot;
use super::{Finding, Severity, Usage, Verdict};
use crate::policy::{self, memory_text, time_text};

/// Processes named in one title.
const NAMED: usize = 6;
/// Held back for less than this, or for a smaller share of the run, is what a limit is for.
const THROTTLED_LEAST: f64 = 1.0;
const THROTTLED_SHARE: f64 = 0.1;
/// Wait status of a process that SIGKILL ended.
const KILLED: u32 = 9;

/// The limits of a run, and how each was applied. Null: no limit of this run's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunLimits {
    /// Memory of all processes, page cache and swap included, in bytes. Reached: processes were killed for it.
    pub memory: Option<Limit<u64>>,
    /// Processors (1.5: the time of one and a half). Reached: processes had to wait for it.
    pub cpu: Option<Limit<f64>>,
    /// Processes at the same time, threads counted. Reached: a process could not be started for it.
    pub pids: Option<Limit<u32>>,
    /// Seconds from the command's start. Reached: the command was ended for it.
    pub time: Option<Limit<f64>>,
}

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Limit<T> {
    /// Its value.
    pub value: T,
    /// How it was applied.
    pub applied: Applied,
    /// Did it end, refuse or delay something?
    pub reached: bool,
}

/// How a limit was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// By the kernel, in the cgroup2 hierarchy.
    V2,
    /// By the kernel, in a hierarchy of the first version.
    V1,
    /// By Blackstart itself, as long as it lives.
    Supervisor,
    /// Not at all; a gap says why.
    No,
}

impl Applied {
    /// Does it hold the processes of the run themselves?
    fn by_kernel(self) -> bool {
        matches!(self, Self::V1 | Self::V2)
    }
}

/// Where the highest number of processes comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HighestFrom {
    /// The kernel keeps it: exact.
    Kernel,
    /// Looked at twice a second: there may have been more in between.
    Sampled,
}

impl RunLimits {
    /// As a policy has them, none applied yet.
    pub fn of(limits: &policy::Limits) -> Self {
        fn limit<T>(value: T) -> Limit<T> {
            Limit {
                value,
                applied: Applied::No,
                reached: false,
            }
        }
        Self {
            memory: limits.memory.map(limit),
            cpu: limits
                .cpu
                .map(|cpus| limit(f64::from(cpus.thousandths()) / 1000.0)),
            pids: limits.pids.map(limit),
            time: limits.time.map(|time| limit(time.as_secs_f64())),
        }
    }

    /// Is nothing limited?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Do any hold the processes of the run itself, and so a daemon that it starts?
    pub fn hold_processes(&self) -> bool {
        self.memory.is_some_and(|limit| limit.applied.by_kernel())
            || self.cpu.is_some_and(|limit| limit.applied.by_kernel())
            || self.pids.is_some_and(|limit| limit.applied.by_kernel())
    }

    /// `memory 2GiB, cpu 1.5`: those that hold processes, in words.
    pub fn held(&self) -> String {
        let parts = [
            self.memory
                .filter(|limit| limit.applied.by_kernel())
                .map(|limit| format!("memory {}", memory_text(limit.value))),
            self.cpu
                .filter(|limit| limit.applied.by_kernel())
                .map(|limit| format!("cpu {}", limit.value)),
            self.pids
                .filter(|limit| limit.applied.by_kernel())
                .map(|limit| format!("pids {}", limit.value)),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What is known of a run's limits besides the kernel's record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LimitFacts {
    /// The limits, and how each was applied.
    pub limits: RunLimits,
    /// How often the memory limit stood in the way of an allocation, if the kernel told.
    pub memory_hits: Option<u64>,
    /// The time limit was reached.
    pub overtime: Option<Overtime>,
    /// Processes that went into the background while limits held them.
    pub daemons: Vec<Leftover>,
}

/// The moment at which the time limit was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overtime {
    /// Wall-clock nanoseconds since the epoch.
    pub at_ns: i64,
    /// Processes that it ended: the command's, which had not left its session.
    pub ended: Vec<Leftover>,
    /// Processes that had, and that are none of its business.
    pub spared: Vec<Leftover>,
}

/// The limits as the report has them: with whether each was reached.
pub(super) fn told(facts: &LimitFacts, usage: &Usage) -> RunLimits {
    let mut limits = facts.limits.clone();
    if let Some(memory) = &mut limits.memory {
        memory.reached = killed_by_limit(facts, usage);
    }
    if let Some(cpu) = &mut limits.cpu {
        cpu.reached = usage.throttled_seconds.is_some_and(|seconds| seconds > 0.0);
    }
    if let Some(pids) = &mut limits.pids {
        pids.reached = usage.forks_refused.is_some_and(|count| count > 0);
    }
    if let Some(time) = &mut limits.time {
        time.reached = facts.overtime.is_some();
    }
    limits
}

/// The kernel also kills where the whole host, or a group around this run, is out of memory.
fn killed_by_limit(facts: &LimitFacts, usage: &Usage) -> bool {
    facts
        .limits
        .memory
        .is_some_and(|limit| limit.applied.by_kernel())
        && usage.oom_kills.is_some_and(|kills| kills > 0)
        && facts.memory_hits != Some(0)
}

/// What limits did.
pub(super) fn limit_findings(lens: &Lens<'_>) -> Vec<Finding> {
    let facts = &lens.facts.limits;
    let usage = &lens.facts.usage;
    let mut found: Vec<_> = [
        memory(lens),
        pids(facts, usage),
        cpu(facts, usage),
        time(lens),
    ]
    .into_iter()
    .flatten()
    .collect();
    found.extend(daemons(lens));
    found
}

fn memory(lens: &Lens<'_>) -> Option<Finding> {
    let (facts, usage) = (&lens.facts.limits, &lens.facts.usage);
    let kills = usage.oom_kills.filter(|kills| *kills > 0)?;
    let killed = killed(lens);
    let names = named(killed.iter().map(|number| lens.name_of(*number)));
    let who = match killed.len() as u64 {
        0 => String::new(),
        count if count <= kills => format!(" ({names})"),
        // More than these were ended by the same signal: by whom, nobody saw.
        _ => format!(" (among: {names})"),
    };
    let (processes, were) = match kills {
        1 => ("1 process".to_owned(), "was"),
        count => (format!("{count} processes"), "were"),
    };
    let chief = killed.first().copied();
    let finding = |kind: &str, title: String, rule: Option<String>, fix: &str| {
        let about = [rule.as_deref().unwrap_or_default(), "", &names];
        let found = Finding::new(kind, Severity::Error, &title, &about).by(lens, chief);
        Finding {
            rule,
            fix: Some(fix.to_owned()),
            ..found
        }
    };
    Some(match facts.limits.memory {
        Some(limit) if killed_by_limit(facts, usage) => {
            let text = memory_text(limit.value);
            finding(
                "limit_memory",
                format!("memory limit of {text} reached: {processes} {were} killed{who}"),
                Some(format!("limits: memory {text}")),
                "let it use less memory, or raise the policy's `limits: memory`",
            )
        }
        _ => finding(
            "out_of_memory",
            format!(
                "the host, or a cgroup around this run, was out of memory: {processes} {were} killed{who}"
            ),
            None,
            "look in the kernel's log for who used the memory",
        ),
    })
}

/// The numbers of images that SIGKILL ended, without those that we ended.
fn killed(lens: &Lens<'_>) -> Vec<u64> {
    let facts = lens.facts;
    let over_ns = facts.limits.overtime.as_ref().map(|over| over.at_ns);
    let by_us = |tgid: u32, ended_ns: u64| {
        over_ns.is_some_and(|over| lens.record.wall_ns(ended_ns) >= i128::from(over))
            || facts.leftovers.iter().any(|leftover| leftover.tgid == tgid)
    };
    let images = lens.record.subjects.iter().zip(1..);
    images
        .filter(|(row, _)| row.ended_ns != 0 && !row.replaced && row.wait_status & 0x7f == KILLED)
        .filter(|(row, _)| !by_us(row.tgid, row.ended_ns))
        .map(|(_, number)| number)
        .collect()
}

fn pids(facts: &LimitFacts, usage: &Usage) -> Option<Finding> {
    let limit = facts.limits.pids?;
    let refused = usage.forks_refused.filter(|count| *count > 0)?;
    let times = match refused {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    let text = format!("limits: pids {}", limit.value);
    Some(of_limit(
        "limit_pids",
        Severity::Error,
        format!(
            "limit of {} processes and threads reached: starting another failed {times}",
            limit.value
        ),
        text,
        "let it run fewer at once, or raise the policy's `limits: pids`",
    ))
}

fn cpu(facts: &LimitFacts, usage: &Usage) -> Option<Finding> {
    let limit = facts.limits.cpu?;
    let throttled = usage
        .throttled_seconds
        .filter(|seconds| *seconds >= THROTTLED_LEAST)?;
    let wall = usage.wall_seconds.unwrap_or(0.0);
    if throttled < wall * THROTTLED_SHARE {
        return None;
    }
    Some(of_limit(
        "limit_cpu",
        Severity::Info,
        format!(
            "held back by the limit of {} CPUs: its processes waited {throttled:.1} s for it, in a run of {wall:.1} s",
            limit.value
        ),
        format!("limits: cpu {}", limit.value),
        "if the run takes too long, raise the policy's `limits: cpu`",
    ))
}

fn time(lens: &Lens<'_>) -> Option<Finding> {
    let facts = &lens.facts.limits;
    let over = facts.overtime.as_ref()?;
    let text = time_text(Duration::from_secs_f64(facts.limits.time?.value));
    let after = over.at_ns.saturating_sub(lens.facts.started_ns).max(0);
    let after = after as f64 / 1e9;
    let mut title = format!("time limit of {text} reached after {after:.1} s");
    for (words, list) in [("ended", &over.ended), ("left alone", &over.spared)] {
        if !list.is_empty() {
            let processes = named(list.iter().map(|one| alive(lens, one, over.at_ns)));
            title = format!("{title}; {words}: {processes}");
        }
    }
    // What hangs is, as a rule, what was started last.
    let last = over
        .ended
        .iter()
        .filter_map(|one| lens.last_image(one.tgid))
        .max();
    let found = of_limit(
        "limit_time",
        Severity::Error,
        title,
        format!("limits: time {text}"),
        "find out what it waited for, or raise the policy's `limits: time`",
    );
    Some(found.by(lens, last))
}

/// `apt-get (pid 12, last reached for mirror.internal:443)`
fn alive(lens: &Lens<'_>, process: &Leftover, at_ns: i64) -> String {
    let name = lens.name_of_process(process);
    let tgid = process.tgid;
    match last_reached(lens, tgid, at_ns) {
        Some(what) => format!("{name} (pid {tgid}, last reached for {what})"),
        None => format!("{name} (pid {tgid})"),
    }
}

/// What a process reached for last before a moment: the destination, and whether it was refused.
fn last_reached(lens: &Lens<'_>, tgid: u32, at_ns: i64) -> Option<String> {
    let of_it = |slot: Slot| {
        lens.subject(slot)
            .is_some_and(|number| lens.record.image(number).tgid == tgid)
    };
    let before = |first_ns: u64| lens.record.wall_ns(first_ns) <= i128::from(at_ns);
    let lookups = lens
        .record
        .queries
        .iter()
        .filter(|row| of_it(row.subject) && before(row.first_ns))
        .map(|row| (row.last_ns, row.verdict, lens.name(row.name)));
    let flows = lens
        .record
        .flows
        .iter()
        .filter(|row| of_it(row.subject) && before(row.first_ns))
        .map(|row| (row.last_ns, row.verdict, lens.destination(row)));
    let (_, verdict, what) = lookups.chain(flows).max_by_key(|(last_ns, ..)| *last_ns)?;
    Some(match verdict {
        Verdict::Deny => format!("{what}, refused"),
        _ => what,
    })
}

fn daemons(lens: &Lens<'_>) -> Vec<Finding> {
    let facts = &lens.facts.limits;
    let names: BTreeSet<String> = facts
        .daemons
        .iter()
        .map(|daemon| lens.name_of_process(daemon))
        .collect();
    let held = facts.limits.held();
    let finding = |name: String| {
        let of_name: Vec<_> = facts
            .daemons
            .iter()
            .filter(|daemon| lens.name_of_process(daemon) == name)
            .collect();
        let ids = processes(of_name.iter().map(|one| one.tgid));
        let image = of_name
            .iter()
            .filter_map(|one| lens.last_image(one.tgid))
            .min();
        let title =
            format!("{name} ({ids}) went into the background under this run's limits ({held})");
        let about = ["", "", &*name];
        Finding {
            command: of_name
                .first()
                .map(|one| lens.facts.redaction.of(&one.argv)),
            fix: Some(
                "start it through the service manager, which gives it limits of its own".to_owned(),
            ),
            ..Finding::new("daemon_under_limits", Severity::Warning, &title, &about).by(lens, image)
        }
    };
    names.into_iter().map(finding).collect()
}

fn of_limit(kind: &str, severity: Severity, title: String, rule: String, fix: &str) -> Finding {
    let found = Finding::new(kind, severity, &title, &[&rule, "", ""]);
    Finding {
        rule: Some(rule),
        fix: Some(fix.to_owned()),
        ..found
    }
}

/// A list of names, cut to what a line holds.
fn named(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let mut shown = names
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(more) = names.len().checked_sub(NAMED).filter(|more| *more > 0) {
        shown.push_str(&format!(" and {more} more"));
    }
    shown
}
