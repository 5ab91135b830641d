//! What the kernel decides is what `core::decide` decides: random policies, random attempts, no difference.
//!
//! The tables are a session's own, filled by the loader as for any run; a small program of the same type as the
//! packet programs calls the functions that they call. `BLACKSTART_PAIRS` says how many pairs are compared.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::net::IpAddr;

use blackstart_core::decide::{Attempt, Decision, Lease, decide, decide_claim, decide_lookup};
use blackstart_core::name::Name;
use blackstart_core::path::usual;
use blackstart_core::policy::{Effect as Says, Failure, Policy, Rule, Target};
use blackstart_core::record::Verdict;
use blackstart_core::report::Mode;
use blackstart_core::tables::{
    BUILTIN, ClassId, Facts, Outcome, Protocol, RULE_DEFAULT, Tables, compile,
};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, ProgramInput};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};

use super::wire::need_root;
use cases::{ATTEMPTS, Case, Link, NAMES, Near, PATHS, Port, any_case};

use crate::abi::{self, Plain};
use crate::fill::{NameKeys, Offsets, PolicyRows, Rows, word, words};
use crate::session::reload::Room;
use crate::session::{Session, Settings};

mod cases;

#[expect(
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "generated from the object's BTF"
)]
pub(super) mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/trial.skel.rs"));
}
use skeleton::TrialSkelBuilder;
use skeleton::types::{
    bs_attempt, bs_config, bs_live, bs_policy, bs_spared, bs_trial_claim, bs_trial_name,
    bs_trial_path,
};

// SAFETY: one struct of abi.h, without implicit padding.
unsafe impl Plain for bs_config {}
// SAFETY: the same, as a run's own object has it.
unsafe impl Plain for abi::bs_config {}

// SAFETY: as above.
unsafe impl Plain for bs_spared {}
// SAFETY: as above.
unsafe impl Plain for bs_policy {}
// SAFETY: as above.
unsafe impl Plain for bs_live {}
// SAFETY: as above.
unsafe impl Plain for abi::bs_live {}
// SAFETY: as above.
unsafe impl Plain for bs_trial_path {}
// SAFETY: plain widths, and what clang leaves between them is a field of its own in the generated type.
unsafe impl Plain for bs_attempt {}
// SAFETY: as above.
unsafe impl Plain for bs_trial_name {}
// SAFETY: as above.
unsafe impl Plain for bs_trial_claim {}

/// As many pairs as a run of all tests has time for.
const PAIRS: usize = 50_000;

/// What is leased for an address, as `core` sees it, and whether all of it is told apart by whoever asked.
#[derive(Default)]
struct Leased {
    leases: Vec<Lease>,
    plain: bool,
}

/// What a case is compared by.
struct Against<'a> {
    case: &'a Case,
    tables: &'a Tables,
    /// Where the policy's rows lie in the kernel.
    at: Offsets,
}

