//! What of a DNS message a verdict and a lease depend on, read under the rules by which the kernel reads datagrams
//! (`bs_query_read`, `bs_answer_read`): what it refuses to judge there is not judged here.

use std::net::{IpAddr, Ipv6Addr};

use blackstart_core::name::Name;
use hickory_proto::op::{Header, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name as Read, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Octets of a message's header.
const HEADER: usize = 12;
/// CNAMEs that are followed: resolvers themselves give up at 16 or before.
const CNAMES: usize = 32;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Query {
    /// A lookup.
    Lookup(Question),
    /// An update or a notification, which looks nothing up.
    Other,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Message id.
    pub(crate) id: u16,
    /// The header's flags.
    pub(crate) flags: u16,
    /// What is asked for.
    pub(crate) name: Name,
    /// The same as it was sent, upper case kept.
    pub(crate) sent: Vec<u8>,
    /// Type.
    pub(crate) qtype: u16,
    /// Class.
    pub(crate) qclass: u16,
    /// The query has an additional record, taken for OPT.
    pub(crate) edns: bool,
}

impl Question {
    /// May more than one message answer it? A zone is sent in as many as it takes.
    pub(crate) fn is_transfer(&self) -> bool {
        let qtype = RecordType::from(self.qtype);
        matches!(qtype, RecordType::AXFR | RecordType::IXFR)
    }
}

/// A client's message; none where it cannot be judged.
pub(crate) fn query(message: &[u8]) -> Option<Query> {
    let (header, flags) = header(message)?;
    if header.metadata.message_type != MessageType::Query {
        return None;
    }
    match header.metadata.op_code {
        OpCode::Query => {}
        OpCode::Update | OpCode::Notify => return Some(Query::Other),
        _ => return None,
    }
    let counts = header.counts;
    if counts.queries != 1 || counts.answers != 0 || counts.authorities != 0 {
        return None;
    }
    let (name, end) = asked_name(message)?;
    let (qtype, qclass) = type_and_class(message, end)?;
    Some(Query::Lookup(Question {
        id: header.metadata.id,
        flags,
        name,
        sent: message[HEADER..end].to_vec(),
        qtype,
        qclass,
        edns: counts.additionals != 0,
    }))
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// A header with an error and nothing else, from a server that does not understand. It names nothing.
    Bare(u16),
    /// An answer to one question.
    Full(Full<'a>),
}

/// An answer, its records not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Full<'a> {
    /// Message id.
    pub(crate) id: u16,
    /// What was asked for.
    pub(crate) name: Name,
    /// Type that was asked for.
    pub(crate) qtype: u16,
    message: &'a [u8],
    /// Where the answer section begins, and how many records it says to have.
    records: usize,
    count: u16,
}

/// What an answer gives to the question's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    /// Targets of CNAMEs, from the question on.
    pub(crate) chain: Vec<Name>,
    /// Addresses of the chain's end.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long all of it may be kept, in seconds.
    pub(crate) ttl: u32,
}

/// A server's message; none where it cannot be read.
pub(crate) fn answer(message: &[u8]) -> Option<Answer<'_>> {
    let (header, _) = header(message)?;
    let meta = &header.metadata;
    if meta.message_type != MessageType::Response {
        return None;
    }
    let error = meta.response_code.low() != ResponseCode::NoError.low();
    if message.len() == HEADER && error && header.counts.answers == 0 {
        return Some(Answer::Bare(meta.id));
    }
    if header.counts.queries != 1 || meta.op_code != OpCode::Query {
        return None;
    }
    let (name, end) = asked_name(message)?;
    let (qtype, _) = type_and_class(message, end)?;
    Some(Answer::Full(Full {
        id: meta.id,
        name,
        qtype,
        message,
        records: end + 4,
        count: header.counts.answers,
    }))
}

