//! What becomes of connections that say whom they are for.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use libbpf_rs::{MapCore as _, MapFlags};

use blackstart_core::record::Verdict;

use blackstart_core::tables::RULE_HIDDEN;

use super::heads::real_hello;
use super::wire::{Wire, option};
use crate::abi;

const INSPECTED: u16 = 8080;
const RULES: &str = "default: allow\ninspect: [8080]\nrules:\n  - deny: evil.test\n";

/// Connect to a server that answers nothing, and ask it for this host's page.
fn ask(wire: &Wire, server: &TcpListener, host: &str) -> std::io::Result<()> {
    let to: SocketAddr = server.local_addr().unwrap();
    let socket = wire.stream(to.ip());
    rustix::net::connect(&socket, &to).unwrap();
    let mut client = TcpStream::from(socket);
    let (mut served, _) = server.accept().unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.write_all(request.as_bytes())?;
    let mut came = vec![0; request.len()];
    served.read_exact(&mut came)?;
    assert_eq!(came, request.as_bytes());
    Ok(())
}

#[test]
fn a_connection_counts_once_though_there_is_no_room_for_its_row() {
    for full in [false, true] {
        let wire = Wire::listening(RULES);
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, INSPECTED)).unwrap();
        let flows = &wire.session.maps.bs_flows;
        if full {
            let none = vec![0; size_of::<abi::bs_flow>()];
            for at in 0..flows.max_entries() {
                // Of no subject that there is.
                let mut key = vec![0xff; size_of::<abi::bs_flow_key>()];
                key[16..20].copy_from_slice(&at.to_ne_bytes());
                flows.update(&key, &none, MapFlags::ANY).unwrap();
            }
        }
        ask(&wire, &server, "good.test").unwrap();
        let error = ask(&wire, &server, "evil.test").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
        let seen = wire.snapshot();
        let rows: u64 = seen.flows.iter().map(|row| row.attempts).sum();
        let (attempts, overflow) = (seen.counters.attempts, seen.counters.overflow);
        assert_eq!((attempts, seen.counters.lost), (2, 0), "full: {full}");
        assert_eq!((rows, overflow), if full { (0, 2) } else { (2, 0) });
        let more = &wire.session.maps.bs_overflow;
        let of_each = more.keys().map(|key| {
            let value = more.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            u64::from_ne_bytes(value.try_into().unwrap())
        });
        assert_eq!(of_each.sum::<u64>(), overflow);
    }
}

/// Send the head with the SYN where the server's cookie is known, else behind it; all without waiting, for on loopback what
/// is sent has arrived. The client, and whether it went with the SYN.
fn fast_open(wire: &Wire, server: &TcpListener, host: &str) -> (TcpStream, bool) {
    let to = server.local_addr().unwrap();
    let client = TcpStream::from(wire.stream(to.ip()));
    client.set_nonblocking(true).unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let flags = rustix::net::SendFlags::from_bits_retain(libc::MSG_FASTOPEN as u32);
    let sent = rustix::net::sendto(&client, head.as_bytes(), flags, &to);
    let with_syn = sent.is_ok();
    if !with_syn {
        assert_eq!(sent, Err(rustix::io::Errno::INPROGRESS));
        let later = (&client).write_all(head.as_bytes());
        let error = later.err().and_then(|error| error.raw_os_error());
        assert_eq!(error, (host == "evil.test").then_some(libc::EACCES));
    }
    (client, with_syn)
}

/// What has come to the server, if anybody has.
fn came(server: &TcpListener) -> Option<String> {
    server.set_nonblocking(true).unwrap();
    let (mut served, _) = server.accept().ok()?;
    served.set_nonblocking(true).unwrap();
    let mut octets = [0; 1024];
    let length = served.read(&mut octets).unwrap_or(0);
    Some(String::from_utf8(octets[..length].to_vec()).unwrap())
}

