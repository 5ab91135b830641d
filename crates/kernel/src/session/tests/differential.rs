//! The C parsers against hickory-proto's, over random messages and messages spoilt at random.
//!
//! What passes and what is leased must be what a well-kept library reads in the same octets, no more and no less.
//! `BLACKSTART_MESSAGES` says how many messages of each kind are tried.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use blackstart_core::name::Name;
use blackstart_core::record::Snapshot;
use blackstart_core::report::Mode;
use hickory_proto::op::{Header, Query};
use hickory_proto::rr::Name as Read;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::host::{Answer, Asked, answer_by_hickory, query_by_hickory};
use super::message::{A, AAAA, CHAOS, CNAME, IN, Message, Section, name, pointer};
use super::wire::{Got, SERVERS, Wire, refused};

/// As many messages as a run of all tests has time for.
const MESSAGES: usize = 10_000;
/// Between two looks at the tables.
const CHUNK: usize = 1000;

fn messages() -> usize {
    match std::env::var("BLACKSTART_MESSAGES") {
        Ok(text) => text.parse().expect("BLACKSTART_MESSAGES is a number"),
        Err(_) => MESSAGES,
    }
}

/// A name in an answer.
#[derive(Debug, Clone, Copy)]
enum Who {
    Question,
    Link(u8),
    /// The last CNAME's target: what keeps a chain in order.
    Head,
}

#[derive(Debug, Clone)]
enum Data {
    V4(u8),
    V6(u8),
    Cname(Who),
    /// A service binding: type, and parameters.
    Binding(u16, BTreeMap<u8, Vec<u8>>),
    Other(u16, Vec<u8>),
}

/// How a name is written.
#[derive(Debug, Clone, Copy)]
enum Writing {
    Whole,
    Upper,
    Compressed,
}

#[derive(Debug, Clone)]
pub(super) struct Record {
    section: Section,
    owner: Who,
    writing: Writing,
    class: u16,
    data: Data,
}

/// Damage to a message, after its question or anywhere.
#[derive(Debug, Clone)]
pub(super) enum Damage {
    Octet(Place, u8),
    Pointer(Place, u16),
    Cut(Place),
    Insert(Place, Vec<u8>),
    Remove(Place, u8),
    Copy(Place, Place, u8),
}

#[derive(Debug, Clone)]
pub(super) struct Place {
    behind_question: bool,
    at: Index,
}

impl Place {
    fn within(&self, octets: &[u8], question_end: usize) -> usize {
        let from = if self.behind_question {
            question_end
        } else {
            0
        };
        let from = from.min(octets.len());
        from + self.at.index(octets.len() - from + 1)
    }
}

impl Damage {
    pub(super) fn inflict(&self, octets: &mut Vec<u8>, question_end: usize) {
        match self {
            Self::Octet(place, octet) => {
                let at = place.within(octets, question_end);
                if let Some(there) = octets.get_mut(at) {
                    *there = *octet;
                }
            }
            Self::Pointer(place, to) => {
                let at = place.within(octets, question_end);
                let new = pointer(usize::from(*to) % (octets.len() + 8));
                for (there, new) in octets.iter_mut().skip(at).zip(new) {
                    *there = new;
                }
            }
            Self::Cut(place) => octets.truncate(place.within(octets, question_end)),
            Self::Insert(place, new) => {
                let at = place.within(octets, question_end);
                octets.splice(at..at, new.iter().copied());
            }
            Self::Remove(place, count) => {
                let at = place.within(octets, question_end);
                let end = (at + usize::from(*count)).min(octets.len());
                octets.drain(at..end);
            }
            Self::Copy(from, to, count) => {
                let at = from.within(octets, question_end);
                let end = (at + usize::from(*count)).min(octets.len());
                let piece = octets[at..end].to_vec();
                let to = to.within(octets, question_end);
                for (there, new) in octets.iter_mut().skip(to).zip(piece) {
                    *there = new;
                }
            }
        }
    }
}

/// Writes records, with compression as servers do it.
struct Writer {
    message: Message,
    /// Wire form of each name written so far, and of its tails, in lower case, and where it stands.
    written: BTreeMap<Vec<u8>, usize>,
    asked: String,
    head: String,
}

impl Writer {
    fn new(id: u16, asked: &str) -> Self {
        let mut writer = Self {
            message: Message::reply(id, asked, A),
            written: BTreeMap::new(),
            asked: asked.to_owned(),
            head: asked.to_owned(),
        };
        writer.note(&name(asked), 12);
        writer
    }