impl Full<'_> {
    /// Does it say to have records?
    pub(crate) fn has_records(&self) -> bool {
        self.count > 0
    }

    /// What it gives: only the answer section counts, and of it only one chain of CNAMEs from the question, each
    /// owner being the last target. None where it cannot be read in whole, or goes round in a circle.
    pub(crate) fn given(&self) -> Option<Given> {
        let mut decoder = BinDecoder::new(self.message).clone(self.records.try_into().ok()?);
        let mut given = Given {
            chain: Vec::new(),
            addresses: Vec::new(),
            ttl: u32::MAX,
        };
        let mut head = self.name.clone();
        for _ in 0..self.count {
            let owner = plain_name(&Read::read(&mut decoder).ok()?)?;
            let rtype = RecordType::from(decoder.read_u16().ok()?.unverified());
            let class = DNSClass::from(decoder.read_u16().ok()?.unverified());
            let ttl = decoder.read_u32().ok()?.unverified();
            let length = usize::from(decoder.read_u16().ok()?.unverified());
            let at = decoder.index();
            let data = decoder.read_slice(length).ok()?.unverified();
            if owner != head || class != DNSClass::IN {
                continue;
            }
            // RFC 2181, 8: of 32 bits, and none with the highest one set means more than 0.
            given.ttl = given.ttl.min(if ttl >> 31 == 0 { ttl } else { 0 });
            match rtype {
                RecordType::A => {
                    let address = <[u8; 4]>::try_from(data).map(IpAddr::from);
                    given.addresses.extend(address);
                }
                RecordType::AAAA => {
                    let address = <[u8; 16]>::try_from(data).map(Ipv6Addr::from);
                    given
                        .addresses
                        .extend(address.map(|v6| IpAddr::V6(v6).to_canonical()));
                }
                RecordType::SVCB | RecordType::HTTPS => {
                    given.addresses.extend(hints(data).unwrap_or_default());
                }
                RecordType::CNAME => {
                    let mut target = BinDecoder::new(self.message).clone(at.try_into().ok()?);
                    let read = Read::read(&mut target).ok()?;
                    if target.index() != at + length {
                        return None;
                    }
                    let target = plain_name(&read)?;
                    if target == self.name
                        || given.chain.contains(&target)
                        || given.chain.len() >= CNAMES
                    {
                        return None;
                    }
                    given.chain.push(target.clone());
                    head = target;
                }
                _ => {}
            }
        }
        Some(given)
    }
}

/// The addresses that a service binding hints at (RFC 9460, 2.2), as long as they are the name's own and not those of
/// another target; none where it cannot be read. In the kernel: `bs_answer_hints`.
fn hints(data: &[u8]) -> Option<Vec<IpAddr>> {
    let (priority, rest) = data.split_first_chunk()?;
    let (target, mut rest) = rest.split_first()?;
    if u16::from_be_bytes(*priority) == 0 || *target != 0 {
        return None;
    }
    let (mut found, mut least) = (Vec::new(), 0);
    while !rest.is_empty() {
        let (key, more) = rest.split_first_chunk()?;
        let (length, more) = more.split_first_chunk()?;
        let key = u32::from(u16::from_be_bytes(*key));
        let (value, more) = more.split_at_checked(u16::from_be_bytes(*length).into())?;
        if key < least {
            return None;
        }
        least = key + 1;
        rest = more;
        match key {
            4 | 6 if value.is_empty() => return None,
            4 => {
                let (all, []) = value.as_chunks::<4>() else {
                    return None;
                };
                found.extend(all.iter().copied().map(IpAddr::from));
            }
            6 => {
                let (all, []) = value.as_chunks::<16>() else {
                    return None;
                };
                let all = all.iter().copied().map(IpAddr::from);
                found.extend(all.map(|v6| v6.to_canonical()));
            }
            _ => {}
        }
    }
    Some(found)
}

/// The header, and its flags as they stand.
fn header(message: &[u8]) -> Option<(Header, u16)> {
    let header = Header::read(&mut BinDecoder::new(message)).ok()?;
    Some((header, u16::from_be_bytes([message[2], message[3]])))
}

/// The question's name, and where it ends. It stands uncompressed, since nothing is before it.
fn asked_name(message: &[u8]) -> Option<(Name, usize)> {
    let mut end = HEADER;
    loop {
        let length = usize::from(*message.get(end)?);
        end += 1 + length;
        if length == 0 {
            break;
        }
    }
    let name = Name::from_wire(message.get(HEADER..end)?).ok()?;
    sound(&name).then_some((name, end))
}

fn type_and_class(message: &[u8], at: usize) -> Option<(u16, u16)> {
    match message.get(at..at + 4)? {
        &[a, b, c, d] => Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
        _ => None,
    }
}

fn plain_name(read: &Read) -> Option<Name> {
    let name = Name::from_labels(read.iter()).ok()?;
    sound(&name).then_some(name)
}

