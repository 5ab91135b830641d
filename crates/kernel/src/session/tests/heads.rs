//! What connections send first, read in the kernel and by well-kept libraries: rustls for TLS, httparse for HTTP.
//!
//! What must never happen is that the kernel reads another name than a server would, or waits for more where a server
//! would not. What must always happen: a sound hello, however its extensions stand, and a sound request are read.
//! `BLACKSTART_HEADS` says how many are tried.

use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{MapCore as _, MapFlags, ProgramInput};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::decision::skeleton::types::bs_trial_head;
use super::decision::skeleton::{TrialSkel, TrialSkelBuilder};
use super::wire::need_root;
use crate::abi::{self, Plain};
use crate::fill::address;
use crate::read::wire_text;

// SAFETY: plain widths, and what clang leaves between them is a field of its own in the generated type.
unsafe impl Plain for bs_trial_head {}

/// As many heads as a run of all tests has time for.
const HEADS: usize = 3000;
/// Read in one call.
const CHUNK: usize = 32;

/// What was read of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    /// Not to be read.
    Odd,
    /// So many octets are needed.
    More(usize),
    /// A hello, and the name in it.
    Hello(Option<String>),
    /// A request.
    Request(Request),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Request {
    /// Of the server, or what a proxy is asked for.
    pub(super) host: Option<String>,
    pub(super) port: u16,
    pub(super) elsewhere: bool,
    pub(super) tunnel: bool,
    /// Octets of the head, and what follows it.
    pub(super) head: usize,
    pub(super) body: Option<u64>,
}

/// The parsers, in the kernel.
pub(super) struct Reader(TrialSkel<'static>);

impl Reader {
    pub(super) fn new() -> Self {
        need_root();
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = TrialSkelBuilder::default().open(storage).unwrap();
        open.maps
            .bs_trial_heads
            .set_max_entries(CHUNK as u32)
            .unwrap();
        Self(open.load().expect("the kernel takes the trial program"))
    }

    pub(super) fn read(&mut self, heads: &[Vec<u8>]) -> Vec<Read> {
        heads
            .chunks(CHUNK)
            .flat_map(|chunk| self.read_few(chunk))
            .collect()
    }

    fn read_one(&mut self, head: &[u8]) -> Read {
        self.read(&[head.to_vec()]).remove(0)
    }

    fn read_few(&mut self, heads: &[Vec<u8>]) -> Vec<Read> {
        for (n, head) in (0u32..).zip(heads) {
            let mut row: Box<bs_trial_head> = Box::new(abi::zeroed());
            let fits = head.len().min(row.octets.len());
            row.octets[..fits].copy_from_slice(&head[..fits]);
            row.head.size = fits as u32;
            // What an earlier name left behind must not matter.
            row.head.read.name.wire = [b'a'; 256];
            self.0
                .maps
                .bs_trial_heads
                .update(&n.to_ne_bytes(), abi::octets(&*row), MapFlags::ANY)
                .unwrap();
        }
        let variables = self.0.maps.bss_data.as_deref_mut().expect("variables");
        variables.trial_heads = heads.len() as u32;
        let frame = [0; 64];
        let input = ProgramInput {
            data_in: Some(&frame),
            ..ProgramInput::default()
        };
        let ran = self.0.progs.bs_trial.test_run(input).unwrap();
        assert_eq!(ran.return_value, 1);
        (0u32..)
            .take(heads.len())
            .map(|n| {
                let octets = self
                    .0
                    .maps
                    .bs_trial_heads
                    .lookup(&n.to_ne_bytes(), MapFlags::ANY);
                told(&abi::value(&octets.unwrap().unwrap()).unwrap())
            })
            .collect()
    }
}

fn told(row: &bs_trial_head) -> Read {
    let head = &row.head;
    match row.found {
        0 => return Read::Odd,
        1 => return Read::More(head.wanted as usize),
        _ => {}
    }
    let host = match head.names {
        0 => None,
        1 => Some(wire_text(
            &head.read.name.wire[..usize::from(head.read.name.len)],
        )),
        _ => Some(address(head.addr).to_string()),
    };
    if head.tls != 0 {
        return Read::Hello(host);
    }
    Read::Request(Request {
        host,
        port: head.port,
        elsewhere: head.elsewhere != 0,
        tunnel: head.tunnel != 0,
        head: head.tail as usize,
        body: (head.endless == 0).then_some(head.length),
    })
}

/// How a server takes a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Taken {
    Refused,
    Waits,
    Named(Option<String>),
}

