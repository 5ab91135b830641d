//! What was seen of a run, and what was not.

use std::net::IpAddr;

use super::assemble::Lens;
use super::ledger::{Contact, Reach};
use super::{Attribution, Coverage, Gap, Guarded, Mode, RunFacts, Verdict};
use crate::record::Reached;
use crate::tables::RULE_DEFAULT;

/// Something that this version never sees, whatever the host, unless the run was denied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandingGap {
    /// The gap's kind.
    pub kind: &'static str,
    /// In a few words, for a list.
    pub brief: &'static str,
    /// In words: what, why.
    pub detail: &'static str,
}

/// Where families could be made that no program sees.
const UNSEEN_FAMILIES: &str = "unseen_families";
/// Where the command could undo its guard.
const CONTAIN: &str = "contain";

/// All of them. A report without any gap would say that nothing was out of sight.
pub const STANDING_GAPS: [StandingGap; 5] = [
    StandingGap {
        kind: UNSEEN_FAMILIES,
        brief: "packet and vsock sockets",
        detail: "what is sent through packet sockets (AF_PACKET), to virtual machines (AF_VSOCK) or by other families than IP and unix is not seen; only an enforced `default: deny` refuses such sockets",
    },
    StandingGap {
        kind: CONTAIN,
        brief: "root that undoes its guard (--contain)",
        detail: "the command kept its privileges: as root it could leave the run's cgroup, which is noticed, or change the programs and tables that guard it, or act through processes outside, which is not; --contain takes these privileges away",
    },
    StandingGap {
        kind: "received_sockets",
        brief: "sockets received from outside",
        detail: "a socket that was made outside the run and is handed to it over a unix socket belongs to where it was made: what is sent through it is neither seen nor refused",
    },
    StandingGap {
        kind: "unseen_lookups",
        brief: "lookups in TLS or HTTPS (seen as connections)",
        detail: "lookups over TLS (DoT) or HTTPS (DoH), and over TCP at other ports than 53, are seen as connections to their servers only: the names in them are not known, and addresses learnt there have no name",
    },
    StandingGap {
        kind: "work_left",
        brief: "work left in files for others (at, cron, units)",
        detail: "work that the command leaves in files for others to do (jobs of at and cron, units, hooks) is done outside the run, by them: what that reaches for is neither seen nor refused",
    },
];

/// Kinds of gaps that hide no attempt: what was tried stands in the report all the same. Every other kind, one that a later
/// version may add too, counts as a place where something may be missing.
const HIDING_NOTHING: [&str; 14] = [
    // Dropped answers, and final ones that did not come: the lookups are there.
    "answers_unasked",
    "answers",
    // The attempt is there by its address: a literal, or a name inside of what is encrypted.
    "unnamed_addresses",
    "claims_unnamed",
    "claims_hidden",
    "quic",
    // The attempt is there, what became of it is not.
    "outcomes",
    // What guarding could not do besides seeing: hold rules and limits, outlive its supervisor, be kept.
    "unix_rules",
    "unix_aliases",
    "limits",
    "pins",
    "state",
    // Processes that outlived the command did so when the run was over.
    "leftovers",
    // Reasons and reactions of rules.
    "policy_lost",
];

/// May something that a run reached for be missing in its report, where it has a gap of this kind?
pub(crate) fn may_hide(kind: &str) -> bool {
    !HIDING_NOTHING.contains(&kind)
}

/// Add up. `attempts == recorded + lost` by construction; where the kernel's own count of losses says
/// otherwise, that is a gap of its own.
pub(super) fn coverage(lens: &Lens<'_>) -> Coverage {
    let sum = |of: &dyn Fn(&Reach) -> bool| attempts(lens, of);
    let recorded = recorded(lens);
    let lost = lost(lens);
    let attempts = recorded.saturating_add(lost);
    Coverage {
        attempts,
        recorded,
        lost,
        attributed: sum(&|row| is_attributed(lens, row)),
        unsupervised_seconds: lens.facts.unsupervised_seconds,
        gaps: gaps(
            lens,
            lost,
            sum(&|row| row.attribution == Attribution::Unnamed && !needs_no_name(lens, row)),
        ),
    }
}

fn recorded(lens: &Lens<'_>) -> u64 {
    attempts(lens, &|_| true).saturating_add(lens.record.counters.overflow)
}

/// Attempts of which nothing is known but their number. A row that is read a moment after the counters may be ahead of them.
pub(super) fn lost(lens: &Lens<'_>) -> u64 {
    lens.record.counters.attempts.saturating_sub(recorded(lens))
}

/// How many attempts such rows hold.
fn attempts(lens: &Lens<'_>, of: &dyn Fn(&Reach) -> bool) -> u64 {
    lens.record
        .flows
        .iter()
        .filter(|row| of(row))
        .fold(0, |sum, row| sum.saturating_add(row.attempts))
}

