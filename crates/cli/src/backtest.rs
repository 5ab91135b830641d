//! `blackstart policy backtest` and `policy diff`: policies held against the history.

mod human;

use std::collections::BTreeMap;
use std::path::Path;

use blackstart_core::explain::Told;
use blackstart_core::history::backtest::{Act, Alike, Backtest, Change, Difference};
use blackstart_core::history::replay::Ruled;
use blackstart_core::history::{Ancestry, time_text};
use blackstart_core::policy::Policy;
use blackstart_core::report::{Mode, Parts as _, Report, Verdict};
use blackstart_store::{Error, Found, Store};
use schemars::JsonSchema;
use serde::Serialize;

use crate::answers::{self, Finding};
use crate::args::{self, Format};
use crate::finish;
use crate::history::ask;
use crate::judged::{WRONG, filter, invalid, judged, read, remarks};
use crate::output::Output;
use crate::resolve::Problem;
use crate::summary::lineage::Lineage;

pub(crate) use human::left_out;

/// Goes up where a key is removed or changes its meaning.
const VERSION: u32 = 1;

/// Holds the policy against the runs, shows what it would have refused, and says how to exit.
pub(crate) fn backtest(typed: &args::Backtest, output: Output) -> u8 {
    let policy = match read(&typed.file, &typed.against, Some(Mode::Enforce)) {
        Ok(policy) => policy,
        Err(problems) => {
            let document = Answer::invalid(&typed.file, &problems);
            return invalid(&problems, typed.format, &document, output);
        }
    };
    ask(output, |store, _| held(typed, &policy, store, output))
}

/// Holds both against the runs, shows what comes out otherwise, and says how to exit.
pub(crate) fn diff(typed: &args::PolicyDiff, output: Output) -> u8 {
    let read = |file| read(file, &typed.against, Some(Mode::Enforce));
    let (old, new) = match (read(&typed.old), read(&typed.new)) {
        (Ok(old), Ok(new)) => (old, new),
        (old, new) => {
            let mut problems = old.err().unwrap_or_default();
            problems.extend(new.err().unwrap_or_default());
            let document = Differs::invalid(typed, &problems);
            return invalid(&problems, typed.format, &document, output);
        }
    };
    ask(output, |store, _| {
        compared(typed, &old, &new, store, output)
    })
}

fn held(
    typed: &args::Backtest,
    policy: &Policy,
    store: &Store,
    output: Output,
) -> Result<u8, Error> {
    let filter = filter(&typed.against, policy.service.as_ref());
    let mut test = Backtest::default();
    let judged = judged(
        [policy],
        store,
        &filter,
        &typed.against,
        output,
        |past, [replayed]| {
            test.add(past, &replayed);
        },
    )?;
    let runs = match judged {
        Ok(runs) => runs,
        Err(code) => return Ok(code),
    };
    let mut answer = Answer {
        schema_version: VERSION,
        policy: typed.file.display().to_string(),
        valid: true,
        error: None,
        diagnostics: Vec::new(),
        service: filter.service,
        runs: test.runs,
        attached: typed.against.attached,
        passed_over: runs.passed_over,
        incomplete_runs: runs.incomplete,
        first_run: runs.first.map(time_text),
        last_run: runs.last.map(time_text),
        attempts: test.attempts,
        refused: test.refused,
        runs_refused: test.runs_refused,
        observed: test.observed,
        cut_short: test.cut_short,
        remarks: remarks(&[policy]),
        refusals: Vec::new(),
    };
    let code = if test.refused == 0 { 0 } else { WRONG };
    let groups = test.into_groups(&runs.ancestry);
    answer.refusals = groups
        .into_iter()
        .map(|(alike, ruled)| Refusal::of(&alike, ruled, policy, &runs.ancestry))
        .collect();
    let text = match typed.format {
        Format::Human => {
            let chains = chains(
                store,
                answer.refusals.iter().map(|refusal| &refusal.attempts),
            )?;
            human::backtest(&answer, &chains, output.out)
        }
        Format::Json => answers::printed(&answer),
    };
    Ok(finish(output, &text, code))
}