    fn text(&self, who: Who) -> String {
        match who {
            Who::Question => self.asked.clone(),
            Who::Head => self.head.clone(),
            Who::Link(n) => format!("n{n}.{}.test", if n % 2 == 0 { "cdn" } else { "edge.cdn" }),
        }
    }

    /// Remember a name that stands whole at `at`.
    fn note(&mut self, wire: &[u8], at: usize) {
        let mut from = 0;
        while wire[from] != 0 {
            let tail = wire[from..].to_ascii_lowercase();
            self.written.entry(tail).or_insert(at + from);
            from += 1 + usize::from(wire[from]);
        }
    }

    /// The octets of a name at `at`.
    fn write(&mut self, text: &str, writing: Writing, at: usize) -> Vec<u8> {
        let wire = name(text);
        match writing {
            Writing::Whole => {
                self.note(&wire, at);
                wire
            }
            Writing::Upper => name(&text.to_ascii_uppercase()),
            Writing::Compressed => {
                let mut from = 0;
                while wire[from] != 0 {
                    if let Some(&to) = self.written.get(&wire[from..]) {
                        return [&wire[..from], &pointer(to)[..]].concat();
                    }
                    from += 1 + usize::from(wire[from]);
                }
                wire
            }
        }
    }

    fn record(mut self, record: &Record) -> Self {
        let at = self.message.len();
        let owner = self.write(&self.text(record.owner), record.writing, at);
        let data_at = at + owner.len() + 10;
        let (rtype, data) = match &record.data {
            Data::V4(n) => (A, vec![192, 0, 2, *n]),
            Data::V6(n) => (AAAA, [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[*n]].concat()),
            Data::Cname(who) => {
                let target = self.text(*who);
                let data = self.write(&target, record.writing, data_at);
                if record.section == Section::Answer && record.class == IN {
                    self.head = target;
                }
                (CNAME, data)
            }
            Data::Binding(rtype, parameters) => {
                let mut data = vec![0, 1, 0];
                for (key, value) in parameters {
                    data.extend([0, *key, 0, value.len() as u8]);
                    data.extend(value);
                }
                (*rtype, data)
            }
            Data::Other(rtype, data) => (*rtype, data.clone()),
        };
        self.message = self
            .message
            .record(record.section, &owner, rtype, record.class, &data);
        self
    }
}

fn any_writing() -> impl Strategy<Value = Writing> {
    prop::sample::select(vec![
        Writing::Whole,
        Writing::Upper,
        Writing::Compressed,
        Writing::Compressed,
    ])
}

fn any_address_data() -> impl Strategy<Value = Data> {
    prop_oneof![
        any::<u8>().prop_map(Data::V4),
        any::<u8>().prop_map(Data::V6),
        (prop::sample::select(vec![64, 65]), any_parameters())
            .prop_map(|(rtype, parameters)| Data::Binding(rtype, parameters)),
    ]
}

/// Hints of some addresses, and parameters around them.
fn any_parameters() -> impl Strategy<Value = BTreeMap<u8, Vec<u8>>> {
    let four = prop::collection::vec(any::<u8>(), 1..4);
    let four = four.prop_map(|n| n.iter().flat_map(|&n| [192, 0, 2, n]).collect());
    let six = prop::collection::vec(any::<u8>(), 1..3).prop_map(|n| {
        let all = n
            .iter()
            .map(|&n| [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[n]].concat());
        all.collect::<Vec<_>>().concat()
    });
    let other = prop::collection::vec(any::<u8>(), 0..6);
    let maybe = |value| prop::option::of(value);
    (
        maybe(four.boxed()),
        maybe(six.boxed()),
        maybe(other.boxed()),
        0u8..9,
    )
        .prop_map(|(four, six, other, key)| {
            let other = other.map(|value| (key, value));
            let other = other.filter(|(key, _)| *key != 4 && *key != 6);
            let hints = [four.map(|value| (4, value)), six.map(|value| (6, value))];
            hints.into_iter().flatten().chain(other).collect()
        })
}

fn any_other() -> impl Strategy<Value = Data> {
    let rtype = prop::sample::select(vec![A, AAAA, 2, 6, 15, 16, 39, 46, 64, 65, 257]);
    (rtype, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(t, data)| Data::Other(t, data))
}

