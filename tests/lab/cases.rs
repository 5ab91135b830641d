//! The cases that a deployment guard meets.
//!
//! What becomes of each is not written here: the tests say it (see [`crate::shown`]), and `docs/coverage.md` is made from what they said
//! (see [`crate::coverage`]). Tests of the crates cannot; those that show a part of a case are named beside it.

/// Whose doing a case is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Ordinary tools, ordinary mistakes.
    Accident,
    /// Somebody with root inside the run who means it.
    Hostile,
}

/// One case.
#[derive(Debug)]
pub struct Case {
    /// Its number, which stays.
    pub number: u8,
    /// Whose doing it is.
    pub whose: Whose,
    /// In a few words.
    pub title: &'static str,
    /// File and name of tests outside the lab that show a part of it.
    pub besides: &'static [(&'static str, &'static str)],
}

const fn case(number: u8, whose: Whose, title: &'static str) -> Case {
    Case {
        number,
        whose,
        title,
        besides: &[],
    }
}

impl Case {
    const fn besides(self, besides: &'static [(&'static str, &'static str)]) -> Self {
        Self { besides, ..self }
    }
}

use Whose::{Accident, Hostile};

const QUERIES: &str = "crates/kernel/src/session/tests/queries.rs";
const LEASES: &str = "crates/kernel/src/session/tests/leases.rs";
const TAKEOVER: &str = "crates/kernel/src/session/tests/takeover.rs";
const ANSWERS: &str = "crates/kernel/src/session/tests/answers.rs";
const PACKETS: &str = "crates/kernel/src/session/tests/packets.rs";
const ASSEMBLY: &str = "crates/core/tests/assembly/coverage.rs";
const BAD_INPUT: &str = "crates/cli/tests/bad_input.rs";

