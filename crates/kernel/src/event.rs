//! What the kernel tells while a run is on: the live view. The record is in the maps; an event that is
//! lost is counted and loses nothing else.

use std::net::{IpAddr, SocketAddr};

use blackstart_core::record::{SocketKind, SubjectId, Verdict};
use blackstart_core::tables::RuleId;

/// One message of the live view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A new row in the flow table: the first attempt of a subject at a destination with this verdict. Of what was let
    /// through only what went to loopback over TCP.
    Attempt {
        /// Who; 0 unknown.
        subject: SubjectId,
        /// Its thread group id.
        tgid: u32,
        /// Keyed name id, 0 for none (see [`crate::Session::name`]).
        name: u64,
        /// Where.
        address: IpAddr,
        /// Port.
        port: u16,
        /// IP protocol number.
        protocol: u8,
        /// What became of it.
        verdict: Verdict,
        /// Why.
        rule: RuleId,
    },
    /// A lookup that was refused, or would have been. Sent for every one, since each wants its answer.
    Lookup {
        /// Who; 0 unknown.
        subject: SubjectId,
        /// Its thread group id.
        tgid: u32,
        /// The name in presentation form.
        name: String,
        /// DNS type number.
        qtype: u16,
        /// What became of it.
        verdict: Verdict,
        /// Why.
        rule: RuleId,
        /// Set where the asker should be sent a final answer.
        answer: Option<AnswerWanted>,
    },
    /// The first socket of a subject that was refused for its kind, or would have been.
    Socket {
        /// Who; 0 unknown.
        subject: SubjectId,
        /// Its thread group id.
        tgid: u32,
        /// What it was to be.
        kind: SocketKind,
        /// What became of it.
        verdict: Verdict,
        /// Why.
        rule: RuleId,
    },
    /// A unix socket that a subject reached for, for the first time with this verdict. Which, [`crate::Session::contacts`] says.
    Contact,
    /// A process left the run's cgroup.
    Left {
        /// Who; 0 unknown.
        subject: SubjectId,
        /// Its thread group id.
        tgid: u32,
        /// Id of the cgroup that it is in now.
        cgroup: u64,
    },
}

/// Everything that is needed to answer a denied lookup in the server's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerWanted {
    /// A process in the network namespace of the asking socket.
    pub tgid: u32,
    /// DNS message id.
    pub id: u16,
    /// Header flags of the query (RD and CD are to be echoed).
    pub flags: u16,
    /// The question's name as it was sent (original case), wire format with the root label.
    pub question: Vec<u8>,
    /// Question type.
    pub qtype: u16,
    /// Question class.
    pub qclass: u16,
    /// The query carried an OPT record (RFC 6891), so the answer may carry an extended error.
    pub edns: bool,
    /// Where the asker waits.
    pub client: SocketAddr,
    /// The server that the query was on its way to, which need not be the one asked for: the answer must seem to come from
    /// there, and is rewritten as the real one would be.
    pub server: SocketAddr,
}
