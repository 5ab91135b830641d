//! What a run reached for, by destination: all of it counted, and the busiest told in detail.
//!
//! A large run may reach for as many destinations as its report has flows. The report is gone through twice: once to
//! count, with numbers for texts, and once more for the few destinations that are shown.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use blackstart_core::explain::{Detail, Question};
use blackstart_core::name::{Name as CoreName, Pattern};
use blackstart_core::policy::{Destination, Rank, Rule};
use blackstart_core::report::{Finding, Flow, Outcome, Parts, RulePlace, Verdict};
use blackstart_core::tables::Protocol;

use super::lineage::{Lineage, Texts};
use super::{DEPENDENCIES_SHOWN, REFUSED_SHOWN, places_of};
use crate::plain::plain;

/// All destinations of a run.
pub(super) struct Destinations {
    /// How many different ones.
    pub(super) count: usize,
    /// What was refused.
    pub(super) refused: Busiest<Refusal>,
    /// What enforce mode would have refused.
    pub(super) would: Busiest<Refusal>,
    /// What was reached for outside this host.
    pub(super) reached: Busiest<Dependency>,
    /// How many names were looked up with leave, and never contacted under that name.
    pub(super) names_only: usize,
}

/// The first of a list that may be long.
pub(super) struct Busiest<T> {
    /// In order.
    pub(super) shown: Vec<T>,
    /// How long the list is.
    pub(super) all: usize,
    /// How many different destinations are in it.
    pub(super) destinations: usize,
}

/// Everything that one rule refused at one destination.
pub(super) struct Refusal {
    pub(super) what: String,
    /// `tcp/443`, `lookup`.
    pub(super) ways: BTreeSet<String>,
    pub(super) attempts: u64,
    pub(super) chains: BTreeSet<String>,
    pub(super) rule: String,
    /// Where it stands; several places where nothing tells which of the same text it was.
    pub(super) places: Vec<RulePlace>,
    /// What is to be known of the rule.
    pub(super) advice: Detail,
    /// The first attempt of these, as a question to the policy.
    pub(super) asked: Option<Question>,
    /// It is a name, and a waiver for it would hold.
    pub(super) waivable: bool,
}

/// One outside destination that was reached for, on one port.
pub(super) struct Dependency {
    pub(super) name: Option<String>,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) port: u16,
    pub(super) protocol: String,
    pub(super) attempts: u64,
    pub(super) outcome: String,
    pub(super) chains: BTreeSet<String>,
}

impl Dependency {
    pub(super) fn place(&self) -> String {
        let first = match self.addresses.first() {
            Some(address) if address.is_unspecified() => format!("a proxy, port {}", self.port),
            Some(address @ IpAddr::V6(_)) if self.port != 0 => format!("[{address}]:{}", self.port),
            Some(address) if self.port != 0 => format!("{address}:{}", self.port),
            Some(address) => address.to_string(),
            None => "-".to_owned(),
        };
        match self.addresses.len() {
            0 | 1 => first,
            several => format!("{first} (+{})", several - 1),
        }
    }

    pub(super) fn by(&self) -> String {
        let first = self.chains.first().map_or("-", String::as_str);
        match self.chains.len() {
            0 | 1 => first.to_owned(),
            several => format!("{first} (+{})", several - 1),
        }
    }
}

/// The text by which a destination is told from another. Most are addresses, whose texts are not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum What {
    Address(IpAddr),
    Text(u32),
}

impl What {
    pub(crate) fn of_name(name: &str, texts: &mut Texts) -> Self {
        let text = plain(name);
        match text.parse::<IpAddr>() {
            Ok(address) if address.to_string() == text => Self::Address(address),
            _ => Self::Text(texts.number(&text)),
        }
    }

    pub(crate) fn of_flow(flow: &Flow, texts: &mut Texts) -> Self {
        match &flow.name {
            Some(name) => Self::of_name(name, texts),
            None => Self::Address(flow.address.to_canonical()),
        }
    }

    pub(crate) fn text(self, texts: &Texts) -> Cow<'_, str> {
        match self {
            Self::Address(address) => Cow::Owned(address.to_string()),
            Self::Text(number) => Cow::Borrowed(texts.get(number)),
        }
    }
}

/// Destination and rule.
type Refused = (What, u32);
/// Destination, port, and way.
type Reached = (What, u16, u16);

/// Protocols and outcomes, as numbers of their texts. There are a few thousand pairs at most.
#[derive(Default)]
struct Ways {
    numbers: HashMap<(u32, u32), u16>,
    all: Vec<(u32, u32)>,
}

