//! What `--guard` means: which units the agent guards, and by what.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use blackstart_core::policy::{Effect, UnitPattern};
use blackstart_core::redact::Redaction;
use blackstart_core::report::Mode;
use blackstart_guard::{GivenPolicy, Need, Notice, Origin, Request, Rules};

use super::{Host, texts};
use crate::args::UnitRule;
use crate::layers::Files;
use crate::live;
use crate::output::Output;
use crate::plain::{Paint, plain};
use crate::resolve::{self, Problem, Surroundings};

/// One rule, as it was typed, and what it meant when it was read last.
struct Rule {
    pattern: UnitPattern,
    policy: Option<PathBuf>,
    last: Mutex<Last>,
}

struct Last {
    given: GivenPolicy,
    /// What was wrong since then: said once.
    wrong: Vec<String>,
}

/// The files of the rules' policies.
pub(super) fn policies(typed: &[UnitRule]) -> Vec<Option<PathBuf>> {
    let here = std::env::current_dir().unwrap_or_default();
    let of_rule = |rule: &UnitRule| rule.policy.as_ref().map(|path| here.join(path));
    typed.iter().map(of_rule).collect()
}

/// The rules, if there are any; or all that is wrong with their policies.
pub(super) fn rules(
    host: &Arc<Host>,
    typed: Vec<UnitRule>,
    output: Output,
) -> Result<Option<Rules>, String> {
    if typed.is_empty() {
        return Ok(None);
    }
    let mut rules = Vec::new();
    for (UnitRule { pattern, .. }, policy) in typed.into_iter().zip(host.of_units.clone()) {
        let given = host.given(policy.as_ref()).map_err(|problems| {
            let pattern = pattern.as_str();
            format!(
                "cannot guard {pattern} by --guard: {}",
                texts(&problems).join("\n")
            )
        })?;
        rules.push(Rule {
            pattern,
            policy,
            last: Mutex::new(Last {
                given,
                wrong: Vec::new(),
            }),
        });
    }
    let patterns = rules.iter().map(|rule| rule.pattern.clone()).collect();
    let host = Arc::clone(host);
    let request = move |number: usize| {
        let rule: &Rule = rules
            .get(number)
            .ok_or_else(|| vec!["there is no such rule".to_owned()])?;
        Ok(host.guard_of(rule.given(&host, output), rule))
    };
    Ok(Some(Rules {
        patterns,
        request: Box::new(request),
    }))
}

impl Rule {
    /// By what a unit is judged that starts now. A file that somebody is just writing opens no unit: what it said before holds.
    fn given(&self, host: &Host, output: Output) -> GivenPolicy {
        let read = host.given(self.policy.as_ref());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(given) => {
                *last = Last {
                    given,
                    wrong: Vec::new(),
                };
            }
            Err(problems) => {
                let wrong = texts(&problems);
                if last.wrong != wrong {
                    output.warning(&plain(&format!(
                        "{} are judged as before, since the policy cannot be read anew: {}",
                        self.pattern.as_str(),
                        wrong.join("\n")
                    )));
                    last.wrong = wrong;
                }
            }
        }
        last.given.clone()
    }
}

impl Host {
    /// What guardrails and the policy of a rule make together.
    fn given(&self, policy: Option<&PathBuf>) -> Result<GivenPolicy, Vec<Problem>> {
        let around = Surroundings::of_process();
        let mut files = Files::default();
        let mut layers = files.guardrails(&around.guardrails);
        layers.extend(self.policy.iter().map(|path| files.layer(path, true)));
        layers.extend(policy.map(|path| files.layer(path, false)));
        let effective = if layers.is_empty() && files.sound() {
            resolve::bare(None, None)
        } else {
            let asked = resolve::Asked {
                layers,
                catalog: self.catalog.as_deref(),
                mode: None,
                service: None,
            };
            resolve::resolved(files, asked, &around)?
        };
        resolve::compiled(&effective).map_err(|problem| vec![problem])?;
        let policy = &effective.policy;
        let families = Need::Families.kind();
        if policy.default == Effect::Deny
            && policy.mode == Mode::Enforce
            && !self.accept_gaps.iter().any(|kind| kind == families)
        {
            let message = format!(
                "the policy denies by default, and packet and vsock sockets of what runs already cannot be refused; accept that with `--accept-gap {families}`"
            );
            return Err(vec![Problem::Message(message)]);
        }
        Ok(GivenPolicy {
            policy: effective.policy,
            source: effective.source,
        })
    }

    /// As `blackstart attach` would have it.
    fn guard_of(&self, given: GivenPolicy, rule: &Rule) -> Request {
        Request {
            hide_sockets: false,
            command: Vec::<OsString>::new(),
            env: Vec::new(),
            redaction: Redaction::default(),
            service: given.policy.service.clone(),
            mode: Some(given.policy.mode),
            leftover: None,
            accept_gaps: self.accept_gaps.clone(),
            contain: None,
            concurrent: true,
            break_glass: None,
            drill: None,
            lock: None,
            catalog: self.catalog_for(given.policy.service.is_some()),
            origin: Origin {
                policy: rule.policy.clone(),
                catalog: self.catalog.clone(),
                guardrails: self.policy.clone(),
                ..Origin::default()
            },
            state_dir: self.state.clone(),
            id: None,
            policy: Some(given),
        }
    }
}

/// What happens in a unit, with its name before it.
pub(super) fn tell(unit: &str, notice: &Notice, output: Output) {
    let telling = live::Telling {
        quiet: false,
        paint: Paint::None,
    };
    if let Some(line) = live::line(notice, telling) {
        for line in line.lines() {
            let line = line.strip_prefix("blackstart: ").unwrap_or(line);
            output.say(&format!("blackstart agent: {}: {line}\n", plain(unit)));
        }
    }
}
