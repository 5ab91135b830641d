//! From the documents of all layers to the one policy that a run is judged by.

mod compare;
mod services;
mod wide;

use std::collections::BTreeSet;
use std::ops::Range;

use super::{
    Case, Day, Diagnostic, Document, Effect, Limits, MAX_INSPECTED, Parsed, Place, Policy, Rank,
    Rule, Severity, Waiver, Written, parse,
};
use crate::catalog::Reading;
use crate::report::Mode;
use crate::tables::BUILTIN;

/// How long before its end a waiver is warned of.
const WARNED_DAYS: u16 = 14;
/// More diagnostics than anyone reads.
const MAX_DIAGNOSTICS: usize = 200;

/// The documents that stand on one step: a file and, after it, all that it includes, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layer {
    /// It is the host's and holds for every run: its `mode` and `default` are a floor, and its rules may be final.
    pub guardrail: bool,
    /// It is read to be mended: an expired waiver in it is an error. Where it is not, that has no effect, and is
    /// listed.
    pub checked: bool,
    /// The file first.
    pub documents: Vec<Document>,
}

impl Layer {
    /// A guardrail with a rule that goes before all others for some callers only.
    pub fn has_rules_not_final(&self) -> bool {
        let derives = |document: &Document| {
            !document.protect.is_empty() || !document.service_rules.is_empty()
        };
        let not_final = |rule: &Rule| rule.rank != Rank::Final;
        let mut documents = self.documents.iter();
        self.guardrail && documents.any(|it| derives(it) || it.rules.iter().any(not_final))
    }
}

/// All that the effective policy depends on.
#[derive(Debug, Clone)]
pub struct Given<'a> {
    /// From the host's guardrails to the run's own, which is the last one if it has any.
    pub layers: Vec<Layer>,
    /// The catalog, for `protect:` and `service:`.
    pub catalog: Option<&'a Reading>,
    /// Today, in UTC.
    pub today: Day,
    /// The mode that was typed.
    pub mode: Option<Mode>,
    /// The service that was typed.
    pub service: Option<String>,
    /// Every rule of a guardrail is final: so it is for callers without root.
    pub all_final: bool,
}

/// A policy that a run can be judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The policy.
    pub policy: Policy,
    /// What its authors ought to look at.
    pub warnings: Vec<Diagnostic>,
    /// The tests of the last layer's file.
    pub tests: Vec<Case>,
}

/// Make the effective policy. On failure, every error that was found, warnings included, in the order of the
/// layers and of their texts.
///
/// What a file says of `mode`, `default` and `service` goes before what it includes; of several included
/// files that say it, the stricter `mode` and `default` hold, and the first `service`. Of limits, of `lease` and of `hidden` the tightest
/// hold, whoever says them, of `inspect` all ports, and of `follow` all units.
pub fn resolve(given: Given<'_>) -> Result<Effective, Vec<Diagnostic>> {
    let mut resolving = Resolving {
        catalog: given.catalog,
        today: given.today,
        typed: given.mode,
        all_final: given.all_final,
        diagnostics: Vec::new(),
        policy: Policy::default(),
    };
    resolving.policy.mode = resolving.mode(&given.layers);
    resolving.policy.default = resolving.default(&given.layers);
    let documents = given.layers.iter().flat_map(|layer| &layer.documents);
    resolving.policy.limits = documents.fold(Limits::default(), |limits, document| {
        limits.tightest(document.limits)
    });
    let documents = given.layers.iter().flat_map(|layer| &layer.documents);
    let leases = documents.filter_map(|document| document.lease.as_ref());
    resolving.policy.lease = leases.map(|lease| lease.value).max().unwrap_or_default();
    let documents = given.layers.iter().flat_map(|layer| &layer.documents);
    let hidden = documents.filter_map(|document| document.hidden.as_ref());
    resolving.policy.hidden = hidden.map(|it| it.value).max().unwrap_or_default();
    resolving.inspect(&given.layers);
    let documents = given.layers.iter().flat_map(|layer| &layer.documents);
    let follow: BTreeSet<_> = documents
        .flat_map(|document| &document.follow)
        .map(|unit| unit.value.clone())
        .collect();
    resolving.policy.follow = follow.into_iter().collect();
    resolving.policy.service = given.service.or_else(|| service(&given.layers));
    let mut tests = Vec::new();
    let mut number = 0;
    let last = given.layers.len().saturating_sub(1);
    for (at, mut layer) in given.layers.into_iter().enumerate() {
        if at == last
            && let Some(own) = layer.documents.first_mut()
        {
            tests.append(&mut own.tests);
        }
        resolving.layer(layer, number);
        number = number.saturating_add(1);
    }
    resolving.finish(tests)
}

