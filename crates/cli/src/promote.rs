//! `blackstart policy promote`: which rules may go one rung higher, with the proof, and the policy's text as it then is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use blackstart_core::history::promote::{Advice, Promotion, Written};
use blackstart_core::history::time_text;
use blackstart_core::policy::{self, At, Policy, Rung};
use blackstart_core::report::Mode;
use blackstart_store::{Error, Store};
use schemars::JsonSchema;
use serde::Serialize;

use crate::answers::{self, Finding};
use crate::args::{self, Format};
use crate::backtest::left_out;
use crate::history::{ago, ask};
use crate::judged::{filter, invalid, judged, read, remarks};
use crate::output::Output;
use crate::plain::{Paint, plain};
use crate::resolve::Problem;
use crate::whole_file::{Readers, WholeFile};
use crate::{FAILED, finish};

/// Goes up where a key is removed or changes its meaning.
const VERSION: u32 = 1;
/// Holds the policy against the runs, shows which rules may go higher, and says how to exit.
pub(crate) fn promote(typed: &args::Promote, output: Output) -> u8 {
    let read = |mode| read(&typed.file, &typed.against, mode);
    // As it is, and as it is judged by.
    let (now, enforced) = match (read(None), read(Some(Mode::Enforce))) {
        (Ok(now), Ok(enforced)) => (now, enforced),
        (Err(problems), _) | (_, Err(problems)) => {
            let document = Answer::invalid(typed, &problems);
            return invalid(&problems, typed.format, &document, output);
        }
    };
    ask(output, |store, _| {
        held(typed, &now, &enforced, store, output)
    })
}

fn held(
    typed: &args::Promote,
    now: &Policy,
    enforced: &Policy,
    store: &Store,
    output: Output,
) -> Result<u8, Error> {
    let filter = filter(&typed.against, now.service.as_ref());
    let quiet_since = ago(typed.quiet_for);
    let mut promotion = Promotion::new(now, quiet_since);
    let judged = judged(
        [enforced],
        store,
        &filter,
        &typed.against,
        output,
        |past, [replayed]| {
            promotion.add(past, &replayed);
        },
    )?;
    let runs = match judged {
        Ok(runs) => runs,
        Err(code) => return Ok(code),
    };
    let mut answer = Answer {
        service: filter.service,
        runs: promotion.runs,
        attached: typed.against.attached,
        passed_over: runs.passed_over,
        incomplete_runs: promotion.incomplete,
        runs_lately: promotion.lately,
        first_run: runs.first.map(time_text),
        last_run: runs.last.map(time_text),
        quiet_since: Some(time_text(quiet_since)),
        cut_short: promotion.cut_short,
        remarks: remarks(&[enforced]),
        ..Answer::of(typed)
    };
    let before = match fs::read_to_string(&typed.file) {
        Ok(text) => text,
        Err(error) => {
            output.error(&plain(&format!(
                "cannot read {}: {error}",
                typed.file.display()
            )));
            return Ok(FAILED);
        }
    };
    let (rules, after) = proposed(&promotion, &answer.policy, &before);
    answer.rules = rules;
    if after != before {
        if typed.write {
            if let Err(error) = replace(&typed.file, &before, &after) {
                output.error(&plain(&format!(
                    "cannot write {}: {error}; it is as it was",
                    typed.file.display()
                )));
                return Ok(FAILED);
            }
            answer.written = true;
        } else {
            answer.patch = Some(patch(&answer.policy, &before, &after));
        }
    }
    let text = match typed.format {
        Format::Human => human(&answer, output.out),
        Format::Json => answers::printed(&answer),
    };
    Ok(finish(output, &text, 0))
}