fn taken(octets: &[u8]) -> Taken {
    let mut acceptor = Acceptor::default();
    let mut left = octets;
    while !left.is_empty() {
        if acceptor.read_tls(&mut left).is_err() {
            return Taken::Refused;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(str::to_ascii_lowercase);
                return Taken::Named(name);
            }
            Err(_) => return Taken::Refused,
        }
    }
    Taken::Waits
}

/// A hello as rustls itself sends it.
pub(super) fn real_hello(name: &str) -> Vec<u8> {
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut octets = Vec::new();
    connection.write_tls(&mut octets).unwrap();
    octets
}

fn with_length(width: usize, octets: &[u8]) -> Vec<u8> {
    let length = (octets.len() as u32).to_be_bytes();
    [&length[4 - width..], octets].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_length(2, body)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(
        0,
        &with_length(2, &[&[0][..], &with_length(2, name)].concat()),
    )
}

/// A hello of these extensions, in one record.
fn hello(session: &[u8], ciphers: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &with_length(1, session),
        &with_length(2, ciphers),
        &[1, 0],
        &with_length(2, &extensions.concat()),
    ]
    .concat();
    let handshake = [&[1][..], &with_length(3, &body)].concat();
    [&[22, 3, 1][..], &with_length(2, &handshake)].concat()
}

/// What every hello has that rustls takes.
fn usual(groups: usize) -> Vec<Vec<u8>> {
    let share = |group: u16, octets: usize| {
        [&group.to_be_bytes()[..], &with_length(2, &vec![9; octets])].concat()
    };
    vec![
        extension(10, &with_length(2, &[0x11, 0xec, 0, 29])),
        extension(13, &with_length(2, &[4, 3, 8, 4])),
        extension(43, &with_length(1, &[3, 4])),
        // X25519MLKEM768 is 1216 octets, and somebody may offer more than one of its kind.
        extension(
            51,
            &with_length(2, &[share(0x11ec, 1216 * groups), share(29, 32)].concat()),
        ),
        extension(0x0a0a, &[]),
        extension(0xfafa, &[0]),
    ]
}

#[derive(Debug, Clone)]
pub(super) struct Hello {
    name: Option<Vec<u8>>,
    session: usize,
    ciphers: usize,
    groups: usize,
    padding: usize,
    unknown: Vec<(u16, usize)>,
    order: Vec<Index>,
}

impl Hello {
    pub(super) fn octets(&self) -> Vec<u8> {
        let mut extensions = usual(self.groups);
        extensions.extend(self.name.as_deref().map(server_name));
        extensions.extend(
            self.unknown
                .iter()
                .map(|(kind, len)| extension(*kind, &vec![0x41; *len])),
        );
        extensions.push(extension(21, &vec![0; self.padding]));
        for (at, index) in self.order.iter().enumerate().take(extensions.len()) {
            let other = index.index(extensions.len());
            extensions.swap(at, other);
        }
        let ciphers: Vec<u8> = [0x13, 1, 0x13, 2, 0xc0, 0x2f]
            .into_iter()
            .cycle()
            .take(2 * self.ciphers)
            .collect();
        hello(&vec![5; self.session], &ciphers, &extensions)
    }
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "[a-z]{1,9}(\\.[a-zA-Z0-9-]{1,12}){1,4}".prop_map(String::into_bytes),
        1 => "[a-z]{1,63}(\\.[a-z]{1,62}){3}".prop_map(String::into_bytes),
        1 => "[a-z]{1,5}\\.example\\.".prop_map(String::into_bytes),
        1 => "[0-9]{1,3}(\\.[0-9]{1,3}){3}".prop_map(String::into_bytes),
        1 => "[a-z.]{1,12}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ]
}

pub(super) fn any_hello() -> impl Strategy<Value = Hello> {
    let unknown = (
        prop::sample::select(vec![0x2a2au16, 0x6a6a, 0x4469, 0xfe0d, 0x1234]),
        0..200usize,
    );
    (
        prop::option::weighted(0.9, any_name()),
        0..33usize,
        1..100usize,
        1..4usize,
        prop_oneof![4 => 0..600usize, 1 => 4000..8000usize],
        prop::collection::vec(unknown, 0..3),
        prop::collection::vec(any::<Index>(), 12),
    )
        .prop_map(
            |(name, session, ciphers, groups, padding, mut unknown, order)| {
                unknown.sort_unstable();
                unknown.dedup_by_key(|(kind, _)| *kind);
                Hello {
                    name,
                    session,
                    ciphers,
                    groups,
                    padding,
                    unknown,
                    order,
                }
            },
        )
}

