//! A record in as little memory as a report can be made from.
//!
//! Rows are kept without what no report says of them. Ids become small numbers where they are first met, texts lie
//! end to end, and no row has an allocation of its own: in a run that fills the kernel's tables, the record is by far
//! the most that a supervisor holds.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;

use super::account::{RuleTexts, asked_for, protocol_text, type_text, wall_us};
use super::probe::{self, Attempt};
use super::{Attribution, Outcome, Verdict};
use crate::record::{
    AnswerRow, Counters, FlowRow, Listener, Reached, Row, SocketKind, SubjectId, SubjectRow,
};
use crate::redact::Redaction;
use crate::tables::RuleId;

/// Stands for an id in this ledger. 0 stands for id 0: no subject, no name.
pub(super) type Slot = u32;

/// Where there is none.
const NOWHERE: u32 = u32::MAX;

/// Ids in the order in which they were met.
#[derive(Debug, Clone)]
struct Ids {
    slots: HashMap<u64, Slot>,
    ids: Vec<u64>,
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            slots: HashMap::new(),
            ids: vec![0],
        }
    }
}

impl Ids {
    fn slot(&mut self, id: u64) -> Slot {
        if id == 0 {
            return 0;
        }
        *self.slots.entry(id).or_insert_with(|| {
            let slot = number(self.ids.len());
            self.ids.push(id);
            slot
        })
    }
}

/// The kernel's tables have far fewer rows.
fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(NOWHERE)
}

/// Texts end to end. Those beyond 4 GiB, more than the kernel's tables hold, are empty.
#[derive(Debug, Clone, Default)]
struct Texts {
    all: String,
    ends: Vec<u32>,
    /// By a hash of its octets, the last text that had it: processes of one run have most of their words in common.
    recent: Vec<u32>,
}

impl Texts {
    fn push(&mut self, text: &str) -> u32 {
        let place = recent_place(text);
        self.recent.resize(RECENT, NOWHERE);
        if self.recent[place] != NOWHERE && self.get(self.recent[place]) == text {
            return self.recent[place];
        }
        if u32::try_from(self.all.len() + text.len()).is_ok() {
            self.all.push_str(text);
        }
        self.ends.push(number(self.all.len()));
        self.recent[place] = number(self.ends.len() - 1);
        self.recent[place]
    }

    fn get(&self, at: u32) -> &str {
        let at = at as usize;
        let end = |at: usize| self.ends.get(at).map_or(0, |end| *end as usize);
        let start = if at == 0 { 0 } else { end(at - 1) };
        self.all.get(start..end(at)).unwrap_or_default()
    }
}

/// How many recent texts are remembered.
const RECENT: usize = 1024;

fn recent_place(text: &str) -> usize {
    let hash = text.bytes().fold(0_u32, |hash, byte| {
        hash.rotate_left(5) ^ u32::from(byte).wrapping_mul(0x9e37_79b9)
    });
    (hash >> 16) as usize % RECENT
}

/// A [`SubjectRow`].
#[derive(Debug, Clone)]
pub(super) struct Image {
    id: Slot,
    parent: Slot,
    pub(super) tgid: u32,
    exe: u32,
    /// The first of its arguments, redacted, and how many.
    argv: (u32, u32),
    pub(super) argv_truncated: bool,
    forked: bool,
    pub(super) late: bool,
    pub(super) found: bool,
    pub(super) replaced: bool,
    pub(super) wait_status: u32,
    pub(super) started_ns: u64,
    pub(super) ended_ns: u64,
}

/// A [`QueryRow`](crate::record::QueryRow).
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) name: Slot,
    pub(super) subject: Slot,
    pub(super) rule: RuleId,
    pub(super) qtype: u16,
    pub(super) verdict: Verdict,
    pub(super) queries: u64,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// An [`AnswerRow`].
#[derive(Debug, Clone)]
struct Answer {
    name: Slot,
    /// The first link of its chain, and how many.
    links: (u32, u32),
    address: IpAddr,
}