impl Ways {
    fn number(&mut self, flow: &Flow, texts: &mut Texts) -> u16 {
        let way = (
            texts.number(&flow.protocol),
            texts.number(&outcome_words(flow)),
        );
        *self.numbers.entry(way).or_insert_with(|| {
            self.all.push(way);
            u16::try_from(self.all.len() - 1).unwrap_or(u16::MAX)
        })
    }

    fn get<'a>(&self, number: u16, texts: &'a Texts) -> (&'a str, &'a str) {
        let (protocol, outcome) = self.all[usize::from(number)];
        (texts.get(protocol), texts.get(outcome))
    }
}

/// How often each was met. First every meeting by itself, in one piece of memory; then added up.
pub(crate) struct Tally<K>(pub(crate) Vec<(K, u64)>);

impl<K: Ord> Tally<K> {
    pub(crate) fn add_up(mut self) -> Self {
        self.0.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.0.dedup_by(|(next, more), (key, attempts)| {
            let same = next == key;
            if same {
                *attempts = attempts.saturating_add(*more);
            }
            same
        });
        self
    }

    /// The first `most` keys of the list that begins with the busiest; what is met equally often is in `order`.
    pub(crate) fn busiest(self, most: usize, order: impl Fn(&K, &K) -> Ordering) -> Vec<(K, u64)> {
        let compare =
            |(a, many): &(K, u64), (b, more): &(K, u64)| more.cmp(many).then_with(|| order(a, b));
        let mut list = self.0;
        if list.len() > most {
            list.select_nth_unstable_by(most, compare);
            list.truncate(most);
        }
        list.sort_by(compare);
        list
    }
}

/// Destinations in a sorted list, each once.
fn different<'a, K>(
    tally: &'a Tally<K>,
    what: impl Fn(&K) -> What + 'a,
) -> impl Iterator<Item = What> + 'a {
    let mut last = None;
    tally.0.iter().filter_map(move |(key, _)| {
        let what = what(key);
        (last.replace(what) != Some(what)).then_some(what)
    })
}

fn has<K>(tally: &Tally<K>, wanted: What, what: impl Fn(&K) -> What) -> bool {
    tally
        .0
        .binary_search_by(|(key, _)| what(key).cmp(&wanted))
        .is_ok()
}

impl Destinations {
    pub(super) fn of(report: &dyn Parts, rules: &[Rule], lines: &Lineage) -> Self {
        let mut texts = Texts::default();
        let told = report.told_by_another();
        let mut refused = Tally(Vec::new());
        let mut would = Tally(Vec::new());
        // Nearly every flow is one: enlarged step by step, it would be held twice for moments.
        let mut reached = Tally(Vec::with_capacity(told.len()));
        let mut ways = Ways::default();
        // By the number of a name: contacted, and looked up with leave.
        let mut contacted = Vec::new();
        let mut looked_up = Vec::new();
        let mut names = Texts::default();

        for name in report.names() {
            let what = |texts: &mut Texts| {
                let rule = texts.number(&name.rule);
                (What::of_name(&name.name, texts), rule)
            };
            match name.verdict {
                Verdict::Deny => refused.0.push((what(&mut texts), name.queries)),
                Verdict::WouldDeny => would.0.push((what(&mut texts), name.queries)),
                _ => mark(&mut looked_up, names.number(&name.name)),
            }
        }
        for (flow, told) in report.flows().zip(&told) {
            if let Some(name) = &flow.name
                && let Some(number) = names.known(name)
            {
                mark(&mut contacted, number);
            }
            if !is_told(&flow, *told) {
                continue;
            }
            let what = What::of_flow(&flow, &mut texts);
            let list = match flow.verdict {
                Verdict::Deny => Some(&mut refused),
                Verdict::WouldDeny => Some(&mut would),
                _ => None,
            };
            if let Some(list) = list {
                list.0
                    .push(((what, texts.number(&flow.rule)), flow.attempts));
            }
            if let Some(key) = reached_key(&flow, what, &mut ways, &mut texts) {
                reached.0.push((key, flow.attempts));
            }
        }
        let names_only = (0..looked_up.len())
            .filter(|&at| looked_up[at] && !contacted.get(at).is_some_and(|met| *met))
            .count();

        let (refused, would, reached) = (refused.add_up(), would.add_up(), reached.add_up());
        let of_refused = |key: &Refused| key.0;
        let of_reached = |key: &Reached| key.0;
        let outside = different(&reached, of_reached).count();
        let stopped = different(&refused, of_refused).count();
        let spared = different(&would, of_refused).count();
        let count = outside
            + different(&refused, of_refused)
                .filter(|what| !has(&reached, *what, of_reached))
                .count()
            + different(&would, of_refused)
                .filter(|what| !has(&reached, *what, of_reached))
                .filter(|what| !has(&refused, *what, of_refused))
                .count();
        let all = (refused.0.len(), would.0.len(), reached.0.len());

        let text = |what: What| what.text(&texts);
        let by_text = |a: &Refused, b: &Refused| {
            (text(a.0), texts.get(a.1)).cmp(&(text(b.0), texts.get(b.1)))
        };
        let place = |key: &Reached| {
            let (what, port, way) = *key;
            (text(what), port, ways.get(way, &texts))
        };
        let refused = refused.busiest(REFUSED_SHOWN, by_text);
        let would = would.busiest(REFUSED_SHOWN, by_text);
        let reached = reached.busiest(DEPENDENCIES_SHOWN, |a, b| place(a).cmp(&place(b)));

        let mut refusals = |list, verdict| {
            let of_verdict = Refusals {
                report,
                told: &told,
                verdict,
                rules,
                lines,
            };
            of_verdict.in_detail(list, &mut texts)
        };
        let refused = refusals(refused, Verdict::Deny);
        let would = refusals(would, Verdict::WouldDeny);
        Self {
            count,
            refused: Busiest {
                shown: refused,
                all: all.0,
                destinations: stopped,
            },
            would: Busiest {
                shown: would,
                all: all.1,
                destinations: spared,
            },
            reached: Busiest {
                shown: dependencies(report, &told, reached, lines, (ways, texts)),
                all: all.2,
                destinations: outside,
            },
            names_only,
        }
    }
}