/// Something is done to the octets.
pub(super) fn spoilt(octets: &mut Vec<u8>, damage: &[(Index, u8, u8)]) {
    for (at, kind, octet) in damage {
        // As often near the beginning, where the lengths are.
        let within = if kind & 1 == 0 {
            octets.len()
        } else {
            octets.len().min(150)
        };
        let at = at.index(within.max(1));
        match kind >> 1 & 3 {
            0 if at < octets.len() => octets[at] = *octet,
            1 => octets.truncate(at),
            2 if at < octets.len() => octets.insert(at, *octet),
            3 if at < octets.len() => drop(octets.remove(at)),
            _ => {}
        }
    }
}

fn count() -> usize {
    match std::env::var("BLACKSTART_HEADS") {
        Ok(text) => text.parse().expect("BLACKSTART_HEADS is a number"),
        Err(_) => HEADS,
    }
}

pub(super) fn generated<T>(strategy: impl Strategy<Value = T>) -> impl Iterator<Item = T> {
    let mut runner = TestRunner::deterministic();
    std::iter::repeat_with(move || strategy.new_tree(&mut runner).unwrap().current())
}

/// A hello is not to be read otherwise than a server reads it.
pub(super) fn agree(octets: &[u8], read: &Read) {
    let taken = taken(octets);
    let shown = || format!("{read:?} against {taken:?}: {octets:02x?}");
    match (read, &taken) {
        (Read::Hello(ours), Taken::Named(theirs)) => {
            // A last dot is not part of a name here.
            let theirs = theirs.as_deref().map(|name| name.trim_end_matches('.'));
            assert_eq!(ours.as_deref(), theirs, "{}", shown());
        }
        // Nobody must wait for what never comes.
        (Read::More(_), Taken::Named(_)) => panic!("{}", shown()),
        _ => {}
    }
}

#[test]
fn sound_hellos_are_read_wherever_the_name_stands() {
    let mut reader = Reader::new();
    for name in ["github.com", "A.Longer-Name.example", "x--y.co"] {
        let octets = real_hello(name);
        let wanted = Read::Hello(Some(name.to_ascii_lowercase()));
        assert_eq!(reader.read_one(&octets), wanted, "rustls's own");
        for cut in [1, 2, 4, 5, 6, 43, octets.len() - 1] {
            let read = reader.read_one(&octets[..cut]);
            let needed = if cut < 5 { 5 } else { octets.len() };
            assert_eq!(read, Read::More(needed), "{cut} octets of it");
        }
        // What follows in the same write belongs to the connection, and not to the hello.
        let more = [&octets[..], b"\x17\x03\x03\x00\x01x"].concat();
        assert_eq!(reader.read_one(&more), wanted);
    }
    let read = |hello: &Hello| hello.octets();
    let mut named = 0;
    let hellos: Vec<Hello> = generated(any_hello()).take(count()).collect();
    let octets: Vec<Vec<u8>> = hellos.iter().map(read).collect();
    for ((hello, octets), read) in hellos.iter().zip(&octets).zip(reader.read(&octets)) {
        agree(octets, &read);
        if let Taken::Named(name) = taken(octets)
            && octets.len() <= 5 + 16384
        {
            named += usize::from(name.is_some());
            assert!(matches!(read, Read::Hello(_)), "{read:?} of {hello:?}");
        }
    }
    println!("{named} with a name");
    assert!(named > count() / 4, "{named} with a name");
}

#[test]
fn spoilt_hellos_are_not_read_otherwise_than_by_a_server() {
    let mut reader = Reader::new();
    let damage = prop::collection::vec((any::<Index>(), any::<u8>(), any::<u8>()), 1..4);
    let octets: Vec<Vec<u8>> = generated((any_hello(), damage))
        .map(|(hello, damage)| {
            let mut octets = hello.octets();
            spoilt(&mut octets, &damage);
            octets
        })
        .take(count())
        .collect();
    let (mut readable, mut taken_too) = (0, 0);
    for (octets, read) in octets.iter().zip(reader.read(&octets)) {
        agree(octets, &read);
        readable += usize::from(matches!(read, Read::Hello(_)));
        taken_too += usize::from(matches!(taken(octets), Taken::Named(_)));
    }
    println!("{readable} were read, {taken_too} taken by a server");
    assert!(readable > 0 && taken_too > 0);
}