/// A [`FlowRow`].
#[derive(Debug, Clone)]
pub(super) struct Reach {
    pub(super) subject: Slot,
    pub(super) name: Slot,
    pub(super) rule: RuleId,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: u8,
    pub(super) verdict: Verdict,
    pub(super) attribution: Attribution,
    pub(super) outcome: Outcome,
    /// It is a route probe for another one.
    pub(super) told_by_another: bool,
    pub(super) attempts: u64,
    pub(super) bytes_sent: u64,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// A [`DelegateRow`](crate::record::DelegateRow).
#[derive(Debug, Clone)]
pub(super) struct Contact {
    pub(super) subject: Slot,
    pub(super) path: String,
    pub(super) verdict: Verdict,
    pub(super) rule: RuleId,
    pub(super) attempts: u64,
    pub(super) listener: Option<Listener>,
    pub(super) reached: Reached,
}

impl Contact {
    /// The name of the socket that it reached, where a rule denies that and the path is another one.
    pub(super) fn alias(&self) -> Option<&str> {
        match &self.reached {
            Reached::Alias(name) => Some(name),
            Reached::AsAsked | Reached::Unknown => None,
        }
    }
}

/// A [`SocketRow`](crate::record::SocketRow).
#[derive(Debug, Clone)]
pub(super) struct Unmade {
    pub(super) subject: Slot,
    pub(super) kind: SocketKind,
    pub(super) verdict: Verdict,
    pub(super) rule: RuleId,
}

/// A [`LeaverRow`](crate::record::LeaverRow).
#[derive(Debug, Clone)]
pub(super) struct Leaver {
    pub(super) subject: Slot,
    pub(super) tgid: u32,
    pub(super) returned: bool,
}

/// A run's record on its way to the report.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    redaction: Redaction,
    boot_offset_ns: i64,
    pub(super) counters: Counters,
    pub(super) subjects: Vec<Image>,
    pub(super) queries: Vec<Lookup>,
    pub(super) flows: Vec<Reach>,
    pub(super) delegates: Vec<Contact>,
    pub(super) sockets: Vec<Unmade>,
    pub(super) leavers: Vec<Leaver>,
    answers: Vec<Answer>,
    links: Vec<Slot>,
    subject_ids: Ids,
    name_ids: Ids,
    texts: Texts,
    /// Texts of arguments.
    words: Vec<u32>,
    /// Of each slot of a name.
    name_texts: Vec<u32>,
    /// In the report, of each slot of a subject; 0 for those without a row. Empty until all is settled.
    numbers: Vec<u32>,
}

impl Ledger {
    /// An empty one, which redacts arguments as it takes them in.
    pub fn redacting(redaction: &Redaction) -> Self {
        Self {
            redaction: redaction.clone(),
            ..Self::default()
        }
    }

    /// Take one row.
    pub fn add(&mut self, row: Row) {
        match row {
            Row::Clock(boot_offset_ns) => self.boot_offset_ns = boot_offset_ns,
            // Those of followed units have their own.
            Row::Counters(counters) => self.counters.add(&counters),
            Row::Subject(row) => self.add_subject(&row),
            Row::Name(row) => {
                let slot = self.name_ids.slot(row.id) as usize;
                if self.name_texts.len() <= slot {
                    self.name_texts.resize(slot + 1, NOWHERE);
                }
                self.name_texts[slot] = self.texts.push(&row.name);
            }
            Row::Query(row) => self.queries.push(Lookup {
                name: self.name_ids.slot(row.name),
                subject: self.subject_ids.slot(row.subject),
                rule: row.rule,
                qtype: row.qtype,
                verdict: row.verdict,
                queries: row.queries,
                first_ns: row.first_ns,
                last_ns: row.last_ns,
            }),
            Row::Answer(row) => self.add_answer(&row),
            Row::Flow(row) => self.flows.push(Reach {
                subject: self.subject_ids.slot(row.subject),
                name: self.name_ids.slot(row.name),
                rule: row.rule,
                address: row.address,
                port: row.port,
                protocol: row.protocol,
                verdict: row.verdict,
                attribution: row.attribution,
                outcome: outcome(&row),
                told_by_another: false,
                attempts: row.attempts,
                bytes_sent: row.bytes_sent,
                first_ns: row.first_ns,
                last_ns: row.last_ns,
            }),
            Row::Delegate(row) => self.delegates.push(Contact {
                subject: self.subject_ids.slot(row.subject),
                path: row.path,
                verdict: row.verdict,
                rule: row.rule,
                attempts: row.attempts,
                listener: row.listener,
                reached: row.reached,
            }),
            Row::Socket(row) => self.sockets.push(Unmade {
                subject: self.subject_ids.slot(row.subject),
                kind: row.kind,
                verdict: row.verdict,
                rule: row.rule,
            }),
            Row::Leaver(row) => self.leavers.push(Leaver {
                subject: self.subject_ids.slot(row.subject),
                tgid: row.tgid,
                returned: row.returned,
            }),
        }
    }

