//! Lookups over TCP: who is turned to the forwarder, and that what is written for its lookups is what those in
//! datagrams leave behind.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use blackstart_core::name::Name;
use blackstart_core::policy;
use blackstart_core::record::{Snapshot, Verdict};
use blackstart_core::report::Mode;
use blackstart_core::tables::{Facts, Tables, compile};
use libbpf_rs::MapCore;

use super::message::{A, Message, QUESTION, name};
use super::wire::{ALLOW_ALL, SERVERS, Wire};
use crate::abi;
use crate::session::reload::row;
use crate::{Asker, Listening, Unread};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A run whose lookups over TCP are turned to a socket of ours, if they are.
struct Turning {
    wire: Wire,
    forwarder: TcpListener,
    /// The servers, where connections go that are not turned.
    servers: [TcpListener; 2],
}

impl Turning {
    fn new() -> Self {
        let mut forwarder = None;
        let wire = Wire::forwarding(ALLOW_ALL, || {
            let listener = forwarder.insert(listener(LOOPBACK, 0));
            Listening::on(Some(listener), None).unwrap()
        });
        wire.session.heartbeat().unwrap();
        Self {
            wire,
            forwarder: forwarder.unwrap(),
            servers: SERVERS.map(|server| listener(server, 53)),
        }
    }

    /// Connect from inside of the run.
    fn connect(&self, to: SocketAddr) -> TcpStream {
        connect(self.wire.stream(to.ip()), to)
    }

    /// Whose connection the forwarder has accepted.
    fn asker(&self) -> Option<Asker> {
        let (_, from) = accepted(&self.forwarder).expect("turned to the forwarder");
        self.wire.session.asker(from).unwrap()
    }

    fn gap(&self) -> u64 {
        self.wire.counters().dns_over_tcp
    }
}

fn listener(address: IpAddr, port: u16) -> TcpListener {
    let listener = TcpListener::bind((address, port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn connect(socket: OwnedFd, to: SocketAddr) -> TcpStream {
    rustix::net::connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}

/// Who has connected. Over loopback the handshake is done when connect() returns.
fn accepted(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    listener.accept().ok()
}

#[test]
fn a_connect_to_a_resolver_is_turned_and_its_owner_known() {
    let turning = Turning::new();
    let server = SocketAddr::new(LOOPBACK, 53);
    let client = turning.connect(server);
    // It sees the server that it asked for.
    assert_eq!(client.peer_addr().unwrap(), server);
    let (_, from) = accepted(&turning.forwarder).expect("turned");
    let asker = turning.wire.session.asker(from).unwrap().expect("known");
    assert_eq!((asker.server, asker.from), (server, from));
    assert!(asker.subject != 0 && asker.tgid != 0);
    assert_eq!(turning.wire.session.asker(from).unwrap(), None, "only once");
    assert!(accepted(&turning.servers[0]).is_none());
    assert_eq!(turning.gap(), 0);
    // The attempt is one at the server, and came to something.
    let snapshot = turning.wire.snapshot();
    let flows: Vec<_> = snapshot
        .flows
        .iter()
        .filter(|row| row.protocol == 6)
        .collect();
    assert_eq!(
        (
            flows.len(),
            flows[0].address,
            flows[0].port,
            flows[0].attempts,
            flows[0].connected
        ),
        (1, LOOPBACK, 53, 1, 1)
    );

    // From an IPv6 socket to the same server.
    let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), 53);
    let client = turning.connect(mapped);
    assert_eq!(client.peer_addr().unwrap(), mapped);
    assert_eq!(turning.asker().expect("known").server, server);
}

#[test]
fn nothing_else_is_turned() {
    let turning = Turning::new();
    let server = SocketAddr::new(LOOPBACK, 53);
    let other = listener(LOOPBACK, 54);
    let far = listener("127.0.0.2".parse().unwrap(), 53);
    turning.connect("127.0.0.1:54".parse().unwrap());
    assert!(accepted(&other).is_some(), "another port");
    assert_eq!(turning.gap(), 0);
    turning.connect(far.local_addr().unwrap());
    assert!(accepted(&far).is_some(), "no resolver of the run");
    // Nobody forwards IPv6 here.
    turning.connect(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 53));
    assert!(
        accepted(&turning.servers[1]).is_some(),
        "a family without a forwarder"
    );
    let bound = turning.wire.stream(LOOPBACK);
    bind_to_device(&bound, "lo");
    connect(bound, server);
    assert!(
        accepted(&turning.servers[0]).is_some(),
        "through a certain link"
    );
    assert_eq!(turning.gap(), 3);
    assert!(accepted(&turning.forwarder).is_none());
}