/// Compare one case; how many pairs were compared, or what differs.
fn compare(case: &Case) -> Result<usize, TestCaseError> {
    let facts = Facts {
        search: case.search.clone(),
    };
    let tables = compile(&case.policy, &facts).expect("few rules compile");
    let hosts: Vec<(String, IpAddr)> = case
        .hosts
        .iter()
        .filter_map(|(near, address)| Some((near.name(&case.patterns)?.to_string(), *address)))
        .collect();
    let before = before(case);
    let first = if case.reloaded { &before } else { &case.policy };
    let settings = Settings {
        tables: &compile(first, &facts).expect("few rules compile"),
        rules: first.rules.len() as u32,
        resolvers: &case.resolvers,
        own_addresses: &case.own,
        hosts: &hosts,
        forwarder: None,
        one_of_many: false,
        tracer: None,
    };
    let mut session =
        Session::load(&BTreeSet::new(), &settings).expect("a session without programs");
    if case.reloaded {
        session
            .reload(&tables, case.policy.rules.len() as u32, Mode::Observe)
            .expect("another policy");
    }

    let at = offsets(case);
    let mut leased: BTreeMap<IpAddr, Leased> = Default::default();
    for (text, address) in &hosts {
        let class = tables.class_of_name(&Name::parse(text).expect("was a name"));
        let lease = Lease {
            class,
            deny_class: 0,
        };
        let at = leased.entry(address.to_canonical()).or_default();
        if !at.leases.contains(&lease) && at.leases.len() < 8 {
            at.leases.push(lease);
        }
    }
    for (address, links) in &case.leased {
        let address = address.to_canonical();
        if let Entry::Vacant(free) = leased.entry(address) {
            let leases = put_leases(&session, &tables, case, &at, address, links);
            free.insert(Leased {
                leases,
                plain: true,
            });
        }
    }
    let Judged {
        attempts,
        names,
        paths,
        claims,
    } = in_kernel(&session, &tables, case);
    let against = Against {
        case,
        tables: &tables,
        at,
    };

    for ((attempt, path), got) in case
        .attempts
        .iter()
        .zip(case.paths.iter().cycle())
        .zip(&attempts)
    {
        judge(
            &against,
            &leased,
            attempt,
            tables.selectors_of(path.as_bytes()),
            got,
        )?;
    }
    for (((attempt, path), (n, claim)), got) in case
        .attempts
        .iter()
        .zip(case.paths.iter().cycle())
        .zip((0..).zip(case.names.iter().cycle()))
        .zip(&claims)
    {
        let claim = claim.name(&case.patterns);
        judge_claim(
            &against,
            &leased,
            attempt,
            tables.selectors_of(path.as_bytes()),
            claim.map_or(0, |name| tables.class_of_name(&name)),
            n % 3 != 0,
            got,
        )?;
    }
    let keys = keys_of(&session);
    for ((near, path), got) in case.names.iter().zip(case.paths.iter().cycle()).zip(&names) {
        look_up(
            &against,
            keys,
            near,
            tables.selectors_of(path.as_bytes()),
            got,
        )?;
    }
    for (path, got) in case.paths.iter().zip(&paths) {
        let path = path.as_bytes();
        prop_assert_eq!(got.ends[0], tables.selectors_of(path), "{:?}", path);
        // Of what is relative the kernel says more; and no socket's path is longer.
        if !path.starts_with(b"/") || path.len() > 108 {
            continue;
        }
        let class = match tables.sockets.next.is_empty() {
            true => 0,
            false => u64::from(tables.class_of_socket(path) + at.class),
        };
        prop_assert_eq!(got.ends[1], class, "{:?}", path);
        let text = got.usual.split(|&octet| octet == 0).next();
        prop_assert_eq!(text, Some(&*usual(path)), "{:?}", path);
    }
    Ok(attempts.len() + claims.len() + names.len() + paths.len())
}

/// The policy that a case's takes over from: as large, and of another opinion.
fn before(case: &Case) -> Policy {
    let mut policy = case.policy.clone();
    policy.default = match policy.default {
        Says::Allow => Says::Deny,
        Says::Deny => Says::Allow,
    };
    policy.rules.reverse();
    policy.rules.push(Rule::new(Says::Deny, Target::Any));
    policy
}

/// Where a case's policy lies in the tables: second, behind the room that a small policy gets, or first.
fn offsets(case: &Case) -> Offsets {
    if !case.reloaded {
        return Offsets::default();
    }
    let facts = Facts {
        search: case.search.clone(),
    };
    let before = before(case);
    let tables = compile(&before, &facts).expect("few rules compile");
    let keys = NameKeys {
        name: 1,
        label: 1,
        multiplier: 1,
    };
    let rows = PolicyRows::new(&tables, keys, &Offsets::default());
    Room::for_policy(&rows).offsets(1, before.rules.len() as u32)
}

/// Write what answers would have left behind, and hand back what it says.
fn put_leases(
    session: &Session,
    tables: &Tables,
    case: &Case,
    at: &Offsets,
    address: IpAddr,
    links: &[Link],
) -> Vec<Lease> {
    let class_of = |near: &Near| -> Option<ClassId> {
        near.name(&case.patterns)
            .map(|name| tables.class_of_name(&name))
    };
    let mut leases = Vec::new();
    let mut row: abi::bs_lease = abi::zeroed();
    for (asked, chain) in links {
        let Some(class) = class_of(asked) else {
            continue;
        };
        let deny_class = tables.denying_link(chain.iter().filter_map(class_of));
        row.slot[leases.len()] = abi::bs_lease_slot {
            name: 1 + leases.len() as u64,
            subject: 1,
            class_id: class + at.class,
            deny_class: if deny_class == 0 {
                0
            } else {
                deny_class + at.class
            },
            generation: u16::from(case.reloaded),
            ..abi::zeroed()
        };
        leases.push(Lease { class, deny_class });
    }
    row.used = leases.len() as u32;
    if !leases.is_empty() {
        let key = abi::bs_address {
            addr: words(address),
        };
        let rows = &session.maps.bs_leases;
        let there = rows.lookup(abi::octets(&key), MapFlags::ANY).unwrap();
        let there = there.and_then(|octets| abi::value::<abi::bs_lease>(&octets));
        row.known = there.map_or(0, |there| there.known);
        rows.update(abi::octets(&key), abi::octets(&row), MapFlags::ANY)
            .unwrap();
    }
    leases
}