    fn add_subject(&mut self, row: &SubjectRow) {
        let exe = self.texts.push(&row.exe);
        let argv = self.redaction.of_subject(row);
        let words = (number(self.words.len()), number(argv.len()));
        for word in &argv {
            self.words.push(self.texts.push(word));
        }
        self.subjects.push(Image {
            id: self.subject_ids.slot(row.id),
            parent: self.subject_ids.slot(row.parent),
            tgid: row.tgid,
            exe,
            argv: words,
            argv_truncated: row.argv_truncated,
            forked: row.forked,
            late: row.late,
            found: row.found,
            replaced: row.replaced,
            wait_status: row.wait_status,
            started_ns: row.started_ns,
            ended_ns: row.ended_ns,
        });
    }

    fn add_answer(&mut self, row: &AnswerRow) {
        // What /etc/hosts gives is no answer.
        if row.fixed {
            return;
        }
        let links = (number(self.links.len()), number(row.chain.len()));
        for &link in &row.chain {
            self.links.push(self.name_ids.slot(link));
        }
        self.answers.push(Answer {
            name: self.name_ids.slot(row.name),
            links,
            address: row.address,
        });
    }

    /// Wall-clock time when the last process ended; none if one has not, or there was none.
    pub fn last_end_ns(&self) -> Option<i64> {
        let ends = self.subjects.iter().map(|row| row.ended_ns);
        if ends.clone().any(|end| end == 0) {
            return None;
        }
        i64::try_from(ends.max()?)
            .ok()?
            .checked_add(self.boot_offset_ns)
    }

    /// The rules that refused something in deed; one may come several times.
    pub fn refusing(&self) -> impl Iterator<Item = RuleId> {
        let flows = self.flows.iter().map(|row| (row.verdict, row.rule));
        let queries = self.queries.iter().map(|row| (row.verdict, row.rule));
        let delegates = self.delegates.iter().map(|row| (row.verdict, row.rule));
        let all = flows.chain(queries).chain(delegates);
        all.filter(|(verdict, _)| *verdict == Verdict::Deny)
            .map(|(_, rule)| rule)
    }

    /// Number the subjects and put everything into the report's order. To be called once, when every row is there
    /// and before anything below is asked.
    pub(super) fn settle(&mut self, rules: &RuleTexts) {
        self.inherit_images();
        self.number_subjects();
        // Only for rows to come.
        self.subject_ids.slots = HashMap::new();
        self.name_ids.slots = HashMap::new();
        self.settle_answers();
        self.settle_flows(rules);
        let mut queries = std::mem::take(&mut self.queries);
        queries.sort_unstable_by(|a, b| self.compare_lookups(a, b, rules));
        self.queries = queries;
    }

    /// A process that never called exec runs its parent's program with its parent's arguments. A parent's id is
    /// the lower one.
    fn inherit_images(&mut self) {
        let ids = &self.subject_ids.ids;
        self.subjects.sort_by_key(|image| ids[image.id as usize]);
        let index = index_by_slot(&self.subjects, ids.len());
        for at in 0..self.subjects.len() {
            let image = &self.subjects[at];
            if !image.forked || image.argv.1 != 0 {
                continue;
            }
            let parent = index[image.parent as usize] as usize;
            if parent < at {
                let Image {
                    exe,
                    argv,
                    argv_truncated,
                    ..
                } = self.subjects[parent];
                let image = &mut self.subjects[at];
                (image.exe, image.argv, image.argv_truncated) = (exe, argv, argv_truncated);
            }
        }
    }

    fn number_subjects(&mut self) {
        let order = start_order(&self.subjects, &self.subject_ids.ids);
        self.numbers = vec![0; self.subject_ids.ids.len()];
        for (&at, n) in order.iter().zip(1..) {
            self.numbers[self.subjects[at as usize].id as usize] = n;
        }
        self.subjects = order
            .iter()
            .map(|&at| self.subjects[at as usize].clone())
            .collect();
    }