fn mark(list: &mut Vec<bool>, number: u32) {
    let at = number as usize;
    if list.len() <= at {
        list.resize(at + 1, false);
    }
    list[at] = true;
}

/// A route probe for another flow is not told by itself, and one to port 0 that was refused is no refusal of
/// anything.
pub(crate) fn is_told(flow: &Flow, told_by_another: bool) -> bool {
    let refused = matches!(flow.verdict, Verdict::Deny | Verdict::WouldDeny);
    let nowhere = flow.is_route_probe() && flow.port == 0;
    !(told_by_another || refused && nowhere)
}

/// None for what stays on this host.
fn reached_key(flow: &Flow, what: What, ways: &mut Ways, texts: &mut Texts) -> Option<Reached> {
    let address = flow.address.to_canonical();
    if address.is_loopback() || address.is_unspecified() && !flow.is_proxied() {
        return None;
    }
    Some((what, flow.port, ways.number(flow, texts)))
}

/// Where each key's place in the list is.
fn places<K: Copy + Eq + Hash>(list: &[(K, u64)]) -> HashMap<K, usize> {
    list.iter()
        .enumerate()
        .map(|(at, (key, _))| (*key, at))
        .collect()
}

/// Where the details of refusals come from.
struct Refusals<'a> {
    report: &'a dyn Parts,
    told: &'a [bool],
    verdict: Verdict,
    rules: &'a [Rule],
    lines: &'a Lineage,
}

impl Refusals<'_> {
    fn in_detail(&self, list: Vec<(Refused, u64)>, texts: &mut Texts) -> Vec<Refusal> {
        if list.is_empty() {
            return Vec::new();
        }
        let places = places(&list);
        let mut shown: Vec<_> = list
            .into_iter()
            .map(|((what, rule), attempts)| {
                let (what, rule) = (what.text(texts).into_owned(), texts.get(rule));
                let about = findings_about(self.report, rule, &what);
                let mut places: Vec<_> = about.iter().filter_map(|it| it.place.clone()).collect();
                places.sort_unstable();
                places.dedup();
                if places.is_empty() {
                    places = places_of(self.rules, rule);
                }
                let same = |written: &&Rule| {
                    *written.text == *rule && places.iter().any(|place| place.is_of(written))
                };
                let written = self.rules.iter().find(same);
                let advice = advice(about.first().copied(), written);
                let is_name = what.parse::<IpAddr>().is_err() && Pattern::parse(&what).is_ok();
                Refusal {
                    what,
                    ways: BTreeSet::new(),
                    attempts,
                    chains: BTreeSet::new(),
                    rule: plain(rule),
                    places,
                    advice,
                    asked: None,
                    waivable: is_name && written.is_some_and(|written| written.rank != Rank::Final),
                }
            })
            .collect();
        let mut add = |key, way: String, subject, asked: &dyn Fn() -> Option<Question>| {
            if let Some(&at) = places.get(&key) {
                let refusal = &mut shown[at];
                refusal.ways.insert(way);
                refusal.chains.insert(self.lines.chain(subject));
                if refusal.asked.is_none() {
                    refusal.asked = asked();
                }
            }
        };
        for name in self.report.names().filter(|n| n.verdict == self.verdict) {
            let rule = texts.number(&name.rule);
            let key = (What::of_name(&name.name, texts), rule);
            add(key, "lookup".to_owned(), name.subject, &|| {
                let to = Destination::Name(CoreName::parse(&name.name).ok()?);
                Some(self.question(to, None, None, Protocol::Tcp, name.subject))
            });
        }
        for (flow, told) in self.report.flows().zip(self.told) {
            if flow.verdict == self.verdict && is_told(&flow, *told) {
                let rule = texts.number(&flow.rule);
                let key = (What::of_flow(&flow, texts), rule);
                add(key, way(&flow.protocol, flow.port), flow.subject, &|| {
                    let (to, address) = match &flow.name {
                        Some(name) => {
                            let name = CoreName::parse(name).ok()?;
                            (Destination::Name(name), Some(flow.address))
                        }
                        None => (Destination::Address(flow.address), None),
                    };
                    let protocol = match flow.protocol.as_str() {
                        "tcp" => Protocol::Tcp,
                        "udp" => Protocol::Udp,
                        _ => Protocol::Other,
                    };
                    Some(self.question(to, Some(flow.port), address, protocol, flow.subject))
                });
            }
        }
        shown
    }

    fn question(
        &self,
        to: Destination,
        port: Option<u16>,
        address: Option<IpAddr>,
        protocol: Protocol,
        subject: Option<u64>,
    ) -> Question {
        let mut programs = self.lines.programs(subject).into_iter();
        Question {
            to,
            port,
            address,
            process: programs.next(),
            ancestors: programs.collect(),
            protocol,
        }
    }
}