/// The constants that this session's programs were loaded with.
fn config_of(session: &Session) -> abi::bs_config {
    let constants = session.skeleton.as_ref().unwrap().maps.rodata_data;
    constants.expect("the object has constants").config
}

/// The secrets that this session's names are hashed with.
fn keys_of(session: &Session) -> NameKeys {
    let config = config_of(session);
    NameKeys {
        name: config.name_key,
        label: config.label_key,
        multiplier: config.multiplier,
    }
}

/// What the kernel made of a case.
struct Judged {
    attempts: Vec<bs_attempt>,
    names: Vec<bs_trial_name>,
    paths: Vec<bs_trial_path>,
    claims: Vec<bs_trial_claim>,
}

/// Let the kernel judge all of it, in one call.
fn in_kernel(session: &Session, tables: &Tables, case: &Case) -> Judged {
    let selectors = || {
        case.paths
            .iter()
            .cycle()
            .map(|path| tables.selectors_of(path.as_bytes()))
    };
    let mut attempts = Rows::default();
    for ((n, (address, rule, protocol, port)), selectors) in
        (0u32..).zip(&case.attempts).zip(selectors())
    {
        let row = bs_attempt {
            subject: 1,
            selectors,
            generation: u32::from(case.reloaded),
            addr: words(*address),
            port: port.number(&case.policy, rule),
            protocol: *protocol,
            // As the socket hooks say of TCP, where the forwarder can be reached.
            forwarded: u8::from(*protocol == 6 && n % 2 == 1),
            ..abi::zeroed()
        };
        attempts.push(&n, &row);
    }
    let place = offsets(case);
    let mut claims = Rows::default();
    for (((n, (address, rule, _, port)), selectors), near) in (0u32..)
        .zip(&case.attempts)
        .zip(selectors())
        .zip(case.names.iter().cycle())
    {
        let class = near
            .name(&case.patterns)
            .map_or(0, |name| tables.class_of_name(&name));
        let row = bs_trial_claim {
            attempt: bs_attempt {
                subject: 1,
                selectors,
                generation: u32::from(case.reloaded),
                addr: words(*address),
                port: port.number(&case.policy, rule),
                protocol: 6,
                ..abi::zeroed()
            },
            class_id: class + place.class,
            somewhere: u32::from(n % 3 != 0),
        };
        claims.push(&n, &row);
    }
    let mut names = Rows::default();
    for ((n, near), selectors) in (0u32..).zip(&case.names).zip(selectors()) {
        let mut row: bs_trial_name = abi::zeroed();
        row.selectors = selectors;
        // What a longer name left behind in the buffer must not matter.
        row.read.name.wire = [b'a'; 256];
        let wire = wire_of(&near.labels(&case.patterns));
        let fits = wire.len().min(256);
        row.read.name.wire[..fits].copy_from_slice(&wire[..fits]);
        names.push(&n, &row);
    }

    let mut paths = Rows::default();
    for (n, path) in (0u32..).zip(&case.paths) {
        let mut row: bs_trial_path = abi::zeroed();
        row.path[..path.len()].copy_from_slice(path.as_bytes());
        paths.push(&n, &row);
    }

    let mut storage = MaybeUninit::uninit();
    let mut open = TrialSkelBuilder::default().open(&mut storage).unwrap();
    open.maps
        .bs_trial_attempts
        .set_max_entries(attempts.len().max(1))
        .unwrap();
    open.maps
        .bs_trial_names
        .set_max_entries(names.len().max(1))
        .unwrap();
    open.maps
        .bs_trial_paths
        .set_max_entries(paths.len().max(1))
        .unwrap();
    open.maps
        .bs_trial_claims
        .set_max_entries(claims.len().max(1))
        .unwrap();
    let config = config_of(session);
    let constants = open.maps.rodata_data.as_deref_mut().expect("constants");
    constants.config = abi::value(abi::octets(&config)).expect("one header, one size");
    // The programs of a run are cut to its policy, those that judge by a later one are whole.
    if !case.reloaded {
        let spared = crate::session::spared(tables.uses(), &BTreeSet::new());
        constants.spared = abi::value(abi::octets(&spared)).expect("one header, one size");
    }
    let variables = open.maps.bss_data.as_deref_mut().expect("variables");
    let skeleton = session.skeleton.as_ref().expect("nothing was let go");
    let own = skeleton.maps.bss_data.as_deref().expect("variables");
    variables.live = abi::value(abi::octets(&own.live)).expect("one header, one size");
    variables.live.enforce = u32::from(case.enforce);
    variables.live.break_glass = u32::from(case.break_glass);
    for (copy, own) in variables.policies.iter_mut().zip(&own.policies) {
        *copy = abi::value(abi::octets(own)).expect("one header, one size");
    }
    variables.kinds_of_octets = own.kinds_of_octets;
    variables.trial_paths = paths.len();
    variables.trial_attempts = attempts.len();
    variables.trial_names = names.len();
    variables.trial_claims = claims.len();
    for mut map in open.open_object_mut().maps_mut() {
        let name = map.name().to_owned();
        let name = name.to_str().filter(|name| !name.contains('.'));
        if let Some(own) = name.and_then(|name| session.maps.find(name)) {
            use std::os::fd::AsFd;
            map.reuse_fd(own.as_fd()).unwrap();
        }
    }
    let trial = open.load().expect("the kernel takes the trial program");
    attempts
        .write(&trial.maps.bs_trial_attempts, "attempts")
        .unwrap();
    names.write(&trial.maps.bs_trial_names, "names").unwrap();
    claims.write(&trial.maps.bs_trial_claims, "claims").unwrap();
    paths.write(&trial.maps.bs_trial_paths, "paths").unwrap();
    let frame = [0; 64];
    let input = ProgramInput {
        data_in: Some(&frame),
        ..ProgramInput::default()
    };
    assert_eq!(
        trial.progs.bs_trial.test_run(input).unwrap().return_value,
        1
    );
    Judged {
        attempts: rows_of(&trial.maps.bs_trial_attempts, case.attempts.len()),
        names: rows_of(&trial.maps.bs_trial_names, case.names.len()),
        paths: rows_of(&trial.maps.bs_trial_paths, case.paths.len()),
        claims: rows_of(&trial.maps.bs_trial_claims, case.attempts.len()),
    }
}