    fn settle_answers(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        let ids = &self.name_ids.ids;
        let chain = |answer: &Answer| self.chain_of(answer).iter().map(|link| ids[*link as usize]);
        answers.sort_by(|a, b| {
            (a.name, a.address)
                .cmp(&(b.name, b.address))
                .then_with(|| chain(a).cmp(chain(b)))
        });
        self.answers = answers;
    }

    fn settle_flows(&mut self, rules: &RuleTexts) {
        let mut flows = std::mem::take(&mut self.flows);
        let told = probe::told(flows.len(), |at| {
            let row = &flows[at];
            Attempt {
                subject: self.subject(row.subject),
                name: (row.name != 0).then_some(row.name),
                address: row.address,
                port: row.port,
                is_probe: row.is_route_probe(),
                verdict: row.verdict,
            }
        });
        for (row, told) in flows.iter_mut().zip(told) {
            row.told_by_another = told;
        }
        flows.sort_unstable_by(|a, b| self.compare_flows(a, b, rules));
        self.flows = flows;
    }

    fn compare_lookups(&self, a: &Lookup, b: &Lookup, rules: &RuleTexts) -> Ordering {
        let first = |row: &Lookup| (self.number_of(row.subject), self.micros(row.first_ns));
        let last = |row: &Lookup| (row.verdict, row.queries, row.last_ns);
        first(a)
            .cmp(&first(b))
            .then_with(|| self.compare_names(a.name, b.name))
            .then_with(|| type_text(a.qtype).cmp(&type_text(b.qtype)))
            .then_with(|| rules.get(a.rule).cmp(rules.get(b.rule)))
            .then_with(|| last(a).cmp(&last(b)))
    }

    fn compare_flows(&self, a: &Reach, b: &Reach, rules: &RuleTexts) -> Ordering {
        let first = |row: &Reach| (self.number_of(row.subject), self.micros(row.first_ns));
        // The rest tells rows of several unknown subjects apart.
        let last = |row: &Reach| {
            let outcome = row.outcome as u8;
            (
                row.attribution,
                row.attempts,
                row.bytes_sent,
                row.last_ns,
                outcome,
            )
        };
        first(a)
            .cmp(&first(b))
            .then_with(|| self.compare_names(a.name, b.name))
            .then_with(|| (a.address, a.port).cmp(&(b.address, b.port)))
            .then_with(|| protocol_text(a.protocol).cmp(&protocol_text(b.protocol)))
            .then_with(|| a.verdict.cmp(&b.verdict))
            .then_with(|| rules.get(a.rule).cmp(rules.get(b.rule)))
            .then_with(|| last(a).cmp(&last(b)))
    }

    /// No name comes first.
    fn compare_names(&self, a: Slot, b: Slot) -> Ordering {
        let text = |slot: Slot| (slot != 0).then(|| self.name(slot));
        if a == b {
            Ordering::Equal
        } else {
            text(a).cmp(&text(b))
        }
    }

    fn number_of(&self, slot: Slot) -> u32 {
        self.numbers.get(slot as usize).copied().unwrap_or(0)
    }

    fn micros(&self, boot_ns: u64) -> i128 {
        wall_us(self.wall_ns(boot_ns))
    }

    pub(super) fn wall_ns(&self, boot_ns: u64) -> i128 {
        i128::from(boot_ns) + i128::from(self.boot_offset_ns)
    }

    /// The number of a subject in the report.
    pub(super) fn subject(&self, slot: Slot) -> Option<u64> {
        Some(u64::from(self.number_of(slot))).filter(|&number| number != 0)
    }

    /// The same of an id in the record.
    pub(super) fn number_of_id(&self, id: SubjectId) -> Option<u64> {
        let slot = self.subject_ids.ids.iter().position(|known| *known == id)?;
        self.subject(number(slot))
    }

    /// The number of an image's parent. One that does not come first is no parent: the record contradicts itself.
    pub(super) fn parent(&self, image: &Image) -> Option<u64> {
        self.subject(image.parent)
            .filter(|_| self.number_of(image.parent) < self.number_of(image.id))
    }

    /// The image with this number in the report.
    pub(super) fn image(&self, number: u64) -> &Image {
        &self.subjects[number as usize - 1]
    }

