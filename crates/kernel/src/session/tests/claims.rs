//! What becomes of connections that say whom they are for.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use libbpf_rs::{MapCore as _, MapFlags};

use super::wire::Wire;
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
        let flows = &wire.session.skeleton.maps.bs_flows;
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
        let more = &wire.session.skeleton.maps.bs_overflow;
        let of_each = more.keys().map(|key| {
            let value = more.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            u64::from_ne_bytes(value.try_into().unwrap())
        });
        assert_eq!(of_each.sum::<u64>(), overflow);
    }
}