fn compared(
    typed: &args::PolicyDiff,
    old: &Policy,
    new: &Policy,
    store: &Store,
    output: Output,
) -> Result<u8, Error> {
    let filter = filter(
        &typed.against,
        new.service.as_ref().or(old.service.as_ref()),
    );
    let mut difference = Difference::default();
    let judged = judged(
        [old, new],
        store,
        &filter,
        &typed.against,
        output,
        |past, [before, after]| {
            difference.add(past, &before, &after);
        },
    )?;
    let runs = match judged {
        Ok(runs) => runs,
        Err(code) => return Ok(code),
    };
    let mut answer = Differs {
        service: filter.service,
        runs: difference.runs,
        attached: typed.against.attached,
        passed_over: runs.passed_over,
        incomplete_runs: runs.incomplete,
        attempts: difference.attempts,
        changed: difference.changed,
        runs_changed: difference.runs_changed,
        remarks: remarks(&[old, new]),
        ..Differs::of(typed)
    };
    let code = if difference.changed == 0 { 0 } else { WRONG };
    answer.changes = difference
        .into_groups(&runs.ancestry)
        .into_iter()
        .map(|(alike, change)| Changed::of(&alike, change, old, new, &runs.ancestry))
        .collect();
    let text = match typed.format {
        Format::Human => {
            let chains = chains(store, answer.changes.iter().map(|change| &change.attempts))?;
            human::diff(&answer, &chains, output.out)
        }
        Format::Json => answers::printed(&answer),
    };
    Ok(finish(output, &text, code))
}

/// Of those that are shown, the processes by name, from the report of the latest run.
type Chains = BTreeMap<(String, Option<u64>), String>;

fn chains<'a>(
    store: &Store,
    attempts: impl Iterator<Item = &'a Attempts>,
) -> Result<Chains, Error> {
    let mut wanted: BTreeMap<&str, Vec<Option<u64>>> = BTreeMap::new();
    for attempts in attempts.take(human::SHOWN) {
        wanted
            .entry(&attempts.run)
            .or_default()
            .push(attempts.subject);
    }
    let mut chains = Chains::new();
    for (id, subjects) in wanted {
        let Found::One(run) = store.find(id)? else {
            continue;
        };
        let mut bytes = Vec::new();
        store.report(&run, &mut bytes)?;
        let Ok(report) = serde_json::from_slice::<Report>(&bytes) else {
            continue;
        };
        let lines = Lineage::of(report.subjects());
        for subject in subjects {
            chains.insert((id.to_owned(), subject), lines.chain(subject));
        }
    }
    Ok(chains)
}

/// `policy backtest --format json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Answer {
    schema_version: u32,
    /// The file as it was named.
    policy: String,
    /// It can be used; if not, nothing was tested.
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
    /// How many of `runs` may have reached for more than is known.
    incomplete_runs: u64,
    /// When the first of them began.
    first_run: Option<String>,
    /// When the last of them began.
    last_run: Option<String>,
    /// Everything that they tried: lookups, connections, contacts with daemons.
    attempts: u64,
    /// What of it would have been refused.
    refused: u64,
    /// In how many runs.
    runs_refused: u64,
    /// What would have been let pass and recorded, for rules that only observe.
    observed: u64,
    /// Attempts that were refused when they were made: what would have followed is not known.
    cut_short: u64,
    /// What ought to be known besides.
    remarks: Vec<String>,
    /// What would have been refused or recorded, that in the most runs first.
    refusals: Vec<Refusal>,
}

/// Attempts that are alike.
#[derive(Debug, Serialize, JsonSchema)]
struct Attempts {
    /// What was attempted.
    act: Act,
    /// A name, a name or an address with a port, or the path of a socket.
    destination: String,
    /// What the process executed, then those from which it came.
    executables: Vec<String>,
    /// How often.
    attempts: u64,
    /// In how many runs.
    runs: u64,
    /// First time.
    first_seen: String,
    /// Last time.
    last_seen: String,
    /// The latest run in which it happened.
    run: String,
    /// The process, by its number in that run's report.
    subject: Option<u64>,
}

impl Attempts {
    fn of(alike: &Alike, ancestry: &Ancestry) -> Self {
        Self {
            act: alike.act,
            destination: alike.destination.clone(),
            executables: ancestry.chain(alike.by).map(ToString::to_string).collect(),
            attempts: alike.attempts,
            runs: alike.runs,
            first_seen: time_text(alike.first),
            last_seen: time_text(alike.last),
            run: alike.run.clone(),
            subject: alike.subject,
        }
    }
}

