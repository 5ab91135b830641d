//! The cases that a deployment guard meets, and which test shows what becomes of each.
//!
//! `docs/coverage.md` is made from this table (`UPDATE_REFERENCES=1 cargo test -p blackstart-lab --test workspace`); a test
//! checks that the tests exist. What no test of this workspace shows is `NotTested`, whatever the code may do.

use std::fmt::Write as _;

/// Whose doing a case is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Ordinary tools, ordinary mistakes.
    Accident,
    /// Somebody with root inside the run who means it.
    Hostile,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is refused where the policy says so.
    Refused,
    /// It passes, and is recorded with its process.
    Recorded,
    /// Nothing runs.
    RefusedAtStart,
    /// The report names that it could not be seen.
    Gap,
    /// It is nothing that reaches out: what it asks for is so.
    Kept,
    /// No test shows it.
    NotTested,
}

/// Where its test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// On the kernel of the machine that builds.
    Lab,
    /// On each kernel of `scripts/vm/kernels`, too.
    Matrix,
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
    /// What becomes of it.
    pub outcome: Outcome,
    /// File and name of the tests that show it.
    pub shown_by: &'static [(&'static str, &'static str)],
    /// What they leave open, or under which condition they hold.
    pub remark: &'static str,
    /// Where they run.
    pub tier: Tier,
}

const fn case(number: u8, whose: Whose, title: &'static str) -> Case {
    Case {
        number,
        whose,
        title,
        outcome: Outcome::NotTested,
        shown_by: &[],
        remark: "",
        tier: Tier::Lab,
    }
}

impl Case {
    const fn is(self, outcome: Outcome, shown_by: &'static [(&'static str, &'static str)]) -> Self {
        Self {
            outcome,
            shown_by,
            ..self
        }
    }

    const fn remark(self, remark: &'static str) -> Self {
        Self { remark, ..self }
    }

    const fn on_the_matrix(self) -> Self {
        Self {
            tier: Tier::Matrix,
            ..self
        }
    }
}

use Outcome::{Gap, Kept, Recorded, Refused, RefusedAtStart};
use Whose::{Accident, Hostile};