/// Any record at all.
pub(super) fn any_record() -> impl Strategy<Value = Record> {
    let who = || {
        prop_oneof![
            3 => Just(Who::Question),
            3 => (0u8..5).prop_map(Who::Link),
            4 => Just(Who::Head),
        ]
    };
    let data = prop_oneof![
        5 => any_address_data(),
        4 => who().prop_map(Data::Cname),
        1 => any_other(),
    ];
    let section = prop_oneof![
        10 => Just(Section::Answer),
        1 => Just(Section::Authority),
        1 => Just(Section::Additional),
    ];
    let class = prop_oneof![12 => Just(IN), 1 => Just(CHAOS)];
    (section, who(), any_writing(), class, data).prop_map(
        |(section, owner, writing, class, data)| Record {
            section,
            owner,
            writing,
            class,
            data,
        },
    )
}

/// The records of a sound answer: a chain in order, then addresses of its end, and beside it whatever.
pub(super) fn sound_records() -> impl Strategy<Value = Vec<Record>> {
    let links = prop::collection::vec(any_writing(), 0..7);
    let addresses = prop::collection::vec((any_address_data(), any_writing()), 0..12);
    let beside = prop::collection::vec(any_other(), 0..3);
    (links, addresses, beside).prop_map(|(links, addresses, beside)| {
        let answer = |data, writing| Record {
            section: Section::Answer,
            owner: Who::Head,
            writing,
            class: IN,
            data,
        };
        let mut records: Vec<Record> = (10u8..)
            .zip(links)
            .map(|(n, writing)| answer(Data::Cname(Who::Link(n)), writing))
            .collect();
        records.extend(
            addresses
                .into_iter()
                .map(|(data, writing)| answer(data, writing)),
        );
        // Signatures and the like, of a type that gives no lease whatever is in it.
        records.extend(beside.into_iter().map(|data| match data {
            Data::Other(rtype, data) if ![A, AAAA, 64, 65].contains(&rtype) => {
                answer(Data::Other(rtype, data), Writing::Compressed)
            }
            _ => answer(Data::Other(46, vec![7; 30]), Writing::Compressed),
        }));
        records
    })
}

pub(super) fn any_damage() -> impl Strategy<Value = Damage> {
    let place = || {
        (prop::bool::weighted(0.95), any::<Index>()).prop_map(|(behind_question, at)| Place {
            behind_question,
            at,
        })
    };
    let octet = prop_oneof![
        any::<u8>(),
        prop::sample::select(vec![
            0, 1, 2, 4, 5, 12, 16, 28, 0x2e, 0x3f, 0x40, 0x80, 0xc0, 0xff
        ])
    ];
    prop_oneof![
        4 => (place(), octet).prop_map(|(at, octet)| Damage::Octet(at, octet)),
        3 => (place(), any::<u16>()).prop_map(|(at, to)| Damage::Pointer(at, to)),
        2 => (place(), 0u16..40).prop_map(|(at, to)| Damage::Pointer(at, to)),
        1 => place().prop_map(Damage::Cut),
        1 => (place(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, new)| Damage::Insert(at, new)),
        1 => (place(), 1u8..20).prop_map(|(at, count)| Damage::Remove(at, count)),
        2 => (place(), place(), 1u8..30).prop_map(|(from, to, count)| Damage::Copy(from, to, count)),
    ]
}

/// A record as hickory reads it, as far as leases depend on it.
pub(super) enum Seen {
    /// Of an address record, or what a service binding hints at.
    Addresses(Read, Vec<IpAddr>),
    Alias(Read, Read),
    /// An alias of this name, for what is none.
    Broken(Read),
    /// What gives no lease, of this name.
    Nothing(Read),
}

/// The question and the answer section up to where hickory can read no further; names are hickory's affair.
fn read(octets: &[u8]) -> Option<(Read, Vec<Seen>)> {
    let mut decoder = BinDecoder::new(octets);
    let header = Header::read(&mut decoder).ok()?;
    if header.counts.queries != 1 {
        return None;
    }
    let question = Query::read(&mut decoder).ok()?;
    let mut records = Vec::new();
    for _ in 0..header.counts.answers {
        let Some(record) = read_record(octets, &mut decoder) else {
            break;
        };
        records.push(record);
    }
    Some((question.name().to_lowercase(), records))
}