#[test]
fn the_name_is_not_sought_in_what_is_no_hello() {
    let mut reader = Reader::new();
    let sound = real_hello("github.com");
    // A name twice, an extension that reaches beyond the end, another record, a hello in two records.
    let twice = hello(
        &[],
        &[0x13, 1],
        &[server_name(b"a.example"), server_name(b"b.example")],
    );
    assert_eq!(reader.read_one(&twice), Read::Odd);
    let mut beyond = sound.clone();
    let last = beyond.len() - 1;
    beyond.truncate(last);
    beyond[4] -= 1;
    assert_eq!(reader.read_one(&beyond), Read::Odd);
    assert_eq!(reader.read_one(b"\x17\x03\x03\x00\x05hello"), Read::Odd);
    let half = sound.len() / 2;
    let parts = [&sound[5..half], &sound[half..]];
    let split: Vec<u8> = parts
        .iter()
        .flat_map(|part| [&[22, 3, 1][..], &with_length(2, part)].concat())
        .collect();
    assert_eq!(taken(&split), Taken::Named(Some("github.com".to_owned())));
    assert_eq!(reader.read_one(&split), Read::Odd);
    for other in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"\0",
        b"\x16\x02",
        b"PING\r\n",
        b"HELLO x\r\n",
    ] {
        assert_eq!(reader.read_one(other), Read::Odd, "{other:02x?}");
    }
}

/// A request as httparse reads it; none where it is no sound one, or not whole.
fn parsed(octets: &[u8]) -> Option<(Request, String, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 200];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(octets).ok()? else {
        return None;
    };
    let all = |name: &str| -> Vec<String> {
        request
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| String::from_utf8_lossy(header.value).into_owned())
            .collect()
    };
    let hosts = all("host");
    let body = match &all("content-length")[..] {
        [] => Some(0),
        [one] => one.trim().parse().ok(),
        _ => None,
    };
    let ends = all("transfer-encoding").is_empty() && all("upgrade").is_empty();
    let told = Request {
        host: (hosts.len() == 1).then(|| hosts[0].to_ascii_lowercase()),
        head,
        body: body.filter(|_| ends),
        ..Request::default()
    };
    Some((told, request.method?.to_owned(), request.path?.to_owned()))
}

#[test]
fn requests_are_read_by_servers_and_by_proxies() {
    let mut reader = Reader::new();
    let server = |host: Option<&str>, port| Request {
        host: host.map(str::to_owned),
        port,
        body: Some(0),
        ..Request::default()
    };
    let proxy = |host: &str, port| Request {
        elsewhere: true,
        ..server(Some(host), port)
    };
    let tunnel = |host: &str, port| Request {
        tunnel: true,
        ..proxy(host, port)
    };
    let v6: Ipv6Addr = "2001:db8::a:1".parse().unwrap();
    let v6 = IpAddr::from(v6).to_string();
    for (head, wanted) in [
        (
            "GET / HTTP/1.1\r\nHost: github.com\r\n\r\n",
            server(Some("github.com"), 0),
        ),
        (
            "GET / HTTP/1.1\r\nAccept: */*\r\nhOsT:GitHub.com:8080 \r\nX: y\r\n\r\n",
            server(Some("github.com"), 8080),
        ),
        (
            "GET / HTTP/1.1\nHost: a.example\n\n",
            server(Some("a.example"), 0),
        ),
        (
            "GET /a?host:=b HTTP/1.0\r\nX-Host: b.example\r\n\r\n",
            server(None, 0),
        ),
        ("GET / HTTP/1.1\r\nHost: 10.0.0.7\r\n\r\n", server(None, 0)),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a.example.\r\n\r\n",
            server(Some("a.example"), 0),
        ),
        (
            "GET http://github.com/x HTTP/1.1\r\nHost: other.example\r\n\r\n",
            proxy("github.com", 80),
        ),
        (
            "GET HTTP://u:p@github.com:81 HTTP/1.1\r\n\r\n",
            proxy("github.com", 81),
        ),
        (
            "GET https://github.com?q HTTP/1.1\r\n\r\n",
            proxy("github.com", 443),
        ),
        (
            "HEAD ftp://10.1.2.3/x HTTP/1.1\r\n\r\n",
            proxy("10.1.2.3", 21),
        ),
        (
            "CONNECT github.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
            tunnel("github.com", 443),
        ),
        (
            "CONNECT 140.82.112.3:22 HTTP/1.1\r\n\r\n",
            tunnel("140.82.112.3", 22),
        ),
        (
            "CONNECT [2001:db8::a:1]:443 HTTP/1.1\r\n\r\n",
            tunnel(&v6, 443),
        ),
        ("CONNECT [::1]:443 HTTP/1.1\r\n\r\n", tunnel("::1", 443)),
        (
            "CONNECT [fe80:1:2:3:4:5:6:7]:65535 HTTP/1.1\r\n\r\n",
            tunnel("fe80:1:2:3:4:5:6:7", 65535),
        ),
    ] {
        let wanted = Request {
            head: head.len(),
            ..wanted
        };
        let read = reader.read_one(head.as_bytes());
        assert_eq!(read, Read::Request(wanted.clone()), "{head:?}");
        // However much of it has come; what comes behind it does not belong to it.
        for cut in 1..head.len() {
            let read = reader.read_one(&head.as_bytes()[..cut]);
            assert_eq!(read, Read::More(cut + 1), "{cut} octets of {head:?}");
        }
        let more = [head, "POST / HTTP/1.1\r\nHost: b.example\r\n\r\n"].concat();
        assert_eq!(reader.read_one(more.as_bytes()), Read::Request(wanted));
    }
    for (head, body) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n",
            Some(17),
        ),
        ("POST / HTTP/1.1\r\ncontent-length:0\r\n\r\n", Some(0)),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            None,
        ),
        ("POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", None),
        ("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", None),
        ("POST / HTTP/1.1\r\nContent-Length: 8 12\r\n\r\n", None),
        ("POST / HTTP/1.1\r\nContent-Length: 8 \t\r\n\r\n", Some(8)),
        ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", None),
    ] {
        let Read::Request(read) = reader.read_one(head.as_bytes()) else {
            panic!("{head:?} is a request");
        };
        assert_eq!(read.body, body, "{head:?}");
    }
    for head in [
        "CONNECT github.com HTTP/1.1\r\n\r\n",
        "CONNECT github.com:0 HTTP/1.1\r\n\r\n",
        "CONNECT github.com:65536 HTTP/1.1\r\n\r\n",
        "CONNECT [::1:443 HTTP/1.1\r\n\r\n",
        "CONNECT [1:2:3]:443 HTTP/1.1\r\n\r\n",
        "GET gopher://a.example/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a..example\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET /\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        assert_eq!(reader.read_one(head.as_bytes()), Read::Odd, "{head:?}");
    }
}

