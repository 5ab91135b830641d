//! The C parsers on the host, with sanitizers, against hickory-proto's: many more messages than a kernel can be sent, and
//! what was read is compared whole. And what the fuzzers have kept (`crates/kernel/fuzz`), through the sanitized parsers and
//! through the programs at work in the kernel, which must say the same.
//!
//! `BLACKSTART_MESSAGES` says how many messages are tried.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use blackstart_core::name::Name;
use blackstart_core::report::Mode;
use hickory_proto::op::{Header, Query};
use hickory_proto::rr::Name as Read;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

use super::differential::{
    Damage, Seen, any_damage, any_record, asked, draw, leased, read_record, sound_records, to_core,
    write,
};
use super::message::{A, IN, Message};
use super::wire::{ALLOW_ALL, SERVERS, Wire, refused};

/// Messages of each kind that are tried, unless `BLACKSTART_MESSAGES` says otherwise.
const MESSAGES: usize = 100_000;
/// Given to one process.
const BATCH: usize = 50_000;
/// Messages before they are damaged, and damages, that are drawn; all else is combined from these, since drawing takes
/// longer than reading.
const BASES: usize = 2000;
const DAMAGES: usize = 5000;

fn messages() -> usize {
    match std::env::var("BLACKSTART_MESSAGES") {
        Ok(text) => text.parse().expect("BLACKSTART_MESSAGES is a number"),
        Err(_) => MESSAGES,
    }
}

/// The parsers as a program (`bpf/tests/host.c`).
pub(super) struct Host {
    program: PathBuf,
    _directory: TempDir,
}

/// A query and its answer. An empty query stands for the question that the answer repeats, an empty answer for none.
type Exchange = (Vec<u8>, Vec<u8>);

/// What was read of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    query: Asked,
    answer: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Read {
        id: u16,
        qtype: u16,
        qclass: u16,
        name: Vec<u8>,
    },
    /// No lookup, which may pass.
    Other,
    Malformed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    None,
    Malformed,
    Unasked,
    Read(BTreeSet<IpAddr>),
}

impl Host {
    pub(super) fn build() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("host");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
        let built = Command::new(env!("BLACKSTART_CLANG"))
            .args(["-O2", "-g", "-std=gnu11", "-Wall", "-Werror"])
            // Words of a name are read where they lie, as every kernel that we support allows.
            .args(["-fsanitize=address,undefined", "-fno-sanitize=alignment"])
            .arg("-fno-sanitize-recover=all")
            .arg("-I")
            .arg(&sources)
            .arg(sources.join("tests/host.c"))
            .arg("-o")
            .arg(&program)
            .output()
            .expect("clang, which has built the programs, is there");
        assert!(
            built.status.success(),
            "the parsers cannot be built with sanitizers (scripts/install-deps test installs what that needs): {}",
            String::from_utf8_lossy(&built.stderr)
        );
        Self {
            program,
            _directory: directory,
        }
    }

    /// What it tells of this input.
    pub(super) fn run(&self, arguments: &[&str], input: &[u8]) -> (ExitStatus, Vec<u8>) {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // Where it has ended early, its exit status says why.
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().unwrap()
        });
        (output.status, output.stdout)
    }

    /// Read each exchange.
    fn read(&self, exchanges: &[Exchange]) -> Vec<Told> {
        let mut input = Vec::new();
        for (query, answer) in exchanges {
            for part in [query, answer] {
                let length = u16::try_from(part.len()).expect("a datagram");
                input.extend_from_slice(&length.to_ne_bytes());
            }
            input.extend_from_slice(query);
            input.extend_from_slice(answer);
        }
        let (status, output) = self.run(&[], &input);
        let mut rest = &*output;
        let mut told = Vec::new();
        while let Some(one) = take(&mut rest) {
            told.push(one);
        }
        assert!(
            status.success(),
            "the parsers failed ({status}) within some messages of {:02x?}",
            exchanges.get(told.len())
        );
        assert_eq!(told.len(), exchanges.len());
        told
    }
}

/// The next of what the program tells.
fn take(rest: &mut &[u8]) -> Option<Told> {
    let head: [u8; 12] = rest.split_off(..12)?.try_into().unwrap();
    let [id, qtype, qclass, length, leases] =
        [2, 4, 6, 8, 10].map(|at| u16::from_ne_bytes([head[at], head[at + 1]]));
    let name = rest.split_off(..usize::from(length))?.to_vec();
    let addresses = rest.split_off(..16 * usize::from(leases))?;
    let addresses = addresses.chunks_exact(16).map(|octets| {
        let octets: [u8; 16] = octets.try_into().expect("16 octets");
        Ipv6Addr::from(octets).to_canonical()
    });
    Some(Told {
        query: match head[0] as i8 {
            0 => Asked::Read {
                id,
                qtype,
                qclass,
                name,
            },
            1 => Asked::Other,
            _ => Asked::Malformed,
        },
        answer: match head[1] {
            0 => Answer::None,
            1 => Answer::Malformed,
            2 => Answer::Unasked,
            3 => Answer::Read(addresses.collect()),
            other => panic!("{other} is no answer"),
        },
    })
}

