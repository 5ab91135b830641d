//! What earlier runs reached for, as far as a policy can be held against it.
//!
//! A [`Past`] is a report without what no verdict depends on. A history hands them out one at a time, so that what is
//! learned or tested needs no more memory than what it tells.

pub mod backtest;
pub mod change;
pub mod learn;
pub mod promote;
pub mod replay;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::record::{Attribution, Verdict};
use crate::report::{
    Coverage, FOLLOW_GAP, Guarded, Report, Run, STANDING_GAPS, is_followed_exe, may_hide, probe,
};
use crate::tables::Protocol;

/// A program and who started it; see [`Ancestry`]. 0 stands for one that is not known.
pub type LineageId = u32;

/// A time: microseconds since the epoch.
pub type Micros = i64;

/// Programs by whom they were started: from a process up to the run's command, only executables count. A process that
/// goes on as its parent began is the same program.
#[derive(Debug, Clone, Default)]
pub struct Ancestry {
    rows: Vec<(LineageId, Arc<str>)>,
    known: HashMap<(LineageId, Arc<str>), LineageId>,
}

impl Ancestry {
    /// The program that `parent` started.
    pub fn below(&mut self, parent: LineageId, exe: &Arc<str>) -> LineageId {
        if self.exe(parent) == Some(exe) {
            return parent;
        }
        let rows = &mut self.rows;
        *self.known.entry((parent, exe.clone())).or_insert_with(|| {
            rows.push((parent, exe.clone()));
            LineageId::try_from(rows.len()).unwrap_or(0)
        })
    }

    /// What it executes.
    pub fn exe(&self, id: LineageId) -> Option<&Arc<str>> {
        self.row(id).map(|(_, exe)| exe)
    }

    /// Who started it. A parent's number is the smaller one.
    pub fn parent(&self, id: LineageId) -> LineageId {
        self.row(id).map_or(0, |(parent, _)| *parent)
    }

    /// It, and whoever started it, and so on.
    pub fn chain(&self, id: LineageId) -> impl Iterator<Item = &Arc<str>> {
        let up = |id: &LineageId| Some(self.parent(*id)).filter(|id| *id != 0);
        std::iter::successors(Some(id).filter(|id| *id != 0), up).filter_map(|id| self.exe(id))
    }

    /// Is it a process of a unit that was followed? No policy judges what these do.
    pub fn is_followed(&self, id: LineageId) -> bool {
        self.chain(id)
            .last()
            .is_some_and(|exe| is_followed_exe(exe))
    }

    fn row(&self, id: LineageId) -> Option<&(LineageId, Arc<str>)> {
        self.rows.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }
}

/// What a run's host added to its policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Surroundings {
    /// The host's own addresses.
    pub own: Vec<IpAddr>,
    /// Name servers; none if they were not recorded.
    pub resolvers: Vec<IpAddr>,
    /// The search list.
    pub search: Vec<String>,
}

impl Surroundings {
    /// Those of a run.
    pub fn of(run: &Run) -> Self {
        Self {
            own: run.addresses.clone(),
            resolvers: run.resolvers.clone(),
            search: run.search.clone(),
        }
    }

    /// Loopback, or one of the host's own?
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        address.to_canonical().is_loopback() || self.own.contains(&address)
    }

    /// A lookup at one of the run's own name servers? Those over TCP go through the forwarder. Reports of earlier
    /// versions do not name the servers: there every server that got a datagram is taken for one.
    pub(crate) fn is_resolver(&self, flow: &Reached) -> bool {
        let known = self.resolvers.contains(&flow.address);
        flow.port == 53
            && match flow.as_protocol() {
                Protocol::Udp => known || self.resolvers.is_empty(),
                Protocol::Tcp => known,
                Protocol::Other => false,
            }
    }
}