pub(super) fn read_record(octets: &[u8], decoder: &mut BinDecoder<'_>) -> Option<Seen> {
    let owner = Read::read(decoder).ok()?.to_lowercase();
    let rtype = decoder.read_u16().ok()?.unverified();
    let class = decoder.read_u16().ok()?.unverified();
    let _ttl = decoder.read_u32().ok()?;
    let length = usize::from(decoder.read_u16().ok()?.unverified());
    let at = decoder.index();
    let data = decoder.read_slice(length).ok()?.unverified();
    Some(match (rtype, class) {
        (A, IN) => match <[u8; 4]>::try_from(data) {
            Ok(v4) => Seen::Addresses(owner, vec![v4.into()]),
            Err(_) => Seen::Nothing(owner),
        },
        (AAAA, IN) => match <[u8; 16]>::try_from(data) {
            Ok(v6) => Seen::Addresses(owner, vec![IpAddr::from(v6).to_canonical()]),
            Err(_) => Seen::Nothing(owner),
        },
        (CNAME, IN) => {
            // Where the data ends, its length says; so an alias that is none leaves the records behind it readable.
            let mut target = BinDecoder::new(octets).clone(at as u16);
            match Read::read(&mut target) {
                Ok(name) if target.index() == at + length => {
                    Seen::Alias(owner, name.to_lowercase())
                }
                _ => Seen::Broken(owner),
            }
        }
        (64 | 65, IN) => Seen::Addresses(owner, hints(octets, at, length).unwrap_or_default()),
        _ => Seen::Nothing(owner),
    })
}

/// By hickory's decoder of octets. Its decoder of whole bindings also looks into parameters that are no matter here.
fn hints(octets: &[u8], at: usize, length: usize) -> Option<Vec<IpAddr>> {
    let mut decoder = BinDecoder::new(&octets[..at + length]).clone(at as u16);
    if decoder.read_u16().ok()?.unverified() == 0 {
        return None;
    }
    // Names of one octet: the root.
    (decoder.pop().ok()?.unverified() == 0).then_some(())?;
    let (mut found, mut last) = (Vec::new(), None);
    while decoder.index() < at + length {
        let key = decoder.read_u16().ok()?.unverified();
        let size = decoder.read_u16().ok()?.unverified();
        let value = decoder.read_slice(size.into()).ok()?.unverified();
        if last.is_some_and(|last| key <= last) {
            return None;
        }
        last = Some(key);
        let addresses: Vec<IpAddr> = match key {
            4 => value
                .chunks(4)
                .map(|v4| <[u8; 4]>::try_from(v4).map(IpAddr::from))
                .collect::<Result<_, _>>()
                .ok()?,
            6 => value
                .chunks(16)
                .map(|v6| <[u8; 16]>::try_from(v6).map(|v6| IpAddr::from(v6).to_canonical()))
                .collect::<Result<_, _>>()
                .ok()?,
            _ => continue,
        };
        if addresses.is_empty() {
            return None;
        }
        found.extend(addresses);
    }
    Some(found)
}

/// Every address that any path of CNAMEs leads to from the question, in whatever order the records stand.
fn reachable(octets: &[u8], asked: &Read) -> BTreeSet<IpAddr> {
    let Some((question, records)) = read(octets) else {
        return BTreeSet::new();
    };
    if question != *asked {
        return BTreeSet::new();
    }
    let mut names = BTreeSet::from([question]);
    loop {
        let known = names.len();
        for record in &records {
            if let Seen::Alias(owner, target) = record
                && names.contains(owner)
            {
                names.insert(target.clone());
            }
        }
        if names.len() == known {
            break;
        }
    }
    let addresses = records.into_iter().filter_map(|record| match record {
        Seen::Addresses(owner, addresses) if names.contains(&owner) => Some(addresses),
        _ => None,
    });
    addresses.flatten().collect()
}

/// One chain, read in order: each CNAME's owner is the target before it. Nothing where it comes back to the
/// question.
fn in_order(octets: &[u8]) -> BTreeSet<IpAddr> {
    let Some((question, records)) = read(octets) else {
        return BTreeSet::new();
    };
    let mut head = question.clone();
    let mut chain = vec![question.clone()];
    let mut addresses = BTreeSet::new();
    for record in records {
        match record {
            Seen::Addresses(owner, more) if owner == head => {
                addresses.extend(more);
            }
            Seen::Alias(owner, target) if owner == head => {
                // A circle, as far back as the record keeps the chain.
                if chain.iter().take(7).any(|known| *known == target) {
                    return BTreeSet::new();
                }
                chain.push(target.clone());
                head = target;
            }
            _ => {}
        }
    }
    addresses
}

