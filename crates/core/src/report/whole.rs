//! Was the whole of a run seen? Where it was not, that is a finding: whoever is told of findings only is not to take silence for
//! proof.

use super::assemble::Lens;
use super::coverage::lost;
use super::{Finding, Guarded, Severity};

/// Where the run as a whole was not guarded.
pub const UNGUARDED: &str = "unguarded";
/// Where a part of the guard was missing, or of the record.
pub const PARTLY_GUARDED: &str = "partly_guarded";
/// Where attempts were judged of which nothing else is known.
pub const ATTEMPTS_LOST: &str = "attempts_lost";
/// Where nobody supervised it for a while.
pub const UNSUPERVISED: &str = "unsupervised";

/// As the report says it: a process that left and did not come back was not guarded from then on.
pub(super) fn guarded(lens: &Lens<'_>) -> Guarded {
    let left = lens.record.leavers.iter().any(|row| !row.returned);
    match lens.facts.guarded {
        Guarded::Yes if left => Guarded::Partly,
        known => known,
    }
}

/// Was every attempt seen, from the first instruction to the end?
pub(super) fn is_whole(lens: &Lens<'_>) -> bool {
    guarded(lens) == Guarded::Yes && lost(lens) == 0 && lens.facts.unsupervised_seconds == 0.0
}

/// What was not seen of it, by kind; who left has findings of its own. An id is made of the kind alone: it is the same problem
/// in every run, however much was lost.
pub(super) fn whole_findings(lens: &Lens<'_>) -> Vec<Finding> {
    let facts = lens.facts;
    let doctor =
        || Some("`blackstart doctor` says what this host lacks, and what to do".to_owned());
    let mut found = Vec::new();
    match facts.guarded {
        Guarded::Yes => {}
        Guarded::Partly => {
            let mut kinds: Vec<&str> = facts.gaps.iter().map(|gap| gap.kind.as_str()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let kinds = match kinds[..] {
                [] => String::new(),
                _ => format!(" (gaps: {})", kinds.join(", ")),
            };
            found.push(of(
                PARTLY_GUARDED,
                Severity::Warning,
                &format!("the run was guarded in part, and may have reached for more than is known{kinds}"),
                doctor(),
            ));
        }
        Guarded::No => found.push(of(
            UNGUARDED,
            Severity::Warning,
            "the run was unguarded: nothing of what it reached for was seen, nor refused",
            doctor(),
        )),
    }
    let lost = lost(lens);
    if lost > 0 {
        let (attempts, were) = match lost {
            1 => ("1 attempt".to_owned(), "was"),
            many => (format!("{many} attempts"), "were"),
        };
        found.push(of(
            ATTEMPTS_LOST,
            Severity::Warning,
            &format!("{attempts} {were} judged and lost: of these nothing is known"),
            None,
        ));
    }
    let seconds = facts.unsupervised_seconds;
    if seconds > 0.0 {
        let (severity, title) = if facts.kept {
            (
                Severity::Info,
                format!(
                    "processes were left under guard without a supervisor for {seconds:.1} seconds, as asked for"
                ),
            )
        } else {
            (
                Severity::Warning,
                format!("no supervisor ran for {seconds:.1} seconds: it ended before the run did"),
            )
        };
        found.push(of(UNSUPERVISED, severity, &title, None));
    }
    found
}

fn of(kind: &str, severity: Severity, title: &str, fix: Option<String>) -> Finding {
    Finding {
        fix,
        ..Finding::new(kind, severity, title, &["", "", ""])
    }
}