#[test]
fn a_forwarder_that_is_gone_has_nothing_turned_to_it() {
    let turning = Turning::new();
    let server = SocketAddr::new(LOOPBACK, 53);
    // A supervisor that does not run any more: its socket listens, its heart has stopped.
    turning.wire.session.live.heart().set_heartbeat(1);
    turning.connect(server);
    assert!(accepted(&turning.servers[0]).is_some());
    turning.wire.session.heartbeat().unwrap();
    turning.connect(server);
    assert!(accepted(&turning.servers[0]).is_none());
    // One that was killed: its heart has stopped a moment ago, its socket is gone. (Closing is not enough: a child that a
    // test beside this one is starting may have a copy of it.)
    rustix::net::shutdown(&turning.forwarder, rustix::net::Shutdown::Both).unwrap();
    connect(turning.wire.stream(LOOPBACK), server);
    assert!(accepted(&turning.servers[0]).is_some());
    assert_eq!(turning.wire.counters().dns_over_tcp, 2);
}

#[test]
fn another_network_namespace_has_nothing_turned() {
    let turning = Turning::new();
    let server = SocketAddr::new(LOOPBACK, 53);
    let client = turning.connect(server);
    assert!(turning.asker().is_some());
    drop(client);
    // What this thread makes from here on is elsewhere.
    super::wire::own_network();
    let there = listener(LOOPBACK, 53);
    turning.connect(server);
    assert!(accepted(&there).is_some());
    assert_eq!(turning.gap(), 1);
}

#[test]
fn a_connection_of_nobody_here_is_told() {
    let turning = Turning::new();
    let forwarder = turning.forwarder.local_addr().unwrap();
    // Another process of the host, outside of the run.
    let stranger = TcpStream::connect(forwarder).unwrap();
    assert_eq!(turning.asker(), None);
    // One of the run that was not turned, but has found the port.
    let own = turning.connect(forwarder);
    assert_eq!(turning.asker(), None);
    // One that was turned, and is closed before it was accepted: its port may be anybody's.
    drop(turning.connect(SocketAddr::new(LOOPBACK, 53)));
    let until = Instant::now() + Duration::from_secs(10);
    let from = loop {
        match accepted(&turning.forwarder) {
            Some((_, from)) => break from,
            None => assert!(Instant::now() < until, "it was turned"),
        }
    };
    // A child that a test beside this one is starting may keep a copy for a moment.
    while turning.wire.session.asker(from).unwrap().is_some() {
        assert!(Instant::now() < until, "it is closed");
    }
    drop((stranger, own));
}

fn bind_to_device(socket: &OwnedFd, device: &str) {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the option reads as many octets of the name as it is told.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            device.as_ptr().cast(),
            device.len() as u32,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// A lookup, and what its answer says: addresses, by way of these names.
struct Story {
    asked: &'static str,
    chain: &'static [&'static str],
    addresses: &'static [&'static str],
    ttl: u32,
}

const STORIES: [Story; 5] = [
    Story {
        asked: "www.good.test",
        chain: &["cdn.good.test"],
        addresses: &["192.0.2.1", "192.0.2.2"],
        ttl: 60,
    },
    Story {
        asked: "via.good.test",
        chain: &["a.other.test", "cdn.bad.test"],
        addresses: &["192.0.2.3"],
        ttl: 60,
    },
    Story {
        asked: "www.bad.test",
        chain: &[],
        addresses: &["192.0.2.4"],
        ttl: 60,
    },
    Story {
        asked: "watched.test",
        chain: &[],
        addresses: &["192.0.2.5"],
        ttl: 300,
    },
    Story {
        asked: "nobody.test",
        chain: &[],
        addresses: &["192.0.2.6", "192.0.2.1"],
        ttl: 0,
    },
];

/// Over UDP, through the programs.
fn in_datagrams(wire: &Wire, story: &Story) {
    let client = wire.client(SERVERS[0]);
    let query = Message::query(7, story.asked, A);
    let mut reply = Message::reply(7, story.asked, A);
    let mut owner = QUESTION.to_vec();
    for link in story.chain {
        reply = reply.cname(&owner, &name(link));
        owner = name(link);
    }
    for address in story.addresses {
        reply = reply.address(&owner, address).lasting(story.ttl);
    }
    // Refused, nothing is to be answered.
    let _ = wire.exchange(&client, &query, &reply);
}

/// The same as the forwarder would have it.
fn in_a_stream(wire: &mut Wire, tables: &Tables, story: &Story) {
    let asker = Asker {
        subject: 1,
        tgid: 1,
        from: "127.0.0.1:4000".parse().unwrap(),
        server: SocketAddr::new(LOOPBACK, 53),
    };
    let parsed = |text: &&str| Name::parse(text).unwrap();
    let asked = parsed(&story.asked);
    let session = &mut wire.session;
    let lookup = session.lookup(tables, &asker, &asked, A);
    if lookup.verdict == Verdict::Deny || !session.leases(tables, &asker, &asked) {
        return;
    }
    let chain: Vec<Name> = story.chain.iter().map(parsed).collect();
    let addresses: Vec<IpAddr> = story
        .addresses
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    session.lease(tables, &asker, &asked, &chain, &addresses, story.ttl);
    assert_eq!(session.unwritten().count, 0);
}