fn is_attributed(lens: &Lens<'_>, row: &Reach) -> bool {
    lens.subject(row.subject).is_some()
        && match row.attribution {
            Attribution::Exact | Attribution::Inherited | Attribution::Ambiguous => true,
            Attribution::Unnamed => needs_no_name(lens, row),
            Attribution::Unknown => false,
        }
}

/// A rule is about the address itself, or everyone knows what it is.
fn needs_no_name(lens: &Lens<'_>, row: &Reach) -> bool {
    let loopback = match row.address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified(),
    };
    row.rule != RULE_DEFAULT || loopback || lens.facts.known_addresses.contains(&row.address)
}

/// Datagrams to the port of HTTP over QUIC that were let through.
fn is_quic(row: &Reach) -> bool {
    row.protocol == 17 && row.port == 443 && row.bytes_sent > 0 && row.verdict != Verdict::Deny
}

/// Contacts that an enforced rule denies and that were not refused: before 6.7 no hook does, what was out of reach is
/// within it again once its socket is made anew, and no hook knows where a link or a mount leads.
fn got_through(lens: &Lens<'_>) -> u64 {
    let enforced = |id| {
        let rule = lens.facts.policy.and_then(|policy| policy.rule(id));
        rule.is_some_and(|rule| rule.mode == Mode::Enforce)
    };
    let rows = lens.record.delegates.iter();
    rows.filter(|row| row.verdict == Verdict::WouldDeny && enforced(row.rule))
        .fold(0, |sum, row| sum.saturating_add(row.attempts))
}

/// Contacts outside of the run of which nobody could tell whether they reached what a rule denies.
fn unidentified(lens: &Lens<'_>) -> u64 {
    let outside = |row: &&Contact| !row.listener.as_ref().is_some_and(|it| it.inside);
    let rows = lens.record.delegates.iter().filter(outside);
    rows.filter(|row| row.reached == Reached::Unknown)
        .fold(0, |sum, row| sum.saturating_add(row.attempts))
}

/// Are names read at the port of TLS?
fn reads_tls(facts: &RunFacts<'_>) -> bool {
    let loaded = facts.features.iter().any(|feature| feature == "claims");
    let policy = facts.policy;
    loaded && policy.is_some_and(|policy| policy.inspected().contains(&443))
}

