//! Packets that no socket would send, put straight into the egress program.

use blackstart_core::report::Mode;
use libbpf_rs::ProgramInput;

use super::message::{A, Message};
use super::wire::Wire;

const UDP: u8 = 17;

fn udp(payload: &[u8], port: u16) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend_from_slice(&40_000u16.to_be_bytes());
    datagram.extend_from_slice(&port.to_be_bytes());
    datagram.extend_from_slice(&((payload.len() + 8) as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    datagram
}

/// An IPv4 packet to 127.0.0.1. `fragment`: flags and offset.
fn v4(options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0; 20];
    packet[0] = 0x40 | (header / 4) as u8;
    packet[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8] = 64;
    packet[9] = UDP;
    packet[12..16].copy_from_slice(&[127, 0, 0, 1]);
    packet[16..20].copy_from_slice(&[127, 0, 0, 1]);
    packet.extend_from_slice(options);
    packet.extend_from_slice(payload);
    framed(0x0800, &packet)
}

/// An IPv6 packet to ::1 whose payload begins with this header.
fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet[6] = next;
    packet[7] = 64;
    packet[23] = 1;
    packet[39] = 1;
    packet.extend_from_slice(payload);
    framed(0x86dd, &packet)
}

/// The kernel takes the protocol from the Ethernet header and then leaves that out.
fn framed(protocol: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&protocol.to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

/// Run the egress program on a frame: is it let through?
fn passes(wire: &Wire, frame: &[u8], segments: u32) -> bool {
    const SK_BUFF: usize = 192;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = [0; SK_BUFF];
    context[GSO_SEGS..GSO_SEGS + 4].copy_from_slice(&segments.to_ne_bytes());
    let size: u32 = if segments > 0 { 64 } else { 0 };
    context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&size.to_ne_bytes());
    let input = ProgramInput {
        context_in: Some(&mut context),
        data_in: Some(frame),
        ..ProgramInput::default()
    };
    let egress = &wire.session.skeleton.as_ref().unwrap().progs.bs_egress;
    match egress.test_run(input).unwrap().return_value {
        0 => false,
        1 => true,
        other => panic!("a verdict, not {other}"),
    }
}

/// A query sound in itself, carried in a way that hides where its ports and its end are. (IPv6 extension
/// headers are in `queries`, on a real socket: which protocol they hide, only a socket tells.)
fn odd(query: &[u8]) -> Vec<(&'static str, Vec<u8>, u32)> {
    let no_operation = [1, 1, 1, 1];
    let router_alert = [0x94, 4, 0, 0];
    vec![
        ("IPv4 options", v4(&no_operation, 0, &udp(query, 53)), 0),
        ("a router alert", v4(&router_alert, 0, &udp(query, 53)), 0),
        ("a first fragment", v4(&[], 0x2000, &udp(query, 53)), 0),
        ("a later fragment", v4(&[], 0x0001, &udp(query, 53)), 0),
        ("two segments over IPv4", v4(&[], 0, &udp(query, 53)), 2),
        ("two segments over IPv6", v6(UDP, &udp(query, 53)), 2),
    ]
}

#[test]
fn a_plain_query_of_a_socket_that_no_hook_judged_is_judged_here() {
    let wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    let good = Message::query(1, "www.good.test", A).0;
    let evil = Message::query(1, "www.evil.test", A).0;
    for (query, let_through) in [(&good, true), (&evil, false)] {
        assert_eq!(passes(&wire, &v4(&[], 0, &udp(query, 53)), 0), let_through);
        assert_eq!(passes(&wire, &v6(UDP, &udp(query, 53)), 0), let_through);
        // Not a query, whatever is in it.
        assert!(passes(&wire, &v4(&[], 0, &udp(query, 5353)), 0));
        // "Do not fragment" is no fragment, and one segment is one datagram.
        assert_eq!(
            passes(&wire, &v4(&[], 0x4000, &udp(query, 53)), 1),
            let_through
        );
    }
    let counters = wire.counters();
    assert_eq!(counters.queries_malformed, 0);
    assert_eq!(
        (counters.attempts, counters.backstop),
        (8, 8),
        "each is an attempt of its own socket"
    );
}

#[test]
fn a_query_in_an_odd_packet_is_refused() {
    let mut wire = Wire::enforce("default: allow\nrules:\n  - deny: .evil.test\n");
    for asked in ["www.good.test", "www.evil.test"] {
        for (what, frame, segments) in odd(&Message::query(1, asked, A).0) {
            let before = wire.counters().queries_malformed;
            assert!(!passes(&wire, &frame, segments), "{what}");
            assert_eq!(wire.counters().queries_malformed, before + 1, "{what}");
        }
    }
    wire.session.set_mode(Mode::Observe).unwrap();
    for (what, frame, segments) in odd(&Message::query(1, "www.evil.test", A).0) {
        assert!(passes(&wire, &frame, segments), "{what}");
    }
}
