//! What connections send first, read by the parsers on the host, with sanitizers: many more of them than the kernel is given,
//! against the same libraries; and what a fuzzer has kept, in both places alike.
//!
//! `BLACKSTART_HEADS` says how many are tried.

use std::net::{IpAddr, Ipv6Addr};

use blackstart_core::name::Name;
use proptest::prelude::*;
use proptest::sample::Index;

use super::heads::{
    Read, Reader, Request, agree, agree_on_request, any_hello, any_request, generated, spoilt,
};
use super::host::{Host, kept};

/// Of each kind, unless `BLACKSTART_HEADS` says otherwise.
const HEADS: usize = 20_000;
/// Drawn, and combined with each other.
const BASES: usize = 1000;

fn count() -> usize {
    match std::env::var("BLACKSTART_HEADS") {
        Ok(text) => text.parse().expect("BLACKSTART_HEADS is a number"),
        Err(_) => HEADS,
    }
}

fn read(host: &Host, heads: &[Vec<u8>]) -> Vec<Read> {
    let mut input = Vec::new();
    for head in heads {
        let length = u16::try_from(head.len()).expect("a head");
        input.extend_from_slice(&length.to_ne_bytes());
        input.extend_from_slice(head);
    }
    let (status, output) = host.run(&["heads"], &input);
    let mut rest = &*output;
    let mut told = Vec::new();
    while let Some(one) = take(&mut rest) {
        told.push(one);
    }
    assert!(
        status.success(),
        "the parsers failed ({status}) within some heads of {:02x?}",
        heads.get(told.len())
    );
    assert_eq!(told.len(), heads.len());
    told
}

/// The next `struct host_head`, and the name behind it.
fn take(rest: &mut &[u8]) -> Option<Read> {
    let head = rest.split_off(..48)?;
    let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("4 octets"));
    let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
    let name = rest.split_off(..usize::from(half(34)))?;
    let [found, names, tls, elsewhere, tunnel, _hidden, endless] =
        head[36..43].try_into().expect("7 octets");
    match found {
        0 => return Some(Read::Odd),
        1 => return Some(Read::More(word(24) as usize)),
        _ => {}
    }
    let address: [u8; 16] = head[8..24].try_into().expect("16 octets");
    let host = match names {
        0 => None,
        1 => Some(Name::from_wire(name).expect("a name").to_string()),
        _ => Some(
            IpAddr::from(Ipv6Addr::from(address))
                .to_canonical()
                .to_string(),
        ),
    };
    if tls != 0 {
        return Some(Read::Hello(host));
    }
    let length = u64::from_ne_bytes(head[..8].try_into().expect("8 octets"));
    Some(Read::Request(Request {
        host,
        port: half(32),
        elsewhere: elsewhere != 0,
        tunnel: tunnel != 0,
        head: word(28) as usize,
        body: (endless == 0).then_some(length),
    }))
}

/// As many heads as are wanted, from a few and many ways to spoil them.
fn spoilt_heads(bases: Vec<Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    let damage = prop::collection::vec((any::<Index>(), any::<u8>(), any::<u8>()), 0..4);
    let damages: Vec<_> = generated(damage).take(9 * BASES + 1).collect();
    (0..count()).map(move |n| {
        let mut octets = bases[n % bases.len()].clone();
        // One more than a multiple: each meets all.
        spoilt(&mut octets, &damages[n % damages.len()]);
        octets
    })
}

#[test]
fn hellos_are_read_on_the_host_as_a_server_reads_them() {
    let host = Host::build();
    let bases = generated(any_hello()).take(BASES);
    let heads: Vec<_> = spoilt_heads(bases.map(|hello| hello.octets()).collect()).collect();
    let mut readable = 0;
    for (head, read) in heads.iter().zip(read(&host, &heads)) {
        agree(head, &read);
        readable += usize::from(matches!(read, Read::Hello(_)));
    }
    println!("{readable} were read");
    assert!(readable > count() / 10);
}

#[test]
fn requests_are_read_on_the_host_as_a_library_reads_them() {
    let host = Host::build();
    let bases = generated(any_request()).take(BASES).collect();
    let heads: Vec<_> = spoilt_heads(bases).collect();
    let mut same = 0;
    for (head, read) in heads.iter().zip(read(&host, &heads)) {
        same += usize::from(agree_on_request(head, &read));
    }
    println!("{same} were read alike");
    assert!(same > count() / 10);
}

#[test]
fn heads_that_a_fuzzer_has_kept_are_read_alike_everywhere() {
    let heads = kept("head");
    let here = read(&Host::build(), &heads);
    let there = Reader::new().read(&heads);
    let mut named = 0;
    for ((head, here), there) in heads.iter().zip(&here).zip(&there) {
        assert_eq!(here, there, "{head:02x?}");
        agree(head, here);
        agree_on_request(head, here);
        let host = match here {
            Read::Hello(host) | Read::Request(Request { host, .. }) => host.as_ref(),
            Read::Odd | Read::More(_) => None,
        };
        named += usize::from(host.is_some());
    }
    assert!(named > 10, "{named} name somebody");
}