#[test]
fn what_goes_with_the_syn_is_read_too() {
    let only = "default: deny\ninspect: [8080]\nrules:\n  - allow: good.test\n  - allow: 127.0.0.0/24\n  - deny: evil.test\n";
    for rules in [RULES, only] {
        let wire = Wire::listening(rules);
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, INSPECTED)).unwrap();
        option(
            &server,
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            &16i32.to_ne_bytes(),
        );
        let held = |host: &str, with_syn: bool, comes: bool| {
            let (client, so) = fast_open(&wire, &server, host);
            assert_eq!(so, with_syn, "{host}");
            let text = came(&server);
            assert_eq!(
                text.is_some_and(|text| text.contains(host)),
                comes,
                "{host}"
            );
            drop(client);
            let flows = wire.snapshot().flows;
            let denied = flows.iter().filter(|row| row.verdict == Verdict::Deny);
            denied.map(|row| row.attempts).sum::<u64>()
        };
        // No cookie yet: it waits for the handshake.
        assert_eq!(held("evil.test", false, false), 1);
        assert_eq!(held("good.test", true, true), 1);
        assert_eq!(held("evil.test", true, false), 2);
        let seen = wire.snapshot();
        assert_eq!(seen.counters.claims_unseen, 0);
        assert_eq!(seen.counters.claims_later, 0);
        assert_eq!(seen.counters.attempts, 3);
        let rows: u64 = seen.flows.iter().map(|row| row.attempts).sum();
        assert_eq!(rows, 3, "{:?}", seen.flows);
        // Half of a head with the SYN, and the other half once the connection is there.
        for (host, comes) in [("good.test", true), ("evil.test", false)] {
            server.set_nonblocking(false).unwrap();
            let to = server.local_addr().unwrap();
            let mut client = TcpStream::from(wire.stream(to.ip()));
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let (begin, end) = head.as_bytes().split_at(20);
            let flags = rustix::net::SendFlags::from_bits_retain(libc::MSG_FASTOPEN as u32);
            assert_eq!(rustix::net::sendto(&client, begin, flags, &to), Ok(20));
            let (mut served, _) = server.accept().unwrap();
            served.read_exact(&mut [0; 20]).unwrap();
            client.write_all(end).unwrap();
            served.set_nonblocking(true).unwrap();
            let came = served.read(&mut [0; 1024]).is_ok();
            assert_eq!(came, comes, "{host}");
        }
        assert_eq!(wire.snapshot().counters.claims_unseen, 0);
        assert_eq!(wire.session.maps.bs_parts.keys().count(), 0);
    }
}

#[test]
fn a_connection_that_hides_a_name_is_denied_where_the_policy_says_so() {
    // Extension 0xfe0d, of the kind `outer` (RFC 9849, 5).
    let hidden = [
        &[0xfe, 0x0d, 0, 12][..],
        &[0, 0, 1, 0, 1, 7, 0, 0, 0, 2, 1, 2],
    ]
    .concat();
    for (hides, policy, passes) in [
        (true, "hidden: deny\n", false),
        (false, "hidden: deny\n", true),
        (true, "hidden: allow\n", true),
        (true, "", true),
    ] {
        let wire = Wire::listening(&format!("default: allow\ninspect: [8080]\n{policy}"));
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, INSPECTED)).unwrap();
        let mut hello = real_hello("good.test");
        if hides {
            with_extension(&mut hello, &hidden);
        }
        let to: SocketAddr = server.local_addr().unwrap();
        let socket = wire.stream(to.ip());
        rustix::net::connect(&socket, &to).unwrap();
        let sent = TcpStream::from(socket).write_all(&hello);
        let error = sent.err().and_then(|error| error.raw_os_error());
        assert_eq!(error, (!passes).then_some(libc::EACCES), "{hides} {policy}");
        let seen = wire.snapshot();
        assert_eq!(seen.counters.claims_hidden, u64::from(hides));
        let denied = seen.flows.iter().filter(|row| row.verdict == Verdict::Deny);
        let rules: Vec<_> = denied.map(|row| row.rule).collect();
        let wanted = if passes { vec![] } else { vec![RULE_HIDDEN] };
        assert_eq!(rules, wanted);
    }
}

/// One more extension at a hello's end, in its record of its own.
fn with_extension(hello: &mut Vec<u8>, extension: &[u8]) {
    // Behind the headers: a version, 32 octets, then three lists with their lengths.
    let mut at = 9 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    for place in [3, 7, at] {
        let length = u16::from_be_bytes([hello[place], hello[place + 1]]) + extension.len() as u16;
        hello[place..place + 2].copy_from_slice(&length.to_be_bytes());
    }
    hello.extend_from_slice(extension);
}