/// What becomes of each rule, and the text with those that go higher.
fn proposed(promotion: &Promotion, file: &str, before: &str) -> (Vec<Rule>, String) {
    let may = |rule: &Written, advice: Advice| match advice {
        Advice::Promote(_) if rule.file == file => rule.raise().map(|raise| (rule.at, raise)),
        _ => None,
    };
    let mut raises: BTreeMap<At, _> = promotion
        .advice()
        .filter_map(|(rule, advice)| may(rule, advice))
        .collect();
    let mut by_hand: Vec<At> = Vec::new();
    let after = loop {
        match policy::raise(before, &raises) {
            Ok(after) => break after,
            Err(odd) if odd.is_empty() => break before.to_owned(),
            Err(odd) => {
                raises.retain(|at, _| !odd.contains(at));
                by_hand.extend(odd);
            }
        }
    };
    let rules = promotion.advice().map(|(rule, advice)| {
        let here = rule.file == file;
        let change = match advice {
            Advice::Promote(_) if !here => Change::Elsewhere,
            Advice::Promote(_) if by_hand.contains(&rule.at) => Change::ByHand,
            Advice::Promote(_) => Change::Proposed,
            Advice::AtTop => Change::AtTop,
            Advice::NotQuiet => Change::NotQuiet,
            Advice::NoRun => Change::NoRun,
            Advice::TooShort(_) => Change::TooShort,
        };
        Rule {
            file: rule.file.clone(),
            line: rule.at.0,
            column: rule.at.1,
            text: rule.text.clone(),
            rung: rule.rung,
            next: match advice {
                Advice::Promote(next) => Some(next),
                _ => None,
            },
            change,
            attempts: rule.attempts,
            runs: rule.runs,
            last_seen: rule.last.as_ref().map(|(last, _)| time_text(*last)),
            last_run: rule.last.as_ref().map(|(_, run)| run.clone()),
            seen_since: match advice {
                Advice::TooShort(first) => Some(time_text(first)),
                _ => None,
            },
        }
    });
    (rules.collect(), after)
}

/// Replace the file, unless somebody else has changed it meanwhile. It keeps its owner and permissions.
fn replace(path: &Path, before: &str, after: &str) -> io::Result<()> {
    let file = WholeFile::at(path, Readers::AsBefore)?;
    if fs::read_to_string(file.path())? != before {
        return Err(io::Error::other("somebody has changed it meanwhile"));
    }
    file.replace(|out| out.write_all(after.as_bytes()))
}

/// As `git apply` and `patch -p1` take it, from where the file was named, or from `/`.
fn patch(file: &str, before: &str, after: &str) -> String {
    let inside = file.trim_start_matches("./").trim_start_matches('/');
    similar::TextDiff::from_lines(before, after)
        .unified_diff()
        .header(&format!("a/{inside}"), &format!("b/{inside}"))
        .to_string()
}

fn word(rung: Rung) -> &'static str {
    match rung {
        Rung::Observe => "observe",
        Rung::Warn => "enforce + warn",
        Rung::Fail => "enforce + fail",
    }
}

fn human(answer: &Answer, paint: Paint) -> String {
    let mut text = String::new();
    let runs = match answer.runs {
        1 => "1 run".to_owned(),
        many => format!("{many} runs"),
    };
    let of = answer
        .service
        .as_deref()
        .map_or(String::new(), |service| format!(" of {service}"));
    let day = |time: &Option<String>| {
        time.as_deref()
            .map_or(String::new(), |it| it.chars().take(10).collect())
    };
    // Writing to a string never fails.
    let _ = writeln!(
        text,
        "{} against {runs}{of}, {} to {}; quiet means nothing since {}",
        plain(&answer.policy),
        day(&answer.first_run),
        day(&answer.last_run),
        day(&answer.quiet_since),
    );
    if answer.incomplete_runs > 0 {
        let _ = writeln!(
            text,
            "{} of them prove no quiet: not everything is known of them, or an outage was played",
            answer.incomplete_runs
        );
    }
    if let Some(left_out) = left_out(answer.passed_over, answer.attached) {
        let _ = writeln!(text, "{left_out}");
    }
    if answer.cut_short > 0 {
        let _ = writeln!(
            text,
            "{} attempts were refused when they were made: what would have followed is not known",
            answer.cut_short
        );
    }
    for remark in &answer.remarks {
        let _ = writeln!(text, "{}", plain(remark));
    }
    for rule in &answer.rules {
        let _ = writeln!(
            text,
            "\n  {} ({}:{})",
            plain(&rule.text),
            plain(&rule.file),
            rule.line
        );
        let step = match (rule.next, &rule.change) {
            (Some(next), Change::Proposed) => {
                let done = if answer.written { "is now" } else { "may be" };
                paint.good(&format!("{} → {done} {}", word(rule.rung), word(next)))
            }
            (Some(next), Change::Elsewhere) => format!(
                "{} → may be {}: not in this file; name the one that it stands in",
                word(rule.rung),
                word(next)
            ),
            (Some(next), _) => format!(
                "{} → may be {}: change it by hand, its writing is not one that is changed safely",
                word(rule.rung),
                word(next)
            ),
            (None, Change::AtTop) => format!("stays {}: there is no higher rung", word(rule.rung)),
            (None, Change::NotQuiet) => format!("stays {}: it is not quiet", word(rule.rung)),
            (None, Change::TooShort) => format!(
                "stays {}: runs are seen as a whole only since {}",
                word(rule.rung),
                day(&rule.seen_since)
            ),
            (None, _) => format!(
                "stays {}: no run was seen as a whole in that time",
                word(rule.rung)
            ),
        };
        let _ = writeln!(text, "    {step}");
        let proof = match &rule.last_seen {
            None => format!("would have refused nothing in {runs}"),
            Some(last) => format!(
                "would have refused {} attempts in {} of {runs}, the last on {} (run {})",
                rule.attempts,
                rule.runs,
                last.chars().take(10).collect::<String>(),
                rule.last_run.as_deref().unwrap_or_default(),
            ),
        };
        let _ = writeln!(text, "    {}", plain(&proof));
    }
    if answer.rules.is_empty() {
        let _ = writeln!(text, "\n  no rule of it denies anything");
    }
    if let Some(patch) = &answer.patch {
        let _ = write!(text, "\n{patch}");
    }
    text
}