/// A run of the past.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// Its id.
    pub id: String,
    /// What it deployed.
    pub service: Option<Arc<str>>,
    /// Where.
    pub host: Arc<str>,
    /// When it began.
    pub started: Micros,
    /// An outage was played for it.
    pub drill: bool,
    /// It was no command, but what ran already.
    pub attached: bool,
    /// Why what is known of it may not be all; see [`lacks`].
    pub lacks: Arc<[String]>,
    /// What its host added.
    pub around: Arc<Surroundings>,
    /// Its lookups.
    pub lookups: Vec<Asked>,
    /// Its attempts to reach something.
    pub flows: Vec<Reached>,
    /// Its contacts with daemons' sockets.
    pub contacts: Vec<Contacted>,
}

/// A lookup.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The name.
    pub name: Arc<str>,
    /// DNS type.
    pub qtype: Arc<str>,
    /// The program.
    pub by: LineageId,
    /// The process, by its number in the report.
    pub subject: Option<u64>,
    /// What became of it.
    pub verdict: Verdict,
    /// By which rule.
    pub rule: Arc<str>,
    /// How often.
    pub queries: u64,
    /// First time.
    pub first: Micros,
    /// Last time.
    pub last: Micros,
    /// What was answered.
    pub answer: Arc<Answer>,
}

/// What a lookup was answered with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// CNAME targets on the way.
    pub chain: Vec<Arc<str>>,
}

/// An attempt to reach something.
#[derive(Debug, Clone, PartialEq)]
pub struct Reached {
    /// Under which name.
    pub name: Option<Arc<str>>,
    /// Where.
    pub address: IpAddr,
    /// Port; 0 where the protocol has none.
    pub port: u16,
    /// As the report writes it.
    pub protocol: Arc<str>,
    /// The program.
    pub by: LineageId,
    /// The process, by its number in the report.
    pub subject: Option<u64>,
    /// What became of it.
    pub verdict: Verdict,
    /// By which rule.
    pub rule: Arc<str>,
    /// How often.
    pub attempts: u64,
    /// First time.
    pub first: Micros,
    /// Last time.
    pub last: Micros,
    /// How sure the name is.
    pub attribution: Attribution,
    /// A datagram socket that sent nothing; see [`crate::report::Flow::is_route_probe`].
    pub probe: bool,
}

/// A contact with a daemon's socket.
#[derive(Debug, Clone, PartialEq)]
pub struct Contacted {
    /// Its path.
    pub path: Arc<str>,
    /// The program.
    pub by: LineageId,
    /// The process, by its number in the report.
    pub subject: Option<u64>,
    /// What became of it.
    pub verdict: Verdict,
    /// By which rule.
    pub rule: Arc<str>,
    /// How often.
    pub attempts: u64,
}

impl Reached {
    /// The protocol as rules tell it apart.
    pub fn as_protocol(&self) -> Protocol {
        match &*self.protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            number => number
                .parse()
                .map_or(Protocol::Other, Protocol::from_number),
        }
    }

    /// `name:443`, or the address where no name is known.
    pub fn destination(&self) -> String {
        let host = match (&self.name, self.address) {
            (Some(name), _) => name.to_string(),
            (None, IpAddr::V6(address)) if self.port != 0 => format!("[{address}]"),
            (None, address) => address.to_string(),
        };
        let mut text = host;
        if self.port != 0 {
            text.push_str(&format!(":{}", self.port));
        }
        if &*self.protocol != "tcp" {
            text.push_str(&format!("/{}", self.protocol));
        }
        text
    }
}