fn rows_of<T: Plain>(map: &impl MapCore, count: usize) -> Vec<T> {
    let mut rows: Vec<(u32, T)> = map
        .lookup_batch(1024, MapFlags::ANY, MapFlags::ANY)
        .unwrap()
        .filter_map(|(key, row)| Some((abi::value(&key)?, abi::value(&row)?)))
        .collect();
    rows.sort_by_key(|(key, _)| *key);
    rows.truncate(count);
    assert_eq!(rows.len(), count);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn wire_of(labels: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in labels {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label);
    }
    wire.push(0);
    wire
}

/// One attempt: verdict, rule, and whether it is told as ambiguous.
fn judge(
    &Against {
        case,
        tables,
        at: place,
    }: &Against<'_>,
    leased: &BTreeMap<IpAddr, Leased>,
    (address, rule, protocol, port): &(IpAddr, Index, u8, Port),
    selectors: u64,
    got: &bs_attempt,
) -> Result<(), TestCaseError> {
    let address = address.to_canonical();
    let port = port.number(&case.policy, rule);
    let known = |list: &[IpAddr]| list.iter().any(|one| one.to_canonical() == address);
    let kind = Protocol::from_number(u16::from(*protocol));
    let none = Leased {
        leases: Vec::new(),
        plain: true,
    };
    let at = leased.get(&address).unwrap_or(&none);
    let attempt = Attempt {
        address_class: tables.class_of_address(address),
        local: address.is_loopback() || known(&case.own),
        resolver_dns: port == 53
            && (kind == Protocol::Udp || got.forwarded != 0)
            && known(&case.resolvers),
        protocol: kind,
        port,
        selectors,
        leases: &at.leases,
    };
    let wanted = decide(tables, &attempt);
    same(
        case,
        place,
        &wanted,
        got,
        &format!("{address} {protocol} {port}: {attempt:?}"),
    )?;
    let denied = matches!(wanted.verdict, Verdict::Deny | Verdict::WouldDeny);
    let ambiguous = u32::from(got.attribution) == abi::bs_attribution::BS_AMBIGUOUS.0;
    if !denied && at.plain {
        prop_assert_eq!(ambiguous, wanted.ambiguous, "{} {}", address, port);
    } else if wanted.ambiguous {
        prop_assert!(ambiguous, "{} {}", address, port);
    }
    Ok(())
}