fn dependencies(
    report: &dyn Parts,
    told: &[bool],
    list: Vec<(Reached, u64)>,
    lines: &Lineage,
    (mut ways, mut texts): (Ways, Texts),
) -> Vec<Dependency> {
    let places = places(&list);
    let mut shown: Vec<_> = list
        .into_iter()
        .map(|((_, port, way), attempts)| {
            let (protocol, outcome) = ways.get(way, &texts);
            Dependency {
                name: None,
                addresses: BTreeSet::new(),
                port,
                protocol: plain(protocol),
                attempts,
                outcome: outcome.to_owned(),
                chains: BTreeSet::new(),
            }
        })
        .collect();
    for (flow, told) in report.flows().zip(told) {
        if !is_told(&flow, *told) {
            continue;
        }
        let what = What::of_flow(&flow, &mut texts);
        let key = reached_key(&flow, what, &mut ways, &mut texts);
        let place = key.and_then(|key| places.get(&key));
        if let Some(&at) = place {
            let dependency = &mut shown[at];
            if dependency.addresses.is_empty() {
                dependency.name = flow.name.as_deref().map(plain);
            }
            dependency.addresses.insert(flow.address.to_canonical());
            dependency.chains.insert(lines.chain(flow.subject));
        }
    }
    shown
}

/// The findings about a rule and a destination.
fn findings_about<'r>(report: &'r dyn Parts, rule: &str, what: &str) -> Vec<&'r Finding> {
    let names_it = |title: &str| {
        title.split_whitespace().any(|word| {
            let rest = word.trim_start_matches('[').strip_prefix(what);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', ']']))
        })
    };
    let about =
        |finding: &&Finding| finding.rule.as_deref() == Some(rule) && names_it(&finding.title);
    report.findings().iter().filter(about).collect()
}

/// Why a rule stands and what to do about this destination: from the finding about the two, since it
/// knows more (what to allow, say), else from the rule itself.
fn advice(finding: Option<&Finding>, written: Option<&Rule>) -> Detail {
    let mut detail = written.map(Detail::of).unwrap_or_default();
    if let Some(finding) = finding {
        let told = |of_finding: &Option<String>, of_rule: &mut Option<String>| {
            if of_finding.is_some() {
                of_rule.clone_from(of_finding);
            }
        };
        told(&finding.reason, &mut detail.reason);
        told(&finding.fix, &mut detail.fix);
        told(&finding.owner, &mut detail.owner);
    }
    detail
}

fn way(protocol: &str, port: u16) -> String {
    if port == 0 {
        plain(protocol)
    } else {
        format!("{}/{port}", plain(protocol))
    }
}

pub(crate) fn outcome_words(flow: &Flow) -> Cow<'static, str> {
    let seen = match flow.outcome {
        Outcome::Connected => "connected",
        Outcome::Refused => "refused by peer",
        Outcome::TimedOut => "timed out",
        Outcome::Unknown if flow.is_route_probe() => "probed",
        // Handshakes that nobody answered while the command lived.
        Outcome::Unknown if flow.protocol == "tcp" => "no answer seen",
        Outcome::Unknown => "sent",
    };
    match flow.verdict {
        Verdict::Deny => "denied".into(),
        Verdict::Allow | Verdict::WouldDeny => seen.into(),
        Verdict::Waived => format!("{seen} (waived)").into(),
        Verdict::BreakGlass => format!("{seen} (break glass)").into(),
    }
}