impl Past {
    /// Of a report, with its programs entered into `ancestry`.
    pub fn of(report: &Report, ancestry: &mut Ancestry) -> Self {
        let mut words = Words::default();
        let mut programs: HashMap<u64, LineageId> = HashMap::new();
        for subject in &report.subjects {
            let parent = subject.parent.and_then(|id| programs.get(&id).copied());
            let exe = words.of(&subject.exe);
            programs.insert(subject.id, ancestry.below(parent.unwrap_or(0), &exe));
        }
        let by = |subject: Option<u64>| {
            subject
                .and_then(|id| programs.get(&id).copied())
                .unwrap_or(0)
        };
        let run = &report.run;
        Self {
            id: run.id.clone(),
            service: run.service.as_deref().map(Arc::from),
            host: run.host.as_str().into(),
            started: micros(&run.started),
            drill: run.drill.is_some(),
            attached: run.attached.is_some(),
            lacks: lacks(run, &report.coverage).into(),
            around: Arc::new(Surroundings::of(run)),
            lookups: report
                .names
                .iter()
                .map(|name| Asked {
                    name: words.of(&name.name),
                    qtype: words.of(&name.qtype),
                    by: by(name.subject),
                    subject: name.subject,
                    verdict: name.verdict,
                    rule: words.of(&name.rule),
                    queries: name.queries,
                    first: micros(&name.first_seen),
                    last: micros(&name.last_seen),
                    answer: Arc::new(Answer {
                        addresses: name.addresses.clone(),
                        chain: name.chain.iter().map(|link| words.of(link)).collect(),
                    }),
                })
                .collect(),
            flows: report
                .flows
                .iter()
                .map(|flow| Reached {
                    name: flow.name.as_deref().map(|name| words.of(name)),
                    address: flow.address,
                    port: flow.port,
                    protocol: words.of(&flow.protocol),
                    by: by(flow.subject),
                    subject: flow.subject,
                    verdict: flow.verdict,
                    rule: words.of(&flow.rule),
                    attempts: flow.attempts,
                    first: micros(&flow.first_seen),
                    last: micros(&flow.last_seen),
                    attribution: flow.attribution,
                    probe: flow.is_route_probe(),
                })
                .collect(),
            contacts: report
                .delegates
                .iter()
                .filter(|delegate| delegate.is_unix())
                .map(|delegate| Contacted {
                    path: words.of(&delegate.path),
                    by: by(delegate.subject),
                    subject: delegate.subject,
                    verdict: delegate.verdict,
                    rule: words.of(&delegate.rule),
                    attempts: delegate.attempts,
                })
                .collect(),
        }
    }

    /// For each flow, whether it counts as a dependency by itself: one that only asks for the way to another does
    /// not, and one that leads nowhere does not either; see [`crate::report::told_by_another`].
    pub fn counted(&self) -> Vec<bool> {
        let told = self.told_by_another();
        let nowhere = |flow: &Reached| flow.probe && flow.port == 0;
        let flows = self.flows.iter().zip(told);
        flows.map(|(flow, told)| !told && !nowhere(flow)).collect()
    }

    fn told_by_another(&self) -> Vec<bool> {
        probe::told(self.flows.len(), |at| {
            let flow = &self.flows[at];
            probe::Attempt {
                subject: flow.subject,
                name: flow.name.as_deref(),
                address: flow.address,
                port: flow.port,
                is_probe: flow.probe,
                verdict: flow.verdict,
            }
        })
    }
}

/// Texts, each once.
#[derive(Debug, Default)]
struct Words(HashMap<Arc<str>, ()>);

impl Words {
    fn of(&mut self, text: &str) -> Arc<str> {
        if let Some((known, ())) = self.0.get_key_value(text) {
            return known.clone();
        }
        let word: Arc<str> = text.into();
        self.0.insert(word.clone(), ());
        word
    }
}

