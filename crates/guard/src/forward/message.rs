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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// Targets of CNAMEs, from the question on.
    pub(crate) chain: Vec<Name>,
    /// Addresses of the chain's end.
    pub(crate) addresses: Vec<IpAddr>,
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
        let mut given = Given::default();
        let mut head = self.name.clone();
        for _ in 0..self.count {
            let owner = plain_name(&Read::read(&mut decoder).ok()?)?;
            let rtype = RecordType::from(decoder.read_u16().ok()?.unverified());
            let class = DNSClass::from(decoder.read_u16().ok()?.unverified());
            decoder.read_u32().ok()?;
            let length = usize::from(decoder.read_u16().ok()?.unverified());
            let at = decoder.index();
            let data = decoder.read_slice(length).ok()?.unverified();
            if owner != head || class != DNSClass::IN {
                continue;
            }
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