/// What the kernel leased, by the name asked for.
pub(super) fn leased(snapshot: &Snapshot) -> BTreeMap<&str, BTreeSet<IpAddr>> {
    let texts: BTreeMap<u64, &str> = snapshot
        .names
        .iter()
        .map(|row| (row.id, &*row.name))
        .collect();
    let mut leased: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    for row in &snapshot.answers {
        leased
            .entry(texts[&row.name])
            .or_default()
            .insert(row.address);
    }
    leased
}

/// Give each answer to its own question in observe mode; what was leased for each, and how many were malformed.
fn answer_all(answers: &[(String, Message)]) -> (Vec<BTreeSet<IpAddr>>, u64) {
    let wire = Wire::observe("default: allow\n");
    let client = wire.client(SERVERS[0]);
    for (id, (asked, answer)) in (0u16..).zip(answers) {
        let query = Message::query(id, asked, A);
        assert_eq!(wire.exchange(&client, &query, answer).unwrap(), Got::Answer);
    }
    let seen = wire.snapshot();
    assert_eq!(seen.counters.leases_lost, 0);
    let mut leased = leased(&seen);
    let each = answers
        .iter()
        .map(|(asked, _)| leased.remove(&**asked).unwrap_or_default())
        .collect();
    assert!(
        leased.is_empty(),
        "leases for what nobody asked: {leased:?}"
    );
    (each, seen.counters.answers_malformed)
}

pub(super) fn draw<T>(runner: &mut TestRunner, strategy: &impl Strategy<Value = T>) -> T
where
    T: std::fmt::Debug,
{
    strategy
        .new_tree(runner)
        .expect("nothing is filtered out")
        .current()
}

pub(super) fn write(id: u16, asked: &str, records: &[Record]) -> Message {
    let writer = records.iter().fold(Writer::new(id, asked), Writer::record);
    writer.message
}

pub(super) fn asked(n: usize) -> String {
    format!("q{n}.shop.test")
}

/// The shortest of the messages that came out wrong says most.
fn fail(wrong: Vec<(Message, String)>) {
    if let Some((message, what)) = wrong.iter().min_by_key(|(message, _)| message.len()) {
        panic!(
            "{} messages came out otherwise, such as\n{:02x?}\n{what}",
            wrong.len(),
            message.0
        );
    }
}

#[test]
fn sound_answers_are_leased_whole() {
    let mut runner = TestRunner::deterministic();
    let (mut leases, mut wrong) = (0, Vec::new());
    for _ in 0..messages().div_ceil(CHUNK) {
        let answers: Vec<_> = (0..CHUNK)
            .map(|n| {
                (
                    asked(n),
                    write(n as u16, &asked(n), &draw(&mut runner, &sound_records())),
                )
            })
            .collect();
        let (got, malformed) = answer_all(&answers);
        assert_eq!(malformed, 0);
        for ((asked, message), got) in answers.into_iter().zip(got) {
            let wanted = in_order(&message.0);
            let all = reachable(&message.0, &Read::from_ascii(format!("{asked}.")).unwrap());
            leases += got.len();
            if got != wanted || got != all {
                wrong.push((
                    message,
                    format!("{asked}: {got:?}, hickory {wanted:?}, {all:?}"),
                ));
            }
        }
    }
    println!("{leases} leases");
    assert!(leases > 2 * messages());
    fail(wrong);
}

#[test]
fn any_order_of_records_gives_what_reading_in_order_gives() {
    let mut runner = TestRunner::deterministic();
    let (mut leases, mut out_of_order, mut wrong) = (0, 0, Vec::new());
    let records = prop::collection::vec(any_record(), 0..12);
    for _ in 0..messages().div_ceil(CHUNK) {
        let answers: Vec<_> = (0..CHUNK)
            .map(|n| {
                (
                    asked(n),
                    write(n as u16, &asked(n), &draw(&mut runner, &records)),
                )
            })
            .collect();
        let (got, _) = answer_all(&answers);
        for ((asked, message), got) in answers.into_iter().zip(got) {
            let wanted = in_order(&message.0);
            let all = reachable(&message.0, &Read::from_ascii(format!("{asked}.")).unwrap());
            leases += got.len();
            out_of_order += all.len() - got.len().min(all.len());
            if got != wanted || !got.is_subset(&all) {
                wrong.push((
                    message,
                    format!("{asked}: {got:?}, hickory {wanted:?}, at most {all:?}"),
                ));
            }
        }
    }
    println!("{leases} leases, {out_of_order} more out of order");
    assert!(leases > messages() / 2 && out_of_order > 0);
    fail(wrong);
}

