//! The record of a run as the kernel keeps it, in plain types.
//!
//! The loader turns map rows into these; the report is assembled from them. A record is passed on [`Row`] by row,
//! so that nobody need hold it as a whole. Times are nanoseconds of CLOCK_BOOTTIME; [`Row::Clock`] turns them into
//! wall-clock time.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::tables::RuleId;

/// A process image in this run: one number for each exec (a process that execs twice is two subjects).
pub type SubjectId = u64;
/// Keyed hash of a name in lower-case wire format.
pub type NameId = u64;

/// What became of an attempt.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Refused.
    Deny,
    /// Let through in observe mode; enforce would have refused it.
    WouldDeny,
    /// Let through by a waiver.
    Waived,
    /// Let through because the run was started with break-glass.
    BreakGlass,
}

/// How sure the name and the process of a flow are.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// One name, asked for in this run, and the process that reached out.
    Exact,
    /// The process comes from the socket's owner, not from the act itself.
    Inherited,
    /// The address was leased under several names; the name shown is the likeliest.
    Ambiguous,
    /// No lookup in this run gave this address.
    Unnamed,
    /// The process is not known.
    Unknown,
}

/// A process image. Text is as the process gave it: not redacted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectRow {
    /// This image.
    pub id: SubjectId,
    /// The image that forked or exec'ed into it; 0 for none.
    pub parent: SubjectId,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Path given to exec, possibly truncated.
    pub exe: String,
    /// Arguments at exec time.
    pub argv: Vec<String>,
    /// `argv` was longer than what is kept.
    pub argv_truncated: bool,
    /// No exec was seen for this image: `exe` and `argv` are its parent's, or were read from /proc.
    pub forked: bool,
    /// The process was first seen when it acted, not when it started.
    pub late: bool,
    /// It was there before anybody looked; what is said of it was read from /proc.
    #[serde(default)]
    pub found: bool,
    /// Start of the image.
    pub started_ns: u64,
    /// End; 0 while it lives.
    pub ended_ns: u64,
    /// wait(2) status; valid once ended.
    pub wait_status: u32,
    /// It replaced itself by another exec (the next image has this one as parent, and the same tgid).
    pub replaced: bool,
}

/// A name seen in a query or an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRow {
    /// Its hash.
    pub id: NameId,
    /// Presentation form without the trailing dot, lower case; bytes that are not printable as `\DDD`.
    pub name: String,
}

/// Lookups of one (name, type) by one subject with one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryRow {
    /// The name asked for.
    pub name: NameId,
    /// The subject that asked; 0 unknown.
    pub subject: SubjectId,
    /// DNS type number.
    pub qtype: u16,
    /// Verdict.
    pub verdict: Verdict,
    /// The rule behind it.
    pub rule: RuleId,
    /// How often.
    pub queries: u64,
    /// First time.
    pub first_ns: u64,
    /// Last time.
    pub last_ns: u64,
}

/// An address that an answer gave for a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// The name asked for.
    pub name: NameId,
    /// The address.
    pub address: IpAddr,
    /// CNAME targets between the two, in order.
    pub chain: Vec<NameId>,
    /// From the run's /etc/hosts, not from an answer.
    pub fixed: bool,
}

/// Attempts of one subject at one destination with one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// Who; 0 unknown.
    pub subject: SubjectId,
    /// The name under which the address was leased; 0 none.
    pub name: NameId,
    /// Where.
    pub address: IpAddr,
    /// Port; 0 where the protocol has none.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Verdict.
    pub verdict: Verdict,
    /// The rule behind it.
    pub rule: RuleId,
    /// How sure.
    pub attribution: Attribution,
    /// connect(), unconnected send, or first packet of an unjudged socket.
    pub attempts: u64,
    /// Of these, TCP handshakes completed.
    pub connected: u64,
    /// Of these, answered with a reset or an ICMP error.
    pub refused: u64,
    /// Of these, given up by the kernel after its retries.
    pub timed_out: u64,
    /// Bytes handed to the network, IP header included.
    pub bytes_sent: u64,
    /// First attempt.
    pub first_ns: u64,
    /// Last attempt.
    pub last_ns: u64,
}

/// Contact with a unix socket whose listener is outside the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegateRow {
    /// Who; 0 unknown.
    pub subject: SubjectId,
    /// Path; abstract names begin with `@`.
    pub path: String,
    /// Verdict.
    pub verdict: Verdict,
    /// The rule behind it.
    pub rule: RuleId,
    /// How often.
    pub attempts: u64,
    /// Who listens there, where that was found out. The kernel does not tell.
    #[serde(default)]
    pub listener: Option<Listener>,
    /// Which socket it was, where rules deny some.
    #[serde(default)]
    pub reached: Reached,
}

/// What is known of the socket behind a path: a link or a mount may lead to one that a rule denies by another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    /// It is none that a rule denies by another name, or nobody had to know.
    #[default]
    AsAsked,
    /// Its server bound it under this name, which a rule denies.
    Alias(String),
    /// It could not be found out.
    Unknown,
}