/// `policy promote --format json`.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct Answer {
    schema_version: u32,
    /// The file as it was named.
    policy: String,
    /// It can be used; if not, nothing was looked at.
    valid: bool,
    /// What is wrong with no place in any text.
    error: Option<String>,
    /// Where it cannot be used: what is wrong, or ought to be looked at.
    diagnostics: Vec<Finding>,
    /// Only runs of this service were looked at.
    service: Option<String>,
    /// How many runs.
    runs: u64,
    /// They are of what was attached to, and none of deployments.
    attached: bool,
    /// How many others were left out: those of what was attached to, or with `--attached` those of deployments.
    passed_over: u64,
    /// How many of `runs` prove no quiet: not everything is known of them, or an outage was played.
    incomplete_runs: u64,
    /// How many of the others began since `quiet_since`.
    runs_lately: u64,
    /// When the first of them began.
    first_run: Option<String>,
    /// When the last of them began.
    last_run: Option<String>,
    /// A rule is quiet that would have refused nothing since then.
    quiet_since: Option<String>,
    /// Attempts that were refused when they were made: what would have followed is not known.
    cut_short: u64,
    /// What ought to be known besides.
    remarks: Vec<String>,
    /// The rules that deny, in the order of the policy.
    rules: Vec<Rule>,
    /// The file was changed.
    written: bool,
    /// The change, if there is one and it was not written.
    patch: Option<String>,
}

/// A rule, and what is to become of it.
#[derive(Debug, Serialize, JsonSchema)]
struct Rule {
    /// The file that it stands in.
    file: String,
    /// Line, from 1.
    line: usize,
    /// Column, from 1, in characters.
    column: usize,
    /// As it was written.
    text: String,
    /// Where it stands.
    rung: Rung,
    /// Where it may go.
    next: Option<Rung>,
    /// Why, or why not.
    change: Change,
    /// What it would have refused.
    attempts: u64,
    /// In how many runs.
    runs: u64,
    /// The last time.
    last_seen: Option<String>,
    /// In which run.
    last_run: Option<String>,
    /// When the first run began that was seen as a whole, where that is too short ago.
    seen_since: Option<String>,
}

/// What is to become of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Change {
    /// It was quiet: the patch, or the file that was written, has it one rung higher.
    Proposed,
    /// It was quiet, and its writing is for a person to change.
    ByHand,
    /// It was quiet, and stands in another file, or was derived from the catalog.
    Elsewhere,
    /// There is no higher rung.
    AtTop,
    /// It would have refused something lately.
    NotQuiet,
    /// No run was seen as a whole in that time.
    NoRun,
    /// The first run that was seen as a whole is too short ago.
    TooShort,
}

impl Answer {
    fn of(typed: &args::Promote) -> Self {
        Self {
            schema_version: VERSION,
            policy: typed.file.display().to_string(),
            valid: true,
            ..Self::default()
        }
    }

    fn invalid(typed: &args::Promote, problems: &[Problem]) -> Self {
        let (error, diagnostics) = answers::parted(problems);
        Self {
            valid: false,
            error,
            diagnostics,
            ..Self::of(typed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_names_the_file_as_git_does() {
        let patch = patch("./p/x.yaml", "a\nb\n", "a\nnew\nb\n");
        assert_eq!(
            patch,
            "--- a/p/x.yaml\n+++ b/p/x.yaml\n@@ -1,2 +1,3 @@\n a\n+new\n b\n"
        );
    }
}