/// Attempts that would have been refused or recorded.
#[derive(Debug, Serialize, JsonSchema)]
struct Refusal {
    #[serde(flatten)]
    attempts: Attempts,
    /// What would become of them.
    verdict: Verdict,
    /// The rule behind it.
    rule: Told,
}

impl Refusal {
    fn of(alike: &Alike, ruled: Ruled, policy: &Policy, ancestry: &Ancestry) -> Self {
        Self {
            attempts: Attempts::of(alike, ancestry),
            verdict: ruled.0,
            rule: Told::new(policy, ruled.1),
        }
    }
}

impl Answer {
    fn invalid(file: &Path, problems: &[Problem]) -> Self {
        let (error, diagnostics) = answers::parted(problems);
        Self {
            schema_version: VERSION,
            policy: file.display().to_string(),
            valid: false,
            error,
            diagnostics,
            service: None,
            runs: 0,
            attached: false,
            passed_over: 0,
            incomplete_runs: 0,
            first_run: None,
            last_run: None,
            attempts: 0,
            refused: 0,
            runs_refused: 0,
            observed: 0,
            cut_short: 0,
            remarks: Vec::new(),
            refusals: Vec::new(),
        }
    }
}

/// `policy diff --format json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Differs {
    schema_version: u32,
    /// The file before, as it was named.
    old: String,
    /// The file after, as it was named.
    new: String,
    /// Both can be used; if not, nothing was compared.
    valid: bool,
    /// What is wrong with no place in any text.
    error: Option<String>,
    /// Where one cannot be used: what is wrong, or ought to be looked at.
    diagnostics: Vec<Finding>,
    /// Only runs of this service were looked at.
    service: Option<String>,
    /// How many runs.
    runs: u64,
    /// They are of what was attached to, and none of deployments.
    attached: bool,
    /// How many others were left out: those of what was attached to, or with `--attached` those of deployments.
    passed_over: u64,
    /// How many of `runs` may have reached for more than is known.
    incomplete_runs: u64,
    /// Everything that they tried: lookups, connections, contacts with daemons.
    attempts: u64,
    /// What of it comes out otherwise.
    changed: u64,
    /// In how many runs.
    runs_changed: u64,
    /// What ought to be known besides.
    remarks: Vec<String>,
    /// What comes out otherwise, that in the most runs first.
    changes: Vec<Changed>,
}

/// Attempts that come out otherwise.
#[derive(Debug, Serialize, JsonSchema)]
struct Changed {
    #[serde(flatten)]
    attempts: Attempts,
    /// By the policy before.
    before: Judged,
    /// By the policy after.
    after: Judged,
}

/// A verdict and its rule.
#[derive(Debug, Serialize, JsonSchema)]
struct Judged {
    verdict: Verdict,
    rule: Told,
}

impl Judged {
    fn of(ruled: Ruled, policy: &Policy) -> Self {
        Self {
            verdict: ruled.0,
            rule: Told::new(policy, ruled.1),
        }
    }
}

impl Changed {
    fn of(alike: &Alike, change: Change, old: &Policy, new: &Policy, ancestry: &Ancestry) -> Self {
        Self {
            attempts: Attempts::of(alike, ancestry),
            before: Judged::of(change.before, old),
            after: Judged::of(change.after, new),
        }
    }
}

impl Differs {
    fn of(typed: &args::PolicyDiff) -> Self {
        Self {
            schema_version: VERSION,
            old: typed.old.display().to_string(),
            new: typed.new.display().to_string(),
            valid: true,
            error: None,
            diagnostics: Vec::new(),
            service: None,
            runs: 0,
            attached: false,
            passed_over: 0,
            incomplete_runs: 0,
            attempts: 0,
            changed: 0,
            runs_changed: 0,
            remarks: Vec::new(),
            changes: Vec::new(),
        }
    }

    fn invalid(typed: &args::PolicyDiff, problems: &[Problem]) -> Self {
        let (error, diagnostics) = answers::parted(problems);
        Self {
            valid: false,
            error,
            diagnostics,
            ..Self::of(typed)
        }
    }
}