/// Whoever takes what is sent to a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its process id.
    pub pid: u32,
    /// Its executable, if that can be read.
    pub exe: Option<String>,
    /// It is a process of the run: nobody else acts for the run there.
    pub inside: bool,
}

/// A socket of a kind that no rule can judge, asked for where the default denies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRow {
    /// Who; 0 unknown.
    pub subject: SubjectId,
    /// What it was to be.
    pub kind: SocketKind,
    /// Verdict.
    pub verdict: Verdict,
    /// The rule behind it.
    pub rule: RuleId,
    /// How often.
    pub times: u64,
}

/// What socket(2) is asked for, in its own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SocketKind {
    /// Address family.
    pub family: u16,
    /// Type.
    pub kind: u8,
    /// Protocol, once the kernel has filled in which where none was named.
    pub protocol: u16,
}

impl std::fmt::Display for SocketKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const RAW: u8 = 3;
        let name = match self.protocol {
            1 => "ICMP",
            6 => "TCP",
            17 => "UDP",
            33 => "DCCP",
            41 => "IPv6-in-IP",
            47 => "GRE",
            58 => "ICMPv6",
            112 => "VRRP",
            132 => "SCTP",
            136 => "UDP-Lite",
            255 => "IP",
            256 => "SMC",
            other if self.kind == RAW => return write!(f, "a raw socket of IP protocol {other}"),
            other => return write!(f, "a socket of IP protocol {other}"),
        };
        match self.kind {
            RAW => write!(f, "a raw {name} socket"),
            _ if name.starts_with(['I', 'S']) => write!(f, "an {name} socket"),
            _ => write!(f, "a {name} socket"),
        }
    }
}

/// A process that left the run's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaverRow {
    /// The subject that left; 0 unknown.
    pub subject: SubjectId,
    /// Its thread group id.
    pub tgid: u32,
    /// Id of the cgroup it went to.
    pub cgroup: u64,
    /// It was moved back. The kernel does not tell.
    #[serde(default)]
    pub returned: bool,
}

/// Exact sums. At all times `attempts == recorded + lost` over rows and overflow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Every attempt that a hook judged.
    pub attempts: u64,
    /// Attempts added to overflow rows: the flow table was full. Exact sums, no destination.
    pub overflow: u64,
    /// Attempts of which nothing but their number is known.
    pub lost: u64,
    /// Processes that could not be given a subject row.
    pub subjects_lost: u64,
    /// Lookups that could not be given a row.
    pub queries_lost: u64,
    /// Names, answers or leases that could not be stored.
    pub leases_lost: u64,
    /// Leases that made room for another name's at the same address.
    #[serde(default)]
    pub leases_evicted: u64,
    /// DNS queries that could not be parsed.
    pub queries_malformed: u64,
    /// DNS answers that could not be parsed, in whole or in part.
    pub answers_malformed: u64,
    /// Answers that no outstanding query asked for.
    pub answers_unasked: u64,
    /// Real answers to denied lookups, dropped.
    pub answers_dropped: u64,
    /// TCP connections to port 53: lookups in them were not seen.
    pub dns_over_tcp: u64,
    /// Records that the live view lost; the tables are whole.
    pub events_lost: u64,
    /// Contacts with unix sockets that could not be given a row.
    #[serde(default)]
    pub delegates_lost: u64,
    /// Calls of programs that follow processes and contacts which the kernel left out.
    #[serde(default)]
    pub hooks_skipped: u64,
    /// Sockets refused by their kind that could not be given a row.
    #[serde(default)]
    pub sockets_lost: u64,
    /// Packets of the run that claimed to come from its resolver.
    #[serde(default)]
    pub answers_forged: u64,
    /// Attempts judged in the packet path because no socket hook had judged them.
    pub backstop: u64,
    /// Connections whose own words about whom they are for were not read: another program holds them, and nothing was seen to
    /// leave them.
    #[serde(default)]
    pub claims_busy: u64,
    /// There was no room to keep what was not whole yet.
    #[serde(default)]
    pub claims_full: u64,
    /// They were sent on a way that is not seen.
    #[serde(default)]
    pub claims_unseen: u64,
    /// They could not be read.
    #[serde(default)]
    pub claims_unread: u64,
    /// They went on with requests behind one of which nobody knows where it ends.
    #[serde(default)]
    pub claims_later: u64,
    /// They named nobody.
    #[serde(default)]
    pub claims_unnamed: u64,
    /// They may have named another in what is encrypted.
    #[serde(default)]
    pub claims_hidden: u64,
}

