//! What a drill showed, in words.

use blackstart_core::drill::Fault;
use blackstart_core::report::{Drill, DrillOutcome, Run};

use super::{SENTENCE_WIDTH, counted};
use crate::plain::{cut, plain};

/// The words, in the order in which they are said.
pub(crate) struct Told {
    /// `github (connections are refused)`
    pub(crate) what: String,
    /// `managed`
    pub(crate) outcome: &'static str,
    /// `3 attempts to reach what is down`
    pub(crate) vain: String,
    /// `62.0 s; usually 2.0 s (4 runs without a drill): 60.0 s more`, if that is known.
    pub(crate) time: Option<String>,
}

/// Of a run for which an outage was played.
pub(crate) fn told(run: &Run) -> Option<Told> {
    let drill = run.drill.as_ref()?;
    let fault = match drill.fault {
        Fault::Refuse => "connections are refused",
        Fault::Blackhole => "what is sent is lost",
        Fault::Nxdomain => "names do not resolve",
    };
    Some(Told {
        what: format!(
            "{} ({fault})",
            cut(&plain(&drill.down.join(", ")), SENTENCE_WIDTH)
        ),
        outcome: match drill.outcome {
            DrillOutcome::Managed => "managed",
            DrillOutcome::Failed => "failed",
            DrillOutcome::Hung => "hung",
            DrillOutcome::Unknown if run.exit_code.is_none() => "nobody knows how it ended",
            DrillOutcome::Unknown => {
                "not known: it succeeded, and not all of what it reached for was seen"
            }
        },
        vain: match drill.attempts {
            0 => "it reached for nothing that is down".to_owned(),
            count => format!("{} to reach what is down", counted(count, "attempt")),
        },
        time: run
            .usage
            .wall_seconds
            .map(|took| format!("{took:.1} s; {}", usual(drill))),
    })
}

fn usual(drill: &Drill) -> String {
    match (drill.usual_seconds, drill.lost_seconds) {
        (Some(usual), Some(lost)) => {
            let more = if lost < 0.0 { "less" } else { "more" };
            let runs = counted(drill.usual_runs, "run");
            format!(
                "usually {usual:.1} s ({runs} without a drill): {:.1} s {more}",
                lost.abs()
            )
        }
        _ => "no run of the same command without a drill is known here".to_owned(),
    }
}
