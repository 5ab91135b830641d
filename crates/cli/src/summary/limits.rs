//! Use against limit, in one line, and which limits ended something.

use std::time::Duration;

use blackstart_core::policy::{memory_text, time_text};
use blackstart_core::report::{Applied, HighestFrom, Run, RunLimits};

/// Limits that ended or refused something, for the headline. Having had to wait for a processor is no such thing.
pub(super) fn reached(limits: &RunLimits) -> Vec<String> {
    let texts = [
        limits
            .memory
            .filter(|limit| limit.reached)
            .map(|limit| format!("memory limit of {} reached", memory_text(limit.value))),
        limits
            .pids
            .filter(|limit| limit.reached)
            .map(|limit| format!("limit of {} processes reached", limit.value)),
        limits
            .time
            .filter(|limit| limit.reached)
            .map(|limit| format!("time limit of {} reached", seconds_text(limit.value))),
    ];
    texts.into_iter().flatten().collect()
}

/// `memory 1.2GiB of 2GiB; cpu …`; none without limits.
pub(crate) fn use_of(run: &Run) -> Option<String> {
    let (limits, usage) = (&run.limits, &run.usage);
    let mut parts = Vec::new();
    if let Some(limit) = limits.memory {
        let used = usage.peak_memory.map(memory_text);
        let most = memory_text(limit.value);
        parts.push(part("memory", used, &most, limit.applied));
    }
    if let Some(limit) = limits.cpu {
        let used = usage.cpu_seconds.map(|used| {
            let waited = usage
                .throttled_seconds
                .filter(|waited| *waited >= 0.05)
                .map(|waited| format!(", waited {waited:.1} s for it"));
            format!("{used:.1} s{}", waited.unwrap_or_default())
        });
        let text = match (used, limit.applied) {
            (_, Applied::No) => format!("cpu {} not applied", limit.value),
            (Some(used), _) => format!("cpu {used}, at most {} at a time", limit.value),
            (None, _) => format!("cpu at most {} at a time", limit.value),
        };
        parts.push(text);
    }
    if let Some(limit) = limits.pids {
        let used = usage.highest_pids.map(|count| {
            match usage.highest_pids_from {
                // Nobody looked all the time.
                Some(HighestFrom::Sampled) => format!("{count} (sampled)"),
                _ => count.to_string(),
            }
        });
        let most = limit.value.to_string();
        parts.push(part("pids", used, &most, limit.applied));
    }
    if let Some(limit) = limits.time {
        let used = usage.wall_seconds.map(seconds_text);
        let most = seconds_text(limit.value);
        parts.push(part("time", used, &most, limit.applied));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn part(what: &str, used: Option<String>, most: &str, applied: Applied) -> String {
    match (used, applied) {
        (_, Applied::No) => format!("{what} {most} not applied"),
        (Some(used), _) => format!("{what} {used} of {most}"),
        (None, _) => format!("{what} at most {most}"),
    }
}

/// A short run's seconds with a decimal, longer ones as a policy writes them.
fn seconds_text(seconds: f64) -> String {
    let whole = seconds.fract() == 0.0;
    if seconds < 60.0 && !whole {
        format!("{seconds:.1}s")
    } else {
        time_text(Duration::try_from_secs_f64(seconds).unwrap_or_default())
    }
}
