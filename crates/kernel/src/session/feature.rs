//! Which programs go together, and where each is attached.

use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_rs::{Link, OpenProgramMut, ProgramMut};

use super::{calls, claim};

/// A group of programs that is loaded as a whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feature {
    /// `cgroup_skb`: DNS queries and answers, backstop, bytes, handshakes.
    Names,
    /// `connect4/6`, `sendmsg4/6`: verdicts with an errno.
    Addresses,
    /// `sock_create`: whose the sockets are that only packets show; refusing them where the default denies.
    SocketKinds,
    /// `sock_release`: what a socket had sent, and whether a connect was given up.
    Outcomes,
    /// `tp_btf/sched_process_*`: subjects.
    Processes,
    /// `tp_btf/cgroup_attach_task`: leaving the run.
    Leavers,
    /// `connect_unix`, `sendmsg_unix` (6.7): delegates.
    UnixSockets,
    /// The same where these hooks are absent, recorded only, at the end of the kernel's own functions (`fexit`).
    Contacts,
    /// The same at the end of system calls: costs every call of the host, for kernels that lack the former, too.
    ContactCalls,
    /// `lsm_cgroup` on unix sockets (6.0, with `bpf` among the LSMs): the socket that a path led to.
    SocketNames,
    /// `sockops` and `sk_msg`: whom connections say that they are for.
    Claims,
}

impl Feature {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::Names,
        Self::Addresses,
        Self::SocketKinds,
        Self::Outcomes,
        Self::Processes,
        Self::Leavers,
        Self::UnixSockets,
        Self::Contacts,
        Self::ContactCalls,
        Self::Claims,
    ];

    /// What of the kernel it stands on, in words.
    pub fn stands_on(self) -> &'static str {
        match self {
            Self::Names => "packets of a cgroup, with bpf_loop",
            Self::Addresses => "connect and sendmsg of a cgroup, with bpf_set_retval",
            Self::SocketKinds => "sock_create of a cgroup",
            Self::Outcomes => "connection events",
            Self::Processes => "typed tracepoints",
            Self::Leavers => "a typed tracepoint of moves between cgroups",
            Self::UnixSockets => "unix socket hooks",
            Self::Contacts => "the ends of its own functions",
            Self::ContactCalls => "the ends of system calls",
            Self::SocketNames => "LSM hooks of a cgroup",
            Self::Claims => "socket message hooks",
        }
    }

    /// As the report and `doctor` name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Addresses => "addresses",
            Self::SocketKinds => "socket_kinds",
            Self::Outcomes => "outcomes",
            Self::Processes => "processes",
            Self::Leavers => "leavers",
            Self::UnixSockets => "unix_sockets",
            Self::Contacts => "unix_contacts",
            Self::ContactCalls => "unix_contact_calls",
            Self::SocketNames => "unix_names",
            Self::Claims => "claims",
        }
    }

    /// The programs that it is made of.
    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Names => &["bs_egress", "bs_ingress"],
            Self::Addresses => &[
                "bs_connect4",
                "bs_connect6",
                "bs_sendmsg4",
                "bs_sendmsg6",
                "bs_getpeername4",
                "bs_getpeername6",
            ],
            Self::SocketKinds => &["bs_create"],
            Self::Outcomes => &["bs_release"],
            Self::Processes => &["bs_fork", "bs_exec", "bs_exit"],
            Self::Leavers => &["bs_move"],
            Self::UnixSockets => &["bs_connect_unix", "bs_sendmsg_unix"],
            Self::Contacts => &["bs_met_stream", "bs_met_datagrams", "bs_met_datagram"],
            Self::ContactCalls => &[
                "bs_called_connect",
                "bs_called_sendto",
                "bs_called_sendmsg",
                "bs_called_sendmmsg",
            ],
            Self::SocketNames => &["bs_reach_stream", "bs_reach_datagrams"],
            // First who reads, then who brings something to read.
            Self::Claims => &[claim::READER, claim::BRINGER],
        }
    }

    /// Attached to tracepoints of the whole host, not to the cgroup. Their programs are whole from the start: a
    /// tracepoint's cannot be replaced in one step, and two at once would count everything twice.
    pub(crate) fn is_tracing(self) -> bool {
        matches!(
            self,
            Self::Processes | Self::Leavers | Self::Contacts | Self::ContactCalls
        )
    }

    /// Called by the tracer where guards share one.
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::Processes | Self::Leavers)
    }

    /// Judges though it is whole from the start: what it shares with others must be, too.
    pub(super) fn judges_whole(self) -> bool {
        matches!(
            self,
            Self::Contacts | Self::ContactCalls | Self::SocketNames
        )
    }
}

/// Is a program of the object one of the feature's?
pub(super) fn is_of(program: &OpenProgramMut<'_>, feature: Feature) -> bool {
    feature
        .programs()
        .iter()
        .any(|name| program.name() == *name)
}

pub(super) fn attach_one(
    program: &ProgramMut<'_>,
    feature: Feature,
    cgroup: BorrowedFd<'_>,
) -> Result<Link, libbpf_rs::Error> {
    if feature == Feature::ContactCalls {
        calls::attach(program)
    } else if feature.is_tracing() {
        program.attach_trace()
    } else {
        program.attach_cgroup(cgroup.as_raw_fd())
    }
}