/// All of them, by subject.
pub const CASES: [Case; 70] = [
    // The way of a lookup.
    case(
        1,
        Accident,
        "a query from an unconnected UDP socket (musl, dig)",
    ),
    case(2, Accident, "a query from a connected UDP socket"),
    case(3, Accident, "DNS over TCP, asked for by a cut answer"),
    case(
        4,
        Hostile,
        "several queries in one TCP connection, a later one denied",
    ),
    case(5, Hostile, "a query cut into TCP segments"),
    case(6, Hostile, "a query with several questions").besides(&[(
        QUERIES,
        "what_cannot_be_judged_is_refused_in_enforce_and_counted_in_observe",
    )]),
    case(7, Accident, "a stub resolver on loopback"),
    case(8, Accident, "lookups through systemd-resolved's own socket").besides(&[(
        "crates/guard/src/plan.rs",
        "a_resolver_daemon_out_of_sight_is_a_hole_in_enforcing",
    )]),
    case(9, Accident, "lookups through nscd or sssd"),
    case(10, Accident, "names from /etc/hosts, LLMNR, mDNS"),
    case(11, Accident, "a cache that was warm before the run"),
    case(
        12,
        Accident,
        "an application's cache or connections from before the run",
    ),
    case(13, Accident, "a container's resolver, search lists, ndots")
        .besides(&[(LEASES, "a_name_on_the_search_list_passes_without_a_lease")]),
    case(14, Accident, "DNS on other ports"),
    case(15, Accident, "DNS over HTTPS")
        .besides(&[(ASSEMBLY, "no_report_says_that_everything_was_in_sight")]),
    case(16, Hostile, "DNS over TLS or QUIC")
        .besides(&[(ASSEMBLY, "no_report_says_that_everything_was_in_sight")]),
    case(17, Hostile, "data in lookups below an allowed name"),
    case(
        18,
        Hostile,
        "an allowed name with a protected or link-local address",
    ),
    case(19, Accident, "CNAME chains, hints of addresses").besides(&[
        (ANSWERS, "only_one_chain_from_the_question_counts"),
        (LEASES, "the_link_that_is_denied_most_strongly_counts"),
    ]),
    case(
        20,
        Accident,
        "case, trailing dot, IDN, longest names, odd octets",
    )
    .besides(&[
        (QUERIES, "case_and_edns_change_nothing"),
        (QUERIES, "the_longest_name_is_judged_like_any_other"),
    ]),
    case(21, Accident, "names that only look alike, public suffixes").besides(&[
        ("crates/core/src/name/pattern.rs", "the_design_page_s_table"),
        (BAD_INPUT, "a_pattern_at_a_public_suffix"),
    ]),
    case(
        22,
        Accident,
        "rotation, a hundred records, addresses used past their TTL",
    )
    .besides(&[(ANSWERS, "every_record_of_a_long_answer_is_leased")]),
    case(23, Accident, "a name server that is down, slow or wrong"),
    case(24, Hostile, "the same query id from two processes").besides(&[
        (LEASES, "another_server_cannot_answer"),
        (LEASES, "what_nobody_asked_for_gives_no_lease"),
    ]),
    // Addresses and what carries them.
    case(25, Accident, "a literal IPv4 address"),
    case(26, Accident, "an address in decimal, hexadecimal or octal"),
    case(27, Accident, "IPv6, and IPv4 mapped into it"),
    case(
        28,
        Accident,
        "one address with an allowed and a denied name",
    )
    .besides(&[(
        "crates/kernel/src/session/tests/heads.rs",
        "sound_hellos_are_read_wherever_the_name_stands",
    )]),
    case(29, Accident, "a redirect from an allowed to a denied name"),
    case(30, Accident, "QUIC"),
    case(31, Accident, "other ports: ssh, git, rsync"),
    case(32, Hostile, "ICMP, SCTP, UDP-Lite, raw IP, packet sockets").besides(&[(
        "crates/kernel/src/spawn/filter.rs",
        "a_32_bit_program_makes_no_such_socket_either",
    )]),
    case(33, Hostile, "IP options, fragments, extension headers").besides(&[
        (QUERIES, "options_and_extension_headers_are_refused"),
        (PACKETS, "a_query_in_an_odd_packet_is_refused"),
    ]),
    case(34, Accident, "TCP Fast Open, MPTCP"),
    case(35, Hostile, "io_uring, sendmmsg, splice, zero copy"),
    case(
        36,
        Hostile,
        "vsock, helpers behind unix sockets, relays on loopback",
    ),
    case(37, Accident, "a proxy that is named in the environment"),
    // Processes and what holds them.
    case(38, Accident, "a daemon that outlives the script"),
    case(39, Accident, "sudo, su, helpers with more privilege"),
    case(
        40,
        Hostile,
        "leaving the cgroup: by hand, into a new one, by clone3",
    ),
    case(41, Hostile, "other and new network and user namespaces"),
    case(42, Accident, "containers, and what their daemon fetches"),
    case(
        43,
        Accident,
        "systemd-run, at, cron, activation by D-Bus or socket",
    ),
    case(44, Accident, "ssh to a host that fetches"),
    case(45, Accident, "sockets that are inherited or handed over").besides(&[
        (
            "crates/guard/src/inherited.rs",
            "a_socket_that_the_command_would_get_is_told",
        ),
        (ASSEMBLY, "no_report_says_that_everything_was_in_sight"),
    ]),
    case(46, Hostile, "the guard itself: its programs, maps, process"),
    case(47, Accident, "a guard that is upgraded while a run is on"),
    case(
        48,
        Hostile,
        "a mark, pid or port that looks like the guard's own",
    ),
    case(
        49,
        Accident,
        "runs beside and within runs, hybrid cgroups, namespaces",
    ),
    case(
        50,
        Accident,
        "processes gone at once, rewritten or long arguments, secrets in them",
    )
    .besides(&[("crates/core/src/redact.rs", "secrets_go")]),
    // Load.
    case(
        51,
        Accident,
        "a hundred thousand sockets, ten thousand names",
    ),
    case(52, Accident, "a flood of the live view"),
    case(
        53,
        Accident,
        "a connect by another thread than the one that looked up",
    ),
    case(
        54,
        Accident,
        "a packet that is sent again in another process's time",
    ),
    case(55, Accident, "a full disk").besides(&[
        (
            "crates/cli/tests/unguarded.rs",
            "a_report_that_can_no_longer_be_written_is_shown_and_changes_nothing",
        ),
        (
            "crates/guard/src/run/tests.rs",
            "a_cgroup_that_cannot_be_recorded_is_made_without_a_state_directory",
        ),
    ]),
    case(56, Accident, "a clock that jumps"),
    // Policy, and the life of a run.
    case(57, Accident, "an empty list is no permission")
        .besides(&[(BAD_INPUT, "an_empty_allow_list_denies_everything")]),
    case(58, Accident, "an unknown key, a typo, a bad line")
        .besides(&[(BAD_INPUT, "an_unknown_key")]),
    case(
        59,
        Accident,
        "rules that contradict each other, an allow of every address",
    )
    .besides(&[
        (BAD_INPUT, "an_allow_of_every_address"),
        (
            "crates/core/tests/meaning.rs",
            "the_order_of_rules_changes_no_verdict",
        ),
    ]),
    case(
        60,
        Accident,
        "a policy that lies in the tree that is deployed",
    )
    .besides(&[
        (
            "crates/cli/src/resolve/tests.rs",
            "a_policy_in_the_tree_that_is_deployed_is_remarked",
        ),
        (
            "crates/cli/src/deployed.rs",
            "what_is_deployed_is_known_by_the_command_its_script_and_where_it_starts",
        ),
    ]),
    case(61, Accident, "a host that cannot enforce").besides(&[(
        "crates/cli/tests/unguarded.rs",
        "enforce_without_privilege_runs_nothing",
    )]),
    case(
        62,
        Accident,
        "the first packet, and one during a change of policy",
    )
    .besides(&[(TAKEOVER, "the_mode_takes_over_with_the_rules")]),
    case(
        63,
        Accident,
        "an end that leaves nothing, and touches nobody else's",
    )
    .besides(&[(LEASES, "closed_sockets_leave_nothing_behind")]),
    case(
        64,
        Accident,
        "a refusal that ends at once, of UDP and of TCP",
    ),
    case(
        65,
        Accident,
        "other traffic of the host to the same address",
    ),
    case(66, Accident, "what the guard itself needs is cut off"),
    case(67, Accident, "a tool that tries for ever what is refused"),
    // Found while this was made.
    case(68, Hostile, "several queries in one buffer (UDP GSO)")
        .besides(&[(QUERIES, "several_datagrams_in_one_buffer_are_refused")]),
    case(69, Hostile, "a query that is rewritten after it was judged"),
    case(70, Hostile, "a process that answers its own lookups").besides(&[(
        LEASES,
        "a_server_that_is_not_listed_gives_no_lease_that_permits",
    )]),
];