/// Any request with lines that matter and others, spoilt or not.
pub(super) fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        3 => "[A-Za-z-]{1,20}: ?[ -~]{0,60}",
        1 => "[A-Za-z-]{1,20}: [ -~]{200,3000}",
        1 => Just("Content-Length: 12".to_owned()),
        1 => "(h|H)ost: ?[a-z]{1,9}(\\.[a-z]{1,9}){1,3}(:[1-9][0-9]{0,3})?",
    ];
    let request = (
        prop::sample::select(vec![
            "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS",
        ]),
        "/[!-~]{0,80}",
        prop::collection::vec(line, 0..12),
        prop::collection::vec((any::<Index>(), any::<u8>(), any::<u8>()), 0..3),
    );
    request.prop_map(|(method, path, lines, damage)| {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        for line in lines {
            text += &format!("{line}\r\n");
        }
        let mut octets = (text + "\r\n").into_bytes();
        // Every other one as it is.
        if damage.len() > 1 {
            spoilt(&mut octets, &damage);
        }
        octets
    })
}

/// A request is read as httparse reads it, or not at all. Whether both have read it.
pub(super) fn agree_on_request(octets: &[u8], read: &Read) -> bool {
    let Some((theirs, method, path)) = parsed(octets) else {
        return false;
    };
    let shown = || format!("{read:?}: {:?}", String::from_utf8_lossy(octets));
    match read {
        Read::Request(ours) if path.starts_with('/') => {
            assert_eq!(ours.head, theirs.head, "{}", shown());
            // What a value means that is no name, servers do not agree about.
            let plain = |host: &str| {
                let of_name = |c: char| c.is_ascii_alphanumeric() || "-.:".contains(c);
                host.chars().all(of_name)
            };
            if let Some(host) = theirs.host.as_deref().filter(|host| plain(host)) {
                let host = host.split_once(':').map_or(host, |(host, _)| host);
                let host = host.trim_end_matches('.');
                assert_eq!(ours.host.as_deref(), Some(host), "{}", shown());
            }
            if let Some(body) = ours.body {
                assert_eq!(Some(body), theirs.body, "{}", shown());
            }
            true
        }
        Read::More(_) if method != "CONNECT" => panic!("{}", shown()),
        _ => false,
    }
}

#[test]
fn random_requests_are_read_as_a_library_reads_them() {
    let mut reader = Reader::new();
    let octets: Vec<Vec<u8>> = generated(any_request()).take(count()).collect();
    let read = reader.read(&octets);
    let pairs = octets.iter().zip(&read);
    let same = pairs.filter(|(octets, read)| agree_on_request(octets, read));
    let same = same.count();
    println!("{same} were read alike");
    assert!(same > count() / 3);
}
