//! The run's limits: applied before the command starts, and what they used in the end.

use std::fs;
use std::time::Duration;

use blackstart_core::policy::Limits;
use blackstart_core::report::{Applied, HighestFrom, RunLimits, Usage};

use super::Setup;
use crate::cgroup::{Controller, RunCgroup};
use crate::plan::{Need, Terms};
use crate::refusal::Refusal;

impl Setup<'_> {
    /// What the policy limits.
    pub(super) fn limits(&self) -> Limits {
        self.policy.map(|policy| policy.limits).unwrap_or_default()
    }

    /// Apply the limits, in either mode: they are no verdicts. What cannot be applied is a gap, or a refusal.
    pub(super) fn apply_limits(&mut self) -> Result<(), Refusal> {
        let limits = self.limits();
        let mut told = RunLimits::of(&limits);
        let cgroup = self.cgroup.as_ref();
        let apply = |limit: &dyn Fn(&RunCgroup) -> crate::cgroup::Outcome| {
            cgroup.map_or_else(|| Err("the run has no cgroup".to_owned()), limit)
        };
        let mut outcomes = Vec::new();
        if let (Some(bytes), Some(told)) = (limits.memory, &mut told.memory) {
            let outcome = apply(&|cgroup| cgroup.limit_memory(bytes));
            outcomes.push((Controller::Memory, outcome, &mut told.applied));
        }
        if let (Some(cpus), Some(told)) = (limits.cpu, &mut told.cpu) {
            let outcome = apply(&|cgroup| cgroup.limit_cpu(cpus));
            outcomes.push((Controller::Cpu, outcome, &mut told.applied));
        }
        if let (Some(count), Some(told)) = (limits.pids, &mut told.pids) {
            let outcome = apply(&|cgroup| cgroup.limit_pids(count));
            outcomes.push((Controller::Pids, outcome, &mut told.applied));
        }
        for (controller, outcome, applied) in outcomes {
            match outcome {
                Ok((by, open)) => {
                    *applied = by;
                    if let Some(open) = open {
                        self.terms
                            .note(Need::Limits, format!("{controller}: {open}"), 0);
                    }
                }
                Err(why) => lack(&mut self.terms, controller, &why)?,
            }
        }
        if let Some(time) = &mut told.time {
            time.applied = Applied::Supervisor;
        }
        self.file.limits = told;
        Ok(())
    }

    /// Nothing that was there before is limited.
    pub(super) fn leave_unlimited(&mut self) {
        if self.limits() != Limits::default() {
            let detail = "the policy's limits are not applied to what was there before: it is somebody else's";
            self.terms.note(Need::Limits, detail, 0);
        }
    }

    /// The kernel refused the command a cgroup that limits it: it goes without those, if that is accepted.
    pub(super) fn lift_refused_limits(&mut self, why: &str) -> Result<(), Refusal> {
        let limits = &mut self.file.limits;
        let refused = [
            (
                Controller::Memory,
                limits.memory.as_mut().map(|limit| &mut limit.applied),
            ),
            (
                Controller::Cpu,
                limits.cpu.as_mut().map(|limit| &mut limit.applied),
            ),
            (
                Controller::Pids,
                limits.pids.as_mut().map(|limit| &mut limit.applied),
            ),
        ];
        for (controller, applied) in refused {
            if let Some(applied) = applied.filter(|applied| **applied == Applied::V1) {
                *applied = Applied::No;
                lack(&mut self.terms, controller, why)?;
            }
        }
        Ok(())
    }
}

fn lack(terms: &mut Terms, controller: Controller, why: &str) -> Result<(), Refusal> {
    let why = format!("the limit on {controller} cannot be applied: {why}");
    terms.lack(Need::Limits, why)
}

/// What the run used, as far as the kernel tells; and how often its memory limit stood in the way. `sampled` is the
/// highest number of processes that was seen.
pub(crate) fn usage(cgroup: Option<&RunCgroup>, sampled: Option<u64>) -> (Usage, Option<u64>) {
    let children = || {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        children_seconds(&stat, rustix::param::clock_ticks_per_second())
    };
    let Some(cgroup) = cgroup else {
        let usage = Usage {
            cpu_seconds: children(),
            ..Usage::default()
        };
        return (usage, None);
    };
    let readings = cgroup.readings();
    let counted = readings
        .highest_pids
        .map(|count| (count, HighestFrom::Kernel))
        .or(sampled.map(|count| (count, HighestFrom::Sampled)));
    let usage = Usage {
        cpu_seconds: cgroup.cpu_seconds(),
        peak_memory: readings.peak_memory,
        throttled_seconds: readings.throttled_seconds,
        oom_kills: readings.oom_kills,
        highest_pids: counted.map(|(count, _)| count),
        highest_pids_from: counted.map(|(_, from)| from),
        forks_refused: readings.forks_refused,
        wall_seconds: None,
    };
    (usage, readings.memory_hits)
}

/// CPU time of the children that were waited for, out of our own stat.
fn children_seconds(stat: &str, ticks_per_second: u64) -> Option<f64> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks: u64 = [13, 14]
        .into_iter()
        .map(|at| fields.get(at)?.parse::<u64>().ok())
        .sum::<Option<u64>>()?;
    let millis = ticks.checked_mul(1000)?.checked_div(ticks_per_second)?;
    Some(Duration::from_millis(millis).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_time_is_read_from_stat() {
        let stat = "7 (a b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 150 50 20 0 1 0";
        assert_eq!(children_seconds(stat, 100), Some(2.0));
        assert_eq!(children_seconds("7 (a) S 1", 100), None);
    }
}
