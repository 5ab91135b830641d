//! `blackstart policy backtest` and `policy diff`: policies held against the history.

mod human;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use blackstart_core::explain::Told;
use blackstart_core::history::backtest::{Act, Alike, Backtest, Change, Difference};
use blackstart_core::history::replay::{Replay, Ruled};
use blackstart_core::history::{Ancestry, Past, time_text};
use blackstart_core::policy::{LeaseLife, Policy};
use blackstart_core::report::{Mode, Parts as _, Report, Verdict};
use blackstart_store::{Error, Filter, Found, Store};
use schemars::JsonSchema;
use serde::Serialize;

use crate::answers::{self, Finding};
use crate::args::{self, Against, Format};
use crate::finish;
use crate::history::{ago, ask, now};
use crate::layers::Files;
use crate::learn::none;
use crate::output::Output;
use crate::plain::plain;
use crate::resolve::{self, Asked, Problem, Surroundings};
use crate::run::show_all;
use crate::summary::destinations::Lineage;

pub(crate) use human::left_out;

/// Goes up where a key is removed or changes its meaning.
const VERSION: u32 = 1;
/// It is not as it ought to be.
const WRONG: u8 = 1;

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

/// The policy of a file, as if it said this `mode:`.
pub(crate) fn read(
    file: &Path,
    against: &Against,
    mode: Option<Mode>,
) -> Result<Policy, Vec<Problem>> {
    let around = Surroundings::of_process();
    let mut files = Files::default();
    let mut layers = if against.with_guardrails {
        files.guardrails(&around.guardrails)
    } else {
        Vec::new()
    };
    layers.push(files.layer(file, false));
    let asked = Asked {
        layers,
        catalog: against.catalog.as_deref(),
        mode,
        service: None,
    };
    let effective = resolve::resolved(files, asked, &around)?;
    match resolve::compiled(&effective) {
        Ok(_) => Ok(effective.policy),
        Err(problem) => Err(vec![problem]),
    }
}

pub(crate) fn invalid(
    problems: &[Problem],
    format: Format,
    document: &impl Serialize,
    output: Output,
) -> u8 {
    match format {
        Format::Human => {
            show_all(problems, output);
            WRONG
        }
        Format::Json => finish(output, &answers::printed(document), WRONG),
    }
}

/// The runs that are meant.
pub(crate) fn filter(against: &Against, service: Option<&String>) -> Filter {
    Filter {
        service: against.service.as_ref().or(service).cloned(),
        since: against.since.map(ago),
        before: Some(now()),
        limit: None,
    }
}

/// Is this one of the runs that are meant? What a service does is no deployment of it, and a deployment says nothing of that.
pub(crate) fn is_meant(past: &Past, against: &Against) -> bool {
    past.attached == against.attached
}

/// Why there are no runs, of which so many were of the other sort.
pub(crate) fn no_runs(
    store: &Store,
    filter: &Filter,
    against: &Against,
    passed_over: u64,
) -> Result<String, Error> {
    let sort = match against.attached {
        _ if passed_over == 0 => return none(store, filter),
        true => "a run of a deployment; leave out --attached",
        false => "something that was attached to, and no deployment; --attached is about these",
    };
    let of = filter
        .service
        .as_deref()
        .map_or(String::new(), |service| format!(" of {service}"));
    Ok(format!(
        "the history has no such run{of}: what there is is {sort}"
    ))
}

/// What is known of the runs themselves.
#[derive(Debug, Default)]
struct Runs {
    passed_over: u64,
    incomplete: u64,
    first: Option<i64>,
    last: Option<i64>,
}

impl Runs {
    fn add(&mut self, past: &Past) {
        self.incomplete += u64::from(!past.lacks.is_empty());
        self.first.get_or_insert(past.started);
        self.last = Some(past.started);
    }
}

fn held(
    typed: &args::Backtest,
    policy: &Policy,
    store: &Store,
    output: Output,
) -> Result<u8, Error> {
    let filter = filter(&typed.against, policy.service.as_ref());
    let mut ancestry = Ancestry::default();
    let mut runs = Runs::default();
    let mut test = Backtest::default();
    let mut replay = match Replay::new(policy) {
        Ok(replay) => replay,
        Err(error) => return Ok(uncompiled(&error, output)),
    };
    let mut failed = None;
    store.pasts(&filter, &mut ancestry, &mut |past, ancestry| {
        if !is_meant(past, &typed.against) {
            runs.passed_over += 1;
            return ControlFlow::Continue(());
        }
        runs.add(past);
        match replay.of(past, ancestry) {
            Ok(replayed) => test.add(past, &replayed),
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = failed {
        return Ok(uncompiled(&error, output));
    }
    if test.runs == 0 {
        let why = no_runs(store, &filter, &typed.against, runs.passed_over)?;
        output.error(&plain(&why));
        return Ok(WRONG);
    }
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
    let groups = test.into_groups(&ancestry);
    answer.refusals = groups
        .into_iter()
        .map(|(alike, ruled)| Refusal::of(&alike, ruled, policy, &ancestry))
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

/// What the past does not tell of these policies.
pub(crate) fn remarks(policies: &[&Policy]) -> Vec<String> {
    let ends = policies.iter().any(|policy| policy.lease == LeaseLife::Ttl);
    let told = "`lease: ttl` was left out: how long answers lasted is not recorded, and attempts after their end would be refused as well";
    ends.then(|| told.to_owned()).into_iter().collect()
}

pub(crate) fn uncompiled(error: &dyn std::error::Error, output: Output) -> u8 {
    output.error(&plain(&error.to_string()));
    WRONG
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
    let mut ancestry = Ancestry::default();
    let mut runs = Runs::default();
    let mut difference = Difference::default();
    let (mut before, mut after) = match (Replay::new(old), Replay::new(new)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(error), _) | (_, Err(error)) => return Ok(uncompiled(&error, output)),
    };
    let mut failed = None;
    store.pasts(&filter, &mut ancestry, &mut |past, ancestry| {
        if !is_meant(past, &typed.against) {
            runs.passed_over += 1;
            return ControlFlow::Continue(());
        }
        runs.add(past);
        match (before.of(past, ancestry), after.of(past, ancestry)) {
            (Ok(before), Ok(after)) => difference.add(past, &before, &after),
            (Err(error), _) | (_, Err(error)) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = failed {
        return Ok(uncompiled(&error, output));
    }
    if difference.runs == 0 {
        let why = no_runs(store, &filter, &typed.against, runs.passed_over)?;
        output.error(&plain(&why));
        return Ok(WRONG);
    }
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
        .into_groups(&ancestry)
        .into_iter()
        .map(|(alike, change)| Changed::of(&alike, change, old, new, &ancestry))
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