impl Counters {
    /// Take those of another record to it.
    pub fn add(&mut self, other: &Self) {
        // By pattern, so that none can be forgotten.
        let Self {
            attempts,
            overflow,
            lost,
            subjects_lost,
            queries_lost,
            leases_lost,
            leases_evicted,
            queries_malformed,
            answers_malformed,
            answers_unasked,
            answers_dropped,
            dns_over_tcp,
            events_lost,
            delegates_lost,
            hooks_skipped,
            sockets_lost,
            answers_forged,
            backstop,
            claims_busy,
            claims_full,
            claims_unseen,
            claims_unread,
            claims_later,
            claims_unnamed,
            claims_hidden,
        } = other;
        self.attempts += attempts;
        self.overflow += overflow;
        self.lost += lost;
        self.subjects_lost += subjects_lost;
        self.queries_lost += queries_lost;
        self.leases_lost += leases_lost;
        self.leases_evicted += leases_evicted;
        self.queries_malformed += queries_malformed;
        self.answers_malformed += answers_malformed;
        self.answers_unasked += answers_unasked;
        self.answers_dropped += answers_dropped;
        self.dns_over_tcp += dns_over_tcp;
        self.events_lost += events_lost;
        self.delegates_lost += delegates_lost;
        self.hooks_skipped += hooks_skipped;
        self.sockets_lost += sockets_lost;
        self.answers_forged += answers_forged;
        self.backstop += backstop;
        self.claims_busy += claims_busy;
        self.claims_full += claims_full;
        self.claims_unseen += claims_unseen;
        self.claims_unread += claims_unread;
        self.claims_later += claims_later;
        self.claims_unnamed += claims_unnamed;
        self.claims_hidden += claims_hidden;
    }
}

/// One row of a record, of whatever kind. Rows come in no order that a reader may depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// Wall-clock nanoseconds since the epoch at CLOCK_BOOTTIME 0.
    Clock(i64),
    /// Sums.
    Counters(Counters),
    /// A process image.
    Subject(SubjectRow),
    /// A name.
    Name(NameRow),
    /// Lookups.
    Query(QueryRow),
    /// An address that an answer gave.
    Answer(AnswerRow),
    /// Attempts.
    Flow(FlowRow),
    /// A unix socket.
    Delegate(DelegateRow),
    /// A socket that no rule can judge.
    Socket(SocketRow),
    /// A process that left.
    Leaver(LeaverRow),
}

/// Everything that the kernel recorded of a run, read at one time. A long run's is large: what has to do with any
/// run takes the rows one at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Wall-clock nanoseconds since the epoch at CLOCK_BOOTTIME 0.
    pub boot_offset_ns: i64,
    /// Process images.
    pub subjects: Vec<SubjectRow>,
    /// Names.
    pub names: Vec<NameRow>,
    /// Lookups.
    pub queries: Vec<QueryRow>,
    /// Addresses that answers gave.
    pub answers: Vec<AnswerRow>,
    /// Attempts.
    pub flows: Vec<FlowRow>,
    /// Unix sockets.
    pub delegates: Vec<DelegateRow>,
    /// Sockets that no rule can judge.
    pub sockets: Vec<SocketRow>,
    /// Processes that left.
    pub leavers: Vec<LeaverRow>,
    /// Sums.
    pub counters: Counters,
}

impl Snapshot {
    /// Take one row.
    pub fn add(&mut self, row: Row) {
        match row {
            Row::Clock(boot_offset_ns) => self.boot_offset_ns = boot_offset_ns,
            Row::Counters(counters) => self.counters = counters,
            Row::Subject(row) => self.subjects.push(row),
            Row::Name(row) => self.names.push(row),
            Row::Query(row) => self.queries.push(row),
            Row::Answer(row) => self.answers.push(row),
            Row::Flow(row) => self.flows.push(row),
            Row::Delegate(row) => self.delegates.push(row),
            Row::Socket(row) => self.sockets.push(row),
            Row::Leaver(row) => self.leavers.push(row),
        }
    }

    /// All of it, row by row.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        [
            Row::Clock(self.boot_offset_ns),
            Row::Counters(self.counters.clone()),
        ]
        .into_iter()
        .chain(self.subjects.iter().cloned().map(Row::Subject))
        .chain(self.names.iter().cloned().map(Row::Name))
        .chain(self.queries.iter().cloned().map(Row::Query))
        .chain(self.answers.iter().cloned().map(Row::Answer))
        .chain(self.flows.iter().cloned().map(Row::Flow))
        .chain(self.delegates.iter().cloned().map(Row::Delegate))
        .chain(self.sockets.iter().cloned().map(Row::Socket))
        .chain(self.leavers.iter().cloned().map(Row::Leaver))
    }
}

#[cfg(test)]
mod tests {
    use super::SocketKind;

    #[test]
    fn a_kind_of_socket_is_told_in_words() {
        let told = |kind, protocol| {
            let kind = SocketKind {
                family: 2,
                kind,
                protocol,
            };
            kind.to_string()
        };
        assert_eq!(told(2, 1), "an ICMP socket");
        assert_eq!(told(3, 255), "a raw IP socket");
        assert_eq!(told(1, 132), "an SCTP socket");
        assert_eq!(told(2, 136), "a UDP-Lite socket");
        assert_eq!(told(3, 89), "a raw socket of IP protocol 89");
        assert_eq!(told(5, 99), "a socket of IP protocol 99");
    }
}