/// One file alone: no guardrails, no catalog, nothing typed, and no waiver has expired.
pub fn alone(text: &str, file: &str) -> Result<Effective, Vec<Diagnostic>> {
    let Parsed {
        document,
        mut warnings,
    } = parse(text, file)?;
    let layer = Layer {
        guardrail: false,
        checked: true,
        documents: vec![document],
    };
    let effective = resolve(Given {
        layers: vec![layer],
        catalog: None,
        today: Day::MIN,
        mode: None,
        service: None,
        all_final: false,
    });
    match effective {
        Ok(mut effective) => {
            warnings.append(&mut effective.warnings);
            effective.warnings = warnings;
            Ok(effective)
        }
        Err(mut errors) => {
            warnings.append(&mut errors);
            Err(warnings)
        }
    }
}

struct Resolving<'a> {
    catalog: Option<&'a Reading>,
    today: Day,
    typed: Option<Mode>,
    all_final: bool,
    diagnostics: Vec<Diagnostic>,
    policy: Policy,
}

/// A layer, while its documents are entered into the policy.
struct Stratum {
    guardrail: bool,
    checked: bool,
    number: u16,
    /// The index of its first rule.
    first: usize,
}

/// For each rule of a layer, the bytes that it stands at.
type Spans = Vec<Range<u32>>;

/// What a layer says of something that is said once: its own file's word, or else the strictest of what that
/// includes.
fn said<T: Copy + Ord>(
    layer: &Layer,
    of: impl Fn(&Document) -> Option<&Written<T>>,
) -> Option<&Written<T>> {
    let (own, included) = layer.documents.split_first()?;
    of(own).or_else(|| {
        let all = included.iter().filter_map(of);
        all.reduce(|a, b| if b.value > a.value { b } else { a })
    })
}

/// The strictest word of the guardrails.
fn floor<T: Copy + Ord>(
    layers: &[Layer],
    of: impl Fn(&Document) -> Option<&Written<T>> + Copy,
) -> Option<&Written<T>> {
    let guardrails = layers.iter().filter(|layer| layer.guardrail);
    guardrails
        .filter_map(|layer| said(layer, of))
        .reduce(|a, b| if b.value > a.value { b } else { a })
}

fn own<T: Copy + Ord>(
    layers: &[Layer],
    of: impl Fn(&Document) -> Option<&Written<T>>,
) -> Option<&Written<T>> {
    let own = layers.iter().rfind(|layer| !layer.guardrail)?;
    said(own, of)
}

/// The run's own word; where it has none, that of the last guardrail which has.
fn service(layers: &[Layer]) -> Option<String> {
    let of = |layer: &Layer| {
        let mut said = layer.documents.iter().filter_map(|d| d.service.as_ref());
        said.next().map(|written| written.value.clone())
    };
    layers.iter().rev().find_map(of)
}

