//! What policies would have made of the past, for people.

use std::fmt::Write as _;

use blackstart_core::history::backtest::Act;
use blackstart_core::report::Verdict;

use super::{Answer, Attempts, Chains, Differs, Judged};
use crate::explain::{lines, place};
use crate::html::day_and_time;
use crate::plain::{Paint, plain};
use crate::summary::counted;

/// How many groups are shown.
pub(super) const SHOWN: usize = 20;

/// What would have been refused.
pub(super) fn backtest(answer: &Answer, chains: &Chains, paint: Paint) -> String {
    let mut out = String::new();
    let policy = plain(&answer.policy);
    let of = of_service(answer.service.as_deref());
    let runs = counted(answer.runs, "run");
    if answer.refused == 0 {
        let nothing = paint.good("would have refused nothing");
        let _ = writeln!(
            out,
            "{policy}: {nothing} of {} in {runs}{of}",
            counted(answer.attempts, "attempt")
        );
    } else {
        let refused = format!(
            "would have refused {} in {} of {runs}{of}",
            counted(answer.refused, "attempt"),
            answer.runs_refused
        );
        let _ = writeln!(out, "{policy}: {}", paint.bad(&refused));
    }
    if answer.observed > 0 {
        let _ = writeln!(
            out,
            "note      {} would have been recorded, by rules that only observe",
            counted(answer.observed, "attempt")
        );
    }
    if answer.cut_short > 0 {
        let _ = writeln!(
            out,
            "note      {} refused when {} made: what would have followed is not known",
            match answer.cut_short {
                1 => "1 attempt was".to_owned(),
                count => format!("{count} attempts were"),
            },
            if answer.cut_short == 1 {
                "it was"
            } else {
                "they were"
            }
        );
    }
    incomplete(&mut out, answer.incomplete_runs, answer.runs);
    if let Some(text) = left_out(answer.passed_over, answer.attached) {
        let _ = writeln!(out, "note      {text}");
    }
    for remark in &answer.remarks {
        let _ = writeln!(out, "note      {}", plain(remark));
    }
    for refusal in answer.refusals.iter().take(SHOWN) {
        let word = match refusal.verdict {
            Verdict::Deny => paint.bad("refused"),
            _ => paint.doubtful("recorded"),
        };
        let _ = writeln!(out, "\n{word}   {}", destination(&refusal.attempts));
        let _ = writeln!(
            out,
            "    rule  {}{}",
            plain(&refusal.rule.text),
            place(&refusal.rule)
        );
        for line in refusal.rule.rule.iter().flat_map(lines) {
            let _ = writeln!(out, "    {line}");
        }
        seen(&mut out, &refusal.attempts, chains);
    }
    more(&mut out, answer.refusals.len());
    out
}

/// What comes out otherwise.
pub(super) fn diff(answer: &Differs, chains: &Chains, paint: Paint) -> String {
    let mut out = String::new();
    let runs = counted(answer.runs, "run");
    let of = of_service(answer.service.as_deref());
    let names = format!("{} → {}", plain(&answer.old), plain(&answer.new));
    if answer.changed == 0 {
        let same = paint.good("comes out as before");
        let _ = writeln!(
            out,
            "{names}: everything {same}, {} in {runs}{of}",
            counted(answer.attempts, "attempt")
        );
    } else {
        let changed = format!(
            "{} {} otherwise, in {} of {runs}{of}",
            counted(answer.changed, "attempt"),
            if answer.changed == 1 {
                "comes out"
            } else {
                "come out"
            },
            answer.runs_changed
        );
        let _ = writeln!(out, "{names}: {}", paint.doubtful(&changed));
    }
    incomplete(&mut out, answer.incomplete_runs, answer.runs);
    if let Some(text) = left_out(answer.passed_over, answer.attached) {
        let _ = writeln!(out, "note      {text}");
    }
    for remark in &answer.remarks {
        let _ = writeln!(out, "note      {}", plain(remark));
    }
    for change in answer.changes.iter().take(SHOWN) {
        let _ = writeln!(out, "\n{}", paint.bold(&destination(&change.attempts)));
        judged(&mut out, "from", &change.before, paint);
        judged(&mut out, "to", &change.after, paint);
        seen(&mut out, &change.attempts, chains);
    }
    more(&mut out, answer.changes.len());
    out
}

fn judged(out: &mut String, word: &str, judged: &Judged, paint: Paint) {
    let verdict = match judged.verdict {
        Verdict::Allow => paint.good("allowed"),
        Verdict::Deny => paint.bad("refused"),
        Verdict::WouldDeny => paint.doubtful("recorded"),
        Verdict::Waived => paint.doubtful("waived"),
        Verdict::BreakGlass => paint.doubtful("let pass"),
    };
    let _ = writeln!(
        out,
        "    {word:<5} {verdict}: {}{}",
        plain(&judged.rule.text),
        place(&judged.rule)
    );
}

fn of_service(service: Option<&str>) -> String {
    service.map_or(String::new(), |service| format!(" of {}", plain(service)))
}

fn destination(attempts: &Attempts) -> String {
    let what = plain(&attempts.destination);
    match attempts.act {
        Act::Lookup => format!("{what} (lookup)"),
        Act::Connect => what,
        Act::Contact => format!("unix:{what}"),
    }
}

fn seen(out: &mut String, attempts: &Attempts, chains: &Chains) {
    let chain = chains
        .get(&(attempts.run.clone(), attempts.subject))
        .map(String::as_str)
        .unwrap_or("unknown process");
    let _ = writeln!(out, "    by    {}", plain(chain));
    let _ = writeln!(
        out,
        "    in    {}, {}; last {} in run {}",
        counted(attempts.runs, "run"),
        counted(attempts.attempts, "attempt"),
        day_and_time(&attempts.last_seen),
        plain(&attempts.run)
    );
}

fn incomplete(out: &mut String, incomplete: u64, runs: u64) {
    if incomplete > 0 {
        let _ = writeln!(
            out,
            "note      {incomplete} of {} may have reached for more than is known; `blackstart runs list` has them as incomplete",
            counted(runs, "run")
        );
    }
}

/// What the policy was not held against, if there was something.
pub(crate) fn left_out(passed_over: u64, attached: bool) -> Option<String> {
    let (what, how) = match attached {
        false => (
            "of a service that was attached to",
            "--attached is about these",
        ),
        true => ("of a deployment", "they count without --attached"),
    };
    let was = if passed_over == 1 { "was" } else { "were" };
    (passed_over > 0).then(|| {
        let runs = counted(passed_over, "run");
        format!("{runs} {what} {was} left out; {how}")
    })
}

fn more(out: &mut String, all: usize) {
    if all > SHOWN {
        let _ = writeln!(out, "\n… and {} more; --format json has them", all - SHOWN);
    }
}