/// A name, unless it could be read as another one once it is printed.
fn plain(name: &Read) -> Option<Name> {
    let told_apart = |octet: &u8| *octet != 0 && *octet != b'.';
    to_core(name).filter(|name| name.labels().all(|label| label.iter().all(told_apart)))
}

/// What a query is, by its header and hickory.
pub(super) fn query_by_hickory(octets: &[u8]) -> Asked {
    let Some(header) = octets.get(..12) else {
        return Asked::Malformed;
    };
    match header[2] & 0xf8 {
        0x20 | 0x28 => return Asked::Other,
        0 => {}
        _ => return Asked::Malformed,
    }
    if header[4..10] != [0, 1, 0, 0, 0, 0] || octets.len() > 12 + 4096 {
        return Asked::Malformed;
    }
    let mut decoder = BinDecoder::new(octets);
    let read = Header::read(&mut decoder).and_then(|header| {
        let question = Query::read(&mut decoder)?;
        Ok((header, question))
    });
    let Ok((header, question)) = read else {
        return Asked::Malformed;
    };
    match plain(question.name()) {
        // Compressed, it takes fewer octets in the message.
        Some(name) if name.as_wire().len() + 16 == decoder.index() => Asked::Read {
            id: header.metadata.id,
            qtype: question.query_type().into(),
            qclass: question.query_class().into(),
            name: name.as_wire().to_vec(),
        },
        _ => Asked::Malformed,
    }
}

/// What an answer to a query leases, by its header and hickory.
pub(super) fn answer_by_hickory(query: &Asked, octets: &[u8]) -> Answer {
    if octets.len() < 12 || octets.len() > 4096 {
        return Answer::Malformed;
    }
    let nothing = Answer::Read(BTreeSet::new());
    let count = u16::from_be_bytes([octets[6], octets[7]]);
    if octets[2] & 0x80 == 0 || octets.len() == 12 && octets[3] & 15 != 0 && count == 0 {
        return nothing;
    }
    if octets[4..6] != [0, 1] || octets[2] & 0x78 != 0 {
        return Answer::Malformed;
    }
    let mut decoder = BinDecoder::new(octets);
    let read = Header::read(&mut decoder).and_then(|header| {
        let question = Query::read(&mut decoder)?;
        Ok((header, question))
    });
    let Ok((header, question)) = read else {
        return Answer::Malformed;
    };
    let Some(asked) = plain(question.name()) else {
        return Answer::Malformed;
    };
    if asked.as_wire().len() + 16 != decoder.index() {
        return Answer::Malformed;
    }
    let is_asked = matches!(query, Asked::Read { id, qtype, name, .. }
        if *id == header.metadata.id && *qtype == u16::from(question.query_type()) && name == asked.as_wire());
    if !is_asked {
        return Answer::Unasked;
    }
    match chain_by_hickory(octets, &mut decoder, &asked, count) {
        Some(addresses) => Answer::Read(addresses),
        None => Answer::Malformed,
    }
}

/// The addresses at the end of the one chain that leads in order from the question. `None` for what cannot be read, a
/// circle, and a chain that is longer than any.
fn chain_by_hickory(
    octets: &[u8],
    decoder: &mut BinDecoder<'_>,
    asked: &Name,
    count: u16,
) -> Option<BTreeSet<IpAddr>> {
    let mut chain = vec![asked.clone()];
    let mut addresses = BTreeSet::new();
    for _ in 0..count {
        let (owner, target) = match read_record(octets, decoder)? {
            Seen::Addresses(owner, more) => {
                if plain(&owner)? == *chain.last()? {
                    addresses.extend(more);
                }
                continue;
            }
            Seen::Alias(owner, target) => (owner, Some(target)),
            Seen::Broken(owner) => (owner, None),
            Seen::Nothing(owner) => {
                plain(&owner)?;
                continue;
            }
        };
        if plain(&owner)? != *chain.last()? {
            continue;
        }
        let target = plain(&target?)?;
        // As far back as the record keeps the chain.
        if chain.len() > 32 || chain.iter().take(7).any(|known| *known == target) {
            return None;
        }
        chain.push(target);
    }
    Some(addresses)
}

