//! DNS messages octet by octet, sound ones and others.

use std::net::IpAddr;

pub(super) const A: u16 = 1;
pub(super) const CNAME: u16 = 5;
pub(super) const SOA: u16 = 6;
pub(super) const AAAA: u16 = 28;
pub(super) const OPT: u16 = 41;
pub(super) const IN: u16 = 1;
pub(super) const CHAOS: u16 = 3;

/// Where the question's name stands, as a compression pointer.
pub(super) const QUESTION: &[u8] = &[0xc0, 12];

/// A name in wire format, case kept.
pub(super) fn name(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("labels are short"));
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// A pointer to an offset.
pub(super) fn pointer(to: usize) -> Vec<u8> {
    vec![0xc0 | (to >> 8) as u8, to as u8]
}

/// The section that a record stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

/// A message that grows record by record; counts follow.
#[derive(Clone)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    /// A header with these flags and no counts.
    pub(super) fn header(id: u16, flags: u16) -> Self {
        let mut octets = vec![0; 12];
        octets[..2].copy_from_slice(&id.to_be_bytes());
        octets[2..4].copy_from_slice(&flags.to_be_bytes());
        Self(octets)
    }

    /// A recursive query for `asked`.
    pub(super) fn query(id: u16, asked: &str, qtype: u16) -> Self {
        Self::header(id, 0x0100).question(&name(asked), qtype, IN)
    }

    /// The answer to [`Self::query`], without records.
    pub(super) fn reply(id: u16, asked: &str, qtype: u16) -> Self {
        Self::header(id, 0x8180).question(&name(asked), qtype, IN)
    }

    pub(super) fn question(mut self, wire: &[u8], qtype: u16, qclass: u16) -> Self {
        self.0.extend_from_slice(wire);
        self.0.extend_from_slice(&qtype.to_be_bytes());
        self.0.extend_from_slice(&qclass.to_be_bytes());
        self.count(4, 1)
    }

    pub(super) fn record(
        mut self,
        section: Section,
        owner: &[u8],
        rtype: u16,
        class: u16,
        data: &[u8],
    ) -> Self {
        self.0.extend_from_slice(owner);
        self.0.extend_from_slice(&rtype.to_be_bytes());
        self.0.extend_from_slice(&class.to_be_bytes());
        self.0.extend_from_slice(&60u32.to_be_bytes());
        self.0.extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.0.extend_from_slice(data);
        let at = match section {
            Section::Answer => 6,
            Section::Authority => 8,
            Section::Additional => 10,
        };
        self.count(at, 1)
    }

    /// An address record in the answer section.
    pub(super) fn address(self, owner: &[u8], address: &str) -> Self {
        match address.parse().expect("an address") {
            IpAddr::V4(v4) => self.record(Section::Answer, owner, A, IN, &v4.octets()),
            IpAddr::V6(v6) => self.record(Section::Answer, owner, AAAA, IN, &v6.octets()),
        }
    }

    /// The time to live of the record that was added last, an address of four octets.
    pub(super) fn lasting(mut self, seconds: u32) -> Self {
        let at = self.0.len() - 10;
        self.0[at..at + 4].copy_from_slice(&seconds.to_be_bytes());
        self
    }

    /// A CNAME record in the answer section.
    pub(super) fn cname(self, owner: &[u8], target: &[u8]) -> Self {
        self.record(Section::Answer, owner, CNAME, IN, target)
    }

    /// EDNS, as every resolver of today sends it.
    pub(super) fn edns(self) -> Self {
        self.record(Section::Additional, &[0], OPT, 1232, &[])
    }

    /// Add to one of the header's counts.
    pub(super) fn count(mut self, at: usize, more: u16) -> Self {
        let count = u16::from_be_bytes([self.0[at], self.0[at + 1]]).wrapping_add(more);
        self.0[at..at + 2].copy_from_slice(&count.to_be_bytes());
        self
    }

    /// Replace one octet.
    pub(super) fn with(mut self, at: usize, octet: u8) -> Self {
        self.0[at] = octet;
        self
    }

    /// Where the next octet will stand.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