/// With a dot or NUL inside a label a name reads like another one once it is printed.
fn sound(name: &Name) -> bool {
    !name
        .labels()
        .any(|label| label.iter().any(|octet| matches!(octet, 0 | b'.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with these flags and counts, then what follows.
    fn message(flags: u16, counts: [u16; 4], body: &[u8]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34];
        message.extend(flags.to_be_bytes());
        message.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        message.extend(body);
        message
    }

    const QUESTION: &[u8] = b"\x03WWW\x07example\x00\x00\x01\x00\x01";

    fn asked(body: &[u8]) -> Option<Query> {
        query(&message(0x0100, [1, 0, 0, 0], body))
    }

    #[test]
    fn a_question_is_read_as_it_was_sent() {
        let Some(Query::Lookup(question)) = query(&message(0x0110, [1, 0, 0, 1], QUESTION)) else {
            panic!("a lookup");
        };
        assert_eq!(question.name.to_string(), "www.example");
        assert_eq!(question.sent, b"\x03WWW\x07example\x00");
        assert_eq!(
            (
                question.id,
                question.flags,
                question.qtype,
                question.qclass,
                question.edns
            ),
            (0x1234, 0x0110, 1, 1, true)
        );
        assert!(matches!(asked(QUESTION), Some(Query::Lookup(question)) if !question.edns));
    }

    #[test]
    fn what_the_kernel_does_not_judge_is_not_judged_here() {
        let mut long = [b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(5);
        long.extend([0, 0, 1, 0, 1]);
        for (what, body) in [
            ("nothing", &b""[..]),
            ("a name that goes on beyond the message", b"\x05gi"),
            ("no type", b"\x01a\x00"),
            ("half a type", b"\x01a\x00\x00\x01\x00"),
            ("a compressed question", b"\x01a\xc0\x0c\x00\x01\x00\x01"),
            (
                "a label type that does not exist",
                b"\x41a\x00\x00\x01\x00\x01",
            ),
            (
                "a dot within a label",
                b"\x0agithub.com\x00\x00\x01\x00\x01",
            ),
            ("a NUL within a label", b"\x03a\x00b\x00\x00\x01\x00\x01"),
            ("a name of more than 255 octets", &long),
        ] {
            assert_eq!(asked(body), None, "{what}");
        }
        for (what, flags, counts) in [
            ("an answer", 0x8100, [1, 0, 0, 0]),
            ("an opcode that looks nothing up", 0x1000, [1, 0, 0, 0]),
            ("no question", 0x0100, [0, 0, 0, 0]),
            ("two questions", 0x0100, [2, 0, 0, 0]),
            ("an answer section", 0x0100, [1, 1, 0, 0]),
            ("an authority section", 0x0100, [1, 0, 1, 0]),
        ] {
            assert_eq!(query(&message(flags, counts, QUESTION)), None, "{what}");
        }
        assert_eq!(query(b"junk"), None);
        for opcode in [4 << 11, 5 << 11] {
            let other = query(&message(opcode, [1, 0, 0, 0], QUESTION));
            assert_eq!(other, Some(Query::Other));
        }
    }

    fn record(owner: &[u8], rtype: u16, class: u16, data: &[u8]) -> Vec<u8> {
        let mut record = owner.to_vec();
        record.extend(rtype.to_be_bytes());
        record.extend(class.to_be_bytes());
        record.extend([0, 0, 0, 60]);
        record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        record.extend(data);
        record
    }

    /// The question's name, where it stands.
    const ASKED: &[u8] = b"\xc0\x0c";
    const CDN: &[u8] = b"\x03cdn\x07example\x00";

    fn given(records: &[Vec<u8>]) -> Option<Given> {
        let count = u16::try_from(records.len()).unwrap();
        let message = message(
            0x8180,
            [1, count, 0, 0],
            &[QUESTION, &records.concat()].concat(),
        );
        match answer(&message)? {
            Answer::Full(full) => full.given(),
            Answer::Bare(_) => None,
        }
    }

    #[test]
    fn one_chain_from_the_question_gives_addresses() {
        let found = given(&[
            record(ASKED, 5, 1, CDN),
            record(CDN, 1, 1, &[192, 0, 2, 1]),
            record(CDN, 28, 1, &[0x20; 16]),
            // Not of the chain, not of the Internet, not an address, and of a type that says nothing here.
            record(b"\x05other\x00", 1, 1, &[192, 0, 2, 2]),
            record(ASKED, 1, 1, &[192, 0, 2, 3]),
            record(CDN, 1, 3, &[192, 0, 2, 4]),
            record(CDN, 1, 1, &[192, 0, 2]),
            record(CDN, 46, 1, &[1; 30]),
        ])
        .unwrap();
        assert_eq!(found.chain, [Name::parse("cdn.example").unwrap()]);
        let addresses: [IpAddr; 2] = [
            "192.0.2.1".parse().unwrap(),
            "2020:2020:2020:2020:2020:2020:2020:2020".parse().unwrap(),
        ];
        assert_eq!(found.addresses, addresses);
        assert_eq!(found.ttl, 60);
        let mut forever = record(ASKED, 1, 1, &[192, 0, 2, 1]);
        forever[6] = 0x80;
        assert_eq!(given(&[forever]).unwrap().ttl, 0);
        // Case is no matter, and a chain that is in disorder ends early.
        let upper = record(b"\x03CDN\x07EXAMPLE\x00", 1, 1, &[192, 0, 2, 1]);
        let found = given(&[record(ASKED, 5, 1, CDN), upper.clone()]).unwrap();
        assert_eq!(found.addresses.len(), 1);
        let found = given(&[upper, record(ASKED, 5, 1, CDN)]).unwrap();
        assert!(found.addresses.is_empty());
    }

    /// A service binding with these parameters, of the name itself.
    fn binding(priority: u8, parameters: &[(u8, &[u8])]) -> Vec<u8> {
        let mut data = vec![0, priority, 0];
        for (key, value) in parameters {
            data.extend([0, *key, 0, u8::try_from(value.len()).unwrap()]);
            data.extend(*value);
        }
        data
    }

    #[test]
    fn hints_are_addresses_of_the_name() {
        let four = [192, 0, 2, 1, 192, 0, 2, 2];
        let sound = binding(1, &[(1, b"\x02h2"), (4, &four), (6, &[0x20; 16])]);
        for rtype in [64, 65] {
            let found = given(&[record(ASKED, rtype, 1, &sound)]).unwrap();
            assert_eq!(found.addresses.len(), 3);
        }
        let mut elsewhere = vec![0, 1];
        elsewhere.extend(CDN);
        elsewhere.extend(&sound[3..]);
        for none in [
            elsewhere,
            binding(0, &[(4, &four)]),
            binding(1, &[(4, &four[..7])]),
            binding(1, &[(4, &four[..0])]),
            binding(1, &[(4, &four), (4, &four)]),
            binding(1, &[(6, &[0x20; 16]), (4, &four)]),
            sound[..sound.len() - 1].to_vec(),
        ] {
            let found = given(&[record(ASKED, 65, 1, &none)]).unwrap();
            assert!(found.addresses.is_empty(), "{none:?}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_in_whole_gives_nothing() {
        let good = record(ASKED, 1, 1, &[192, 0, 2, 1]);
        assert!(given(std::slice::from_ref(&good)).is_some());
        let mut cut = good.clone();
        cut.pop();
        for (what, records) in [
            ("cut short", vec![cut]),
            (
                "more records than there are",
                vec![good.clone(), Vec::new()],
            ),
            (
                "a pointer forwards",
                vec![record(b"\xc0\xff", 1, 1, &[192, 0, 2, 1])],
            ),
            (
                "a circle",
                vec![record(ASKED, 5, 1, CDN), record(CDN, 5, 1, ASKED)],
            ),
            (
                "a longer circle",
                vec![
                    record(ASKED, 5, 1, CDN),
                    record(CDN, 5, 1, b"\x01x\x00"),
                    record(b"\x01x\x00", 5, 1, CDN),
                ],
            ),
            (
                "a target with something behind it",
                vec![record(ASKED, 5, 1, b"\x01x\x00\x00")],
            ),
            (
                "a dot within a label",
                vec![record(b"\x03a.b\x00", 1, 1, &[192, 0, 2, 1])],
            ),
        ] {
            assert_eq!(given(&records), None, "{what}");
        }
    }

    #[test]
    fn answers_are_told_from_what_is_none() {
        assert_eq!(
            answer(&message(0x8183, [0; 4], b"")),
            Some(Answer::Bare(0x1234))
        );
        for (what, flags, counts, body) in [
            ("a query", 0x0100, [1, 0, 0, 0], QUESTION),
            ("a bare header without an error", 0x8180, [0; 4], b""),
            ("two questions", 0x8180, [2, 0, 0, 0], QUESTION),
            ("another opcode", 0xa180, [1, 0, 0, 0], QUESTION),
            ("no type", 0x8180, [1, 0, 0, 0], b"\x01a\x00"),
        ] {
            assert_eq!(answer(&message(flags, counts, body)), None, "{what}");
        }
        let nothing = message(0x8183, [1, 0, 0, 0], QUESTION);
        let Some(Answer::Full(full)) = answer(&nothing) else {
            panic!("an answer");
        };
        assert_eq!(
            (full.id, full.qtype, full.has_records()),
            (0x1234, 1, false)
        );
        assert_eq!(full.name.to_string(), "www.example");
    }
}