const ATTACH: &str = "tests/attach.rs";
const ENFORCE: &str = "tests/enforce.rs";
const OBSERVE: &str = "tests/observe.rs";
const CONTAIN: &str = "tests/contain.rs";
const LIFETIME: &str = "tests/lifetime.rs";
const POLICY: &str = "tests/policy.rs";
const CLAIMS: &str = "tests/claims.rs";
const RESOLVERS: &str = "tests/resolvers.rs";
const ATTEMPTS: &str = "tests/attempts.rs";
const NOTIFY: &str = "tests/notify.rs";
const STORIES: &str = "tests/bin/vm/stories.rs";
const UNIX_STORIES: &str = "tests/bin/vm/unix.rs";
const KTLS_STORY: &str = "tests/bin/vm/ktls.rs";
const DELEGATES: &str = "tests/delegates.rs";
const OVER_TCP: &str = "tests/dns_over_tcp.rs";
const MALFORMED: &str = "tests/dns_malformed.rs";
const REWRITTEN: &str = "tests/dns_rewritten.rs";
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
    case(1, Accident, "a query from an unconnected UDP socket (musl, dig)")
        .is(Refused, &[(ENFORCE, "a_denied_name_is_refused_to_every_resolver")]),
    case(2, Accident, "a query from a connected UDP socket")
        .is(Refused, &[(ENFORCE, "a_denied_name_is_refused_to_every_resolver")])
        .on_the_matrix(),
    case(3, Accident, "DNS over TCP, asked for by a cut answer").is(
        Refused,
        &[
            (OVER_TCP, "a_truncated_answer_is_asked_for_again_over_tcp"),
            (OVER_TCP, "dig_is_answered_and_refused_as_over_udp"),
            (OVER_TCP, "glibc_over_tcp_leases_before_it_connects"),
        ],
    ),
    case(4, Hostile, "several queries in one TCP connection, a later one denied")
        .is(Refused, &[(OVER_TCP, "each_message_of_a_stream_is_judged_however_it_is_cut")]),
    case(5, Hostile, "a query cut into TCP segments")
        .is(Refused, &[(OVER_TCP, "each_message_of_a_stream_is_judged_however_it_is_cut")]),
    case(6, Hostile, "a query with several questions").is(
        Refused,
        &[
            (MALFORMED, "queries_that_cannot_be_judged_are_refused_in_enforce_and_a_gap_in_observe"),
            (QUERIES, "what_cannot_be_judged_is_refused_in_enforce_and_counted_in_observe"),
        ],
    ),
    case(7, Accident, "a stub resolver on loopback").is(Refused, &[(RESOLVERS, "a_stub_on_loopback_is_judged_as_the_server_that_it_is_for_the_run")]),
    case(8, Accident, "lookups through systemd-resolved's own socket")
        .is(RefusedAtStart, &[("crates/guard/src/plan.rs", "a_resolver_daemon_out_of_sight_is_a_hole_in_enforcing")])
        .remark("on kernels without hooks for unix sockets, unless --hide-sockets; on others it is not tested"),
    case(9, Accident, "lookups through nscd or sssd").is(Recorded, &[(RESOLVERS, "a_daemon_that_caches_names_is_not_asked")]).remark("the daemon is not reached, libc asks a name server instead; sssd is not tested"),
    case(10, Accident, "names from /etc/hosts, LLMNR, mDNS").is(Refused, &[(ENFORCE, "names_from_the_hosts_file_have_leases"), (RESOLVERS, "names_that_are_asked_of_a_whole_network_are_attempts_at_its_address")]).remark("/etc/hosts by name; LLMNR and mDNS as addresses, under `default: deny`"),
    case(11, Accident, "a cache that was warm before the run")
        .is(Refused, &[(ENFORCE, "default_deny_allows_only_what_is_listed")])
        .remark("as any address that nobody looked up; by a deny-list it passes as `unnamed`"),
    case(12, Accident, "an application's cache or connections from before the run").is(Recorded, &[(ATTEMPTS, "an_address_that_a_program_has_kept_passes_a_deny_list_and_lowers_coverage"), (ATTACH, "connections_that_were_open_are_listed_and_left_or_cut")]).remark("as `unnamed`, which lowers coverage; connections as such, for `attach` (see 45 too)"),
    case(13, Accident, "a container's resolver, search lists, ndots")
        .is(
            Refused,
            &[
                (REWRITTEN, "lookups_are_judged_and_leased_as_if_nothing_were_rewritten"),
                (REWRITTEN, "what_cannot_be_read_does_not_pass_for_being_rewritten"),
                (LEASES, "a_name_on_the_search_list_passes_without_a_lease"),
            ],
        ),
    case(14, Accident, "DNS on other ports").is(Recorded, &[(RESOLVERS, "lookups_on_another_port_are_attempts_at_that_server")]).remark("as an attempt at that server, which a rule about its port or `default: deny` refuses"),
    case(15, Accident, "DNS over HTTPS")
        .is(Gap, &[(ASSEMBLY, "no_report_says_that_everything_was_in_sight")])
        .remark("the connection is judged like any other"),
    case(16, Hostile, "DNS over TLS or QUIC")
        .is(Gap, &[(ASSEMBLY, "no_report_says_that_everything_was_in_sight")])
        .remark("the connection is judged like any other"),
    case(17, Hostile, "data in lookups below an allowed name").is(Recorded, &[(RESOLVERS, "data_in_lookups_below_an_allowed_name_is_in_the_record")]),
    case(18, Hostile, "an allowed name with a protected or link-local address").is(Refused, &[(RESOLVERS, "an_allowed_name_opens_no_address_that_is_denied")]).remark("where a rule denies the address"),
    case(19, Accident, "CNAME chains, hints of addresses").is(
        Refused,
        &[
            (ENFORCE, "a_chain_that_touches_a_denied_name_is_refused"),
            (ANSWERS, "only_one_chain_from_the_question_counts"),
            (LEASES, "the_link_that_is_denied_most_strongly_counts"),
            (POLICY, "a_waiver_holds_for_a_name_that_is_an_alias"),
        ],
    ),
    case(20, Accident, "case, trailing dot, IDN, longest names, odd octets").is(
        Refused,
        &[
            (ENFORCE, "a_denied_name_is_refused_to_every_resolver"),
            (QUERIES, "case_and_edns_change_nothing"),
            (QUERIES, "the_longest_name_is_judged_like_any_other"),
        ],
    ),
    case(21, Accident, "names that only look alike, public suffixes").is(
        Refused,
        &[
            (ENFORCE, "a_denied_name_is_refused_to_every_resolver"),
            ("crates/core/src/name/pattern.rs", "the_design_page_s_table"),
            (BAD_INPUT, "a_pattern_at_a_public_suffix"),
        ],
    ),
    case(22, Accident, "rotation, a hundred records, addresses used past their TTL").is(Recorded, &[(ENFORCE, "a_hundred_addresses_all_permit"), (ANSWERS, "every_record_of_a_long_answer_is_leased"), (RESOLVERS, "an_address_may_be_used_past_the_time_of_its_answer")]),
    case(23, Accident, "a name server that is down, slow or wrong")
        .is(Recorded, &[(OBSERVE, "failing_lookups_end_as_they_do_without_the_guard")]),
    case(24, Hostile, "the same query id from two processes").is(Refused, &[(LEASES, "another_server_cannot_answer"), (LEASES, "what_nobody_asked_for_gives_no_lease"), (RESOLVERS, "two_processes_with_one_query_id_have_each_its_own_answer")]),
    // Addresses and what carries them.
    case(25, Accident, "a literal IPv4 address")
        .is(
            Refused,
            &[
                (ENFORCE, "addresses_are_denied_by_prefix_however_they_are_reached"),
                (OBSERVE, "every_way_to_reach_out_is_recorded"),
            ],
        )
        .on_the_matrix(),
    case(26, Accident, "an address in decimal, hexadecimal or octal").is(Refused, &[(ATTEMPTS, "an_address_is_the_same_however_it_is_written")]),
    case(27, Accident, "IPv6, and IPv4 mapped into it")
        .is(
            Refused,
            &[
                (ENFORCE, "addresses_are_denied_by_prefix_however_they_are_reached"),
                (OBSERVE, "every_way_to_reach_out_is_recorded"),
            ],
        )
        .on_the_matrix(),
    case(28, Accident, "one address with an allowed and a denied name")
        .is(
            Refused,
            &[
                (ENFORCE, "an_address_with_an_allowed_and_a_denied_name_passes_for_the_allowed_one"),
                (CLAIMS, "a_denied_name_on_an_allowed_address_is_refused_at_once"),
                (CLAIMS, "a_hello_is_read_however_it_is_cut_and_however_large_it_is"),
                (CLAIMS, "a_request_is_read_however_it_is_sent"),
                (CLAIMS, "real_clients_are_refused_and_pass"),
                ("crates/kernel/src/session/tests/heads.rs", "sound_hellos_are_read_wherever_the_name_stands"),
            ],
        )
        .remark("the lookup, and the name in TLS and HTTP/1; what an encrypted hello hides is a counted gap")
        .on_the_matrix(),
    case(29, Accident, "a redirect from an allowed to a denied name")
        .is(Refused, &[(CLAIMS, "a_redirect_to_a_denied_name_ends_there")]),
    case(30, Accident, "QUIC")
        .is(Recorded, &[(CLAIMS, "quic_is_judged_by_its_address_and_what_it_says_is_a_gap")])
        .remark("judged by its address; the name in it is a counted gap"),
    case(31, Accident, "other ports: ssh, git, rsync")
        .is(Recorded, &[("tests/tools.rs", "git_clone")])
        .remark("git's own protocol"),
    case(32, Hostile, "ICMP, SCTP, UDP-Lite, raw IP, packet sockets")
        .is(
            Refused,
            &[
                (CONTAIN, "what_no_program_judges_is_not_sent"),
                (ENFORCE, "a_socket_of_a_kind_that_hooks_see_in_part_is_judged_for_each_destination"),
                (CONTAIN, "a_kind_of_socket_is_refused_with_its_process_or_recorded_with_it"),
                ("crates/kernel/src/spawn/filter.rs", "a_32_bit_program_makes_no_such_socket_either"),
            ],
        )
        .remark(
            "under an enforced `default: deny`; otherwise recorded, packet sockets a gap. SCTP is skipped where the kernel lacks it",
        ),
    case(33, Hostile, "IP options, fragments, extension headers")
        .is(
            Refused,
            &[
                (QUERIES, "options_and_extension_headers_are_refused"),
                (PACKETS, "a_query_in_an_odd_packet_is_refused"),
            ],
        )
        .remark("of lookups"),
    case(34, Accident, "TCP Fast Open, MPTCP")
        .is(Refused, &[(CLAIMS, "what_is_sent_on_ways_that_are_not_seen_is_a_counted_gap")])
        .remark("by connect(); the names that such a connection gives are a counted gap"),
    case(35, Hostile, "io_uring, sendmmsg, splice, zero copy")
        .is(
            Refused,
            &[
                (CONTAIN, "what_no_program_judges_is_not_sent"),
                (CLAIMS, "a_request_is_read_however_it_is_sent"),
                (KTLS_STORY, "ktls"),
            ],
        )
        .remark("io_uring, under an enforced `default: deny`; splice and sendfile of a denied name's request; kTLS on 6.1, 6.12 and 6.18, and skipped on kernels whose modules are in another package; the others are not tested"),
    case(36, Hostile, "vsock, helpers behind unix sockets, relays on loopback")
        .is(
            Refused,
            &[
                (CONTAIN, "what_no_program_judges_is_not_sent"),
                (OBSERVE, "who_listens_behind_a_unix_socket_is_named_unless_it_is_of_the_run"),
                (ATTEMPTS, "a_relay_on_loopback_is_a_destination_of_its_own"),
                (POLICY, "a_daemons_socket_is_refused_by_a_rule"),
                (DELEGATES, "a_denied_socket_is_out_of_reach_by_every_path"),
                (OBSERVE, "who_listens_behind_a_port_of_loopback_is_named_unless_it_is_of_the_run"),
            ],
        )
        .remark("vsock, under an enforced `default: deny`, otherwise a gap; helpers and relays where a rule denies them, otherwise recorded, with who listens"),
    case(37, Accident, "a proxy that is named in the environment")
        .is(
            Refused,
            &[(CLAIMS, "what_a_proxy_is_asked_for_is_judged_and_recorded_as_a_destination_of_its_own")],
        )
        .remark("at ports that are inspected, by name and by address"),
    // Processes and what holds them.
    case(38, Accident, "a daemon that outlives the script")
        .is(Recorded, &[(LIFETIME, "leftovers_are_released_or_killed")]),
    case(39, Accident, "sudo, su, helpers with more privilege").is(
        Refused,
        &[
            ("tests/terminal.rs", "another_user_by_sudo_is_still_of_the_run"),
            (CONTAIN, "what_a_rehearsal_does_works_contained"),
        ],
    ),
    case(40, Hostile, "leaving the cgroup: by hand, into a new one, by clone3")
        .is(
            Refused,
            &[
                (CONTAIN, "nobody_leaves_the_cgroup"),
                (LIFETIME, "who_leaves_an_enforced_run_is_moved_back"),
                (LIFETIME, "a_cgroup_that_was_made_for_a_process_keeps_it"),
            ],
        )
        .remark("contained; otherwise moved back, and who goes into a new one is recorded, with a finding")
        .on_the_matrix(),
    case(41, Hostile, "other and new network and user namespaces")
        .is(
            Refused,
            &[
                (CONTAIN, "what_no_program_judges_is_not_sent"),
                (CONTAIN, "a_user_namespace_gives_nothing_back"),
                (LIFETIME, "a_run_in_another_network_namespace_is_guarded_and_answered"),
            ],
        ),
    case(42, Accident, "containers, and what their daemon fetches")
        .is(
            Recorded,
            &[("tests/containers.rs", "a_container_that_a_run_starts_is_told_to_have_left")],
        )
        .remark("podman without a daemon; what dockerd fetches is not tested"),
    case(43, Accident, "systemd-run, at, cron, activation by D-Bus or socket")
        .is(
            Refused,
            &[
                (POLICY, "a_daemons_socket_is_refused_by_a_rule"),
                (DELEGATES, "a_denied_socket_is_out_of_reach_by_every_path"),
                (UNIX_STORIES, "denied"),
                (UNIX_STORIES, "contacts"),
                (UNIX_STORIES, "made_anew"),
            ],
        )
        .remark("by a `unix:` rule about the daemon's socket; before 6.7 with --hide-sockets, and a socket that is made anew is then a counted gap")
        .on_the_matrix(),
    case(44, Accident, "ssh to a host that fetches").is(Recorded, &[(ATTEMPTS, "work_that_is_done_on_another_host_is_seen_as_the_way_there")]).remark("as the connection to that host; what it fetches is for the graph to know"),
    case(45, Accident, "sockets that are inherited or handed over")
        .is(
            Gap,
            &[
                ("crates/guard/src/inherited.rs", "a_socket_that_the_command_would_get_is_told"),
                (ASSEMBLY, "no_report_says_that_everything_was_in_sight"),
                (ATTACH, "datagrams_of_sockets_that_were_open_are_judged_and_have_their_process"),
            ],
        ),
    case(46, Hostile, "the guard itself: its programs, maps, process")
        .is(
            Refused,
            &[
                (CONTAIN, "nobody_touches_the_programs"),
                (CONTAIN, "nobody_outside_can_be_reached_into"),
                (CONTAIN, "the_supervisor_cannot_be_named_and_the_policy_not_be_changed"),
                (CONTAIN, "nobody_plants_work_for_the_next_command"),
                (CONTAIN, "a_signal_to_the_whole_group_leaves_the_run_guarded"),
                (LIFETIME, "a_killed_supervisor_leaves_its_run_guarded_and_the_next_command_sweeps"),
                (LIFETIME, "a_stopped_supervisor_changes_nothing_for_the_run"),
            ],
        )
        .remark("contained; otherwise the gap `contain`. Without a supervisor a run stays guarded"),
    case(47, Accident, "a guard that is upgraded while a run is on").is(Kept, &[(ATTEMPTS, "a_run_outlives_the_program_that_guards_it")]),
    case(48, Hostile, "a mark, pid or port that looks like the guard's own").is(Refused, &[(ATTEMPTS, "no_mark_port_or_number_makes_an_attempt_the_guard_s_own")]),
    case(49, Accident, "runs beside and within runs, hybrid cgroups, namespaces").is(
        Refused,
        &[
            (LIFETIME, "two_runs_at_once_each_have_their_own_policy"),
            (LIFETIME, "a_run_within_a_run_obeys_both"),
            ("tests/systemd.rs", "a_run_on_a_hybrid_host_is_a_scope_as_well"),
        ],
    ),
    case(50, Accident, "processes gone at once, rewritten or long arguments, secrets in them")
        .is(
            Recorded,
            &[
                (OBSERVE, "many_short_processes_are_all_named"),
                ("crates/core/src/redact.rs", "secrets_go"),
            ],
        ),
    // Load.
    case(51, Accident, "a hundred thousand sockets, ten thousand names").is(Recorded, &[(ATTEMPTS, "a_hundred_thousand_sockets_and_ten_thousand_names_are_all_counted")]),
    case(52, Accident, "a flood of the live view").is(Recorded, &[(ATTEMPTS, "a_flood_thins_the_live_view_and_not_the_record")]),
    case(53, Accident, "a connect by another thread than the one that looked up").is(Recorded, &[(ATTEMPTS, "a_connect_belongs_to_the_process_whichever_thread_makes_it")]),
    case(54, Accident, "a packet that is sent again in another process's time").is(Recorded, &[(ATTEMPTS, "what_the_kernel_sends_again_is_no_attempt_and_nobody_else_s")]),
    case(55, Accident, "a full disk")
        .is(
            Kept,
            &[
                ("crates/cli/tests/unguarded.rs", "a_report_that_can_no_longer_be_written_is_shown_and_changes_nothing"),
                ("crates/guard/src/run/tests.rs", "a_cgroup_that_cannot_be_recorded_is_made_without_a_state_directory"),
                (LIFETIME, "a_disk_that_is_full_or_cannot_be_written_holds_no_run_up"),
            ],
        ),
    case(56, Accident, "a clock that jumps").is(Kept, &[(STORIES, "clock_that_jumps")]).on_the_matrix(),
    // Policy, and the life of a run.
    case(57, Accident, "an empty list is no permission").is(
        Refused,
        &[
            (ENFORCE, "default_deny_allows_only_what_is_listed"),
            (BAD_INPUT, "an_empty_allow_list_denies_everything"),
        ],
    ),
    case(58, Accident, "an unknown key, a typo, a bad line").is(
        RefusedAtStart,
        &[
            (BAD_INPUT, "an_unknown_key"),
            ("tests/command.rs", "a_wrong_policy_stops_everything_with_all_diagnostics_at_once"),
        ],
    ),
    case(59, Accident, "rules that contradict each other, an allow of every address").is(
        RefusedAtStart,
        &[
            (BAD_INPUT, "an_allow_of_every_address"),
            ("crates/core/tests/meaning.rs", "the_order_of_rules_changes_no_verdict"),
        ],
    ),
    case(60, Accident, "a policy that lies in the tree that is deployed")
        .is(
            Recorded,
            &[
                ("crates/cli/src/resolve.rs", "a_policy_in_the_tree_that_is_deployed_is_remarked"),
                (
                    "crates/cli/src/deployed.rs",
                    "what_is_deployed_is_known_by_the_command_its_script_and_where_it_starts",
                ),
            ],
        )
        .remark("a warning to whoever starts or reloads the run, and the report lists the policy's files"),
    case(61, Accident, "a host that cannot enforce")
        .is(
            RefusedAtStart,
            &[
                ("tests/command.rs", "enforce_without_what_it_needs_runs_nothing_and_observe_runs"),
                ("crates/cli/tests/unguarded.rs", "enforce_without_privilege_runs_nothing"),
            ],
        )
        .on_the_matrix(),
    case(62, Accident, "the first packet, and one during a change of policy")
        .is(
            Refused,
            &[
                (POLICY, "the_policy_of_a_run_is_changed_while_it_is_on"),
                (TAKEOVER, "the_mode_takes_over_with_the_rules"),
            ],
        ),
    case(63, Accident, "an end that leaves nothing, and touches nobody else's").is(
        Kept,
        &[
            (LIFETIME, "two_runs_at_once_each_have_their_own_policy"),
            (ATTACH, "what_a_service_reaches_for_is_seen_and_it_is_left_as_it_was"),
            (LEASES, "closed_sockets_leave_nothing_behind"),
        ],
    ),
    case(64, Accident, "a refusal that ends at once, of UDP and of TCP")
        .is(
            Refused,
            &[(ENFORCE, "addresses_are_denied_by_prefix_however_they_are_reached")],
        )
        .on_the_matrix(),
    case(65, Accident, "other traffic of the host to the same address").is(
        Kept,
        &[(ENFORCE, "another_process_on_the_host_is_untouched_at_the_same_time")],
    ),
    case(66, Accident, "what the guard itself needs is cut off").is(
        Kept,
        &[
            (ATTEMPTS, "the_guard_needs_nothing_that_its_policy_takes_away"),
            (NOTIFY, "what_hangs_or_is_down_holds_up_nobody"),
        ],
    ),
    case(67, Accident, "a tool that tries for ever what is refused")
        .is(Kept, &[("tests/limits.rs", "a_command_that_hangs_is_ended_and_says_on_what")])
        .on_the_matrix(),
    // Found while this was made.
    case(68, Hostile, "several queries in one buffer (UDP GSO)")
        .is(Refused, &[(QUERIES, "several_datagrams_in_one_buffer_are_refused")]),
    case(69, Hostile, "a query that is rewritten after it was judged").is(Refused, &[(RESOLVERS, "a_query_in_memory_that_can_still_be_written_to_is_refused")]),
    case(70, Hostile, "a process that answers its own lookups")
        .is(Refused, &[(LEASES, "a_server_that_is_not_listed_gives_no_lease_that_permits")]),
];

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Recorded => "recorded",
            Self::RefusedAtStart => "refused at start",
            Self::Gap => "gap",
            Self::Kept => "kept",
            Self::NotTested => "**not tested**",
        }
    }
}