/// One name that a connection gives: at its address, or asked of a proxy.
fn judge_claim(
    &Against {
        case,
        tables,
        at: place,
    }: &Against<'_>,
    leased: &BTreeMap<IpAddr, Leased>,
    (address, rule, _, port): &(IpAddr, Index, u8, Port),
    selectors: u64,
    claim: ClassId,
    somewhere: bool,
    got: &bs_trial_claim,
) -> Result<(), TestCaseError> {
    let address = address.to_canonical();
    let port = port.number(&case.policy, rule);
    let own = case.own.iter().any(|one| one.to_canonical() == address);
    let leases = leased
        .get(&address)
        .filter(|_| somewhere)
        .map_or(&[][..], |at| &at.leases);
    let attempt = Attempt {
        address_class: if somewhere {
            tables.class_of_address(address)
        } else {
            0
        },
        local: somewhere && (address.is_loopback() || own),
        resolver_dns: false,
        protocol: Protocol::Tcp,
        port,
        selectors,
        leases,
    };
    let wanted = decide_claim(tables, &attempt, claim);
    let what = format!("{claim} at {address} {port}: {attempt:?}");
    same(case, place, &wanted, &got.attempt, &what)
}

/// Verdict, rule, and how a refusal ends.
fn same(
    case: &Case,
    place: Offsets,
    wanted: &Decision,
    got: &bs_attempt,
    what: &str,
) -> Result<(), TestCaseError> {
    let verdict = match (wanted.verdict, case.enforce, case.break_glass) {
        (Verdict::Deny, false, true) => abi::bs_verdict::BS_BREAK_GLASS,
        (Verdict::Deny, true, _) => abi::bs_verdict::BS_DENY,
        (Verdict::Deny | Verdict::WouldDeny, ..) => abi::bs_verdict::BS_WOULD_DENY,
        (Verdict::Waived, ..) => abi::bs_verdict::BS_WAIVED,
        (Verdict::Allow | Verdict::BreakGlass, ..) => abi::bs_verdict::BS_ALLOW,
    };
    let denied = matches!(wanted.verdict, Verdict::Deny | Verdict::WouldDeny);
    let at_rule = if wanted.rule == RULE_DEFAULT || wanted.rule >= BUILTIN {
        wanted.rule
    } else {
        wanted.rule + place.rule
    };
    let failure = match wanted.failure {
        Failure::Refuse(errno) => u32::from(errno),
        Failure::Blackhole => abi::bs_failure::BS_BLACKHOLE.0,
    };
    prop_assert_eq!(
        (u32::from(got.verdict), got.rule),
        (verdict.0, at_rule),
        "{}",
        what
    );
    if denied {
        prop_assert_eq!(u32::from(got.failure), failure, "{}", what);
    }
    Ok(())
}

/// One lookup: judgeable or not, hash, class, ruling.
fn look_up(
    &Against { case, tables, at }: &Against<'_>,
    keys: NameKeys,
    near: &Near,
    selectors: u64,
    got: &bs_trial_name,
) -> Result<(), TestCaseError> {
    let labels = near.labels(&case.patterns);
    let odd = |label: &Vec<u8>| {
        label.is_empty() || label.len() > 63 || label.contains(&b'.') || label.contains(&0)
    };
    let name = Name::from_labels(&labels)
        .ok()
        .filter(|_| !labels.iter().any(odd));
    let Some(name) = name else {
        prop_assert_eq!(got.scan, -1, "{:?} cannot be judged", labels);
        return Ok(());
    };
    prop_assert_eq!((got.scan, got.r#match), (0, 0), "{} can be judged", name);
    let read = &got.read.name;
    prop_assert_eq!(&read.wire[..usize::from(read.len)], name.as_wire());
    prop_assert_eq!(read.hash, keys.of_name(&name), "hash of {}", name);
    prop_assert_eq!(
        read.class_id,
        tables.class_of_name(&name) + at.class,
        "class of {}",
        name
    );
    let wanted = Outcome::Is(decide_lookup(tables, &name, selectors));
    prop_assert_eq!(got.lookup, word(wanted, &at), "{}", name);
    Ok(())
}

#[test]
fn the_kernel_decides_as_core_does() {
    need_root();
    let pairs: usize = match std::env::var("BLACKSTART_PAIRS") {
        Ok(text) => text.parse().expect("BLACKSTART_PAIRS is a number"),
        Err(_) => PAIRS,
    };
    let config = ProptestConfig {
        cases: pairs.div_ceil(ATTEMPTS + NAMES + PATHS) as u32,
        failure_persistence: None,
        // A case is a policy with a thousand pairs, and the message names the one that differs.
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let compared = std::cell::Cell::new(0);
    let verdict = runner.run(&any_case(), |case| {
        compared.set(compared.get() + compare(&case)?);
        Ok(())
    });
    println!("{} pairs compared", compared.get());
    match verdict {
        Ok(()) => assert!(compared.get() >= pairs),
        Err(TestError::Fail(why, case)) => {
            panic!("the kernel decides otherwise: {why}\n{:#?}", case.policy)
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