/// How many messages were told to be what.
#[derive(Debug, Default)]
struct Counts {
    queries: usize,
    queries_malformed: usize,
    read: usize,
    malformed: usize,
    leases: usize,
}

/// Read as many messages as are wanted, and compare all that was read. `make` gives the next exchange.
fn compare(mut make: impl FnMut() -> Exchange) -> Counts {
    let host = Host::build();
    let mut counts = Counts::default();
    let mut wrong: Vec<(Exchange, Told, Told)> = Vec::new();
    let mut left = messages();
    while left > 0 {
        let exchanges: Vec<Exchange> = (0..left.min(BATCH)).map(|_| make()).collect();
        left -= exchanges.len();
        let told = host.read(&exchanges);
        for (exchange, told) in exchanges.into_iter().zip(told) {
            let wanted = by_hickory(&exchange);
            match &told.query {
                Asked::Read { .. } => counts.queries += 1,
                Asked::Malformed => counts.queries_malformed += 1,
                Asked::Other => {}
            }
            match &told.answer {
                Answer::Read(addresses) => {
                    counts.read += 1;
                    counts.leases += addresses.len();
                }
                Answer::Malformed => counts.malformed += 1,
                Answer::None | Answer::Unasked => {}
            }
            if told != wanted {
                wrong.push((exchange, told, wanted));
            }
        }
    }
    println!("{counts:?}");
    // The shortest says most.
    let size = |(query, answer): &Exchange| query.len() + answer.len();
    if let Some(((query, answer), told, wanted)) =
        wrong.iter().min_by_key(|(exchange, ..)| size(exchange))
    {
        panic!(
            "{} exchanges were read otherwise, such as\n{query:02x?}\n{answer:02x?}\n{told:x?}\nhickory {wanted:x?}",
            wrong.len()
        );
    }
    counts
}

/// What hickory makes of an exchange.
fn by_hickory((query, answer): &Exchange) -> Told {
    let repeated = repeated(answer);
    let query = query_by_hickory(if query.is_empty() && !answer.is_empty() {
        &repeated
    } else {
        query
    });
    let answer = if answer.is_empty() {
        Answer::None
    } else {
        answer_by_hickory(&query, answer)
    };
    Told { query, answer }
}