/// The document.
pub fn document() -> String {
    let tested = CASES
        .iter()
        .filter(|case| case.outcome != Outcome::NotTested);
    let mut text = format!(
        "# Which cases are covered, and by what\n\n\
         Made from `tests/lab/cases.rs`; a test says how to make it anew. {} of {} cases have a test. Of a hostile case the technique\n\
         is tried outside first, where it must work.\n\n\
         *Refused*: where the policy says so. *Recorded*: it passes, with its process in the report. *Refused at start*: nothing runs.\n\
         *Gap*: the report names that it could not be seen. *Kept*: it is nothing that reaches out, and what it asks for is so.\n\
         A: ordinary tools and mistakes; H: root inside the run that means it. Kernels: \"all\" are those of `scripts/vm/kernels`, \"one\" is\n\
         that of the machine that builds.\n\n\
         | | | case | outcome | shown by | kernels |\n|---|---|---|---|---|---|\n",
        tested.count(),
        CASES.len()
    );
    for case in &CASES {
        let shown: Vec<_> = case
            .shown_by
            .iter()
            .map(|(file, test)| format!("`{}::{test}`", short(file)))
            .collect();
        let remark = match case.remark {
            "" => String::new(),
            remark => format!(" ({remark})"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {}{remark} | {} | {} |",
            case.number,
            match case.whose {
                Whose::Accident => "A",
                Whose::Hostile => "H",
            },
            case.title,
            case.outcome.text(),
            shown.join(", "),
            match (case.outcome, case.tier) {
                (Outcome::NotTested, _) => "",
                (_, Tier::Lab) => "one",
                (_, Tier::Matrix) => "all",
            }
        );
    }
    text
}

/// `tests/enforce.rs` is `enforce`, `crates/core/src/name/pattern.rs` is `core/name/pattern`.
fn short(file: &str) -> String {
    let file = file.strip_suffix(".rs").unwrap_or(file);
    let file = file.strip_prefix("tests/").unwrap_or(file);
    let file = file.strip_prefix("crates/").unwrap_or(file);
    file.replace("/src/", "/").replace("/tests/", "/")
}