/// What is left behind, without what differs from run to run: keys of names, processes, times.
fn left(wire: &Wire) -> BTreeSet<String> {
    let snapshot: Snapshot = wire.snapshot();
    let text = |id: u64| {
        let found = snapshot.names.iter().find(|row| row.id == id);
        found.map_or_else(|| "?".to_owned(), |row| row.name.clone())
    };
    let mut left = BTreeSet::new();
    for row in &snapshot.queries {
        left.insert(format!(
            "{} {} {:?} {} × {}",
            text(row.name),
            row.qtype,
            row.verdict,
            row.rule,
            row.queries
        ));
    }
    for row in &snapshot.answers {
        let chain: Vec<_> = row.chain.iter().map(|id| text(*id)).collect();
        left.insert(format!("{} → {} by {chain:?}", text(row.name), row.address));
    }
    let leases = &wire.session.maps.bs_leases;
    for key in leases.keys() {
        let at: abi::bs_address = abi::value(&key).unwrap();
        let lease: abi::bs_lease = row(leases, &at).unwrap();
        for (slot, until) in lease.slot[..lease.used as usize].iter().zip(lease.until) {
            left.insert(format!(
                "lease {}: {} class {} deny {} several {} recorded {} generation {} for {}",
                crate::fill::address(at.addr),
                text(slot.name),
                slot.class_id,
                slot.deny_class,
                slot.several,
                slot.recorded,
                slot.generation,
                lasts(until),
            ));
        }
    }
    left
}

/// How long a lease lasts from now, to some seconds.
fn lasts(until: u32) -> &'static str {
    // As bs_moment() counts: steps of 2^20 ns.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let now = ((now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) >> 20) as u32;
    match u64::from(until.wrapping_sub(now)) << 20 {
        0..6_000_000_000 => "the least",
        6_000_000_000..63_000_000_000 => "a minute",
        _ => "longer",
    }
}

const RULES: &str = "rules:\n  - allow: .good.test\n  - deny: .bad.test\n  - { deny: watched.test, mode: observe }\n";

fn compiled(text: &str) -> (Tables, u32) {
    let text = format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\n{text}");
    let policy = policy::alone(&text, "test.yaml").unwrap().policy;
    let tables = compile(&policy, &Facts { search: Vec::new() }).unwrap();
    (tables, policy.rules.len() as u32)
}

#[test]
fn what_comes_over_tcp_is_recorded_and_leased_as_what_comes_over_udp() {
    for default in ["allow", "deny"] {
        for enforce in [true, false] {
            let policy = format!("default: {default}\n{RULES}");
            let begin = || {
                if enforce {
                    Wire::enforce(&policy)
                } else {
                    Wire::observe(&policy)
                }
            };
            let over_udp = begin();
            for story in &STORIES {
                in_datagrams(&over_udp, story);
            }
            let udp = left(&over_udp);
            drop(over_udp);
            let mut over_tcp = begin();
            let (tables, _) = compiled(&policy);
            for story in &STORIES {
                in_a_stream(&mut over_tcp, &tables, story);
            }
            assert_eq!(left(&over_tcp), udp, "default {default}, enforce {enforce}");
            assert!(udp.iter().any(|row| row.starts_with("lease")), "{udp:?}");
        }
    }
}

#[test]
fn a_policy_that_has_taken_over_judges_what_comes_over_tcp() {
    let policy = format!("default: deny\n{RULES}");
    let (next, rules) =
        compiled("default: deny\nrules:\n  - allow: .bad.test\n  - allow: nobody.test\n");
    let mut over_udp = Wire::enforce(&policy);
    over_udp
        .session
        .reload(&next, rules, Mode::Enforce)
        .unwrap();
    for story in &STORIES {
        in_datagrams(&over_udp, story);
    }
    let udp = left(&over_udp);
    drop(over_udp);
    let mut over_tcp = Wire::enforce(&policy);
    over_tcp
        .session
        .reload(&next, rules, Mode::Enforce)
        .unwrap();
    for story in &STORIES {
        in_a_stream(&mut over_tcp, &next, story);
    }
    assert_eq!(left(&over_tcp), udp);
    let allowed = udp
        .iter()
        .find(|row| row.starts_with("www.bad.test 1 Allow"));
    // Behind the three rules of the policy before.
    assert_eq!(
        allowed.map(String::as_str),
        Some("www.bad.test 1 Allow 4 × 1")
    );
}

#[test]
fn what_cannot_be_read_is_counted() {
    let mut wire = Wire::enforce(ALLOW_ALL);
    let (enforcing, _) = compiled(ALLOW_ALL);
    for what in [
        Unread::Query,
        Unread::Query,
        Unread::Answer,
        Unread::Unasked,
    ] {
        assert!(wire.session.unread(&enforcing, what));
    }
    let counters = wire.counters();
    assert_eq!(
        (
            counters.queries_malformed,
            counters.answers_malformed,
            counters.answers_unasked
        ),
        (2, 1, 1)
    );
    wire.session.set_mode(Mode::Observe).unwrap();
    assert!(!wire.session.unread(&enforcing, Unread::Query));
}