/// A query for the question that an answer repeats.
fn repeated(answer: &[u8]) -> Vec<u8> {
    let id = answer.get(..2).unwrap_or(&[0, 0]);
    let question = answer.get(12..).unwrap_or_default();
    let header = [id, &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    [&header, &question[..question.len().min(300)]].concat()
}

/// Draws from what was drawn.
struct Pool {
    runner: TestRunner,
    bases: Vec<Exchange>,
    damages: Vec<Damage>,
}

impl Pool {
    fn new(mut base: impl FnMut(&mut TestRunner, usize) -> Exchange) -> Self {
        let mut runner = TestRunner::deterministic();
        let bases = (0..BASES).map(|n| base(&mut runner, n)).collect();
        let damages = (0..DAMAGES).map(|_| draw(&mut runner, &any_damage()));
        let damages = damages.collect();
        Self {
            runner,
            bases,
            damages,
        }
    }

    fn below(&mut self, most: usize) -> usize {
        self.runner.rng().next_u32() as usize % most
    }

    fn base(&mut self) -> Exchange {
        let at = self.below(BASES);
        self.bases[at].clone()
    }

    /// Up to as many damages to a message, nearly all behind its question.
    fn damage(&mut self, octets: &mut Vec<u8>, question_end: usize, most: usize) {
        for _ in 0..self.below(most + 1) {
            let at = self.below(DAMAGES);
            self.damages[at].inflict(octets, question_end);
        }
    }
}

/// Names as they may be on the wire, up to the longest, hostile ones among them.
fn any_wire_name() -> impl Strategy<Value = Vec<u8>> {
    let ordinary = "[a-zA-Z0-9_-]{1,12}".prop_map(String::into_bytes);
    let long = prop::collection::vec(prop::sample::select(b"aZ-09_@[`{".to_vec()), 50..64);
    let hostile = prop::collection::vec(any::<u8>(), 1..64);
    let label = prop_oneof![12 => ordinary, 2 => long, 1 => hostile];
    let single = prop::collection::vec("[a-z]".prop_map(String::into_bytes), 120..129);
    let labels = prop_oneof![
        20 => prop::collection::vec(label, 0..8),
        1 => single,
    ];
    labels.prop_map(|labels| {
        let mut wire = Vec::new();
        for label in labels {
            wire.push(label.len() as u8);
            wire.extend_from_slice(&label);
        }
        wire.push(0);
        wire
    })
}

fn any_query(runner: &mut TestRunner, n: usize) -> Message {
    let (name, qtype, edns) = draw(runner, &(any_wire_name(), any::<u16>(), any::<bool>()));
    let query = Message::header(n as u16, 0x0100).question(&name, qtype, IN);
    if edns { query.edns() } else { query }
}

#[test]
fn queries_are_read_as_hickory_reads_them() {
    let mut pool = Pool::new(|runner, n| (any_query(runner, n).0, Vec::new()));
    let counts = compare(|| {
        let (mut query, _) = pool.base();
        // Its question too.
        pool.damage(&mut query, 12, 3);
        (query, Vec::new())
    });
    assert!(counts.queries > messages() / 4 && counts.queries_malformed > messages() / 10);
}

#[test]
fn answers_lease_what_hickory_reads() {
    let records = prop_oneof![sound_records(), prop::collection::vec(any_record(), 1..12)];
    let mut pool = Pool::new(|runner, n| {
        let query = Message::query(n as u16, &asked(n), A);
        let answer = write(n as u16, &asked(n), &draw(runner, &records));
        (query.0, answer.0)
    });
    let counts = compare(|| {
        let (mut query, mut answer) = pool.base();
        let question_end = query.len();
        pool.damage(&mut answer, question_end, 3);
        // Whatever it repeats was asked, or what it should repeat was.
        if pool.below(2) == 0 {
            query.clear();
        }
        (query, answer)
    });
    assert!(counts.read > messages() / 10 && counts.malformed > messages() / 10);
    assert!(counts.leases > messages() / 4);
}

/// What a fuzzer has kept of a kind, in the order of the files' names.
pub(super) fn kept(kind: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 20, "{} is no corpus", directory.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// What a query asks, as the record has it.
fn text_of(query: &Asked) -> Option<String> {
    match query {
        Asked::Read { name, .. } => Some(Name::from_wire(name).unwrap().to_string()),
        _ => None,
    }
}

#[test]
fn queries_that_a_fuzzer_has_kept_are_read_alike_everywhere() {
    let exchanges: Vec<Exchange> = kept("query")
        .into_iter()
        .map(|query| (query, Vec::new()))
        .collect();
    let told = Host::build().read(&exchanges);
    let mut wire = Wire::observe(ALLOW_ALL);
    wire.session.set_mode(Mode::Enforce).unwrap();
    let client = wire.client(SERVERS[0]);
    let (mut names, mut malformed) = (BTreeSet::new(), 0);
    for (exchange, told) in exchanges.iter().zip(&told) {
        assert_eq!(*told, by_hickory(exchange), "{:02x?}", exchange.0);
        let passed = !refused(&client.send(&exchange.0));
        let may_pass = told.query != Asked::Malformed;
        assert_eq!(passed, may_pass, "{:02x?}", exchange.0);
        names.extend(text_of(&told.query));
        malformed += u64::from(!matches!(told.query, Asked::Read { .. }));
    }
    let seen = wire.snapshot();
    let recorded: BTreeSet<String> = seen.names.iter().map(|row| row.name.clone()).collect();
    assert_eq!(recorded, names);
    assert_eq!(seen.counters.queries_malformed, malformed);
    assert!(malformed > 0 && names.len() > 5);
}

#[test]
fn answers_that_a_fuzzer_has_kept_lease_alike_everywhere() {
    let exchanges: Vec<Exchange> = kept("answer")
        .into_iter()
        .filter(|answer| !answer.is_empty())
        .map(|answer| (Vec::new(), answer))
        .collect();
    let told = Host::build().read(&exchanges);
    let wire = Wire::observe(ALLOW_ALL);
    let client = wire.client(SERVERS[0]);
    let (mut malformed, mut leases) = (0, 0);
    for ((query, answer), told) in exchanges.iter().zip(&told) {
        let exchange = (query.clone(), answer.clone());
        assert_eq!(*told, by_hickory(&exchange), "{answer:02x?}");
        let query = Message(repeated(answer));
        wire.exchange(&client, &query, &Message(answer.clone()))
            .unwrap();
        let seen = wire.snapshot();
        let mut got = leased(&seen);
        let got = text_of(&told.query)
            .and_then(|name| got.remove(&*name))
            .unwrap_or_default();
        let wanted = match &told.answer {
            Answer::Read(addresses) => addresses.clone(),
            _ => BTreeSet::new(),
        };
        assert_eq!(got, wanted, "{answer:02x?}");
        leases += got.len();
        malformed += u64::from(told.answer == Answer::Malformed);
        assert_eq!(seen.counters.answers_malformed, malformed, "{answer:02x?}");
        wire.forget_answers();
    }
    assert!(malformed > 0 && leases > 20);
}