/// The case of this number.
///
/// # Panics
///
/// If there is none.
pub fn numbered(number: u8) -> &'static Case {
    CASES
        .iter()
        .find(|case| case.number == number)
        .unwrap_or_else(|| panic!("there is no case {number}"))
}

/// What passes, and why: of an accident what is no more than a gap, of what is meant what a contained run does not refuse. By case
/// and technique; whatever else passes is an error.
pub const PASSES: &[(u8, &str, &str)] = &[
    (
        15,
        "by a rule about the name",
        "the lookup is within TLS: the connection is recorded with its process, a finding, and judged by its server's name and address; the rule's name is judged where the connection that follows gives it",
    ),
    (
        16,
        "DNS over QUIC, by a rule about the name",
        "as for DNS over HTTPS: what can be judged is where the resolver is",
    ),
    (
        16,
        "DNS over TLS, by a rule about the name",
        "as for DNS over HTTPS: what can be judged is where the resolver is",
    ),
    (
        17,
        "",
        "each name that is asked for is recorded with its process; to refuse them all is a rule about the name above them, which here is allowed",
    ),
    (
        18,
        "a link-local address, by a deny-list that says nothing of it",
        "a live deployment may fetch its credentials; an allow-list refuses it, and so does a rule about the address",
    ),
    (
        18,
        "the address of a protected name, for another one",
        "one address may serve both, and the name that was looked up is allowed; what the connection then says it is for is judged, and a rule about the address refuses it",
    ),
    (
        28,
        "a browser that may hide a name, where that is allowed",
        "nobody can tell whether a name is hidden; `hidden: deny` refuses it",
    ),
    (
        28,
        "the name behind a request of which nobody knows where it ends",
        "the connection is recorded, and the request counted; an allow-list has it counted at once",
    ),
    (
        28,
        "the name in HTTP, where programs below send it past the network",
        "another sk_msg program of the host has it, and no packet leaves",
    ),
    (
        28,
        "what an encrypted hello hides",
        "it is encrypted; `hidden: deny` refuses it",
    ),
    (
        30,
        "a handshake that gives a denied name",
        "what QUIC says is encrypted, and judged by its address; a rule about its port refuses it",
    ),
    (
        34,
        "the names that such a connection gives",
        "no program sees what MPTCP sends; where it goes is judged",
    ),
    (
        35,
        "io_uring, to an address that no rule denies",
        "the policy allows it; an allow-list refuses io_uring as a whole",
    ),
    (
        35,
        "io_uring, sending to an address that no rule denies",
        "the policy allows it; an allow-list refuses io_uring as a whole",
    ),
    (
        36,
        "a helper behind a unix socket",
        "no rule is about it: contacts are denied by rules only, for the daemon may be what the deployment is for",
    ),
    (
        36,
        "a line for the log, by a default that denies",
        "contacts with daemons are denied by rules only, and work by default",
    ),
    (
        36,
        "libvirtd, by a default that denies",
        "as a line for the log",
    ),
    (
        36,
        "redis at its own socket, by a default that denies",
        "as a line for the log",
    ),
    (
        36,
        "snapd, by a default that denies",
        "as a line for the log",
    ),
    (
        36,
        "ssh-agent, by a default that denies",
        "as a line for the log",
    ),
    (
        36,
        "a relay on loopback",
        "no rule is about it, and loopback is this host's own",
    ),
    (
        36,
        "who listens behind a relay",
        "it is told who does; a rule about its port refuses it",
    ),
    (
        40,
        "by `machinectl shell`",
        "the system's bus is a daemon like any other: a rule about it refuses this",
    ),
    (
        40,
        "by `su -` and `sudo -i`, where nobody can be moved back",
        "the login is done by a daemon, over the system's bus: a rule about it refuses this",
    ),
    (
        42,
        "its daemon's denied socket, by a bind mount",
        "where the kernel has no `bpf` among its LSMs; `--hide-sockets` puts it out of reach",
    ),
    (
        42,
        "its daemon's denied socket, by a link",
        "where the kernel has no `bpf` among its LSMs; `--hide-sockets` puts it out of reach",
    ),
    (
        43,
        "at",
        "the job is a file, which its daemon reads later: no rule is about it, and which files are such nobody knows",
    ),
    (
        45,
        "TCP that is inherited",
        "a socket belongs to where it was made, and no program of the run sees it: which it is, is told",
    ),
    (
        45,
        "TCP that was open at an attach",
        "what it is connected to is told; `--cut` ends it",
    ),
    (45, "UDP that is inherited", "as of TCP"),
    (
        45,
        "handed over through a unix socket",
        "who hands it over is told; a rule about the unix socket refuses it",
    ),
    (
        45,
        "taken from a process outside, whose socket was met",
        "only with root's capabilities, which a contained run does not have",
    ),
];