impl Resolving<'_> {
    fn error(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        self.diagnostics
            .push(place.diagnostic(Severity::Error, message, help));
    }

    fn warning(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        self.diagnostics
            .push(place.diagnostic(Severity::Warning, message, help));
    }

    fn mode(&mut self, layers: &[Layer]) -> Mode {
        let floor = floor(layers, |document| document.mode.as_ref());
        let own = own(layers, |document| document.mode.as_ref());
        let wanted = self.typed.or(own.map(|written| written.value));
        match (floor, wanted) {
            (Some(floor), Some(Mode::Observe)) if floor.value == Mode::Enforce => {
                if self.typed.is_some() {
                    self.enforced(&floor.place, "this guardrail says `mode: enforce`");
                } else if let Some(own) = own {
                    let message = format!(
                        "`mode: observe` does not hold, the guardrail {} says `mode: enforce`",
                        floor.place.line_of_file()
                    );
                    let help = "a rule may still say `mode: observe` for itself".to_owned();
                    self.warning(&own.place, message, help);
                }
                Mode::Enforce
            }
            (floor, wanted) => {
                let floor = floor.map_or(Mode::Observe, |written| written.value);
                floor.max(wanted.unwrap_or(Mode::Observe))
            }
        }
    }

    /// `--mode observe` was typed, and what stands here enforces.
    fn enforced(&mut self, place: &Place, what: &str) {
        let message = format!(
            "{what} ({}), and `--mode observe` cannot lower that",
            place.line_of_file()
        );
        let help = "leave `--mode observe` out; in an emergency, `--break-glass REASON` lets everything pass and says so in the report".to_owned();
        self.error(place, message, help);
    }

    fn default(&mut self, layers: &[Layer]) -> Effect {
        let floor = floor(layers, |document| document.default.as_ref());
        let own = own(layers, |document| document.default.as_ref());
        if let (Some(floor), Some(own)) = (floor, own)
            && floor.value > own.value
        {
            let message = format!(
                "`default: {}` does not hold, the guardrail {} says `default: {}`",
                own.value,
                floor.place.line_of_file(),
                floor.value
            );
            let help = "allow what this run needs with rules".to_owned();
            self.warning(&own.place, message, help);
        }
        let of = |written: Option<&Written<Effect>>| written.map_or(Effect::Allow, |w| w.value);
        of(floor).max(of(own))
    }

    fn inspect(&mut self, layers: &[Layer]) {
        let documents = layers.iter().flat_map(|layer| &layer.documents);
        for said in documents.filter_map(|document| document.inspect.as_ref()) {
            let ports = self.policy.inspect.get_or_insert_default();
            ports.extend(&said.value);
            ports.sort_unstable();
            ports.dedup();
            if ports.len() > MAX_INSPECTED {
                ports.truncate(MAX_INSPECTED);
                let message = format!(
                    "together with those of other files, `inspect` has more than {MAX_INSPECTED} ports"
                );
                self.error(&said.place, message, None);
            }
        }
    }

    fn layer(&mut self, layer: Layer, number: u16) {
        let stratum = Stratum {
            guardrail: layer.guardrail,
            checked: layer.checked,
            number,
            first: self.policy.rules.len(),
        };
        let mut spans = Vec::new();
        for mut document in layer.documents {
            let protect = std::mem::take(&mut document.protect);
            let service_rules = std::mem::take(&mut document.service_rules);
            let waivers = std::mem::take(&mut document.waivers);
            self.rules(document, &stratum, &mut spans);
            self.protect(protect, &stratum, &mut spans);
            for rule in service_rules {
                self.service_rule(rule, &stratum, &mut spans);
            }
            for waiver in waivers {
                self.waiver(waiver, &stratum, &mut spans);
            }
        }
        let rules = &self.policy.rules[stratum.first..];
        let mut looked_at = compare::repeated(rules);
        if self.policy.default == Effect::Deny {
            looked_at.extend(wide::wide(rules));
        }
        for (at, message, help) in looked_at {
            let rule = &self.policy.rules[stratum.first + at];
            let place = Place {
                file: rule.file.clone(),
                span: spans[at].start as usize..spans[at].end as usize,
                line: rule.line,
                column: rule.column,
            };
            self.warning(&place, message, Some(help.to_owned()));
        }
    }

    fn rules(&mut self, mut document: Document, stratum: &Stratum, spans: &mut Spans) {
        for index in 0..document.rules.len() {
            let own_mode = document.notes[index].mode;
            let is_final = document.rules[index].rank == Rank::Final;
            // Most rules say neither, and need no place.
            let place = (is_final || own_mode.is_some()).then(|| document.place_of(index));
            let rule = &mut document.rules[index];
            self.enter(rule, own_mode, place.as_ref(), stratum);
        }
        spans.extend(document.notes.into_iter().map(|note| note.span));
        if self.policy.rules.is_empty() {
            self.policy.rules = document.rules;
        } else {
            self.policy.rules.append(&mut document.rules);
        }
    }

    /// Fill in what a rule of a layer does not know by itself. `place` is there if it says `final` or `mode`.
    fn enter(
        &mut self,
        rule: &mut Rule,
        own_mode: Option<Mode>,
        place: Option<&Place>,
        stratum: &Stratum,
    ) {
        let lowered = self.typed == Some(Mode::Observe) && own_mode == Some(Mode::Enforce);
        if let Some(place) = place {
            if rule.rank == Rank::Final && !stratum.guardrail {
                let help = "remove `final`; a guardrail of the host may have it".to_owned();
                self.error(place, "only a guardrail's rule can be final", help);
            }
            if lowered && stratum.guardrail {
                self.enforced(place, "this rule of a guardrail says `mode: enforce`");
            }
        }
        rule.mode = match own_mode {
            Some(_) if lowered => Mode::Observe,
            Some(mode) => mode,
            None => self.policy.mode,
        };
        rule.layer = stratum.number;
        if stratum.guardrail && self.all_final {
            rule.rank = Rank::Final;
        }
    }

    fn waiver(&mut self, waiver: Waiver, stratum: &Stratum, spans: &mut Spans) {
        let Waiver {
            mut rule,
            service,
            expires,
            until,
            place,
        } = waiver;
        rule.layer = stratum.number;
        let owner = rule.owner.clone().unwrap_or_default();
        if expires < self.today {
            let message = format!("the {} expired on {expires}", rule.text);
            let help = format!("remove it, or ask {owner} whether it is still needed");
            if stratum.checked {
                self.error(&until, message, help);
            } else {
                self.warning(&until, format!("{message} and has no effect"), help);
            }
            self.policy.expired.push(rule);
            return;
        }
        if expires <= self.today.plus(WARNED_DAYS) {
            let message = match expires.days_after(self.today) {
                0 => format!("the {} expires today", rule.text),
                1 => format!("the {} expires tomorrow", rule.text),
                days => format!("the {} expires in {days} days", rule.text),
            };
            let help = format!("ask {owner} what is to become of it");
            self.warning(&until, message, help);
        }
        match service {
            Some(service) => self.of_service(&rule, &service, spans),
            None => self.push(rule, &place, spans),
        }
    }

    fn push(&mut self, rule: Rule, place: &Place, spans: &mut Spans) {
        // A file is not so long that its bytes could not be counted in 32 bits.
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        spans.push(offset(place.span.start)..offset(place.span.end));
        self.policy.rules.push(rule);
    }

    fn finish(mut self, tests: Vec<Case>) -> Result<Effective, Vec<Diagnostic>> {
        if self.policy.rules.len() >= BUILTIN as usize
            && let Some(last) = self.policy.rules.last()
        {
            let place = Place {
                file: last.file.clone(),
                span: 0..0,
                line: last.line,
                column: last.column,
            };
            self.error(&place, "there are more rules than can be numbered", None);
        }
        let mut diagnostics = self.diagnostics;
        if diagnostics.iter().any(|d| d.severity == Severity::Error) {
            return Err(shortened(diagnostics));
        }
        diagnostics = shortened(diagnostics);
        Ok(Effective {
            policy: self.policy,
            warnings: diagnostics,
            tests,
        })
    }
}

/// What can be read of them: errors go before warnings where there are too many, and that there are more is said.
fn shortened(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if diagnostics.len() <= MAX_DIAGNOSTICS {
        return diagnostics;
    }
    diagnostics.sort_by_key(|d| std::cmp::Reverse(d.severity));
    let more = diagnostics.len() - MAX_DIAGNOSTICS;
    diagnostics.truncate(MAX_DIAGNOSTICS);
    if let Some(last) = diagnostics.last_mut() {
        last.help = Some(format!(
            "{more} more of these follow; mend those above first"
        ));
    }
    diagnostics
}