#[test]
fn damaged_answers_lease_what_hickory_reads() {
    let mut runner = TestRunner::deterministic();
    let (mut leases, mut malformed, mut wrong) = (0, 0, Vec::new());
    let records = prop_oneof![sound_records(), prop::collection::vec(any_record(), 1..8)];
    let damages = prop::collection::vec(any_damage(), 1..5);
    for _ in 0..messages().div_ceil(CHUNK) {
        let answers: Vec<_> = (0..CHUNK)
            .map(|n| {
                let mut message = write(n as u16, &asked(n), &draw(&mut runner, &records));
                let question_end = 12 + name(&asked(n)).len() + 4;
                for damage in draw(&mut runner, &damages) {
                    damage.inflict(&mut message.0, question_end);
                }
                // The bench's own mark is a message too.
                message.0.truncate(4000);
                (asked(n), message)
            })
            .collect();
        let (got, broken) = answer_all(&answers);
        malformed += broken;
        for (id, ((asked, message), got)) in (0u16..).zip(answers.into_iter().zip(got)) {
            let query = query_by_hickory(&Message::query(id, &asked, A).0);
            let wanted = match answer_by_hickory(&query, &message.0) {
                Answer::Read(addresses) => addresses,
                _ => BTreeSet::new(),
            };
            leases += got.len();
            if got != wanted {
                wrong.push((message, format!("{asked}: {got:?}, hickory {wanted:?}")));
            }
        }
    }
    println!("{leases} leases, {malformed} malformed");
    assert!(leases > messages() / 4 && malformed > messages() as u64 / 10);
    fail(wrong);
}

#[test]
fn a_damaged_query_passes_as_what_hickory_reads() {
    let mut runner = TestRunner::deterministic();
    let (mut passed, mut denied, mut wrong) = (0, 0, Vec::new());
    let label = || "[a-z]{1,3}";
    let below = prop_oneof![
        3 => Just("evil.test".to_owned()),
        2 => Just("good.test".to_owned()),
        1 => (label(), label()).prop_map(|(a, b)| format!("{a}.{b}")),
    ];
    let asked = (
        prop::collection::vec(label(), 0..5),
        below,
        any::<bool>(),
        any::<bool>(),
    );
    let damages = prop::collection::vec(any_damage(), 0..3);
    for _ in 0..messages().div_ceil(CHUNK) {
        let mut wire = Wire::observe("default: allow\nrules:\n  - deny: .evil.test\n");
        // Without a heartbeat a denied query never leaves, so that "it left" means "it was allowed".
        wire.session.set_mode(Mode::Enforce).unwrap();
        let client = wire.client(SERVERS[0]);
        let mut names = BTreeSet::new();
        for n in 0..CHUNK {
            let (labels, below, edns, upper) = draw(&mut runner, &asked);
            let mut text = [labels, vec![below]].concat().join(".");
            if upper {
                text.make_ascii_uppercase();
            }
            let mut message = Message::query(n as u16, &text, A);
            if edns {
                message = message.edns();
            }
            let damages = draw(&mut runner, &damages);
            for damage in &damages {
                damage.inflict(&mut message.0, 12);
            }
            let wanted = query_by_hickory(&message.0);
            let may_pass = match &wanted {
                Asked::Read { name, .. } => {
                    let name = Name::from_wire(name).expect("it was one");
                    let labels = name.labels_from_root();
                    names.insert(name.to_string());
                    labels.len() < 2 || labels[..2] != [&b"test"[..], b"evil"]
                }
                Asked::Other => true,
                Asked::Malformed => false,
            };
            let out = !refused(&client.send(&message.0));
            if out {
                passed += 1;
            } else {
                denied += 1;
            }
            if out != may_pass {
                wrong.push((message, format!("passed: {out}, hickory reads {wanted:?}")));
            }
        }
        let seen = wire.snapshot();
        let texts: BTreeMap<u64, &str> =
            seen.names.iter().map(|row| (row.id, &*row.name)).collect();
        for row in &seen.queries {
            let text = texts[&row.name];
            assert!(
                names.contains(text),
                "{text} was recorded and never asked for"
            );
        }
    }
    println!("{passed} passed, {denied} denied");
    assert!(passed > messages() / 10 && denied > messages() / 10);
    fail(wrong);
}

/// As core holds it, which has the kernel's idea of a name.
pub(super) fn to_core(name: &Read) -> Option<Name> {
    Name::from_labels(name.iter()).ok()
}