/// Why a report may not tell everything that its run reached for, in words; nothing if it was guarded from its first
/// instruction to its end, and nothing was lost. What no run of this version can see is not among it, nor a gap that hides no
/// attempt.
pub fn lacks(run: &Run, coverage: &Coverage) -> Vec<String> {
    let mut lacks = Vec::new();
    match run.guarded {
        Guarded::Yes => {}
        Guarded::Partly => lacks.push("not everything could be seen".to_owned()),
        Guarded::No => lacks.push("it was unguarded: nothing was seen".to_owned()),
    }
    match coverage.lost {
        0 => {}
        1 => lacks.push("1 attempt was lost".to_owned()),
        lost => lacks.push(format!("{lost} attempts were lost")),
    }
    if coverage.unsupervised_seconds > 0.0 {
        lacks.push("it was without a supervisor for a while".to_owned());
    }
    if run.ended.is_none() {
        lacks.push("it went on when it was taken in, and its end was not seen".to_owned());
    }
    for gap in &coverage.gaps {
        let stands = STANDING_GAPS.iter().any(|it| it.kind == gap.kind);
        let kind = format!("gap `{}`", gap.kind);
        // What units did that it followed is judged by no policy.
        if !stands && may_hide(&gap.kind) && gap.kind != FOLLOW_GAP && !lacks.contains(&kind) {
            lacks.push(kind);
        }
    }
    lacks
}

/// A report's time in microseconds; the epoch, where it is none.
pub fn micros(time: &str) -> Micros {
    time.parse::<Timestamp>()
        .map_or(0, |time| time.as_microsecond())
}

/// A time as reports write it.
pub fn time_text(micros: Micros) -> String {
    let time = Timestamp::from_microsecond(micros).unwrap_or_default();
    format!("{time:.6}")
}

/// The day of a time, UTC.
pub fn day_text(micros: Micros) -> String {
    time_text(micros).chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_who_started_them() {
        let mut ancestry = Ancestry::default();
        let [sh, curl]: [Arc<str>; 2] = ["/bin/sh".into(), "/usr/bin/curl".into()];
        let top = ancestry.below(0, &sh);
        assert_eq!(ancestry.below(top, &sh), top, "it goes on as it began");
        let below = ancestry.below(top, &curl);
        assert_eq!(ancestry.below(top, &curl), below);
        assert_ne!(ancestry.below(0, &curl), below);
        let chain: Vec<&str> = ancestry.chain(below).map(|exe| &**exe).collect();
        assert_eq!(chain, ["/usr/bin/curl", "/bin/sh"]);
        assert_eq!(ancestry.chain(0).count(), 0);
    }

    #[test]
    fn only_a_gap_that_hides_something_makes_a_run_no_proof() {
        let report = |kind: &str| {
            let report = serde_json::json!({
                "schema_version": 1, "subjects": [], "names": [], "flows": [], "delegates": [], "findings": [],
                "run": {
                    "id": "x", "service": null, "owner": null, "command": [], "host": "h", "mode": "observe",
                    "policy": null, "started": "", "ended": "", "exit_code": 0, "limits": {}, "usage": {},
                    "kernel": { "release": "", "features": [] }, "guarded": "yes"
                },
                "coverage": {
                    "attempts": 1, "recorded": 1, "lost": 0, "attributed": 0, "unsupervised_seconds": 0.0,
                    "gaps": [{ "kind": kind, "detail": "", "count": 1 }]
                }
            });
            serde_json::from_value::<Report>(report).unwrap()
        };
        let lacks = |kind: &str| {
            let report = report(kind);
            lacks(&report.run, &report.coverage)
        };
        // A literal address, an encrypted part of a hello, a late answer, a server without a name: all in the report.
        for kind in [
            "unnamed_addresses",
            "claims_hidden",
            "answers_unasked",
            "quic",
            "claims_unnamed",
            "follow",
        ] {
            assert_eq!(lacks(kind), [""; 0], "{kind}");
        }
        for kind in [
            "queries_lost",
            "dns_over_tcp",
            "left_cgroup",
            "record_torn",
            "claims_busy",
            "of a later version",
        ] {
            assert_eq!(lacks(kind), [format!("gap `{kind}`")]);
        }
    }

    #[test]
    fn times_come_out_as_they_went_in() {
        let text = "2026-11-28T05:54:20.000120Z";
        assert_eq!(time_text(micros(text)), text);
        assert_eq!(day_text(micros(text)), "2026-11-28");
    }
}
