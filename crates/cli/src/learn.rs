//! `blackstart policy learn`: a policy from the runs of a service.

use std::ops::ControlFlow;

use blackstart_core::history::backtest::Backtest;
use blackstart_core::history::learn::{Evidence, Learned, Learner};
use blackstart_core::history::{Ancestry, Micros, day_text, time_text};
use blackstart_core::policy;
use blackstart_core::report::{Mode, Verdict};
use blackstart_core::tables::Protocol;
use blackstart_store::{Error, Filter, Store};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::{Format, Learn};
use crate::history::{ago, ask, now};
use crate::judged::replayed;
use crate::output::Output;
use crate::plain::plain;
use crate::{FAILED, answers, finish};

/// Goes up where a key is removed or changes its meaning.
const VERSION: u32 = 1;
/// There is nothing to learn from.
const NOTHING: u8 = 1;

/// Learns it, shows it, and says how to exit.
pub(crate) fn learn(typed: &Learn, output: Output) -> u8 {
    ask(output, |store, _| learned(typed, store, output))
}

fn learned(typed: &Learn, store: &Store, output: Output) -> Result<u8, Error> {
    let today = now();
    let filter = Filter {
        service: Some(typed.service.clone()),
        since: typed.since.map(ago),
        before: Some(today),
        limit: None,
    };
    let mut learner = Learner::default();
    store.pasts(&filter, &mut Ancestry::default(), &mut |past, ancestry| {
        if past.attached == typed.attached {
            learner.add(past, ancestry);
        }
        ControlFlow::Continue(())
    })?;
    if learner.runs() == 0 {
        output.error(&plain(&none(store, &filter)?));
        return Ok(NOTHING);
    }
    let learned = learner.learned();
    let refused = match held_against(
        store,
        &filter,
        typed.attached,
        &text(typed, today, &learned, 0),
    )? {
        Ok(refused) => refused,
        Err(why) => {
            output.error(&plain(&format!("what was learned is no policy: {why}")));
            return Ok(FAILED);
        }
    };
    if learned.lacking_runs > 0 {
        output.warning(&format!(
            "{} of the {} runs may have reached for more than is known: see the policy's first lines",
            learned.lacking_runs, learned.runs
        ));
    }
    let text = text(typed, today, &learned, refused);
    let shown = match typed.format {
        Format::Human => text,
        Format::Json => answers::printed(&Answer::of(&learned, &text, refused)),
    };
    Ok(finish(output, &shown, 0))
}

fn text(typed: &Learn, today: Micros, learned: &Learned, refused: u64) -> String {
    learned.text(&typed.service, &day_text(today), refused)
}

/// What a policy refuses of the runs that it was learned from; or why it is none.
fn held_against(
    store: &Store,
    filter: &Filter,
    attached: bool,
    text: &str,
) -> Result<Result<u64, String>, Error> {
    let mut policy = match policy::alone(text, "learned.yaml") {
        Ok(effective) => effective.policy,
        Err(wrong) => {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            return Ok(Err(wrong.join("; ")));
        }
    };
    policy.mode = Mode::Enforce;
    let mut backtest = Backtest::default();
    let judged = replayed([&policy], store, filter, attached, |past, [replayed]| {
        backtest.add(past, &replayed);
    })?;
    Ok(judged
        .map(|_| backtest.refused)
        .map_err(|error| error.to_string()))
}

/// Why there are no runs.
pub(crate) fn none(store: &Store, filter: &Filter) -> Result<String, Error> {
    let services = store.services()?;
    let known = match (services.is_empty(), &filter.service) {
        (true, _) => "; a run is of a service if `--service NAME` or its policy says so".to_owned(),
        (false, Some(service)) if services.contains(service) => {
            "; go further back with --since".to_owned()
        }
        (false, _) => format!("; there are runs of {}", services.join(", ")),
    };
    Ok(match &filter.service {
        Some(service) => format!("the history has no such run of {service}{known}"),
        None => "the history has no such run".to_owned(),
    })
}

/// `policy learn --format json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Answer<'a> {
    schema_version: u32,
    /// The policy, with its comments.
    policy: &'a str,
    /// From how many runs.
    runs: u64,
    /// On how many hosts.
    hosts: usize,
    /// When the first of them began.
    first_run: String,
    /// When the last of them began.
    last_run: String,
    /// How many of them may have reached for more than is known.
    incomplete_runs: u64,
    /// The first of these, and why.
    incomplete: Vec<Incomplete<'a>>,
    /// Its rules.
    rules: Vec<Rule<'a>>,
    /// What it does not allow though it was reached for.
    left_out: Vec<Left<'a>>,
    /// What no rule can be made for, and why.
    no_rule_for: &'a [String],
    /// Attempts of these very runs that it would refuse.
    refuses: u64,
}

/// A run of which not everything is known.
#[derive(Debug, Serialize, JsonSchema)]
struct Incomplete<'a> {
    /// Its id.
    run: &'a str,
    /// Why.
    why: &'a [String],
}

/// A rule with its evidence.
#[derive(Debug, Serialize, JsonSchema)]
struct Rule<'a> {
    /// Its target.
    allow: &'a str,
    /// With which protocol; none for all.
    protocol: Option<Protocol>,
    #[serde(flatten)]
    evidence: Seen<'a>,
    /// Why it is as it is, where that is not plain.
    remarks: &'a [String],
}

/// How something is known.
#[derive(Debug, Serialize, JsonSchema)]
struct Seen<'a> {
    /// In how many runs.
    runs: u64,
    /// How often in all of them.
    attempts: u64,
    /// First time.
    first_seen: String,
    /// Last time.
    last_seen: String,
    /// What reached for it.
    executables: Vec<&'a str>,
}

/// Something that is left out.
#[derive(Debug, Serialize, JsonSchema)]
struct Left<'a> {
    /// What was reached for.
    destination: &'a str,
    /// What became of it.
    verdict: Verdict,
    /// By which rule.
    rule: &'a str,
    #[serde(flatten)]
    evidence: Seen<'a>,
}

impl<'a> Seen<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        Self {
            runs: evidence.runs,
            attempts: evidence.attempts,
            first_seen: evidence.first_seen(),
            last_seen: evidence.last_seen(),
            executables: evidence.executables.iter().map(String::as_str).collect(),
        }
    }
}

impl<'a> Answer<'a> {
    fn of(learned: &'a Learned, policy: &'a str, refuses: u64) -> Self {
        let incomplete = learned.lacking.iter().map(|lacking| Incomplete {
            run: &lacking.run,
            why: &lacking.lacks,
        });
        let rules = learned.rules.iter().map(|rule| Rule {
            allow: &rule.allow,
            protocol: rule.protocol,
            evidence: Seen::of(&rule.evidence),
            remarks: &rule.remarks,
        });
        let left_out = learned.left_out.iter().map(|(left, evidence)| Left {
            destination: &left.destination,
            verdict: left.verdict,
            rule: &left.rule,
            evidence: Seen::of(evidence),
        });
        Self {
            schema_version: VERSION,
            policy,
            runs: learned.runs,
            hosts: learned.hosts,
            first_run: time_text(learned.first),
            last_run: time_text(learned.last),
            incomplete_runs: learned.lacking_runs,
            incomplete: incomplete.collect(),
            rules: rules.collect(),
            left_out: left_out.collect(),
            no_rule_for: &learned.unwritten,
            refuses,
        }
    }
}