fn gaps(lens: &Lens<'_>, lost: u64, unnamed: u64) -> Vec<Gap> {
    let counters = &lens.record.counters;
    let count = |n: usize| n as u64;
    let counted = [
        (
            "attempts_lost",
            lost,
            "attempts were judged, but nothing is known of them but their number",
        ),
        (
            "flow_table_full",
            counters.overflow,
            "attempts were judged and counted for their process, but the flow table was full, so their destinations are not listed",
        ),
        (
            "subjects_lost",
            counters.subjects_lost,
            "processes could not be recorded: the process table was full; what they did has no process",
        ),
        (
            "hooks_skipped",
            counters.hooks_skipped,
            "calls of programs that follow processes and unix sockets were left out by the kernel, which calls each once at a time on a processor: a process may be told, and judged, as the program that it was before, and a contact may be missing",
        ),
        (
            "queries_lost",
            counters.queries_lost,
            "lookups were judged, but could not be listed: the lookup table was full",
        ),
        (
            "leases_lost",
            counters.leases_lost,
            "names or addresses in DNS answers could not be stored: the tables were full; attempts at these addresses may have no name and were judged without it",
        ),
        (
            "leases_evicted",
            counters.leases_evicted,
            "leases of an address made room for other names' at the same address: attempts at it may have been judged, and listed, without the name that they were made for",
        ),
        (
            "queries_malformed",
            counters.queries_malformed,
            "DNS queries could not be read, so the names in them are not listed",
        ),
        (
            "answers_malformed",
            counters.answers_malformed,
            "DNS answers could not be read in whole, so addresses in them may have no name",
        ),
        (
            "answers_forged",
            counters.answers_forged,
            "packets of the run claimed to come from its own resolver, which could lease it any address; enforce drops them",
        ),
        (
            "answers_unasked",
            // Where nothing is enforced they pass, and give no lease.
            match lens.facts.mode {
                Mode::Enforce => counters.answers_unasked,
                Mode::Observe => 0,
            },
            "DNS answers that nobody waited for (any more) were dropped: late ones, such as the real answer to a denied lookup that had its final one already; ones from another server than was asked; forged ones",
        ),
        (
            "dns_over_tcp",
            counters.dns_over_tcp,
            "TCP connections to port 53 were not read (to another server than the run's own, from another network namespace, or with no supervisor): the lookups in them were not seen, and addresses learnt there have no name",
        ),
        (
            "unnamed_addresses",
            unnamed,
            "attempts at addresses that no lookup in this run gave and no rule is about: a literal address, a cache, or a connection pool older than the run",
        ),
        (
            "late_subjects",
            count(lens.record.subjects.iter().filter(|row| row.late).count()),
            "processes were first seen when they acted, not when they started: their arguments were read later, and what started them may be missing",
        ),
        (
            "sockets_lost",
            counters.sockets_lost,
            "sockets were judged by their kind, but could not be listed: the table was full",
        ),
        (
            "delegates_lost",
            counters.delegates_lost,
            "contacts with unix sockets were judged, but could not be listed: the table was full",
        ),
        (
            "claims_busy",
            counters.claims_busy,
            "connections to inspected ports are held by another program of the host, or by a run around or within this one, and nothing was seen to leave them: either they sent nothing, or that program sent it another way, and the names in it (TLS, HTTP) were not read; connect() judged them",
        ),
        (
            "claims_full",
            counters.claims_full,
            "connections to inspected ports sent a head (TLS, HTTP) in pieces, and there was no room to keep these, so the names in it were not read; connect() judged them",
        ),
        (
            "claims_unseen",
            counters.claims_unseen,
            "connections to inspected ports sent their data on a way that is not seen (MPTCP; or the table of sockets was full), so the names that they gave (TLS, HTTP) were not read; connect() judged them",
        ),
        (
            "claims_unread",
            counters.claims_unread,
            "connections to inspected ports sent what is neither TLS nor HTTP/1, or no more of it could be read (a head over 16 KiB, a body without a length, another protocol after an upgrade, encryption by the kernel); connect() judged them",
        ),
        (
            "claims_later",
            counters.claims_later,
            "connections without TLS to inspected ports went on, in a packet of their own, with requests behind one of which nobody knows where it ends (chunked, or after an upgrade), which may be for other hosts of the same address and were not read",
        ),
        (
            "claims_unnamed",
            counters.claims_unnamed,
            "TLS or HTTP connections to inspected ports named nobody; connect() judged them by their address",
        ),
        (
            "quic",
            // Where the names that TLS gives are judged, and only those that passed.
            if reads_tls(lens.facts) {
                attempts(lens, &is_quic)
            } else {
                0
            },
            "datagrams to port 443 (QUIC): the name that they give is not read; connect() and sendmsg() judged them by their address. `deny: \"*:443\"` with `protocol: udp` refuses them, and clients go on over TCP",
        ),
        (
            "claims_hidden",
            counters.claims_hidden,
            "TLS hellos with an encrypted part (ECH, or what looks like it): the name outside was judged, one inside is not known",
        ),
        (
            "unix_rules",
            got_through(lens),
            "contacts with unix sockets that an enforced rule denies got through: by a path that is a link or a bind mount, which hooks do not follow; where the kernel has no hooks for them; or to a socket that was made anew after --hide-sockets had covered it",
        ),
        (
            "unix_aliases",
            unidentified(lens),
            "contacts with unix sockets whose socket could not be identified (it was over too soon, who listens is in another network namespace, or the run went by way of the agent): the path was judged, and whether it led to a socket that a rule denies by another path is not known",
        ),
        (
            "left_cgroup",
            count(lens.record.leavers.len()),
            "processes left the run's cgroup; what they did outside of it was neither seen nor judged, and who was moved back is told by the findings",
        ),
    ];
    let mut gaps = lens.facts.gaps.clone();
    // Where nothing at all was seen, another gap says so.
    if lens.facts.guarded != Guarded::No {
        let stands = |gap: &&StandingGap| match gap.kind {
            UNSEEN_FAMILIES => !lens.facts.closed_families,
            CONTAIN => !lens.facts.contained,
            _ => true,
        };
        gaps.extend(STANDING_GAPS.iter().filter(stands).map(|standing| Gap {
            kind: standing.kind.to_owned(),
            detail: standing.detail.to_owned(),
            count: 0,
        }));
    }
    for (kind, count, detail) in counted {
        if count > 0 {
            gaps.push(Gap {
                kind: kind.to_owned(),
                detail: detail.to_owned(),
                count,
            });
        }
    }
    let seconds = lens.facts.unsupervised_seconds;
    if seconds > 0.0 {
        gaps.push(Gap {
            kind: "unsupervised".to_owned(),
            detail: format!(
                "for {seconds:.1} seconds no supervisor ran: the kernel went on judging and recording, but denied lookups got no final answer and nothing was shown live"
            ),
            count: 0,
        });
    }
    gaps.sort_by(|a, b| (&a.kind, &a.detail, a.count).cmp(&(&b.kind, &b.detail, b.count)));
    gaps.dedup();
    gaps
}