    pub(super) fn exe(&self, image: &Image) -> &str {
        self.texts.get(image.exe)
    }

    /// The arguments, redacted.
    pub(super) fn argv(&self, image: &Image) -> Vec<String> {
        let (from, count) = image.argv;
        let words = &self.words[from as usize..from as usize + count as usize];
        words
            .iter()
            .map(|word| self.texts.get(*word).to_owned())
            .collect()
    }

    /// A name's text. An id without a row (the name table was full) still tells names apart.
    pub(super) fn name(&self, slot: Slot) -> String {
        match self.name_texts.get(slot as usize) {
            Some(&at) if at != NOWHERE => self.texts.get(at).to_owned(),
            _ => format!("unknown-name-{:016x}", self.name_ids.ids[slot as usize]),
        }
    }

    /// The addresses that queries of this type were answered with, and the names on the way there.
    pub(super) fn answered(&self, name: Slot, qtype: u16) -> (Vec<IpAddr>, Vec<String>) {
        let from = self.answers.partition_point(|answer| answer.name < name);
        let mut addresses = Vec::new();
        let mut chain: Vec<Slot> = Vec::new();
        let answers = self.answers[from..]
            .iter()
            .take_while(|answer| answer.name == name)
            .filter(|answer| asked_for(qtype, answer.address));
        for answer in answers {
            addresses.push(answer.address);
            for link in self.chain_of(answer) {
                if !chain.contains(link) {
                    chain.push(*link);
                }
            }
        }
        addresses.dedup();
        (
            addresses,
            chain.into_iter().map(|link| self.name(link)).collect(),
        )
    }

    fn chain_of(&self, answer: &Answer) -> &[Slot] {
        let (from, count) = answer.links;
        &self.links[from as usize..from as usize + count as usize]
    }
}

impl Reach {
    /// As [`Flow::is_route_probe`](super::Flow::is_route_probe).
    fn is_route_probe(&self) -> bool {
        self.protocol == 17 && self.bytes_sent == 0
    }
}

/// Where the image of each slot is.
fn index_by_slot(images: &[Image], slots: usize) -> Vec<u32> {
    let mut index = vec![NOWHERE; slots];
    for (image, at) in images.iter().zip(0..) {
        index[image.id as usize] = at;
    }
    index
}

/// Parents first, and otherwise by start.
fn start_order(images: &[Image], ids: &[SubjectId]) -> Vec<u32> {
    let index = index_by_slot(images, ids.len());
    // Children of one image are a list: its head here, and behind each child the next.
    let mut children = vec![NOWHERE; images.len()];
    let mut siblings = vec![NOWHERE; images.len()];
    let mut ready = BinaryHeap::new();
    let start = |at: u32| {
        let image = &images[at as usize];
        (image.started_ns, ids[image.id as usize], at)
    };
    for (image, at) in images.iter().zip(0..) {
        let parent = index[image.parent as usize];
        if image.parent != 0 && parent != NOWHERE && parent != at {
            siblings[at as usize] = std::mem::replace(&mut children[parent as usize], at);
        } else {
            ready.push(Reverse(start(at)));
        }
    }
    let mut order = Vec::with_capacity(images.len());
    let mut placed = vec![false; images.len()];
    // Rows that are each other's ancestors are never ready; they follow at the end, in order of start.
    let mut stuck: Vec<u32> = (0..number(images.len())).collect();
    stuck.sort_unstable_by_key(|&at| start(at));
    let mut stuck = stuck.into_iter();
    loop {
        let next = ready
            .pop()
            .map(|Reverse((_, _, at))| at)
            .or_else(|| stuck.find(|&at| !placed[at as usize]));
        let Some(at) = next else { return order };
        if std::mem::replace(&mut placed[at as usize], true) {
            continue;
        }
        order.push(at);
        let mut child = children[at as usize];
        while child != NOWHERE {
            ready.push(Reverse(start(child)));
            child = siblings[child as usize];
        }
    }
}

fn outcome(row: &FlowRow) -> Outcome {
    if row.connected > 0 {
        Outcome::Connected
    } else if row.verdict == Verdict::Deny || row.refused > 0 {
        Outcome::Refused
    } else if row.timed_out > 0 {
        Outcome::TimedOut
    } else {
        Outcome::Unknown
    }
}
