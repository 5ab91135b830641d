//! A name server and a TCP server on addresses that `scripts/vm/init` routes to the loopback device.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};

use blackstart_lab::{Zone, dns};

use crate::gust::{address_of, is_nobodys, number_of};

/// Where names are asked for; `/etc/resolv.conf` says so too.
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// What no rule of the stories forbids.
pub(crate) const MIRROR: (Ipv4Addr, Ipv6Addr) = addresses(10);
/// What the stories deny by its name.
pub(crate) const GITHUB: (Ipv4Addr, Ipv6Addr) = addresses(20);
/// What the stories deny by its address: in 198.51.100.128/25 and 2001:db8::80/121.
pub(crate) const FORBIDDEN: (Ipv4Addr, Ipv6Addr) = addresses(200);
/// Where the TCP server listens, on every address.
pub(crate) const PORT: u16 = 7007;
/// Where a daemon takes connections by a path.
pub(crate) const DAEMON: &str = "/run/daemon.sock";
/// Where somebody listens to the end, and says nothing.
pub(crate) const QUIET: u16 = 7443;
/// Where a storm's TCP server waits to be told whom a connection is for.
pub(crate) const CLAIMS: u16 = 7443;

const fn addresses(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(198, 51, 100, last),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last as u16),
    )
}

/// Start both; they take what is sent to them when this returns, and end with this process.
pub(crate) fn start() {
    let zone = [("mirror.internal", MIRROR), ("github.com", GITHUB)]
        .into_iter()
        .fold(Zone::new(), |zone, (name, (v4, v6))| {
            zone.a(name, v4).aaaa(name, v6)
        });
    let datagrams = UdpSocket::bind((RESOLVER, 53)).expect("bind the name server's UDP port");
    let listener = TcpListener::bind((RESOLVER, 53)).expect("bind the name server's TCP port");
    datagrams
        .set_nonblocking(true)
        .and_then(|()| listener.set_nonblocking(true))
        .expect("make the name server's sockets non-blocking");
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("start a runtime")
            .block_on(dns::serve(zone, vec![datagrams], listener));
    });

    // An IPv6 wildcard takes both families.
    let greeter = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind the TCP server");
    std::thread::spawn(move || {
        for mut client in greeter.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = client.write_all(b"hello");
                // Who says more, and is slow, is not to be cut off for that.
                let _ = client.shutdown(Shutdown::Write);
                let _ = std::io::copy(&mut client, &mut std::io::sink());
            });
        }
    });
    let daemon = UnixListener::bind(DAEMON).expect("bind the daemon's socket");
    std::thread::spawn(move || {
        for mut client in daemon.incoming().flatten() {
            let _ = client.write_all(b"hello");
        }
    });
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, QUIET)).expect("bind the TCP server");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut client, &mut std::io::sink()));
        }
    });
}

/// What has come to the servers of a storm and must not: shut names asked for, shut addresses connected to, and shut names
/// that connections gave.
#[derive(Debug, Default)]
pub(crate) struct Leaks {
    pub(crate) asked: AtomicU64,
    pub(crate) reached: AtomicU64,
    pub(crate) said: AtomicU64,
}

/// Start the servers of a storm, which are as quick as can be.
pub(crate) fn for_storm() -> &'static Leaks {
    static LEAKS: Leaks = Leaks {
        asked: AtomicU64::new(0),
        reached: AtomicU64::new(0),
        said: AtomicU64::new(0),
    };
    let datagrams = UdpSocket::bind((RESOLVER, 53)).expect("bind the name server's port");
    let greeter = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind the TCP server");
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, CLAIMS)).expect("bind the TCP server");
    for _ in 0..4 {
        let socket = datagrams.try_clone().expect("share a socket");
        std::thread::spawn(move || names(&socket, &LEAKS));
        for listener in [&greeter, &listener] {
            let listener = listener.try_clone().expect("share a socket");
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    greet(stream, &LEAKS);
                }
            });
        }
    }
    &LEAKS
}

/// Answer every name of a storm, shut ones as well.
fn names(socket: &UdpSocket, leaks: &Leaks) {
    let mut octets = [0; 512];
    while let Ok((size, from)) = socket.recv_from(&mut octets) {
        let mut at = 12;
        let mut labels = Vec::new();
        while let Some(&length) = octets[..size].get(at).filter(|length| **length > 0) {
            let label = octets
                .get(at + 1..=at + usize::from(length))
                .unwrap_or_default();
            labels.push(String::from_utf8_lossy(label).into_owned());
            at += 1 + usize::from(length);
        }
        let (end, long) = (at + 5, octets.get(at + 2) == Some(&28));
        let Some((number, open)) = number_of(&labels.join(".")) else {
            continue;
        };
        leaks.asked.fetch_add(u64::from(!open), Ordering::Relaxed);
        let (v4, v6) = address_of(number);
        let mut reply = octets[..end.min(size)].to_vec();
        reply[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        reply.extend([0xc0, 12, 0, if long { 28 } else { 1 }, 0, 1, 0, 0, 1, 44, 0]);
        if long {
            reply.push(16);
            reply.extend(v6.octets());
        } else {
            reply.push(4);
            reply.extend(v4.octets());
        }
        let _ = socket.send_to(&reply, from);
    }
}

fn greet(mut stream: TcpStream, leaks: &Leaks) {
    let Ok(here) = stream.local_addr() else {
        return;
    };
    leaks
        .reached
        .fetch_add(u64::from(is_nobodys(here.ip())), Ordering::Relaxed);
    if here.port() == CLAIMS {
        let mut said = [0; 4096];
        let size = stream.read(&mut said).unwrap_or(0);
        let shut = said[..size].windows(6).any(|octets| octets == b".shut.");
        leaks.said.fetch_add(u64::from(shut), Ordering::Relaxed);
    }
    let _ = stream.write_all(b"hello");
}
