//! What a judged socket sends, where it goes another way than the last hook saw: by a routing header, and to its peer
//! after it sent elsewhere.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;

use blackstart_core::record::{FlowRow, Verdict};

use super::wire::{Wire, option, refused};

const ALLOWED: [&str; 2] = ["10.99.0.2", "fd99::2"];
const OTHER: [&str; 2] = ["10.99.0.3", "fd99::3"];

/// Give this host all of the addresses, which nothing but rules permits, and have somebody listen at each.
fn addresses() -> Vec<UdpSocket> {
    for address in ALLOWED.into_iter().chain(OTHER) {
        let length = if address.contains(':') { "128" } else { "32" };
        let done = Command::new("ip")
            .args(["addr", "add", &format!("{address}/{length}"), "dev", "lo"])
            .args(address.contains(':').then_some("nodad"))
            .status()
            .expect("ip (of iproute2) is there");
        assert!(done.success(), "{address}");
    }
    let all = ALLOWED.into_iter().chain(OTHER);
    all.map(|each| UdpSocket::bind(address(each, 9)).unwrap())
        .collect()
}

/// By way of this address: a source route of IPv4 (RFC 791, 3.1, loose), a segment routing header of IPv6 (RFC 8754, 2).
fn route(by: IpAddr) -> (i32, i32, Vec<u8>) {
    match by {
        IpAddr::V4(by) => {
            // It ends with the destination, which the kernel fills in.
            let mut value = vec![1, 131, 7, 4];
            value.extend(by.octets());
            (libc::IPPROTO_IP, libc::IP_OPTIONS, value)
        }
        IpAddr::V6(by) => {
            // Two segments, the last one first; likewise.
            let mut value = vec![0, 4, 4, 1, 1, 0, 0, 0];
            value.extend([0; 16]);
            value.extend(by.octets());
            (libc::IPPROTO_IPV6, libc::IPV6_RTHDR, value)
        }
    }
}

fn address(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), port)
}

fn rows(wire: &Wire, to: &str) -> Vec<FlowRow> {
    let to: IpAddr = to.parse().unwrap();
    let flows = wire.snapshot().flows;
    flows.into_iter().filter(|row| row.address == to).collect()
}

#[test]
fn a_datagram_is_judged_by_where_it_goes_next() {
    let only = "default: deny\nrules:\n  - allow: 10.99.0.2\n  - allow: fd99::2\n";
    let both = "default: deny\nrules:\n  - allow: 10.99.0.0/24\n  - allow: fd99::/64\n";
    let but = "default: allow\nrules:\n  - deny: 10.99.0.3\n  - deny: fd99::3\n";
    for (rules, passes) in [(only, false), (both, true), (but, false)] {
        let wire = Wire::enforce(rules);
        let _there = addresses();
        for (allowed, other) in ALLOWED.into_iter().zip(OTHER) {
            let (level, name, value) = route(other.parse().unwrap());
            for connected in [true, false] {
                let client = wire.unconnected(allowed.parse().unwrap());
                let send = |client: &UdpSocket| match connected {
                    true => client.send(b"x"),
                    false => client.send_to(b"x", address(allowed, 9)),
                };
                if connected {
                    client.connect(address(allowed, 9)).unwrap();
                }
                assert!(!refused(&send(&client)), "{allowed}");
                option(&client, level, name, &value);
                assert_eq!(!refused(&send(&client)), passes, "{rules}{other}");
            }
            let seen = rows(&wire, other);
            let verdict = if passes {
                Verdict::Allow
            } else {
                Verdict::Deny
            };
            assert!(
                !seen.is_empty()
                    && seen
                        .iter()
                        .all(|row| row.verdict == verdict && row.port == 9),
                "{seen:?}"
            );
        }
    }
}

#[test]
fn padding_before_the_payload_is_no_other_way() {
    let wire = Wire::enforce("default: deny\nrules:\n  - allow: 10.99.0.2\n  - allow: fd99::2\n");
    let _there = addresses();
    let cases: [(&str, i32, i32, &[u8]); 2] = [
        (ALLOWED[0], libc::IPPROTO_IP, libc::IP_OPTIONS, &[1; 4]),
        (
            ALLOWED[1],
            libc::IPPROTO_IPV6,
            libc::IPV6_DSTOPTS,
            &[0, 0, 1, 4, 0, 0, 0, 0],
        ),
    ];
    for (to, level, name, value) in cases {
        let client = wire.unconnected(to.parse().unwrap());
        client.connect(address(to, 9)).unwrap();
        option(&client, level, name, value);
        for _ in 0..3 {
            assert!(!refused(&client.send(b"x")));
        }
        drop(client);
        let seen = rows(&wire, to);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].verdict, seen[0].attempts), (Verdict::Allow, 1));
    }
}

#[test]
fn a_connection_is_judged_by_where_its_packets_go() {
    for (rules, verdict) in [
        ("  - allow: fd99::2\n", Verdict::Deny),
        ("  - allow: fd99::/64\n", Verdict::Allow),
    ] {
        let wire = Wire::enforce(&format!("default: deny\nrules:\n{rules}"));
        let _there = addresses();
        let (level, name, value) = route(OTHER[1].parse().unwrap());
        let client = wire.stream(ALLOWED[1].parse().unwrap());
        option(&client, level, name, &value);
        rustix::fs::fcntl_setfl(&client, rustix::fs::OFlags::NONBLOCK).unwrap();
        let connected = rustix::net::connect(&client, &address(ALLOWED[1], 9));
        assert_eq!(connected, Err(rustix::io::Errno::INPROGRESS));
        let seen = rows(&wire, OTHER[1]);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].verdict, seen[0].port), (verdict, 9));
        assert_eq!(rows(&wire, ALLOWED[1])[0].verdict, Verdict::Allow);
    }
}

#[test]
fn what_is_lost_is_lost_by_where_it_goes_and_not_by_the_last_send() {
    let wire = Wire::enforce(
        "default: allow\nrules:\n  - { deny: 10.99.0.3, on_match: blackhole }\n  - { deny: fd99::3, on_match: blackhole }\n",
    );
    let _there = addresses();
    for (allowed, lost) in ALLOWED.into_iter().zip(OTHER) {
        let server = |at: &str| {
            let server = UdpSocket::bind(address(at, 0)).unwrap();
            server.set_nonblocking(true).unwrap();
            let port = server.local_addr().unwrap().port();
            (server, address(at, port))
        };
        let ((near, to_near), (far, to_far)) = (server(allowed), server(lost));
        let came = |server: &UdpSocket| server.recv(&mut [0; 8]).is_ok();
        let wanted = |server: &UdpSocket| server.local_addr().unwrap().ip() == to_near.ip();
        for (peer, other) in [(&near, &far), (&far, &near)] {
            let client = wire.unconnected(to_near.ip());
            client.connect(peer.local_addr().unwrap()).unwrap();
            let elsewhere = other.local_addr().unwrap();
            for _ in 0..2 {
                // On loopback what is sent has arrived. To what is lost a send may say that it was.
                let _ = client.send(b"x");
                assert_eq!(came(peer), wanted(peer), "to the peer, {peer:?}");
                let _ = client.send_to(b"x", elsewhere);
                assert_eq!(came(other), wanted(other), "elsewhere, {other:?}");
            }
            let _ = client.send(b"x");
            assert_eq!(came(peer), wanted(peer), "to the peer again, {peer:?}");
        }
        let client = wire.unconnected(to_near.ip());
        for to in [to_near, to_far, to_near] {
            let _ = client.send_to(b"x", to);
            assert_eq!(came(&near), to == to_near);
            assert!(!came(&far));
        }
    }
}
